// Package definitions keeps what is in force and what ever was: documents by
// the digest of their source, catalogs by the digest of their list, and which
// catalog is current. A run keeps the catalog that it was started with; old
// documents are therefore never deleted here.
//
// Applying files lays them over what stands (apply.go). A bad document never
// replaces or stops a good one: it is told, and what stood before stays. Every
// document knows its source; a source that is watched holds what came from it,
// and only a source itself takes away what came from it.
package definitions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// keepCompiled is how many catalogs stay compiled in memory.
const keepCompiled = 32

const (
	currentKey = "current"
	originsKey = "origins" // where the current documents came from; a catalog's list tells where they came from first
)

// Store is the definitions of an installation.
type Store struct {
	kv  jetstream.KeyValue
	log *slog.Logger

	apply    sync.Mutex // one Apply or Refresh at a time
	mu       sync.RWMutex
	held     map[string]bool // sources that hold what came from them
	now      *workflows.Catalog
	docs     []parse.Document
	revision uint64 // of what is current in the bucket; guarded by apply

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
	s.docs = empty.Documents
	if _, err := s.refresh(ctx); err != nil {
		return nil, err
	}
	if s.revision > 0 {
		return s, nil
	}
	err := s.put(ctx, empty.Documents, s.now.Digest)
	if errors.Is(err, errChanged) { // another engine was faster
		_, err = s.refresh(ctx)
	}
	return s, err
}

// Refresh takes over what another engine has put in force; changed says that
// it was something else.
func (s *Store) Refresh(ctx context.Context) (changed bool, err error) {
	s.apply.Lock()
	defer s.apply.Unlock()
	return s.refresh(ctx)
}

func (s *Store) refresh(ctx context.Context) (changed bool, err error) {
	e, err := s.kv.Get(ctx, currentKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the current definitions: %w", err)
	}
	if e.Revision() == s.revision {
		return false, nil
	}
	docs, err := s.load(ctx, string(e.Value()))
	if err != nil {
		return false, err
	}
	if err := s.overlayOrigins(ctx, docs); err != nil {
		return false, err
	}
	set, err := s.compile(docs)
	if err != nil {
		return false, fmt.Errorf("definitions %s: %w", e.Value(), err)
	}
	now, before := set.Catalog(), s.Current()
	if now.Digest != string(e.Value()) {
		s.log.Error("not all definitions are in force: this version refuses some that were", "stored", string(e.Value()), "inForce", now.Digest)
		if err := s.store(ctx, set.Documents, now.Digest); err != nil { // runs that start now find theirs later
			return false, err
		}
	}
	s.remember(before)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs, s.now, s.revision = docs, now, e.Revision()
	return now.Digest != before.Digest, nil
}

// Follow takes over what other engines put in force, until ctx ends, and calls
// changed after each change.
func (s *Store) Follow(ctx context.Context, changed func(context.Context)) {
	for ctx.Err() == nil {
		s.follow(ctx, changed)
		pause(ctx, time.Second)
	}
}

// followEvery is how often it is looked whether a change was not heard.
const followEvery = 10 * time.Second

func (s *Store) follow(ctx context.Context, changed func(context.Context)) {
	w, err := s.kv.Watch(ctx, currentKey, jetstream.UpdatesOnly())
	if err != nil {
		s.log.Warn("changes of definitions by other engines cannot be watched; it is tried again", "error", err)
		return
	}
	defer w.Stop() // its consumer ends by itself when this fails
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case _, open := <-w.Updates():
			if !open {
				return
			}
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch other, err := s.Refresh(ctx); {
		case err != nil && ctx.Err() == nil:
			s.log.Error("what another engine has put in force cannot be taken over yet; what was before stays in force", "error", err)
		case other:
			changed(ctx)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
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
	if err := s.putOrigins(ctx, docs); err != nil {
		return err
	}
	revision, err := s.kv.Update(ctx, currentKey, []byte(digest), s.revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return errChanged
	}
	if err != nil {
		return fmt.Errorf("put the definitions in force: %w", err)
	}
	s.revision = revision
	return nil
}

// errChanged says that another engine has put something in force meanwhile.
var errChanged = errors.New("the definitions in force have changed")

// store stores documents and the list of them. The order keeps a crash from
// leaving a list whose documents are not there.
func (s *Store) store(ctx context.Context, docs []parse.Document, digest string) error {
	for _, d := range docs {
		if _, err := s.kv.Create(ctx, keyOf("doc", d.Digest), d.Source); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("store %s %s: %w", d.Kind, d.Name, err)
		}
	}
	p, err := json.Marshal(entries(docs))
	if err != nil {
		return err
	}
	if _, err := s.kv.Create(ctx, keyOf("catalog", digest), p); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("store the list of definitions: %w", err)
	}
	return nil
}

