package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/gitsrc"
	"github.com/penstock-cd/penstock/workers/proc"
)

// plan decides what to run, from the inputs and what the directory holds.
func (h *handler) plan(ctx context.Context, job *workers.Job, in inputs, src *gitsrc.Checkout) (plan, error) {
	dir, err := src.Directory(in.Directory)
	if err != nil {
		return plan{}, err
	}
	env, err := proc.EnvIn(job.Dir, "PENSTOCK_RUN="+job.Run, "PENSTOCK_COMMIT="+src.Commit)
	if err != nil {
		return plan{}, err
	}
	p := plan{command: in.Command, dir: dir, env: env, root: src.Dir, artifact: in.Artifact}
	switch {
	case len(p.command) > 0:
	case isFile(dir, "go.mod"):
		return h.goBuild(ctx, job, p)
	case slices.ContainsFunc([]string{"GNUmakefile", "makefile", "Makefile"}, func(f string) bool { return isFile(dir, f) }):
		p.command = []string{"make"}
	default:
		return plan{}, fail("no_build_command", "commit %s has neither go.mod nor Makefile in %s: say how to build it with `command` and `artifact`",
			src.Commit, where(in.Directory))
	}
	if p.artifact == "" {
		return plan{}, fail("bad_inputs", "say with `artifact` which file `%s` makes, relative to the top of the checkout", strings.Join(p.command, " "))
	}
	return p, nil
}

// goBuild is the default build of a Go module. The binary lies beside the
// checkout unless the inputs say where.
func (h *handler) goBuild(ctx context.Context, job *workers.Job, p plan) (plan, error) {
	target, err := h.mainPackage(ctx, p)
	if err != nil {
		return plan{}, err
	}
	if p.artifact == "" {
		p.root, p.artifact = filepath.Join(job.Dir, "out"), binaryName(target)
		if err := os.MkdirAll(p.root, 0o700); err != nil {
			return plan{}, err
		}
	}
	p.command = []string{"go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(p.root, filepath.FromSlash(p.artifact)), target}
	return p, nil
}

// mainPackage is the import path of what to build.
func (h *handler) mainPackage(ctx context.Context, p plan) (string, error) {
	patterns := []string{"."}
	if info, err := os.Stat(filepath.Join(p.dir, "cmd")); err == nil && info.IsDir() {
		patterns = append(patterns, "./cmd/...")
	}
	var out bytes.Buffer
	var tail proc.Tail
	err := proc.Run(ctx, proc.Command{Dir: p.dir, Env: p.env, Stdout: &out, Stderr: &tail, Grace: h.Grace,
		Args: append([]string{"go", "list", "-e", "-find", "-f", "{{.Name}}\t{{.Module.Dir}}\t{{.Dir}}\t{{.ImportPath}}"}, patterns...)})
	if _, missing := errors.AsType[*proc.StartError](err); missing {
		return "", fail("build_failed", "the module cannot be built: %v", err)
	}
	if err != nil {
		return "", fail("build_failed", "the module cannot be read: %v\n%s", err, tail.Lines(10))
	}
	var mains []string
	for line := range strings.Lines(out.String()) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 4 || f[0] != "main" {
			continue
		}
		if f[1] == f[2] {
			return f[3], nil // at the root of the module
		}
		mains = append(mains, f[3])
	}
	switch len(mains) {
	case 1:
		return mains[0], nil
	case 0:
		return "", fail("no_build_command", "the module has no main package in its directory or below ./cmd: say what to build with `command` and `artifact`")
	}
	return "", fail("no_build_command", "the module has several main packages (%s): say which to build with `command` and `artifact`", strings.Join(mains, ", "))
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// binaryName is what go build calls the binary of a package.
func binaryName(importPath string) string {
	name := path.Base(importPath)
	if majorVersion.MatchString(name) && path.Dir(importPath) != "." {
		name = path.Base(path.Dir(importPath))
	}
	return name
}

func isFile(dir, name string) bool {
	info, err := os.Stat(filepath.Join(dir, name))
	return err == nil && info.Mode().IsRegular()
}

func where(directory string) string {
	if directory == "" {
		return "its top directory"
	}
	return fmt.Sprintf("its directory %s", directory)
}
