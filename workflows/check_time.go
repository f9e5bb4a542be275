package workflows

import (
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones are the same wherever a file is checked

	"github.com/adhocore/gronx"
	"github.com/teambition/rrule-go"
)

// someDay is where rules are tried out: whether they ever come does not depend
// on when they are checked.
var someDay = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// zone checks the name of a time zone; empty is UTC.
func (k *check) zone(path, name string) {
	if name == "" {
		return
	}
	if _, err := time.LoadLocation(name); err != nil || name == "Local" {
		k.value(path, "unknown-timezone", "an IANA name such as Europe/Helsinki or UTC", "there is no time zone %s", name)
	}
}

var cronFields = []string{"minute", "hour", "day", "month", "weekday"}

// cron checks the five fields of a schedule, and that its time ever comes.
func (k *check) cron(path, text string) {
	if text == "" {
		return
	}
	fields := strings.Fields(text)
	if len(fields) != len(cronFields) {
		k.value(path, "bad-cron", "minute hour day month weekday: '0 2 * * 1-5' is at two on working days", "a schedule has five fields, %q has %d", text, len(fields))
		return
	}
	for i, field := range fields {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = field
		if !cronField.MatchString(field) || !gronx.IsValid(strings.Join(alone, " ")) {
			k.value(path, "bad-cron", "a number, a list such as 1,15, a range such as 1-5, a step such as */10, or *", "the %s of a schedule cannot be %s", cronFields[i], field)
			return
		}
	}
	if _, err := gronx.NextTickAfter(text, someDay, true); err != nil {
		k.value(path, "never-comes", "", "the time %s never comes", text)
	}
}

var cronField = regexp.MustCompile(`^[0-9A-Za-z*,/-]+$`)

// windows checks when an environment may be entered.
func (k *check) windows(path string, w *Windows) {
	if w == nil {
		return
	}
	k.zone(path+".timezone", w.Timezone)
	if len(w.Allow) == 0 && len(w.Freeze) == 0 {
		k.fault(path, "missing", "give them allow or freeze", "the windows close nothing")
	}
	if n := len(w.Allow) + len(w.Freeze); n > maxWindows {
		k.fault(path, "too-many", "", "an environment has %d windows at most, this one has %d", maxWindows, n)
		return
	}
	for i, a := range w.Allow {
		at := index(path+".allow", i)
		if len(a.Days) == 0 && a.From == "" && a.To == "" {
			k.fault(at, "missing", "give it days, from or to", "this window is always open")
		}
		k.clock(at+".from", a.From)
		k.clock(at+".to", a.To)
	}
	for i, f := range w.Freeze {
		k.freeze(index(path+".freeze", i), f)
	}
}

// What is tried out when a file is checked has bounds.
const (
	maxTried    = 10 // rules that are followed to see whether their days ever come
	maxWindows  = 100
	maxTriggers = 100
)

var clockPattern = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)

func (k *check) clock(path, text string) {
	if text == "" || clockPattern.MatchString(text) {
		return
	}
	hint := "write it as '09:00'"
	if text == "24:00" {
		hint = "leave to out: it is the end of the day then"
	}
	k.value(path, "bad-time", hint, "%s is not a time of the day", text)
}

func (k *check) freeze(path string, f *FreezeWindow) {
	days, rule := f.From != "" || f.To != "", f.RRule != "" || f.For != 0
	switch {
	case days && rule:
		k.fault(path, "two-freezes", "make it two lines", "a freeze has from and to, or rrule and for, not both")
	case rule && (f.RRule == "" || f.For == 0):
		k.fault(path, "missing", "write {rrule: 'FREQ=MONTHLY;BYMONTHDAY=-1', for: 24h}", "a freeze that comes again needs rrule and for")
	case rule:
		k.rrule(path+".rrule", f.RRule)
	case f.From == "" || f.To == "":
		k.fault(path, "missing", "write {from: '2026-12-18', to: '2027-01-04'}", "a freeze needs from and to, or rrule and for")
	default:
		from, fine := k.day(path+".from", f.From)
		to, good := k.day(path+".to", f.To)
		if fine && good && to.Before(from) {
			k.value(path+".to", "ends-before", "both days are included", "the freeze ends on %s, before it begins", f.To)
		}
	}
}

func (k *check) day(path, text string) (time.Time, bool) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		k.value(path, "bad-day", "write it as '2026-12-18'", "%s is not a day", text)
	}
	return t, err == nil
}

// rrule checks a rule of RFC 5545 that names days.
func (k *check) rrule(path, text string) {
	bad := func(hint, format string, args ...any) { k.value(path, "bad-rrule", hint, format, args...) }
	const hint = "a rule of RFC 5545: FREQ=MONTHLY;BYMONTHDAY=-1 is the last day of each month"
	for part := range strings.SplitSeq(text, ";") {
		key, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(part)), "=")
		if strings.HasPrefix(key, "DTSTART") || strings.HasPrefix(key, "RRULE:") || strings.Contains(part, "\n") {
			bad("write FREQ=… and what follows", "a rule has no DTSTART and no RRULE: before it")
			return
		}
		if slices.Contains([]string{"BYHOUR", "BYMINUTE", "BYSECOND"}, key) {
			bad("a freeze begins at the beginning of a day", "%s cannot be in a rule for days", key)
			return
		}
	}
	option, err := rrule.StrToROption(text)
	if err != nil {
		bad(hint, "%s", err)
		return
	}
	if option.Freq > rrule.DAILY {
		bad("FREQ is YEARLY, MONTHLY, WEEKLY or DAILY", "%s is more often than every day", option.Freq)
		return
	}
	option.Dtstart = someDay
	bounded := !option.Until.IsZero()
	if !bounded {
		option.Until = someDay.AddDate(40, 0, 0) // what has not come by then never comes: years that are alike repeat
	}
	rule, err := rrule.NewRRule(*option)
	if err != nil {
		bad(hint, "%s", err)
		return
	}
	if k.tried++; k.tried > maxTried {
		return
	}
	if !bounded && rule.After(someDay, true).IsZero() {
		k.value(path, "never-comes", "", "the days of %s never come", text)
	}
}

// eventType checks a pattern of event types.
func (k *check) eventType(path, pattern string) {
	if i := strings.IndexByte(pattern, '*'); i >= 0 && i < len(pattern)-1 {
		k.value(path, "bad-pattern", "", "a * can only be the last character of an event type")
	}
	if pattern == "*" {
		k.value(path, "bad-pattern", "begin with what all of them begin with: com.acme.*", "this takes every event that there is")
	}
}
