// Package workertest runs a workers.Handler in a test without a bus, an
// engine or the SDK around it: New makes the Job of a granted task, with
// artifacts in memory and its output captured.
//
// The inputs pass through JSON, as they do on the bus, so that a handler sees
// the types that it will see in earnest: lists are []any and numbers float64.
package workertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// New is the Job of a first attempt with these inputs. Its directory is
// empty and removed with the test, Stdout, Stderr and Note are *Output,
// Artifacts is an empty *Artifacts, and Progress discards. A test may change
// every field before it hands the job over.
func New(t testing.TB, with map[string]any) *workers.Job {
	t.Helper()
	return &workers.Job{
		Task: events.Task{
			ID: "task-1", Run: "run-1", Workflow: "sample", State: "work", Attempt: 1,
			Pool: "default", Runs: events.RunsRepeatable, With: throughJSON(t, with),
			Fence: events.Fence{Grant: 1, Version: 1}, Heartbeat: 1000, HeartbeatTimeout: 10_000,
			Issued: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		},
		Dir: t.TempDir(), Stdout: &Output{}, Stderr: &Output{}, Note: &Output{},
		Artifacts: NewArtifacts(),
		Progress:  func(string) {},
	}
}

func throughJSON(t testing.TB, with map[string]any) map[string]any {
	t.Helper()
	b, err := json.Marshal(with)
	if err != nil {
		t.Fatalf("inputs are not JSON: %v", err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("inputs are not a JSON object: %v", err)
	}
	return m
}

// Output keeps what is written to it. It is safe for concurrent use.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Text is what has been written to a writer of a Job that New made.
func Text(w io.Writer) string { return w.(*Output).String() }

// Artifacts is a workers.Artifacts in memory, safe for concurrent use.
type Artifacts struct {
	mu      sync.Mutex
	content map[string][]byte
	names   map[string]string
}

var _ workers.Artifacts = (*Artifacts)(nil)

// NewArtifacts is an empty store.
func NewArtifacts() *Artifacts {
	return &Artifacts{content: map[string][]byte{}, names: map[string]string{}}
}

// Put stores what r gives. The first name of a content stays.
func (a *Artifacts) Put(ctx context.Context, name string, r io.Reader) (digest string, size int64, err error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", 0, err
	}
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	sum := sha256.Sum256(b)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.content[digest]; !ok {
		a.content[digest], a.names[digest] = b, name
	}
	return digest, int64(len(b)), nil
}

// Get writes the content of digest to w.
func (a *Artifacts) Get(ctx context.Context, digest string, w io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	b, ok := a.content[digest]
	a.mu.Unlock()
	if !ok {
		return fmt.Errorf("no artifact %s", digest)
	}
	_, err := w.Write(b)
	return err
}

// Name is the name under which the content of digest was first stored, empty
// when there is none.
func (a *Artifacts) Name(digest string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.names[digest]
}

// Digests are those of all contents, sorted.
func (a *Artifacts) Digests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.content))
}

// Store puts content into the artifacts of job and gives its digest.
func Store(t testing.TB, job *workers.Job, name string, content []byte) (digest string) {
	t.Helper()
	digest, _, err := job.Artifacts.Put(t.Context(), name, bytes.NewReader(content))
	if err != nil {
		t.Fatalf("storing artifact %s: %v", name, err)
	}
	return digest
}

// Content is the artifact of that digest; the test fails when there is none.
func Content(t testing.TB, job *workers.Job, digest string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := job.Artifacts.Get(t.Context(), digest, &b); err != nil {
		t.Fatalf("fetching artifact: %v", err)
	}
	return b.Bytes()
}
