package lease

import "testing"

// Who waits for Settled asks Held next. An engine that was told of nothing did
// not wait for its definitions, and events that came first started nothing.
func TestWhatIsTakenIsHeldWhenItIsSettled(t *testing.T) {
	l := New(Options{Self: Member{Instance: "a"}})
	l.held = Partitions(7).Union(Singletons("sources"))
	l.settle()
	<-l.Settled()
	if held := l.Held(); !held.Has("sources") || held.Partitions.Len() != 1 {
		t.Errorf("it holds %+v", held)
	}
}
