package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Board is where engines tell of themselves and see each other. What is put
// on it has revisions that grow over all keys.
type Board interface {
	// Put stores a value if the key's last revision still is last (0: there
	// was none), else it gives ErrConflict. After any other error the value
	// may be stored or not.
	Put(ctx context.Context, key string, value []byte, last uint64) (revision uint64, err error)
	// Delete removes a key under the same condition.
	Delete(ctx context.Context, key string, last uint64) error
	// Watch gives all entries that there are, then one that is Caught, then
	// every change, in the order of revisions, until ctx ends or the channel is
	// closed because something is amiss. It may leave out values that were
	// replaced meanwhile.
	Watch(ctx context.Context) (<-chan Entry, error)
}

// Entry is a key's value as the board has it.
type Entry struct {
	Key      string
	Value    []byte // nil: it was removed
	Revision uint64
	At       time.Time // when the server stored it, by the server's clock
	Caught   bool      // not an entry: all that there were have been given
}

// ErrConflict says that somebody else has put something under the key.
var ErrConflict = errors.New("somebody else has put something there")

// Others reports whether another engine has told of itself so lately that it
// may be alive. It is told before an engine joins, by the clocks of this host
// and of the server: nothing but the order of work may depend on it.
func Others(ctx context.Context, b Board, instance string) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	entries, err := b.Watch(ctx)
	if err != nil {
		return false, fmt.Errorf("the other engines cannot be watched: %w", err)
	}
	others := false
	for e := range entries {
		if e.Caught {
			return others, nil
		}
		others = others || e.Value != nil && isOther(e.Key, instance) && time.Since(e.At) < expiry
	}
	return others, fmt.Errorf("the other engines cannot be watched: %w", cmp.Or(ctx.Err(), errCut))
}

var errCut = errors.New("the watch has ended")

func isOther(key, instance string) bool {
	return strings.HasPrefix(key, enginePrefix) && key != engineKey(instance)
}

// OnBucket is the board in a key-value bucket.
func OnBucket(kv jetstream.KeyValue) Board { return board{kv} }

type board struct{ kv jetstream.KeyValue }

func (b board) Put(ctx context.Context, key string, value []byte, last uint64) (uint64, error) {
	revision, err := b.kv.Update(ctx, key, value, last)
	return revision, explain(err)
}

func (b board) Delete(ctx context.Context, key string, last uint64) error {
	return explain(b.kv.Delete(ctx, key, jetstream.LastRevision(last)))
}

// codeInFlight is the server's for a write that must wait for another one.
const codeInFlight = 10164

func explain(err error) error {
	var api *jetstream.APIError
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) || errors.As(err, &api) && api.ErrorCode == codeInFlight {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

func (b board) Watch(ctx context.Context) (<-chan Entry, error) {
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan Entry)
	go func() {
		defer close(out)
		defer w.Stop() // its consumer ends by itself when this fails
		for {
			var e Entry
			select {
			case <-ctx.Done():
				return
			case u, open := <-w.Updates():
				if !open {
					return
				}
				e = entryOf(u)
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func entryOf(u jetstream.KeyValueEntry) Entry {
	if u == nil {
		return Entry{Caught: true}
	}
	e := Entry{Key: u.Key(), Revision: u.Revision(), At: u.Created()}
	if u.Operation() == jetstream.KeyValuePut {
		e.Value = u.Value()
	}
	return e
}
