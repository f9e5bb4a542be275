package env

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // an image without zone data knows the zones all the same

	"github.com/teambition/rrule-go"

	"github.com/penstock-cd/penstock/workflows"
)

// horizon is how far ahead the next change of windows is looked for.
const horizon = 400 * 24 * time.Hour

// Door says whether an environment lets anything in at a moment.
type Door struct {
	Open   bool
	Reason string    // why not, in words
	Until  time.Time // when that changes; zero: by itself it never does, as far as can be seen
	Again  time.Time // when to look again although nothing was foreseen; zero: never
}

// LookAt tells whether windows let anything in at a moment, and until when it
// stays so. Windows are read by the clock on the wall of their time zone: a
// window from 02:15 to 02:45 does not come in the night in which the clock
// skips that time, and comes twice in the night in which it shows it twice.
// Windows that cannot be read let nothing in.
func LookAt(w *workflows.Windows, at time.Time) Door {
	if w == nil {
		return Door{Open: true}
	}
	c, err := readWindows(w, at)
	if err != nil {
		return Door{Reason: "its windows cannot be read: " + err.Error()}
	}
	d := Door{Reason: c.closed(at)}
	d.Open = d.Reason == ""
	end := at.Add(horizon)
	for t := c.next(at); !t.IsZero() && t.Before(end); t = c.next(t) {
		if (c.closed(t) == "") != d.Open {
			d.Until = t.UTC()
			return d
		}
	}
	if len(w.Allow) > 0 || len(w.Freeze) > 0 {
		d.Again = end.UTC()
	}
	return d
}

