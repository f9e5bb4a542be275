package env_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

func TestTimesOfAScheduleAreThoseOfTheClockOnTheWall(t *testing.T) {
	for _, c := range []struct {
		what, cron, zone, after string
		want                    []string
	}{
		{"every day", "0 2 * * *", "", "2027-03-01T00:00:00Z", []string{"2027-03-01T02:00:00Z", "2027-03-02T02:00:00Z"}},
		{"working days", "0 2 * * 1-5", "Europe/Helsinki", "2027-03-05T00:00:00Z", []string{"2027-03-08T00:00:00Z", "2027-03-09T00:00:00Z"}},
		{"a time that the clock skips is the first one behind", "30 3 * * *", "Europe/Helsinki", "2027-03-27T12:00:00Z",
			[]string{"2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"}},
		{"several that it skips are one", "*/20 3 * * *", "Europe/Helsinki", "2027-03-27T12:00:00Z",
			[]string{"2027-03-28T01:00:00Z", "2027-03-29T00:00:00Z"}},
		{"a time that it shows twice is one", "30 3 * * *", "Europe/Helsinki", "2027-10-30T12:00:00Z",
			[]string{"2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"}},
		{"the hour that comes twice counts once", "0 * * * *", "Europe/Helsinki", "2027-10-30T23:30:00Z",
			[]string{"2027-10-31T00:00:00Z", "2027-10-31T02:00:00Z"}},
		{"a day that a place has skipped", "0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z",
			[]string{"2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"}},
		{"a leap day", "0 0 29 2 *", "", "2025-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
	} {
		after, _ := time.Parse(time.RFC3339, c.after)
		for _, want := range c.want {
			at, err := env.NextTime(c.cron, c.zone, after)
			if err != nil || at.UTC().Format(time.RFC3339) != want {
				t.Errorf("%s: behind %s comes %s (%v), want %s", c.what, after, at.UTC().Format(time.RFC3339), err, want)
			}
			if last, err := env.LastTime(c.cron, c.zone, at.Add(time.Second)); err != nil || !last.Equal(at) {
				t.Errorf("%s: the latest up to %s is %s (%v)", c.what, at, last, err)
			}
			after = at
		}
	}
}

func TestTheNextTimeAndTheLatestOneAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cron := rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "30 1-3 * * *", "0 3 * * 0", "15 2 1,15 * *", "5 4 * 3,10 *"}).Draw(t, "cron")
		zone := rapid.SampledFrom([]string{"", "Europe/Helsinki", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}).Draw(t, "zone")
		now := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(t, "now"), 0)
		next, err := env.NextTime(cron, zone, now)
		if err != nil || !next.After(now) {
			t.Fatalf("%s after %s: %s, %v", cron, now, next, err)
		}
		if last, err := env.LastTime(cron, zone, next.Add(-time.Second)); err != nil || last.After(now) {
			t.Fatalf("%s: between %s and %s there is %s (%v)", cron, now, next, last, err)
		}
		if last, err := env.LastTime(cron, zone, next); err != nil || !last.Equal(next) {
			t.Fatalf("%s: up to %s it is %s (%v)", cron, next, last, err)
		}
	})
}

const nightly = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: nightly}
spec:
  inputs: {at: {type: string}, commit: {type: string, default: none}}
  triggers:
    - event: com.acme.now
      inputs: {at: '${{ event.data.at }}'}
    - schedule: {cron: '0 2 * * 1-5', timezone: Europe/Helsinki}
      inputs: {at: '${{ event.data.at }}', commit: '${{ event.data.head }}'}
  initial: nap
  states:
    nap: {wait: {for: 1m}, next: released}
    released: {final: succeeded}