func entries(docs []parse.Document) []entry {
	list := make([]entry, len(docs))
	for i, d := range docs {
		list[i] = entry{d.Kind, d.Name, d.Digest, d.Origin}
	}
	return list
}

// putOrigins stores where documents came from. They may be those of a catalog
// that was in force before, when they came from somewhere else.
func (s *Store) putOrigins(ctx context.Context, docs []parse.Document) error {
	p, err := json.Marshal(entries(docs))
	if err == nil {
		_, err = s.kv.Put(ctx, originsKey, p)
	}
	if err != nil {
		return fmt.Errorf("store where definitions came from: %w", err)
	}
	return nil
}

// overlayOrigins says of documents where they came from last.
func (s *Store) overlayOrigins(ctx context.Context, docs []parse.Document) error {
	e, err := s.kv.Get(ctx, originsKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read where definitions came from: %w", err)
	}
	var list []entry
	if err := json.Unmarshal(e.Value(), &list); err != nil {
		return fmt.Errorf("where definitions came from: %w", err)
	}
	last := map[key]entry{}
	for _, it := range list {
		last[key{it.Kind, it.Name}] = it
	}
	for i, d := range docs {
		if it, ok := last[keyFor(d)]; ok && it.Digest == d.Digest {
			docs[i].Origin = it.Origin
		}
	}
	return nil
}

// List tells what is in force.
func (s *Store) List() events.Definitions {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := events.Definitions{Catalog: s.now.Digest, Definitions: []events.Definition{}}
	for _, d := range s.docs {
		out.Definitions = append(out.Definitions, view(d, ""))
	}
	return out
}

func view(d parse.Document, change string) events.Definition {
	return events.Definition{Kind: d.Kind, Name: d.Name, Digest: d.Digest, Change: change, File: d.Origin.Pos.File,
		Source: d.Origin.Source, Commit: d.Origin.Commit, Author: d.Origin.Author}
}

// Memory is what was told of a source, so that a restart does not tell it again.
type Memory struct {
	Told        string `json:"told,omitempty"`        // stands for the problems that were told; empty: it was good
	Commit      string `json:"commit,omitempty"`      // the newest that was read
	Unreachable bool   `json:"unreachable,omitempty"` // it was told that it cannot be read
}

func memoryKey(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "source." + hex.EncodeToString(sum[:])
}

// Recall gives what was remembered of a source; the zero value for a new one.
func (s *Store) Recall(ctx context.Context, source string) (m Memory, err error) {
	e, err := s.kv.Get(ctx, memoryKey(source))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("what was told of %s: %w", source, err)
	}
	if json.Unmarshal(e.Value(), &m) != nil { // by another version; it is told again
		return Memory{}, nil
	}
	return m, nil
}

// Remember stores what was told of a source.
func (s *Store) Remember(ctx context.Context, source string, m Memory) error {
	p, err := json.Marshal(m)
	if err == nil {
		_, err = s.kv.Put(ctx, memoryKey(source), p)
	}
	return err
}

// Read gives documents as they were written: the one with a digest, or those
// of a catalog behind so many, as long as they have no more than so many bytes
// together, but one at least.
func (s *Store) Read(ctx context.Context, q events.ReadDefinitions, most int) (events.DefinitionPage, error) {
	s.mu.RLock()
	docs, catalog := s.docs, s.now.Digest
	s.mu.RUnlock()
	if q.Digest != "" {
		return s.readOne(ctx, q.Digest, docs)
	}
	if q.Catalog != "" && q.Catalog != catalog {
		var err error
		if docs, err = s.load(ctx, q.Catalog); err != nil {
			return events.DefinitionPage{}, err
		}
		catalog = q.Catalog
	}
	page := events.DefinitionPage{Catalog: catalog, Documents: []events.DefinitionText{}}
	size := 0
	for i := min(q.After, len(docs)); i < len(docs); i++ {
		if size += len(docs[i].Source); size > most && len(page.Documents) > 0 {
			page.Next = i
			break
		}
		page.Documents = append(page.Documents, textOf(docs[i]))
	}
	return page, nil
}

// readOne reads a document that is or was in force. Where it came from is
// known of those in force.
func (s *Store) readOne(ctx context.Context, digest string, docs []parse.Document) (events.DefinitionPage, error) {
	for _, d := range docs {
		if d.Digest == digest {
			return events.DefinitionPage{Documents: []events.DefinitionText{textOf(d)}}, nil
		}
	}
	e, err := s.kv.Get(ctx, keyOf("doc", digest))
	if err != nil {
		return events.DefinitionPage{}, fmt.Errorf("definition %s: %w", digest, err)
	}
	return events.DefinitionPage{Documents: []events.DefinitionText{{Definition: events.Definition{Digest: digest}, Text: string(e.Value())}}}, nil
}

func textOf(d parse.Document) events.DefinitionText {
	return events.DefinitionText{Definition: view(d, ""), Line: d.Origin.Pos.Line, Text: string(d.Source)}
}
