package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock-cd/penstock/cmd/penstock/internal/schema"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/library"
)

// starterView is a starter workflow as JSON.
type starterView struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

func (a *app) printStarters() error {
	list := library.List()
	if a.output == "json" {
		views := make([]starterView, len(list))
		for i, s := range list {
			views[i] = starterView{s.Name, s.About}
		}
		return a.printJSON(map[string]any{"starters": views})
	}
	t := table{head: []string{"NAME", "IS"}}
	for _, s := range list {
		t.add(s.Name, s.About)
	}
	t.print(a.stdout, "")
	return nil
}

// initFrom writes a starter workflow into the folder below dir. A file that is
// there already and says something else keeps all of it from being written:
// half of a starter and half of something else fit nobody.
func (a *app) initFrom(name, dir string) error {
	starter, ok := library.Named(name)
	if !ok {
		return unknownStarter(name)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return usagef("%s: there is no such directory", dir)
	}
	files, err := starter.Files()
	if err != nil {
		return err
	}
	files = append(files, library.File{Name: schemaFile, Content: schema.JSON})
	folder := filepath.Join(dir, initFolder)
	if err := free(folder, files); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var wrote, left []string
	for _, f := range files {
		path := filepath.Join(folder, f.Name)
		created, err := writeNew(path, f.Content)
		if err != nil {
			return err
		}
		if created {
			wrote = append(wrote, filepath.ToSlash(path))
		} else {
			left = append(left, filepath.ToSlash(path))
		}
	}
	return a.printInitFrom(starter, filepath.ToSlash(folder), wrote, left)
}

func unknownStarter(name string) error {
	var names []string
	for _, s := range library.List() {
		names = append(names, s.Name)
	}
	f := usagef("there is no starter workflow %q", name)
	if near := workflows.Nearest(name, names); near != "" {
		return f.withHint("did you mean %s?", near)
	}
	return f.withHint("penstock init --list lists them")
}

// free reports an error when one of the files is there and is another one. The
// schema is left as it is.
func free(folder string, files []library.File) error {
	var taken []string
	for _, f := range files {
		have, err := os.ReadFile(filepath.Join(folder, f.Name))
		if errors.Is(err, fs.ErrNotExist) || f.Name == schemaFile {
			continue
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(have, f.Content) {
			taken = append(taken, f.Name)
		}
	}
	if len(taken) == 0 {
		return nil
	}
	return (&failure{exit: exitFailed, code: "exists", message: fmt.Sprintf("%s has %s already; nothing was written", filepath.ToSlash(folder), strings.Join(taken, ", "))}).
		withHint("name another directory, and take over from there what fits")
}

func (a *app) printInitFrom(s library.Starter, folder string, wrote, left []string) error {
	next := []string{"penstock check " + folder, "penstock test " + folder, "penstock graph " + folder + " --name " + s.Workflow}
	if a.output == "json" {
		return a.printJSON(initView{Found: s.Name, Wrote: nonNil(wrote), Left: nonNil(left), Next: next})
	}
	fmt.Fprintf(a.stdout, "%s: %s\n", s.Name, s.About)
	for _, name := range wrote {
		fmt.Fprintf(a.stdout, "  wrote %s\n", name)
	}
	for _, name := range left {
		fmt.Fprintf(a.stdout, "  left  %s as it is\n", name)
	}
	fmt.Fprintf(a.stdout, "\nNext:\n")
	for _, line := range next {
		fmt.Fprintf(a.stdout, "  %s\n", line)
	}
	fmt.Fprintf(a.stdout, "\nThen put your people, places and task kinds in the place of those.\n")
	return nil
}
