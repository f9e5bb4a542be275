// Package sources brings definitions into force from where they are kept:
// folders, and branches of Git repositories.
//
// A source owns what came from it. What is put there comes into force, what is
// taken away from there is removed, and nobody else replaces or removes it
// (package definitions). What cannot be read changes nothing: a bad document
// keeps the one before it in force, a source that does not answer keeps all of
// them, and both are told once. A source that is empty removes nothing.
package sources

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/definitions"
	"github.com/penstock-cd/penstock/engine/internal/gitdefs"
	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// Options say where definitions come from.
type Options struct {
	Places  []string // paths of folders, and addresses of Git repositories
	Poll    time.Duration
	Cache   string // a directory for copies of repositories
	Service *service.Service
	Store   *definitions.Store
	Log     *slog.Logger
}

// Sources are the sources of an engine.
type Sources struct {
	o    Options
	list []*source
}

// source is one of them. One goroutine at a time uses it, except for status.
type source struct {
	name  string
	place place
	poke  chan struct{}

	last   held               // what was found there last
	memory definitions.Memory // what was told of it, over restarts
	at     string             // the catalog that last was laid over, where it had problems
	log    string             // the error that was logged last

	mu     sync.Mutex
	status events.DefinitionSource
}

// held is what a place held at a moment.
type held struct {
	files          []parse.File
	problems       []workflows.Problem // with what could not be read at all
	commit, author string
	whole          bool // it is known to be all there is, so what is missing may be removed
}

// place is a folder or a branch.
type place interface {
	// look gives what is there now, nil where that is what it was before, or is
	// not sure yet. The first look is always sure.
	look(ctx context.Context, first bool) (*held, error)
	// every is how long to wait between looks.
	every() time.Duration
	// near says that it is on this host: a start waits for it and fails without it.
	near() bool
}

// New reads where definitions come from; it looks nowhere yet.
func New(o Options) (*Sources, error) {
	s := &Sources{o: o}
	for _, text := range o.Places {
		src, err := s.newSource(text)
		if err != nil {
			return nil, err
		}
		for _, other := range s.list {
			if other.name == src.name {
				return nil, fmt.Errorf("definitions come from %s twice", src.name)
			}
		}
		s.list = append(s.list, src)
	}
	return s, nil
}

func (s *Sources) newSource(text string) (*source, error) {
	src := &source{poke: make(chan struct{}, 1)}
	if gitdefs.Is(text) {
		address, err := gitdefs.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("definitions in %w", err)
		}
		src.name, src.place = address.String(), &branch{repository: gitdefs.Open(address, s.o.Cache), poll: s.o.Poll}
	} else if strings.Contains(text, "://") {
		return nil, fmt.Errorf("definitions in %w", gitdefs.NoAddress(text))
	} else {
		dir, err := filepath.Abs(text)
		if err != nil {
			return nil, fmt.Errorf("definitions in %s: %w", text, err)
		}
		src.name, src.place = "folder:"+dir, &folder{path: text}
	}
	src.status.Source = src.name
	return src, nil
}

// Poke makes the sources that are Git repositories be looked at at once, and
// gives how many these are.
func (s *Sources) Poke() (n int) {
	for _, src := range s.list {
		if src.place.near() {
			continue
		}
		n++
		select {
		case src.poke <- struct{}{}:
		default: // it is about to be looked at
		}
	}
	return n
}

// Names gives the names of the sources, as they stand in origins.
func (s *Sources) Names() []string {
	names := make([]string, len(s.list))
	for i, src := range s.list {
		names[i] = src.name
	}
	return names
}

// Status tells of every source how it is.
func (s *Sources) Status() []events.DefinitionSource {
	var all []events.DefinitionSource
	for _, src := range s.list {
		src.mu.Lock()
		all = append(all, src.status)
		src.mu.Unlock()
	}
	return all
}

// firstLook is how long a start waits for a repository of which nothing is in
// force yet.
const firstLook = 10 * time.Second

// Start looks at every source once. A folder that cannot be read is an error.
// A repository that does not answer is none, and of one from which something
// is in force nobody waits for the answer.
func (s *Sources) Start(ctx context.Context) error {
	for _, src := range s.list {
		memory, err := s.o.Store.Recall(ctx, src.name)
		if err != nil {
			return err
		}
		src.memory = memory
		if src.place.near() {
			if err := s.visit(ctx, src, true); err != nil {
				return fmt.Errorf("definitions in %s: %w", strings.TrimPrefix(src.name, "folder:"), err)
			}
			continue
		}
		if !s.hasSome(src.name) {
			first, cancel := context.WithTimeout(ctx, firstLook)
			s.visit(first, src, true) // what is wrong is told
			cancel()
		}
		src.poke <- struct{}{}
	}
	return ctx.Err()
}

// hasSome reports whether something of a source is in force.
func (s *Sources) hasSome(source string) bool {
	return slices.ContainsFunc(s.o.Store.List().Definitions, func(d events.Definition) bool { return d.Source == source })
}

