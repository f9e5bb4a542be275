// Package library holds starter workflows: whole folders of definitions that
// people would really use, to copy and to make their own (penstock init --from).
// Each has a workflow, the environments, roles, channels and task kinds that it
// needs, and scenarios that come through every state, transition and clause of
// it. A test plays them.
package library

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
)

//go:embed */*.yaml
var folders embed.FS

// Starter is one starter workflow.
type Starter struct {
	Name     string // of its folder
	Workflow string // the name of the workflow that it is about
	About    string // one line
}

// starters are in the order in which people read them: from what many need to
// what few do.
var starters = []Starter{
	{"service-canary", "service-canary", "a service to production by a canary that metrics decide, approved by two"},
	{"hotfix", "hotfix", "the short road: a broken glass, a second pair of eyes, a review the day after"},
	{"database-migration", "database-migration", "a schema change, rehearsed on a copy, with its way back, and the service that needs it"},
	{"nightly-train", "nightly-train", "what is on main, every night, tested at length, in production by the morning"},
	{"multi-region", "multi-region", "a service in many regions, in waves that stop at the first failure"},
	{"infrastructure", "infrastructure", "plan and apply, where people approve the digest of the plan"},
	{"library-release", "library-release", "a version of a library, built twice alike, published, yanked if it cannot be used"},
	{"mobile-rollout", "mobile-rollout", "an app or firmware through review and staged percentages, halted by crashes or a word"},
}

// List gives all starters.
func List() []Starter { return append([]Starter(nil), starters...) }

// Named gives the starter with a name; false when there is none.
func Named(name string) (Starter, bool) {
	for _, s := range starters {
		if s.Name == name {
			return s, true
		}
	}
	return Starter{}, false
}

// File is a file of a starter.
type File struct {
	Name    string // without a folder
	Content []byte
}

// Files gives the files of a starter, by name.
func (s Starter) Files() ([]File, error) {
	entries, err := fs.ReadDir(folders, s.Name)
	if err != nil {
		return nil, fmt.Errorf("starter workflow %q: %w", s.Name, err)
	}
	files := make([]File, len(entries))
	for i, e := range entries {
		content, err := fs.ReadFile(folders, path.Join(s.Name, e.Name()))
		if err != nil {
			return nil, err
		}
		files[i] = File{Name: e.Name(), Content: content}
	}
	return files, nil
}
