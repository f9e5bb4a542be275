package env_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/workflows"
)

func moment(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func week(days, from, to string) *workflows.AllowWindow {
	w := &workflows.AllowWindow{From: from, To: to}
	if days != "" {
		w.Days = strings.Split(days, " ")
	}
	return w
}

func TestWhenAnEnvironmentIsOpen(t *testing.T) {
	office := &workflows.Windows{Timezone: "Europe/Helsinki", Allow: []*workflows.AllowWindow{week("mon tue wed thu", "09:00", "16:00")}}
	frozen := &workflows.Windows{Timezone: "Europe/Helsinki", Allow: office.Allow, Freeze: []*workflows.FreezeWindow{
		{From: "2026-12-18", To: "2027-01-04", Reason: "year end"},
		{RRule: "FREQ=MONTHLY;BYMONTHDAY=-1", For: workflows.Duration(24 * time.Hour), Reason: "month-end close"}}}
	night := &workflows.Windows{Timezone: "Europe/Helsinki", Allow: []*workflows.AllowWindow{week("sat", "23:00", "05:00")}}
	gap := &workflows.Windows{Timezone: "Europe/Helsinki", Allow: []*workflows.AllowWindow{week("", "03:15", "03:45")}}
	for _, c := range []struct {
		name    string
		windows *workflows.Windows
		at      string
		reason  string // part of it; "" where it is open
		until   string
	}{
		{"no windows", nil, "2026-01-05T00:00:00Z", "", ""},
		{"none at all", &workflows.Windows{}, "2026-01-05T00:00:00Z", "", ""},
		{"in the window", office, "2026-01-05T08:00:00Z", "", "2026-01-05T14:00:00Z"},
		{"the end is outside", office, "2026-01-05T14:00:00Z", "outside its windows (mon,tue,wed,thu 09:00–16:00 Europe/Helsinki)", "2026-01-06T07:00:00Z"},
		{"over the weekend", office, "2026-01-08T14:00:00Z", "outside", "2026-01-12T07:00:00Z"},
		{"over the change to summer", office, "2026-03-26T15:00:00Z", "outside", "2026-03-30T06:00:00Z"},
		{"a freeze has its reason", frozen, "2026-12-20T10:00:00Z", "frozen: year end", "2027-01-05T07:00:00Z"},
		{"both days are frozen", frozen, "2027-01-04T21:59:00Z", "frozen", "2027-01-05T07:00:00Z"},
		{"a freeze that comes again", frozen, "2026-09-30T10:00:00Z", "frozen: month-end close", "2026-10-01T06:00:00Z"},
		{"a freeze ends a window", frozen, "2026-03-30T06:30:00Z", "", "2026-03-30T13:00:00Z"},
		{"a window over midnight", night, "2026-01-10T22:00:00Z", "", "2026-01-11T03:00:00Z"},
		{"it belongs to the day it begins on", night, "2026-01-09T22:00:00Z", "outside", "2026-01-10T21:00:00Z"},
		{"a window the clock skips does not come", gap, "2026-03-28T22:00:00Z", "outside", "2026-03-30T00:15:00Z"},
		{"a window the clock shows twice comes twice", gap, "2026-10-25T00:20:00Z", "", "2026-10-25T00:45:00Z"},
		{"and once more", gap, "2026-10-25T00:45:00Z", "outside", "2026-10-25T01:15:00Z"},
		{"never again", &workflows.Windows{Freeze: []*workflows.FreezeWindow{{From: "2026-01-01", To: "2030-01-01"}}}, "2026-01-05T00:00:00Z", "no reason is given", ""},
		{"a zone that there is not", &workflows.Windows{Timezone: "Mars/Base"}, "2026-01-05T00:00:00Z", `its windows cannot be read: there is no time zone "Mars/Base"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := env.LookAt(c.windows, moment(t, c.at))
			if d.Open != (c.reason == "") || !strings.Contains(d.Reason, c.reason) {
				t.Errorf("open %v, because %q; want %q", d.Open, d.Reason, c.reason)
			}
			until := ""
			if !d.Until.IsZero() {
				until = d.Until.Format(time.RFC3339)
			}
			if until != c.until {
				t.Errorf("until %s, want %s", until, c.until)
			}
		})
	}
}

func TestWindowsThatCannotBeReadSayWhy(t *testing.T) {
	day := workflows.Duration(24 * time.Hour)
	for _, c := range []struct {
		windows workflows.Windows
		want    string
	}{
		{workflows.Windows{Timezone: "Nowhere"}, "no time zone"},
		{workflows.Windows{Allow: []*workflows.AllowWindow{{From: "9am"}}}, "no time of the day"},
		{workflows.Windows{Allow: []*workflows.AllowWindow{{Days: []string{"funday"}}}}, "there is no day"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{From: "soon", To: "2026-01-01"}}}, "no day such as"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{From: "2026-01-02", To: "2026-01-01"}}}, "before it begins"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{RRule: "FREQ=WEEKLY"}}}, "needs for"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{RRule: "FREQ=HOURLY", For: day}}}, "daily, weekly, monthly or yearly"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{RRule: "FREQ=DAILY;COUNT=3", For: day}}}, "COUNT needs a beginning"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{RRule: "FREQ=DAILY;BYHOUR=3", For: day}}}, "beginning of its day"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{RRule: "whenever", For: day}}}, "cannot be read"},
		{workflows.Windows{Freeze: []*workflows.FreezeWindow{{From: "2026-01-01", To: "2026-01-02", RRule: "FREQ=DAILY", For: day}}}, "not both"},
	} {
		err := env.CheckWindows(&c.windows)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.windows, err, c.want)
		}
	}
	if env.CheckWindows(nil) != nil || env.CheckWindows(&workflows.Windows{}) != nil {
		t.Error("no windows are not read")
	}
}

// clockRule is a rule that comes again, and the same in plain Go.
type clockRule struct {
	rrule string
	is    func(time.Time) bool // of a civil day, as midnight UTC
}

var clockRules = []clockRule{
	{"FREQ=MONTHLY;BYMONTHDAY=-1", func(d time.Time) bool { return d.AddDate(0, 0, 1).Day() == 1 }},
	{"FREQ=WEEKLY;BYDAY=FR,SU", func(d time.Time) bool { return d.Weekday() == time.Friday || d.Weekday() == time.Sunday }},
	{"FREQ=DAILY;INTERVAL=3", func(d time.Time) bool { return int(d.Sub(civilDay(2000, 1, 1)).Hours())/24%3 == 0 }},
	{"FREQ=WEEKLY;INTERVAL=2;BYDAY=TU", func(d time.Time) bool {
		return d.Weekday() == time.Tuesday && int(d.Sub(civilDay(2000, 1, 3)).Hours())/24/7%2 == 0
	}},
	{"FREQ=YEARLY;BYMONTH=3,10;BYDAY=-1SU", func(d time.Time) bool {
		return (d.Month() == 3 || d.Month() == 10) && d.Weekday() == time.Sunday && d.AddDate(0, 0, 7).Month() != d.Month()
	}},
}

func civilDay(y, m, d int) time.Time { return time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC) }

// oracle looks at every minute of some days, at the clock on the wall alone.
type oracle struct {
	loc    *time.Location
	w      *workflows.Windows
	rules  []clockRule // of the freezes, in order; the zero one for dates
	began  map[string]time.Time
	minute time.Time
}

// walk goes on to the next minute and notes where days begin.
func (o *oracle) walk(t time.Time) {
	o.minute = t
	day := t.In(o.loc).Format(time.DateOnly)
	if _, known := o.began[day]; !known {
		o.began[day] = t
	}
}

func (o *oracle) open() bool {
	local := o.minute.In(o.loc)
	for i, f := range o.w.Freeze {
		if o.rules[i].is == nil {
			if day := local.Format(time.DateOnly); day >= f.From && day <= f.To {
				return false
			}
			continue
		}
		for day, began := range o.began {
			d, _ := time.Parse(time.DateOnly, day)
			if o.rules[i].is(d) && !o.minute.Before(began) && o.minute.Before(began.Add(f.For.D())) {
				return false
			}
		}
	}
	if len(o.w.Allow) == 0 {
		return true
	}
	names := []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	today, yesterday := names[local.Weekday()], names[(local.Weekday()+6)%7]
	clock := local.Format("15:04")
	for _, a := range o.w.Allow {
		on := func(day string) bool { return len(a.Days) == 0 || slices.Contains(a.Days, day) }
		if a.To > a.From && on(today) && clock >= a.From && clock < a.To {
			return true
		}
		if a.To <= a.From && (on(today) && clock >= a.From || on(yesterday) && clock < a.To) {
			return true
		}
	}
	return false
}

func TestWindowsAreWhatTheClockOnTheWallSays(t *testing.T) {
	// moments around which clocks change
	changes := []struct{ zone, around string }{
		{"UTC", "2026-02-28T00:00:00Z"}, {"Europe/Helsinki", "2026-03-29T00:00:00Z"}, {"Europe/Helsinki", "2026-10-25T00:00:00Z"},
		{"America/New_York", "2026-11-01T05:00:00Z"}, {"Australia/Lord_Howe", "2026-04-04T15:00:00Z"}, {"Asia/Beirut", "2026-03-28T22:00:00Z"},
		{"America/Sao_Paulo", "2018-11-04T03:00:00Z"}, {"Asia/Kathmandu", "2026-06-01T00:00:00Z"},
	}
	clock := rapid.SampledFrom([]string{"00:00", "00:30", "01:15", "02:00", "02:30", "03:15", "03:45", "09:00", "16:00", "23:00", "23:30"})
	rapid.Check(t, func(r *rapid.T) {
		c := rapid.SampledFrom(changes).Draw(r, "zone")
		loc, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		around := moment(t, c.around)
		w := &workflows.Windows{Timezone: c.zone}
		o := &oracle{loc: loc, w: w, began: map[string]time.Time{}}
		for range rapid.IntRange(0, 2).Draw(r, "allow") {
			a := &workflows.AllowWindow{From: clock.Draw(r, "from"), To: clock.Draw(r, "to")}
			a.Days = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"sun", "mon", "fri", "sat"}), 0, 3, rapid.ID).Draw(r, "days")
			w.Allow = append(w.Allow, a)
		}
		for range rapid.IntRange(0, 2).Draw(r, "freeze") {
			f, rule := &workflows.FreezeWindow{}, clockRule{}
			if rapid.Bool().Draw(r, "recurs") {
				rule = rapid.SampledFrom(clockRules).Draw(r, "rule")
				f.RRule, f.For = rule.rrule, workflows.Duration(time.Duration(rapid.IntRange(1, 40).Draw(r, "hours"))*time.Hour)
			} else {
				from := around.AddDate(0, 0, rapid.IntRange(-2, 2).Draw(r, "day"))
				f.From, f.To = from.Format(time.DateOnly), from.AddDate(0, 0, rapid.IntRange(0, 2).Draw(r, "long")).Format(time.DateOnly)
			}
			w.Freeze, o.rules = append(w.Freeze, f), append(o.rules, rule)
		}
		at := around.Add(time.Duration(rapid.IntRange(-48*60, 48*60).Draw(r, "at")) * time.Minute)
		for m := at.Add(-5 * 24 * time.Hour); !m.After(at); m = m.Add(time.Minute) {
			o.walk(m)
		}
		delete(o.began, at.Add(-5*24*time.Hour).In(loc).Format(time.DateOnly)) // its beginning was not seen
		d := env.LookAt(w, at)
		if d.Open != o.open() {
			r.Fatalf("at %v open is %v (%s), by the clock %v", at.In(loc), d.Open, d.Reason, o.open())
		}
		end := at.Add(4 * 24 * time.Hour)
		for m := at.Add(time.Minute); m.Before(end); m = m.Add(time.Minute) {
			if o.walk(m); o.open() != d.Open {
				if !d.Until.Equal(m) {
					r.Fatalf("at %v open is %v until %v, by the clock until %v", at.In(loc), d.Open, d.Until.In(loc), m.In(loc))
				}
				return
			}
		}
		if !d.Until.IsZero() && d.Until.Before(end) {
			r.Fatalf("at %v open is %v until %v; the clock sees no change then", at.In(loc), d.Open, d.Until.In(loc))
		}
	})
}