// CheckWindows says what keeps windows from being read, or nil.
func CheckWindows(w *workflows.Windows) error {
	if w == nil {
		return nil
	}
	_, err := readWindows(w, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	return err
}

// calendar is windows made ready to be looked at from a moment on.
type calendar struct {
	loc     *time.Location
	allow   []allowed
	freezes []freeze
}

// allowed is a time of the week; from and to are minutes of the day.
type allowed struct {
	days     [7]bool // by time.Weekday, of the day on which it begins
	from, to int
	text     string
}

// freeze is a time of the calendar, in which nothing enters.
type freeze struct {
	from, to time.Time
	reason   string
}

func readWindows(w *workflows.Windows, at time.Time) (*calendar, error) {
	loc, err := time.LoadLocation(cmp.Or(w.Timezone, "UTC"))
	if err != nil {
		return nil, fmt.Errorf("there is no time zone %q; names are like Europe/Helsinki", w.Timezone)
	}
	c := &calendar{loc: loc}
	for _, a := range w.Allow {
		x, err := readAllowed(a)
		if err != nil {
			return nil, err
		}
		c.allow = append(c.allow, x)
	}
	for _, f := range w.Freeze {
		list, err := c.readFreeze(f, at)
		if err != nil {
			return nil, err
		}
		c.freezes = append(c.freezes, list...)
	}
	return c, nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func readAllowed(a *workflows.AllowWindow) (x allowed, err error) {
	if x.from, err = readClock(a.From, 0); err != nil {
		return x, err
	}
	if x.to, err = readClock(a.To, 24*60); err != nil {
		return x, err
	}
	for _, d := range a.Days {
		i := slices.Index(weekdays, d)
		if i < 0 {
			return x, fmt.Errorf("there is no day %q; days are mon, tue, wed, thu, fri, sat and sun", d)
		}
		x.days[i] = true
	}
	if len(a.Days) == 0 {
		x.days = [7]bool{true, true, true, true, true, true, true}
	}
	x.text = cmp.Or(strings.Join(a.Days, ","), "every day") + " " + cmp.Or(a.From, "00:00") + "–" + cmp.Or(a.To, "24:00")
	return x, nil
}

// readClock reads a time of the day in minutes.
func readClock(s string, missing int) (int, error) {
	if s == "" {
		return missing, nil
	}
	if s == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is no time of the day such as 09:00", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// readFreeze gives the times of a freeze around a moment and up to the horizon.
func (c *calendar) readFreeze(f *workflows.FreezeWindow, at time.Time) ([]freeze, error) {
	switch {
	case f.RRule != "" && (f.From != "" || f.To != ""):
		return nil, errors.New("a freeze has from and to, or rrule and for, not both")
	case f.RRule != "":
		return c.readRecurring(f, at)
	}
	from, err := readDay(f.From)
	if err != nil {
		return nil, err
	}
	to, err := readDay(f.To)
	if err != nil {
		return nil, err
	}
	if to.Before(from) {
		return nil, fmt.Errorf("a freeze ends on %s, before it begins on %s", f.To, f.From)
	}
	return []freeze{{c.beginning(from), c.beginning(to.AddDate(0, 0, 1)), f.Reason}}, nil
}

func readDay(s string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return t, fmt.Errorf("%q is no day such as 2026-12-18", s)
	}
	return t, nil
}

// readRecurring gives the occurrences of a rule that matter from a moment on.
// Days are counted without a zone, so that no clock change moves one.
func (c *calendar) readRecurring(f *workflows.FreezeWindow, at time.Time) ([]freeze, error) {
	if f.For <= 0 || f.For.D() > 366*24*time.Hour {
		return nil, fmt.Errorf("the freeze %s needs for, how long it lasts, up to 366d", f.RRule)
	}
	o, err := rrule.StrToROption(f.RRule)
	if err != nil {
		return nil, fmt.Errorf("the rrule %q cannot be read: %w", f.RRule, err)
	}
	if err := soundRule(o); err != nil {
		return nil, fmt.Errorf("the rrule %q cannot be used: %w", f.RRule, err)
	}
	first := civil(at.In(c.loc)).Add(-f.For.D()).AddDate(0, 0, -2)
	last := civil(at.In(c.loc)).Add(horizon)
	o.Dtstart = anchor(o.Freq, max(o.Interval, 1), first)
	if o.Until.IsZero() || o.Until.After(last) {
		o.Until = last
	}
	r, err := rrule.NewRRule(*o)
	if err != nil {
		return nil, fmt.Errorf("the rrule %q cannot be used: %w", f.RRule, err)
	}
	var list []freeze
	for _, day := range r.Between(first, last, true) {
		from := c.beginning(day)
		list = append(list, freeze{from, from.Add(f.For.D()), f.Reason})
	}
	return list, nil
}

// soundRule refuses what has no meaning for whole days without a beginning.
func soundRule(o *rrule.ROption) error {
	switch {
	case o.Freq > rrule.DAILY:
		return errors.New("it must be daily, weekly, monthly or yearly")
	case o.Count > 0:
		return errors.New("COUNT needs a beginning, and there is none; use UNTIL")
	case !o.Dtstart.IsZero():
		return errors.New("it has DTSTART; an occurrence is at the beginning of its day")
	case len(o.Byhour)+len(o.Byminute)+len(o.Bysecond) > 0:
		return errors.New("an occurrence is at the beginning of its day; it takes no hour, minute or second")
	case o.Interval > 1000:
		return errors.New("its interval is larger than 1000")
	}
	return nil
}

// anchor is the beginning of a period that a rule counts, not after day.
// Intervals are counted from the first Monday, month or day of 2000.
func anchor(freq rrule.Frequency, interval int, day time.Time) time.Time {
	switch freq {
	case rrule.YEARLY:
		year := day.Year() - mod(day.Year()-2000, interval)
		return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
	case rrule.MONTHLY:
		months := (day.Year()-2000)*12 + int(day.Month()) - 1
		return time.Date(2000, time.Month(months-mod(months, interval)+1), 1, 0, 0, 0, 0, time.UTC)
	}
	zero, length := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), 1
	if freq == rrule.WEEKLY {
		zero, length = zero.AddDate(0, 0, 2), 7
	}
	days := int(day.Sub(zero) / (24 * time.Hour))
	return zero.AddDate(0, 0, days-mod(days, interval*length))
}

func mod(a, b int) int { return ((a % b) + b) % b }

// civil is the day that a clock shows, as midnight UTC.
func civil(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// beginning is the first moment of a civil day.
func (c *calendar) beginning(day time.Time) time.Time {
	if at := c.moments(day, 0); len(at) > 0 {
		return at[0]
	}
	// the clock skips midnight: the day begins where it jumps to
	noon := time.Date(day.Year(), day.Month(), day.Day(), 12, 0, 0, 0, c.loc)
	if start, _ := noon.ZoneBounds(); !start.IsZero() {
		return start
	}
	return noon
}

// moments are those at which the clock shows so many minutes of a civil day:
// none, one or two of them, in order.
func (c *calendar) moments(day time.Time, minutes int) []time.Time {
	wall := day.Add(time.Duration(minutes) * time.Minute)
	var found []time.Time
	for _, near := range []time.Time{wall.Add(-26 * time.Hour), wall.Add(26 * time.Hour)} {
		_, offset := near.In(c.loc).Zone()
		t := wall.Add(-time.Duration(offset) * time.Second)
		if _, there := t.In(c.loc).Zone(); there == offset && !slices.ContainsFunc(found, t.Equal) {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, time.Time.Compare)
	return found
}

// closed says why nothing enters at a moment, or "".
func (c *calendar) closed(t time.Time) string {
	for _, f := range c.freezes {
		if !t.Before(f.from) && t.Before(f.to) {
			return "frozen: " + cmp.Or(f.reason, "no reason is given")
		}
	}
	if len(c.allow) == 0 || slices.ContainsFunc(c.allow, func(a allowed) bool { return a.covers(t.In(c.loc)) }) {
		return ""
	}
	texts := make([]string, len(c.allow))
	for i, a := range c.allow {
		texts[i] = a.text
	}
	return "outside its windows (" + strings.Join(texts, "; ") + " " + c.loc.String() + ")"
}

// covers reports whether the window is open at what a clock shows.
func (a allowed) covers(local time.Time) bool {
	minute := local.Hour()*60 + local.Minute()
	today, yesterday := a.days[local.Weekday()], a.days[(local.Weekday()+6)%7]
	if a.to > a.from {
		return today && minute >= a.from && minute < a.to
	}
	return today && minute >= a.from || yesterday && minute < a.to
}

// next is the next moment at which something may change; zero when there is none.
func (c *calendar) next(at time.Time) time.Time {
	var found time.Time
	see := func(t time.Time) {
		if t.After(at) && (found.IsZero() || t.Before(found)) {
			found = t
		}
	}
	for _, f := range c.freezes {
		if !at.Before(f.from) && at.Before(f.to) {
			return f.to // until then it is closed, whatever else changes
		}
		see(f.from)
		see(f.to)
	}
	if len(c.allow) == 0 {
		return found
	}
	if _, change := at.In(c.loc).ZoneBounds(); !change.IsZero() {
		see(change)
	}
	today := civil(at.In(c.loc))
	for _, day := range []time.Time{today, today.AddDate(0, 0, 1), today.AddDate(0, 0, 2)} {
		for _, a := range c.allow {
			for _, minutes := range []int{0, a.from, a.to} {
				for _, t := range c.moments(day, minutes) {
					see(t)
				}
			}
		}
	}
	return found
}
