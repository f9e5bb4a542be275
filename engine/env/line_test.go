package env_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// stored is a state as it is read back from a record.
func stored[T any](t interface{ Fatal(...any) }, state any, load func([]byte) (*T, error)) *T {
	p, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	out, err := load(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// turnstile is a concurrency key; every input goes through its stored state.
type turnstile struct {
	t interface {
		Fatal(...any)
		Fatalf(string, ...any)
	}
	state *env.Key
	now   int64
}

func (k *turnstile) do(in record.Input) record.Answer {
	k.now++
	tr := env.StepKey("checkout", k.state, in, k.now)
	if tr.Record {
		k.state = stored(k.t, tr.State, env.LoadKey)
	}
	return tr.Answer
}

func (k *turnstile) ask(run, policy string) record.Answer {
	return k.do(record.Input{Kind: record.InKeyRequest, Key: &record.Claim{Key: "checkout", Run: run, Policy: policy}})
}

func (k *turnstile) give(run string, grant int64) record.Answer {
	return k.do(record.Input{Kind: record.InKeyRelease, Key: &record.Claim{Key: "checkout", Run: run, Grant: grant}})
}

// told delivers the first message: who is told what.
func (k *turnstile) told(taken bool) string {
	m := k.state.Outbox[0]
	status := events.StatusApplied
	if !taken {
		status = events.StatusRefused
	}
	k.do(record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: m.Input.ID, Status: status}})
	text := m.ID + " " + m.Input.Kind
	if m.Input.Key.Reason != "" {
		text += " " + m.Input.Key.Reason + " by " + m.Input.Key.Holder
	}
	return text
}

func (k *turnstile) expect(want ...string) {
	for _, w := range want {
		if len(k.state.Outbox) == 0 {
			k.t.Fatalf("nobody is told, want %q", w)
		}
		if got := k.told(true); got != w {
			k.t.Fatalf("told: %s, want %s", got, w)
		}
	}
	if len(k.state.Outbox) > 0 {
		k.t.Fatalf("told besides: %+v", k.state.Outbox)
	}
}

func TestRunsGetAKeyInTheOrderInWhichTheyAsked(t *testing.T) {
	k := &turnstile{t: t}
	k.ask("a", "queue")
	k.ask("b", "queue")
	k.ask("c", "queue")
	if k.state.Place("b") != 1 || k.state.Place("c") != 2 || k.state.Place("a") != 0 {
		t.Errorf("places %+v", k.state)
	}
	k.expect("a key.granted")
	if a := k.ask("c", "queue"); a.Status != events.StatusAlready {
		t.Errorf("asked twice: %+v", a)
	}
	if a := k.give("b", 1); a.Status != events.StatusStale {
		t.Errorf("given back by another one: %+v", a)
	}
	k.give("b", 0) // it does not want it any more
	k.give("a", 1)
	k.expect("c key.granted")
	if k.state.Holder.Grant != 2 {
		t.Errorf("grant %d", k.state.Holder.Grant)
	}
}

func TestOneThatSupersedesTakesThePlaceOfThoseThatWait(t *testing.T) {
	k := &turnstile{t: t}
	k.ask("a", "supersede")
	k.expect("a key.granted")
	k.ask("b", "queue")
	k.ask("c", "queue")
	k.ask("d", "supersede")
	k.expect("b key.denied superseded by d", "c key.denied superseded by d")
	if k.state.Holder.Run != "a" || k.state.Place("d") != 1 {
		t.Errorf("%+v", k.state)
	}
	k.give("a", 1)
	k.expect("d key.granted")
}

func TestOneThatDoesNotWaitIsTurnedAway(t *testing.T) {
	k := &turnstile{t: t}
	k.ask("a", "reject")
	k.expect("a key.granted")
	k.ask("b", "reject")
	k.expect("b key.denied taken by a")
	k.give("a", 1)
	k.ask("c", "reject")
	k.expect("c key.granted")
}

func TestAGrantThatIsNotTakenGoesToTheNext(t *testing.T) {
	k := &turnstile{t: t}
	k.ask("a", "queue")
	k.ask("b", "queue")
	if got := k.told(false); got != "a key.granted" {
		t.Fatal(got)
	}
	k.expect("b key.granted")
	if k.state.Holder.Run != "b" || k.state.Holder.Grant != 2 {
		t.Errorf("%+v", k.state.Holder)
	}
}

// A key against a model that is a list of names.
func TestAKeyIsHeldByOneAndItsQueueIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &turnstile{t: t}
		var holder string
		var queue []string
		var grant int64
		move := func() {
			if holder == "" && len(queue) > 0 {
				holder, queue = queue[0], queue[1:]
				grant++
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			run := fmt.Sprint("r", rapid.IntRange(0, 5).Draw(t, "run"))
			switch rapid.SampledFrom([]string{"queue", "queue", "supersede", "reject", "give", "leave", "answer"}).Draw(t, "what") {
			case "queue":
				k.ask(run, "queue")
				if run != holder && !slices.Contains(queue, run) {
					queue = append(queue, run)
				}
			case "supersede":
				if known := run == holder || slices.Contains(queue, run); !known && holder != "" {
					queue = []string{run}
				} else if !known {
					queue = append(queue, run)
				}
				k.ask(run, "supersede")
			case "reject":
				k.ask(run, "reject")
				if holder == "" && len(queue) == 0 {
					queue = append(queue, run)
				}
			case "give":
				k.give(run, grant)
				if run == holder {
					holder = ""
				}
			case "leave":
				if k.state != nil {
					k.give(run, 0)
					queue = slices.DeleteFunc(queue, func(q string) bool { return q == run })
				}
			case "answer":
				if k.state != nil && len(k.state.Outbox) > 0 {
					k.told(true)
				}
			}
			move()
			if k.state == nil {
				continue
			}
			var names []string
			for _, h := range k.state.Queue {
				names = append(names, h.Run)
			}
			has := ""
			if k.state.Holder != nil {
				has = k.state.Holder.Run
			}
			again := k.state.Holder != nil && k.state.Holder.Again // asked once more before it answered: it still waits
			if has != holder || !again && !slices.Equal(names, queue) || k.state.Last != grant {
				t.Fatalf("holder %s, queue %v, grant %d; want %s, %v, %d", has, names, k.state.Last, holder, queue, grant)
			}
		}
	})
}
