// Package build does tasks of kind "build": it fetches a commit, runs the
// build command in it, and stores what came of it by its digest, with a
// software bill of materials.
//
// Inputs:
//
//	repository, commit  what to build (see package gitsrc)
//	directory           where in the checkout to run the command; its top by default
//	command             program and arguments, no shell; by default what the directory tells:
//	                    go.mod    go build -trimpath -buildvcs=false of the main package in
//	                              it, or of the only one below ./cmd
//	                    Makefile  make
//	artifact            the file that the command makes, relative to the top of the checkout;
//	                    known for the default go build, else required
//	since               the commit that runs now, for the authors of what is new
//	running             commits that run in environments, likewise; the engine sets it
//
// Outputs: digest, size (bytes) and name of the artifact, commit in full,
// durationMs of the command alone, sbom (digest of a CycloneDX 1.6 document
// in JSON) and sbomComponents, the number of components it lists.
//
// Facts: authors (e-mail addresses, left out when they are not known: see
// gitsrc.Checkout), commits (how many are new) and subject of the commit.
//
// Error codes: those of package gitsrc, bad_inputs, no_build_command,
// build_failed, no_artifact, and store_failed, which may be tried again. The
// message of build_failed ends with the last lines of the output.
//
// The same commit built twice by the same toolchain gives the same digests
// with the default go build; the bill of materials holds no time and no
// random number.
package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/gitsrc"
	"github.com/penstock-cd/penstock/workers/proc"
)

// Options of the handler; the zero value is good.
type Options struct {
	// Grace is the time between asking a cancelled command to end and
	// killing it; proc.DefaultGrace when 0.
	Grace time.Duration
}

// New is the handler of kind "build".
func New(o Options) workers.Handler { return &handler{o} }

type handler struct{ Options }

type inputs struct {
	Repository string   `json:"repository"`
	Commit     string   `json:"commit"`
	Directory  string   `json:"directory"`
	Command    []string `json:"command"`
	Artifact   string   `json:"artifact"`
	Since      string   `json:"since"`
	Running    []string `json:"running"`
}

// Do builds.
func (h *handler) Do(ctx context.Context, job *workers.Job) events.Result {
	outputs, facts, err := h.build(ctx, job)
	var failed *events.TaskError
	switch {
	case err == nil:
		return events.Result{Outcome: events.Succeeded, Outputs: outputs, Facts: facts}
	case ctx.Err() != nil:
		return workers.Interrupted(ctx)
	case errors.As(err, &failed):
		return events.Result{Outcome: events.Failed, Error: failed, Facts: facts}
	}
	return workers.Fail("worker_error", err.Error(), true)
}

func fail(code, format string, args ...any) error {
	return &events.TaskError{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (h *handler) build(ctx context.Context, job *workers.Job) (outputs, facts map[string]any, err error) {
	in, err := read(job)
	if err != nil {
		return nil, nil, err
	}
	job.Progress("fetching the source")
	src, err := gitsrc.Clone(ctx, gitsrc.Request{Repository: in.Repository, Commit: in.Commit, Since: in.Since, Running: in.Running,
		Dir: filepath.Join(job.Dir, "src"), Note: job.Note})
	if err != nil {
		return nil, nil, err
	}
	facts = factsOf(src)
	p, err := h.plan(ctx, job, in, src)
	if err != nil {
		return nil, facts, err
	}
	job.Progress("building: " + strings.Join(p.command, " "))
	took, err := h.run(ctx, job, p)
	if err != nil {
		return nil, facts, err
	}
	job.Progress("storing the artifact")
	outputs, err = store(ctx, job, src, p)
	if err != nil {
		return nil, facts, err
	}
	outputs["durationMs"] = took.Milliseconds()
	outputs["commit"] = src.Commit
	fmt.Fprintf(job.Note, "built %s of commit %s: %s, %d bytes\n", outputs["name"], src.Commit, outputs["digest"], outputs["size"])
	return outputs, facts, nil
}

func read(job *workers.Job) (in inputs, err error) {
	b, err := json.Marshal(job.With)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		return in, fail("bad_inputs", "the inputs of the build cannot be read: %v", err)
	}
	if in.Artifact != "" && !filepath.IsLocal(filepath.FromSlash(in.Artifact)) {
		return in, fail("bad_inputs", "artifact %q: give a path inside the checkout", in.Artifact)
	}
	return in, nil
}

func factsOf(src *gitsrc.Checkout) map[string]any {
	facts := map[string]any{"subject": src.Subject, "commit": src.Commit}
	if src.Authors != nil { // unknown must not look like nobody
		facts["authors"], facts["commits"] = src.Authors, src.Commits
	}
	return facts
}

// plan is what to run and where its product will be: artifact is relative to root.
type plan struct {
	command        []string
	dir            string
	env            []string
	root, artifact string
}

func (h *handler) run(ctx context.Context, job *workers.Job, p plan) (time.Duration, error) {
	fmt.Fprintf(job.Note, "running %s\n", strings.Join(p.command, " "))
	var tail proc.Tail
	start := time.Now()
	err := proc.Run(ctx, proc.Command{Args: p.command, Dir: p.dir, Env: p.env, Grace: h.Grace,
		Stdout: io.MultiWriter(&tail, job.Stdout), Stderr: io.MultiWriter(&tail, job.Stderr)})
	if err == nil || ctx.Err() != nil {
		return time.Since(start), err
	}
	message := fmt.Sprintf("the build failed: %v", err)
	if said := tail.Lines(10); said != "" {
		message += "\n" + said
	}
	return 0, fail("build_failed", "%s", message)
}

// store puts the artifact and its bill of materials into the store.
func store(ctx context.Context, job *workers.Job, src *gitsrc.Checkout, p plan) (map[string]any, error) {
	// A Root follows no link that leads out of it: a checkout must not make
	// the worker publish a file of its own.
	root, err := os.OpenRoot(p.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Looking before opening: to open a pipe would wait for ever.
	if info, err := root.Stat(filepath.FromSlash(p.artifact)); err == nil && !info.Mode().IsRegular() {
		return nil, fail("no_artifact", "artifact %s is not a file: have the command pack it, for example with tar", p.artifact)
	}
	file, err := root.Open(filepath.FromSlash(p.artifact))
	if err != nil {
		return nil, fail("no_artifact", "the command succeeded and left no file %s that can be read: %v", p.artifact, errors.Unwrap(err))
	}
	defer file.Close()
	name := path.Base(filepath.ToSlash(p.artifact))
	digest, size, err := job.Artifacts.Put(ctx, name, file)
	if err != nil {
		return nil, storeFailed(name, err)
	}
	bom, components, err := billOfMaterials(product{name: name, digest: digest, commit: src.Commit, file: file, source: p.dir})
	if err != nil {
		return nil, err
	}
	sbom, _, err := job.Artifacts.Put(ctx, name+".cdx.json", bom)
	if err != nil {
		return nil, storeFailed(name+".cdx.json", err)
	}
	return map[string]any{"name": name, "digest": digest, "size": size, "sbom": sbom, "sbomComponents": components}, nil
}

func storeFailed(name string, err error) error {
	return &events.TaskError{Code: "store_failed", Message: fmt.Sprintf("%s could not be stored: %v", name, err), Retryable: true}
}
