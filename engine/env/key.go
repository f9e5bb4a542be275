package env

import (
	"encoding/json"
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Key is the state of a concurrency key: one run at a time goes on with it.
// Runs wait in the order in which they asked. One that supersedes takes the
// place of all that wait, never of the one that goes on; one that rejects does
// not wait. Both are told at once.
type Key struct {
	Name string `json:"name"`
	Now  int64  `json:"t"`
	Line
}

// LoadKey reads a state from a record.
func LoadKey(p []byte) (*Key, error) {
	var k Key
	return &k, json.Unmarshal(p, &k)
}

// StepKey decides what an input does to a concurrency key; prev is nil for one
// that nobody has asked for yet. name is the key's text.
func StepKey(name string, prev *Key, in record.Input, now int64) Transition {
	k := &Key{Name: name}
	if prev != nil {
		k = new(*prev)
		k.Line = prev.Line.copied()
	}
	k.Now = max(now, k.Now)
	t := Transition{Record: true, Answer: record.Answer{Status: events.StatusApplied}, State: k}
	skip := func(status, code, reason string) {
		t = Transition{Answer: record.Answer{Status: status, Code: code, Reason: reason}, State: prev}
	}
	switch {
	case !in.Complete():
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("the input %q is not complete", in.Kind))
	case in.Kind == record.InKeyRequest:
		if !k.request(in.Key) {
			skip(events.StatusAlready, "", "")
		}
	case in.Kind == record.InKeyRelease:
		if _, ok := k.give(in.Key.Run, in.Key.Grant); !ok {
			skip(events.StatusStale, "", "the run does not hold this key")
		}
	case in.Kind == record.InSendAnswer:
		if !k.answered(in.Sent, k.Now, keyGrant) {
			skip(events.StatusAlready, "", "")
		}
	default:
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("a concurrency key does not take %q", in.Kind))
	}
	if t.Record {
		k.grantNext()
	}
	return t
}

// keyGrant finds the grant that a message of a key gives.
func keyGrant(in *record.Input) (int64, bool) {
	if in.Kind != record.InKeyGranted {
		return 0, false
	}
	return in.Key.Grant, true
}

// request takes a run's request; false when it is known already.
func (k *Key) request(c *record.Claim) bool {
	waits := len(k.Queue) > 0 || k.Holder != nil && k.Holder.Run != c.Run
	if c.Policy == workflows.PolicyReject && waits && k.Place(c.Run) == 0 {
		k.deny(Holder{Run: c.Run, Asked: c.Asked}, record.Taken, k.ahead())
		return true
	}
	if !k.ask(c.Run, "", k.Now, keyGrant) {
		return false
	}
	if at := k.Place(c.Run); at > 0 {
		k.Queue[at-1].Asked = c.Asked
	}
	if c.Policy == workflows.PolicySupersede && k.Place(c.Run) > 0 {
		for _, h := range k.Queue {
			if h.Run != c.Run {
				k.deny(h, record.Superseded, c.Run)
			}
		}
		k.Queue = []Holder{k.Queue[k.Place(c.Run)-1]}
	}
	return true
}

// ahead is the run that has the key, or would get it next.
func (k *Key) ahead() string {
	if k.Holder != nil {
		return k.Holder.Run
	}
	return k.Queue[0].Run
}

func (k *Key) deny(h Holder, reason, holder string) {
	k.send(record.Key, k.Name, h.Run, record.Input{Kind: record.InKeyDenied,
		Key: &record.Claim{Key: k.Name, Run: h.Run, Asked: h.Asked, Reason: reason, Holder: holder}})
}

// grantNext gives a free key to the run that has waited longest.
func (k *Key) grantNext() {
	if h := k.next(k.Now, nil); h != nil {
		k.send(record.Key, k.Name, h.Run, record.Input{Kind: record.InKeyGranted, Key: &record.Claim{Key: k.Name, Run: h.Run, Grant: h.Grant}})
	}
}
