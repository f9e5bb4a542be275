// Package scan is the worker of kind "scan": it looks for vulnerabilities,
// secrets and denied licences, and reports what it found by severity. It does
// not judge: the task has succeeded when every tool got to its end, and a
// gate decides on the numbers. What could not be looked at is never reported
// as clean: it fails the task, or is a finding of its own.
//
// Inputs: artifact (a digest), repository and commit (one of both is needed),
// and
//
//   - tools: builtin, gitleaks, trivy, grype, osv-scanner, govulncheck; auto
//     stands for builtin and all of those that this worker has. Default:
//     builtin, or nothing when there is a sarif.
//   - sarif: path in the checkout of a SARIF report by any other tool.
//   - database: folder of OSV files, absolute or in the checkout, for builtin
//     (and govulncheck, when it has that tool's index).
//   - licences: SPDX identifiers that are denied, for builtin.
//
// The builtin check needs nothing installed and no network. It reads the
// modules, their versions and the Go version out of the binary (without an
// artifact, out of go.mod), matches them with the database by module, not by
// function, compares the binary's commit with the one asked for, and looks
// for a few unmistakable forms of secrets in the checkout.
//
// Outputs: critical, high, medium, low and total (counts), findings (worst
// first, at most 200, each with tool, rule, severity, title, location,
// package, version, fixed, fingerprint), tools (those that ran), report (the
// digest of all findings as one SARIF report).
//
// Severities: a score (security-severity, CVSS 3) from 9.0 is critical, from
// 7.0 high, from 4.0 medium, else low; without one, SARIF's error is high,
// warning medium, note low; every finding of gitleaks is high; an advisory
// with no rating at all is high.
package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/gitsrc"
)

// Options of the handler; the zero value is ready for use.
type Options struct {
	// Database is the folder of OSV files for tasks that name none. Default:
	// the environment variable PENSTOCK_OSV_DATABASE.
	Database string
	// Offline calls the tools with their switches against using the network.
	// The environment variable PENSTOCK_SCAN_OFFLINE=1 does the same.
	Offline bool
	// ModuleCache is where the sources of modules are, for their licences.
	// Default: that of the Go command.
	ModuleCache string
}

type handler struct{ opts Options }

// New returns the handler of kind "scan".
func New(opts Options) workers.Handler {
	if opts.Database == "" {
		opts.Database = os.Getenv("PENSTOCK_OSV_DATABASE")
	}
	if opts.ModuleCache == "" {
		opts.ModuleCache = moduleCache()
	}
	opts.Offline = opts.Offline || os.Getenv("PENSTOCK_SCAN_OFFLINE") == "1"
	return &handler{opts}
}

// subject is what is scanned, as it lies on this worker.
type subject struct {
	artifact string // path, or empty
	checkout string // path, or empty
	commit   string // full name when there is a checkout
	database string // absolute path, or empty
}

// Do scans.
func (h *handler) Do(ctx context.Context, job *workers.Job) events.Result {
	in, err := readInputs(job.With)
	if err != nil {
		return workers.Fail("bad_inputs", err.Error(), false)
	}
	out, err := h.scan(ctx, job, in)
	if err == nil {
		return events.Result{Outcome: events.Succeeded, Outputs: out}
	}
	if ctx.Err() != nil {
		return workers.Interrupted(ctx)
	}
	if e, ok := errors.AsType[*events.TaskError](err); ok {
		return events.Result{Outcome: events.Failed, Error: e}
	}
	return workers.Fail("scan_failed", err.Error(), true)
}

func (h *handler) scan(ctx context.Context, job *workers.Job, in inputs) (map[string]any, error) {
	s, err := h.fetch(ctx, job, in)
	if err != nil {
		return nil, err
	}
	tools, err := in.chosen(s)
	if err != nil {
		return nil, err
	}
	var fs []finding
	for _, name := range tools {
		job.Progress("scanning with " + name)
		found, err := h.use(ctx, job, in, s, name)
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		fmt.Fprintf(job.Note, "%s: %d findings\n", name, len(found))
		fs = append(fs, found...)
	}
	fs = settle(fs)
	report, err := mergedReport(tools, fs)
	if err != nil {
		return nil, err
	}
	digest, _, err := job.Artifacts.Put(ctx, "scan.sarif", bytes.NewReader(report))
	if err != nil {
		return nil, fmt.Errorf("the report cannot be stored: %w", err)
	}
	out := outputs(fs)
	out["tools"], out["report"] = tools, digest
	return out, nil
}