// Run looks again and again until ctx ends.
func (s *Sources) Run(ctx context.Context) {
	var work sync.WaitGroup
	for _, src := range s.list {
		work.Go(func() { s.follow(ctx, src) })
	}
	work.Wait()
}

func (s *Sources) follow(ctx context.Context, src *source) {
	for {
		select {
		case <-time.After(src.place.every()):
		case <-src.poke:
		case <-ctx.Done():
			return
		}
		s.visit(ctx, src, false)
	}
}

// visit looks at a source and puts in force what is there. What was refused is
// tried again when something else has come into force: it may be good now.
func (s *Sources) visit(ctx context.Context, src *source, first bool) error {
	now, err := src.place.look(ctx, first)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.unreachable(ctx, src, err)
		return err
	}
	if now != nil {
		src.last = *now
	}
	src.set(func(st *events.DefinitionSource) { st.Error, st.Since = "", nil })
	again := src.at != "" && src.at != s.o.Store.Current().Digest
	if now == nil && !again {
		s.remember(ctx, src, definitions.Memory{Told: src.memory.Told, Commit: src.memory.Commit})
		return nil
	}
	if err := s.deliver(ctx, src); err != nil {
		src.at = "not stored" // the next visit tries again
		s.o.Log.Error("definitions could not be put in force", "source", src.name, "error", err)
		return err
	}
	return nil
}

// deliver puts in force what a source holds, and tells what came of it.
func (s *Sources) deliver(ctx context.Context, src *source) error {
	l, told := src.last, ""
	applied, err := s.o.Service.Apply(ctx, service.Delivery{By: src.name, Commit: l.commit, Author: l.author,
		Tell:   func(problems []string) bool { return tellOf(l.commit, problems) != src.memory.Told },
		Change: definitions.Change{Source: src.name, Files: l.files, Problems: l.problems, Prune: l.whole}})
	if err != nil {
		return err
	}
	problems := service.Serious(applied)
	src.at = ""
	if len(problems) > 0 {
		told = tellOf(l.commit, problems)
		src.at = s.o.Store.Current().Digest
	}
	changed := 0
	for _, d := range applied.Definitions {
		if d.Change == "created" || d.Change == "changed" || d.Change == "removed" {
			changed++
		}
	}
	if changed > 0 || told != src.memory.Told {
		s.o.Log.Info("definitions were read", "source", src.name, "commit", l.commit, "files", len(l.files), "changed", changed, "problems", len(problems))
	}
	if applied.Text != "" && told != src.memory.Told {
		s.o.Log.Warn("definitions have problems", "source", src.name, "commit", l.commit, "problems", applied.Text)
	}
	now := s.o.Service.Now()
	src.set(func(st *events.DefinitionSource) {
		st.Commit, st.Author, st.ReadAt, st.Problems = l.commit, l.author, &now, len(problems)
	})
	s.remember(ctx, src, definitions.Memory{Told: told, Commit: l.commit})
	return nil
}

// unreachable notes that a source cannot be read. It is told once, until it
// can be read again; each new reason is logged.
func (s *Sources) unreachable(ctx context.Context, src *source, err error) {
	if text := err.Error(); text != src.log {
		src.log = text
		s.o.Log.Error("definitions cannot be read", "source", src.name, "error", err)
	}
	now := s.o.Service.Now()
	src.set(func(st *events.DefinitionSource) { st.Error, st.Since = err.Error(), cmp.Or(st.Since, &now) })
	if !src.memory.Unreachable {
		s.o.Service.Emit(events.DefinitionUnreachable, events.Happening{By: src.name, Reason: err.Error(), Commit: src.memory.Commit})
	}
	s.remember(ctx, src, definitions.Memory{Told: src.memory.Told, Commit: src.memory.Commit, Unreachable: true})
}

// remember stores what was told, and tells when a source is good again.
func (s *Sources) remember(ctx context.Context, src *source, m definitions.Memory) {
	before := src.memory
	if m == before {
		return
	}
	if !m.Unreachable && m.Told == "" && (before.Unreachable || before.Told != "") {
		s.o.Service.Emit(events.DefinitionRecovered, events.Happening{By: src.name, Commit: src.last.commit, Author: src.last.author})
	}
	if !m.Unreachable {
		src.log = ""
	}
	src.memory = m
	// Also when the end has come meanwhile: else it would be told once more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.o.Store.Remember(ctx, src.name, m); err != nil {
		s.o.Log.Warn("what was told of a source of definitions is not stored", "source", src.name, "error", err)
	}
}

func (src *source) set(change func(*events.DefinitionSource)) {
	src.mu.Lock()
	defer src.mu.Unlock()
	change(&src.status)
}

// tellOf stands for problems of a commit, or of what is in a folder.
func tellOf(commit string, problems []string) string {
	return digestOf(append([]string{commit}, problems...))
}

func digestOf(parts []string) string {
	p, _ := json.Marshal(parts) // texts always encode
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}
