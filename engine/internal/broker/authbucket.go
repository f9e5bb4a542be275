package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// With an external server several engines serve one installation, so who has
// a token is kept where all of them see it: in a bucket, one key for each
// principal, created only where there is none. Every engine watches it.

// authTimeout is how long storing a principal may take.
const authTimeout = 10 * time.Second

// share moves the principals of the data directory into the bucket and from
// then on keeps them there.
func (b *Broker) share(ctx context.Context) error {
	js, err := jetstream.New(b.Engine)
	if err != nil {
		return err
	}
	kv, err := js.KeyValue(ctx, events.BucketAuth)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", events.BucketAuth, err)
	}
	if err := b.migrate(ctx, kv); err != nil {
		return err
	}
	b.principals.mu.Lock()
	b.principals.kv, b.principals.list = kv, nil
	b.principals.mu.Unlock()
	return b.watchPrincipals(ctx, kv)
}

// migrate stores what the data directory has. What the bucket has already
// counts.
func (b *Broker) migrate(ctx context.Context, kv jetstream.KeyValue) error {
	s := b.principals
	for _, p := range s.list {
		err := createPrincipal(ctx, kv, p)
		if errors.Is(err, jetstream.ErrKeyExists) {
			b.log.Warn("a credential of this data directory is not taken over: the installation has another one by that name", "kind", p.Kind, "name", p.Name)
			continue
		}
		if err != nil {
			return err
		}
	}
	err := os.Rename(s.path, s.path+".moved")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func createPrincipal(ctx context.Context, kv jetstream.KeyValue, p principal) error {
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = kv.Create(ctx, events.Token(p.username()), value)
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("%s %q is not stored: bucket %s: %w", p.Kind, p.Name, events.BucketAuth, err)
	}
	return err
}

// watchPrincipals follows the bucket until the broker is closed. It returns
// when everything that the bucket had has been seen.
func (b *Broker) watchPrincipals(ctx context.Context, kv jetstream.KeyValue) error {
	w, err := kv.WatchAll(b.lost)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", events.BucketAuth, err)
	}
	b.watcher = w
	seen := make(chan struct{})
	go func() {
		for e := range w.Updates() {
			if e == nil { // the present ones have been given
				close(seen)
				continue
			}
			if err := b.principals.observe(e); err != nil {
				b.log.Error("a principal cannot be read, and may do nothing", "key", e.Key(), "error", err)
			}
		}
	}()
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("bucket %s: %w", events.BucketAuth, context.Cause(ctx))
	}
}

// observe takes a change of the bucket over.
func (s *principals) observe(e jetstream.KeyValueEntry) error {
	var p principal
	var err error
	if e.Operation() == jetstream.KeyValuePut {
		err = json.Unmarshal(e.Value(), &p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What cannot be read removes what was there as well: it says something else now.
	s.list = slices.DeleteFunc(slices.Clone(s.list), func(o principal) bool { return events.Token(o.username()) == e.Key() })
	if err == nil && e.Operation() == jetstream.KeyValuePut {
		s.list = append(s.list, p)
	}
	return err
}

// create stores a principal in the bucket, for all engines.
func (s *principals) create(p principal) error {
	ctx, cancel := context.WithTimeout(context.Background(), authTimeout)
	defer cancel()
	if err := createPrincipal(ctx, s.kv, p); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.list, func(o principal) bool { return o.username() == p.username() }) { // it may have been observed by now
		s.list = append(slices.Clone(s.list), p)
	}
	return nil
}

// drop removes a principal from the bucket, for all engines.
func (s *principals) drop(p principal) error {
	ctx, cancel := context.WithTimeout(context.Background(), authTimeout)
	defer cancel()
	if err := s.kv.Purge(ctx, events.Token(p.username())); err != nil {
		return fmt.Errorf("%s %q is not revoked: bucket %s: %w", p.Kind, p.Name, events.BucketAuth, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(slices.Clone(s.list), func(o principal) bool { return o.Kind == p.Kind && o.Name == p.Name })
	return nil
}