// fetch brings the artifact, the checkout and the way to the database.
func (h *handler) fetch(ctx context.Context, job *workers.Job, in inputs) (subject, error) {
	s := subject{commit: hexOnly(in.commit)}
	if in.repository != "" {
		c, err := gitsrc.Clone(ctx, gitsrc.Request{Repository: in.repository, Commit: in.commit,
			Dir: filepath.Join(job.Dir, "source"), Note: job.Note})
		if err != nil {
			return s, err
		}
		s.checkout, s.commit = c.Dir, c.Commit
	}
	if in.artifact != "" {
		path, err := fetchArtifact(ctx, job, in.artifact)
		if err != nil {
			return s, err
		}
		s.artifact = path
	}
	var err error
	s.database, err = h.database(in, s.checkout)
	return s, err
}

// hexOnly is name when it can be the name of a commit rather than of a tag.
func hexOnly(name string) string {
	if len(name) < 40 {
		return ""
	}
	return name
}

func fetchArtifact(ctx context.Context, job *workers.Job, digest string) (string, error) {
	dir := filepath.Join(job.Dir, "artifact")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, "artifact"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := job.Artifacts.Get(ctx, digest, f); err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "", failed("artifact_missing", fmt.Sprintf("the artifact %s cannot be fetched: %v", digest, err))
	}
	return f.Name(), f.Close()
}

func (h *handler) database(in inputs, checkout string) (string, error) {
	name := firstOf(in.database, h.opts.Database)
	switch {
	case name == "":
		return "", nil
	case filepath.IsAbs(name):
		return name, nil
	case in.database == "": // of the options: counts from where the worker runs
		return filepath.Abs(name)
	case checkout == "":
		return "", failed("database_unreadable", fmt.Sprintf("the vulnerability database %q is a path in the checkout, and there is none: "+
			"give a repository and a commit, or an absolute path", line(name)))
	}
	path, err := within(checkout, name)
	if err != nil {
		return "", failed("database_unreadable", "the vulnerability database "+err.Error())
	}
	return path, nil
}

// chosen are the tools to use, in a fixed order, each once.
func (in inputs) chosen(s subject) ([]string, error) {
	var tools []string
	for _, name := range in.tools {
		if name != "auto" {
			tools = append(tools, name)
			continue
		}
		tools = append(tools, builtin)
		for name, a := range adapters {
			if _, err := exec.LookPath(name); err == nil && a.suits(s) {
				tools = append(tools, name)
			}
		}
	}
	if len(tools) == 0 && in.sarif == "" {
		tools = []string{builtin}
	}
	if in.sarif != "" {
		tools = append(tools, anySARIF.name)
	}
	slices.Sort(tools)
	tools = slices.Compact(tools)
	for _, name := range tools {
		if a, ok := adapters[name]; ok && !a.suits(s) {
			return nil, failed("tool_unsuitable", fmt.Sprintf("%s cannot scan an artifact: give a repository and a commit as well, or take it out of tools", name))
		}
	}
	return tools, nil
}

func (a adapter) suits(s subject) bool {
	return a.source != nil && s.checkout != "" || a.artifact != nil && s.artifact != ""
}

// use runs one tool on all there is that it can scan.
func (h *handler) use(ctx context.Context, job *workers.Job, in inputs, s subject, name string) ([]finding, error) {
	switch name {
	case builtin:
		return h.checkBuiltin(job, in, s)
	case anySARIF.name:
		path, err := within(s.checkout, in.sarif)
		if err != nil {
			return nil, failed("report_unreadable", "the report "+err.Error())
		}
		fs, err := readReportFile(path, anySARIF, s.checkout)
		if err != nil {
			return nil, failed("report_unreadable", fmt.Sprintf("%s: %v", in.sarif, err))
		}
		return fs, nil
	}
	a, c := adapters[name], call{database: s.database, offline: h.opts.Offline}
	var all []finding
	if a.source != nil && s.checkout != "" {
		c.target = s.checkout
		fs, err := a.run(ctx, job, c, false)
		if err != nil {
			return nil, err
		}
		all = append(all, fs...)
	}
	if a.artifact != nil && s.artifact != "" {
		c.target = s.artifact
		fs, err := a.run(ctx, job, c, true)
		if err != nil {
			return nil, err
		}
		for i := range fs {
			fs[i].Location = artifactLocation
		}
		all = append(all, fs...)
	}
	return all, nil
}
