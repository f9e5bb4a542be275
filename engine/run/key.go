package run

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// maxKey is how long a concurrency key may be, in bytes.
const maxKey = 200

// key is the concurrency key of a run that begins; "" when it needs none,
// because it has none or its parent has it already.
func (x *step) key() (string, error) {
	c := x.d.Workflow.Spec.Concurrency
	if c == nil {
		return "", nil
	}
	v, err := x.data("concurrency.key", c.Key, nil)
	if err != nil {
		return "", fmt.Errorf("the concurrency key cannot be evaluated: %w", err)
	}
	key := record.Text(v)
	if key == "" || len(key) > maxKey {
		return "", fmt.Errorf("the concurrency key has %d bytes, want 1 to %d", len(key), maxKey)
	}
	if p := x.in.Start.Parent; p != nil && slices.Contains(p.Keys, key) {
		return "", nil
	}
	return key, nil
}

// enterWithKey goes into a state as soon as the run has its concurrency key.
func (x *step) enterWithKey(name string) {
	k := x.s.Key
	if k == nil || k.Grant > 0 {
		x.enter(name)
		return
	}
	k.Then = name
	k.Asked++
	x.s.At = name
	x.askKey()
	x.emit(events.KeyQueued, events.Happening{State: name, Key: k.Key})
}

// waitsForKey reports whether the run has not got its concurrency key yet.
func (x *step) waitsForKey() bool {
	return x.s.Phase == phaseRunning && x.s.Key != nil && x.s.Key.Grant == 0
}

// askKey asks for the key, unless that is under way.
func (x *step) askKey() {
	k := x.s.Key
	asked := false
	for _, m := range x.s.Outbox { // the last word counts
		if m.To == record.Key {
			asked = m.Input.Kind == record.InKeyRequest
		}
	}
	if !asked {
		x.send(record.Key, k.Key, record.Input{Kind: record.InKeyRequest, Key: &record.Claim{Key: k.Key, Run: x.s.ID, Policy: x.keyPolicy(), Asked: k.Asked}})
	}
}

func (x *step) keyPolicy() string {
	if c := x.d.Workflow.Spec.Concurrency; c != nil {
		return cmp.Or(c.Policy, workflows.PolicyQueue)
	}
	return workflows.PolicyQueue
}

// keyGranted takes the concurrency key: the run goes on.
func (x *step) keyGranted(c *record.Claim) {
	k := x.s.Key
	switch {
	case k != nil && c.Grant <= k.Taken: // taken before, and perhaps given back since
		x.unrecorded(events.StatusAlready, "", "")
	case !x.waitsForKey() || c.Key != k.Key:
		x.unrecorded(events.StatusRefused, events.CodeConflict, "the run does not wait for this key any more")
	case x.paused():
		x.unrecorded(events.StatusRefused, events.CodeConflict, "the run is paused")
	default:
		k.Grant, k.Taken = c.Grant, c.Grant
		x.emit(events.KeyGranted, events.Happening{State: k.Then, Key: k.Key, Grant: c.Grant})
		x.enter(k.Then)
	}
}

// keyDenied ends a run that does not get its concurrency key: nothing of it
// has begun, so nothing is to be done finally.
func (x *step) keyDenied(c *record.Claim) {
	if x.repeated(x.in.ID, "key") { // it may have asked once more since
		return
	}
	if !x.waitsForKey() || c.Key != x.s.Key.Key || c.Asked != x.s.Key.Asked {
		x.unrecorded(events.StatusStale, "", "the run does not wait for this key any more")
		return
	}
	x.once(x.in.ID, "key")
	if c.Reason == record.Superseded {
		x.endUnbegun(events.Superseded, &events.TaskError{Code: events.CodeConcurrency, Message: fmt.Sprintf("run %s came after it for the key %s", c.Holder, c.Key)})
		return
	}
	x.endUnbegun(events.Rejected, &events.TaskError{Code: events.CodeConcurrency, Message: fmt.Sprintf("run %s has the key %s", c.Holder, c.Key)})
}

// endUnbegun ends a run that waits for its key.
func (x *step) endUnbegun(outcome string, err *events.TaskError) {
	if outcome == events.Cancelled {
		x.send(record.Key, x.s.Key.Key, record.Input{Kind: record.InKeyRelease, Key: &record.Claim{Key: x.s.Key.Key, Run: x.s.ID}})
	}
	x.s.Outcome, x.s.Error, x.s.Phase = outcome, err, phaseFinally
	x.s.Paused, x.s.Held, x.s.Listen = nil, nil, nil
	x.closeIfFinished()
}

// releaseKey gives the key back.
func (x *step) releaseKey() {
	k := x.s.Key
	if k == nil || k.Grant == 0 {
		return
	}
	x.send(record.Key, k.Key, record.Input{Kind: record.InKeyRelease, Key: &record.Claim{Key: k.Key, Run: x.s.ID, Grant: k.Grant}})
	x.emit(events.KeyReleased, events.Happening{Key: k.Key, Grant: k.Grant})
	k.Grant = 0
}

func (x *step) whyKey() events.WaitReason {
	return events.WaitReason{State: x.s.At, What: "key", Key: x.s.Key.Key, Summary: "waits for the concurrency key " + x.s.Key.Key}
}
