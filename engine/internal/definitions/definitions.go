// Package definitions keeps what is in force and what ever was: documents by
// the digest of their source, catalogs by the digest of their list, and which
// catalog is current. A run keeps the catalog that it was started with; old
// documents are therefore never deleted here.
//
// Applying files lays them over what stands. A bad document never replaces
// or stops a good one: it is told, and what stood before stays.
package definitions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// keepCompiled is how many catalogs stay compiled in memory.
const keepCompiled = 32

const currentKey = "current"

// Store is the definitions of an installation.
type Store struct {
	kv  jetstream.KeyValue
	log *slog.Logger

	apply sync.Mutex // one Apply at a time
	mu    sync.RWMutex
	now   *workflows.Catalog
	docs  []parse.Document
	old   map[string]*workflows.Catalog
	order []string // of old, oldest first
}

// entry is a document in a catalog's list.
type entry struct {
	Kind   string           `json:"kind"`
	Name   string           `json:"name"`
	Digest string           `json:"digest"`
	Origin workflows.Origin `json:"origin"`
}

// Open reads what is current. Where this version of Penstock refuses a document
// that an older one took, the others are in force; what is current stays as it
// is, so that the older version still finds it.
func Open(ctx context.Context, kv jetstream.KeyValue, log *slog.Logger) (*Store, error) {
	s := &Store{kv: kv, log: log, old: map[string]*workflows.Catalog{}}
	empty, _ := parse.Files(nil)
	s.now = empty.Catalog()
	e, err := kv.Get(ctx, currentKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return s, s.put(ctx, empty.Documents, s.now.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("read the current definitions: %w", err)
	}
	if s.docs, err = s.load(ctx, string(e.Value())); err != nil {
		return nil, err
	}
	set, err := s.compile(s.docs)
	if err != nil {
		return nil, fmt.Errorf("definitions %s: %w", e.Value(), err)
	}
	s.now = set.Catalog()
	if s.now.Digest != string(e.Value()) {
		s.log.Error("not all definitions are in force: this version refuses some that were", "stored", string(e.Value()), "inForce", s.now.Digest)
		return s, s.store(ctx, set.Documents, s.now.Digest) // runs that start now find theirs later
	}
	return s, nil
}

// compile loads stored documents; they were good when they were stored. One
// that is refused now is left out. One that is not what was stored is an error.
func (s *Store) compile(docs []parse.Document) (*parse.Set, error) {
	set, problems := parse.Over(docs, nil)
	for _, p := range problems {
		if !p.Warning {
			s.log.Error("a stored definition is not good any more", "problem", p.Error())
		}
	}
	for _, d := range set.Documents {
		same := func(o parse.Document) bool { return o.Kind == d.Kind && o.Name == d.Name && o.Digest == d.Digest }
		if !slices.ContainsFunc(docs, same) {
			return nil, fmt.Errorf("what is stored as %s/%s is not what was: its digest is %s", d.Kind, d.Name, d.Digest)
		}
	}
	return set, nil
}

// Current gives the definitions in force.
func (s *Store) Current() *workflows.Catalog {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now
}

// ByDigest gives a catalog that is or was in force.
func (s *Store) ByDigest(digest string) (*workflows.Catalog, error) {
	s.mu.RLock()
	cat := s.old[digest]
	if s.now.Digest == digest {
		cat = s.now
	}
	s.mu.RUnlock()
	if cat != nil {
		return cat, nil
	}
	docs, err := s.load(context.Background(), digest)
	if err != nil {
		return nil, err
	}
	set, err := s.compile(docs)
	if err != nil {
		return nil, fmt.Errorf("definitions %s: %w", digest, err)
	}
	cat = set.Catalog()
	if cat.Digest != digest { // some are refused now; the others are what they were
		c := *cat
		c.Digest = digest
		cat = &c
	}
	s.remember(cat)
	return cat, nil
}

func (s *Store) remember(cat *workflows.Catalog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.old[cat.Digest] != nil {
		return
	}
	s.old[cat.Digest] = cat
	s.order = append(s.order, cat.Digest)
	if len(s.order) > keepCompiled {
		delete(s.old, s.order[0])
		s.order = s.order[1:]
	}
}

// keyOf makes a key-value key of a digest: "sha256:ab…" → "doc.ab…".
func keyOf(kind, digest string) string { return kind + "." + strings.TrimPrefix(digest, "sha256:") }

// load reads the documents of a catalog.
func (s *Store) load(ctx context.Context, digest string) ([]parse.Document, error) {
	e, err := s.kv.Get(ctx, keyOf("catalog", digest))
	if err != nil {
		return nil, fmt.Errorf("definitions %s: %w", digest, err)
	}
	var list []entry
	if err := json.Unmarshal(e.Value(), &list); err != nil {
		return nil, fmt.Errorf("definitions %s: %w", digest, err)
	}
	docs := make([]parse.Document, len(list))
	for i, it := range list {
		d, err := s.kv.Get(ctx, keyOf("doc", it.Digest))
		if err != nil {
			return nil, fmt.Errorf("definition %s/%s %s: %w", it.Kind, it.Name, it.Digest, err)
		}
		docs[i] = parse.Document{Kind: it.Kind, Name: it.Name, Digest: it.Digest, Source: d.Value(), Origin: it.Origin}
	}
	return docs, nil
}

// put stores documents and the list of them, and makes it current.
func (s *Store) put(ctx context.Context, docs []parse.Document, digest string) error {
	if err := s.store(ctx, docs, digest); err != nil {
		return err
	}
	if _, err := s.kv.Put(ctx, currentKey, []byte(digest)); err != nil {
		return fmt.Errorf("put the definitions in force: %w", err)
	}
	return nil
}

// store stores documents and the list of them. The order keeps a crash from
// leaving a list whose documents are not there.
func (s *Store) store(ctx context.Context, docs []parse.Document, digest string) error {
	list := make([]entry, len(docs))
	for i, d := range docs {
		list[i] = entry{d.Kind, d.Name, d.Digest, d.Origin}
		if _, err := s.kv.Create(ctx, keyOf("doc", d.Digest), d.Source); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("store %s %s: %w", d.Kind, d.Name, err)
		}
	}
	p, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if _, err := s.kv.Create(ctx, keyOf("catalog", digest), p); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("store the list of definitions: %w", err)
	}
	return nil
}

