package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// isFile reports whether an argument that may be the name of a definition or
// a file is a file: it is there, or it is written as only a path is.
func isFile(arg string) bool {
	if arg == "-" || strings.ContainsAny(arg, `/\`) || strings.HasSuffix(arg, ".yaml") || strings.HasSuffix(arg, ".yml") {
		return true
	}
	_, err := os.Stat(arg)
	return !errors.Is(err, fs.ErrNotExist)
}

// lookAtFiles reads definitions from files, to look at them. What cannot be
// read is told on stderr; serious says that there was such a thing.
func (a *app) lookAtFiles(names ...string) (set *parse.Set, serious bool, err error) {
	files, err := a.definitionFiles(names)
	if err != nil {
		return nil, false, err
	}
	set, problems := parse.Look(files)
	return set, a.tellProblems(problems), nil
}

func (a *app) tellProblems(problems []workflows.Problem) (serious bool) {
	if len(problems) > 0 {
		a.note("%s", strings.TrimRight(clean(parse.Text(problems)), "\n"))
	}
	return slices.ContainsFunc(problems, func(p workflows.Problem) bool { return !p.Warning })
}

// workflowIn gives the workflow of a name, or the only one there is.
func workflowIn(c *workflows.Catalog, name, where string) (*workflows.Workflow, error) {
	names := slices.Sorted(maps.Keys(c.Workflows))
	switch {
	case name != "" && c.Workflows[name] != nil:
		return c.Workflows[name], nil
	case name == "" && len(names) == 1:
		return c.Workflows[names[0]], nil
	case len(names) == 0:
		return nil, &failure{exit: exitNotFound, code: events.CodeNotFound, message: "there is no workflow in " + where}
	case name == "":
		return nil, usagef("%s holds %s: %s", where, count(len(names), "workflow"), strings.Join(names, ", ")).withHint("--name says which one")
	}
	f := &failure{exit: exitNotFound, code: events.CodeNotFound, message: "there is no workflow " + name + " in " + where}
	if near := workflows.Nearest(name, names); near != "" {
		return nil, f.withHint("did you mean %s?", near)
	}
	return nil, f.withHint("there are %s", strings.Join(names, ", "))
}

// workflowFrom gives the workflow that an argument means, with the definitions
// that it stands among: of a file or a folder, or by its name on the server.
func (a *app) workflowFrom(ctx context.Context, arg, name string) (*workflows.Workflow, *parse.Set, error) {
	if isFile(arg) {
		set, _, err := a.lookAtFiles(arg)
		if err != nil {
			return nil, nil, err
		}
		w, err := workflowIn(set.Catalog(), name, arg)
		return w, set, err
	}
	if name != "" && name != arg {
		return nil, nil, usagef("--name is for a file that holds several workflows; %s is no file", arg)
	}
	var set *parse.Set
	err := a.with(ctx, func(s *session) error {
		docs, err := s.documents(ctx)
		if err != nil {
			return err
		}
		var problems []workflows.Problem
		set, problems = parse.LookAt(docs)
		a.tellProblems(problems)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	w, err := workflowIn(set.Catalog(), arg, "what is in force")
	return w, set, err
}

// documents reads the definitions in force as they were written.
func (s *session) documents(ctx context.Context) (docs []parse.Document, err error) {
	request := events.ReadDefinitions{}
	for {
		var page events.DefinitionPage
		if _, err := s.ask(ctx, events.VerbTexts, request, &page); err != nil {
			return nil, err
		}
		for _, d := range page.Documents {
			docs = append(docs, documentOf(d))
		}
		if page.Next <= request.After {
			return docs, nil
		}
		request.Catalog, request.After = page.Catalog, page.Next
	}
}

func documentOf(d events.DefinitionText) parse.Document {
	return parse.Document{Kind: d.Kind, Name: d.Name, Digest: d.Digest, Source: []byte(d.Text), Origin: workflows.Origin{
		Digest: d.Digest, Source: d.Source, Commit: d.Commit, Author: d.Author, Pos: workflows.Pos{File: d.File, Line: max(d.Line, 1), Column: 1}}}
}

// pinned gives the workflow that a run was started with.
func (s *session) pinned(ctx context.Context, run events.RunView) (*workflows.Workflow, error) {
	var page events.DefinitionPage
	if _, err := s.ask(ctx, events.VerbTexts, events.ReadDefinitions{Digest: run.Definition}, &page); err != nil {
		return nil, err
	}
	docs := make([]parse.Document, len(page.Documents))
	for i, d := range page.Documents {
		docs[i] = documentOf(d)
	}
	set, problems := parse.LookAt(docs)
	s.app.tellProblems(problems)
	return workflowIn(set.Catalog(), run.Workflow, "the definition that run "+run.ID+" was started with")
}