`

// clockwork is a schedule; every input goes through its stored state.
type clockwork struct {
	t     *testing.T
	cat   *workflows.Catalog
	state *env.Schedule
	v     int64
	now   time.Time
}

func newClockwork(t *testing.T, now string) *clockwork {
	c := &clockwork{t: t}
	c.now, _ = time.Parse(time.RFC3339, now)
	c.apply(nightly, "a1b2c3")
	return c
}

func (c *clockwork) apply(text, commit string) {
	set, problems := parse.Files([]parse.File{{Name: "w.yaml", Content: []byte(text), Commit: commit}})
	if parse.Failed(problems) {
		c.t.Fatal(parse.Text(problems))
	}
	c.cat = set.Catalog()
}

func (c *clockwork) do(in record.Input) env.Transition {
	c.t.Helper()
	tr := env.StepSchedule(c.cat, "nightly/1", c.state, c.v+1, in, c.now.UnixMilli())
	if tr.Record {
		c.v++
		c.state = stored(c.t, tr.State, env.LoadSchedule)
	}
	return tr
}

func (c *clockwork) next() string {
	if c.state.NextDeadline() == 0 {
		return "never"
	}
	return time.UnixMilli(c.state.NextDeadline()).UTC().Format(time.RFC3339)
}

func TestAScheduleStartsARunWhenItsTimeHasCome(t *testing.T) {
	c := newClockwork(t, "2027-03-05T12:00:00Z")
	c.do(record.Input{Kind: record.InScheduleSet})
	if c.next() != "2027-03-08T00:00:00Z" {
		t.Fatalf("it fires at %s", c.next())
	}
	if tr := c.do(record.Input{Kind: record.InScheduleSet}); tr.Record || tr.Answer.Status != events.StatusAlready {
		t.Errorf("set again: %+v", tr.Answer)
	}
	if tr := c.do(record.Input{Kind: record.InTimer}); tr.Record {
		t.Errorf("too early: %+v", tr.Answer)
	}
	c.now = time.UnixMilli(c.state.NextDeadline())
	tr := c.do(record.Input{Kind: record.InTimer})
	if len(tr.Events) != 1 || tr.Events[0].Type != events.EventMatched || len(c.state.Outbox) != 1 {
		t.Fatalf("%+v", tr)
	}
	start := c.state.Outbox[0].Input.Start
	if start.Workflow != "nightly" || start.Inputs["at"] != "2027-03-08T00:00:00Z" || start.Inputs["commit"] != "a1b2c3" ||
		c.state.Outbox[0].Input.By != "event:schedule:nightly/1" || start.Cause.Type != events.ScheduleFired {
		t.Errorf("it starts %+v, cause %+v", start, start.Cause)
	}
	if c.next() != "2027-03-09T00:00:00Z" {
		t.Errorf("then it fires at %s", c.next())
	}
	c.do(record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: c.state.Outbox[0].Input.ID, Status: events.StatusError, Reason: "no room"}})
	if len(c.state.Outbox) != 0 || !slices.ContainsFunc(c.state.Reasons, func(r string) bool { return strings.Contains(r, "was not started: no room") }) {
		t.Errorf("%+v", c.state)
	}
}

func TestTimesThatWereMissedFireOnceForTheLatest(t *testing.T) {
	c := newClockwork(t, "2027-03-05T12:00:00Z")
	c.do(record.Input{Kind: record.InScheduleSet})
	c.now = c.now.AddDate(0, 2, 0)
	c.do(record.Input{Kind: record.InTimer})
	if len(c.state.Outbox) != 1 || c.state.Outbox[0].Input.Start.Inputs["at"] != "2027-05-04T23:00:00Z" ||
		!strings.Contains(strings.Join(c.state.Reasons, "\n"), "no engine ran at its times since 2027-03-08T00:00:00Z") {
		t.Errorf("%+v\n%v", c.state.Outbox, c.state.Reasons)
	}
	if tr := c.do(record.Input{Kind: record.InTimer}); tr.Record {
		t.Errorf("it fires again: %+v", tr)
	}
}

func TestAScheduleThatIsGoneOrChangedFiresAsTheFilesSay(t *testing.T) {
	c := newClockwork(t, "2027-03-05T12:00:00Z")
	c.do(record.Input{Kind: record.InScheduleSet})
	c.apply(strings.ReplaceAll(nightly, "0 2 * * 1-5", "30 4 * * *"), "")
	c.do(record.Input{Kind: record.InScheduleSet})
	if c.next() != "2027-03-06T02:30:00Z" {
		t.Errorf("changed, it fires at %s", c.next())
	}
	at := strings.Index(nightly, "    - schedule")
	c.apply(nightly[:at]+nightly[strings.Index(nightly, "  initial"):], "")
	c.do(record.Input{Kind: record.InScheduleSet})
	if c.next() != "never" {
		t.Errorf("taken away, it fires at %s", c.next())
	}
}

func TestSchedulesOfACatalogAreKnownByWorkflowAndIndex(t *testing.T) {
	c := newClockwork(t, "2027-03-05T12:00:00Z")
	if ids := env.ScheduleIDs(c.cat); !slices.Equal(ids, []string{"nightly/1"}) {
		t.Error(ids)
	}
}