// Apply lays files over what is in force. The result tells what changed and
// all problems; good documents are in force when it returns without error.
func (s *Store) Apply(ctx context.Context, files []parse.File, dryRun bool) (*events.Applied, error) {
	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.RLock()
	standing, before := s.docs, s.now
	s.mu.RUnlock()
	set, problems := parse.Over(standing, files)
	out := &events.Applied{Definitions: changes(standing, set.Documents), Text: parse.Text(problems)}
	for _, p := range problems {
		raw, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		out.Problems = append(out.Problems, raw)
	}
	// what stood before stays in force where its successor is bad
	docs := keepStanding(standing, set.Documents)
	if dryRun {
		return out, nil
	}
	if len(docs) != len(set.Documents) {
		set, _ = parse.Over(docs, nil)
	}
	cat := set.Catalog()
	if cat.Digest == before.Digest {
		return out, nil
	}
	if err := s.put(ctx, set.Documents, cat.Digest); err != nil {
		return nil, err
	}
	s.remember(before)
	s.mu.Lock()
	s.docs, s.now = set.Documents, cat
	s.mu.Unlock()
	return out, nil
}

// keepStanding adds the documents that stood and are not among the good ones.
func keepStanding(standing, good []parse.Document) []parse.Document {
	docs := slices.Clone(good)
	for _, old := range standing {
		if !slices.ContainsFunc(good, func(d parse.Document) bool { return d.Kind == old.Kind && d.Name == old.Name }) {
			docs = append(docs, old)
		}
	}
	return docs
}

func changes(before, after []parse.Document) []events.Definition {
	var out []events.Definition
	for _, d := range after {
		change := "created"
		for _, b := range before {
			if b.Kind == d.Kind && b.Name == d.Name {
				change = "changed"
				if b.Digest == d.Digest {
					change = "unchanged"
				}
			}
		}
		out = append(out, events.Definition{Kind: d.Kind, Name: d.Name, Digest: d.Digest, Change: change, File: d.Origin.Pos.File})
	}
	return out
}

// List tells what is in force.
func (s *Store) List() events.Definitions {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := events.Definitions{Catalog: s.now.Digest, Definitions: []events.Definition{}}
	for _, d := range s.docs {
		out.Definitions = append(out.Definitions, events.Definition{Kind: d.Kind, Name: d.Name, Digest: d.Digest, File: d.Origin.Pos.File})
	}
	return out
}
