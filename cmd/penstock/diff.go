package main

import (
	"context"
	"fmt"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/compare"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

// compared is the output of diff as JSON.
type compared struct {
	Same    bool             `json:"same"`
	Weaker  int              `json:"weaker"` // how many changes weaken something
	Changes []compare.Change `json:"changes"`
}

func (a *app) diffCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "diff OLD NEW | diff -f FILE|DIR|-",
		Short: "Say what a change of definitions means, in words",
		Long: `Compares definitions and says what the difference means, one line a change.
What weakens something stands first, marked "! weaker": an approval that needs
fewer people, a gate that is gone, a way around one, a wider window. A rule that
reads otherwise has changed; whether it asks for less, a person must see.
Comments, the order of keys and texts for people mean nothing here.

With two files or folders no server is asked. With -f the files are compared
with what is in force, as penstock apply would lay them over it.

Exits with 0 when both mean the same, 1 when they do not, 2 or more on trouble.`,
		Example: `  penstock diff release.yaml release.new.yaml
  penstock diff -f penstock/ || penstock apply -f penstock/
  penstock diff old/ new/ -o json | jq '.changes[] | select(.weaker)'`,
		Args: func(cmd *cobra.Command, arg []string) error {
			switch {
			case len(files) > 0 && len(arg) > 0:
				return usagef("penstock diff -f compares with what is in force; %s is one too many", arg[0])
			case len(files) == 0 && len(arg) != 2:
				return usagef("penstock diff needs OLD and NEW, or -f FILE").withHint("penstock diff -f penstock/")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, arg []string) error {
			before, after, err := a.toCompare(cmd, files, arg)
			if err != nil {
				return trouble(err)
			}
			return a.printCompared(compare.Catalogs(before, after))
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`FILE` or directory to compare with what is in force, - for stdin; may be repeated")
	return cmd
}

// trouble gives a failure the exit code that tells it from a difference.
func trouble(err error) error {
	f := *asFailure(context.Background(), err)
	if f.exit == exitFailed {
		f.exit = exitUsage
	}
	return &f
}

func (a *app) toCompare(cmd *cobra.Command, files, arg []string) (before, after *workflows.Catalog, err error) {
	if len(files) == 0 {
		var sets [2]*parse.Set
		bad := false
		for i, name := range arg {
			set, serious, err := a.lookAtFiles(name)
			if err != nil {
				return nil, nil, err
			}
			sets[i], bad = set, bad || serious
		}
		if bad {
			return nil, nil, unread()
		}
		return sets[0].Catalog(), sets[1].Catalog(), nil
	}
	news, err := a.definitionFiles(files)
	if err != nil {
		return nil, nil, err
	}
	var standing []parse.Document
	err = a.with(cmd.Context(), func(s *session) (err error) {
		standing, err = s.documents(cmd.Context())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	old, problems := parse.LookAt(standing)
	set, more := parse.LookOver(standing, news)
	if a.tellProblems(append(problems, more...)) {
		return nil, nil, unread()
	}
	return old.Catalog(), set.Catalog(), nil
}

func unread() error {
	return &failure{exit: exitUsage, code: "invalid", message: "not all of it can be read, so nothing is compared"}
}

func (a *app) printCompared(changes []compare.Change) error {
	out := compared{Same: len(changes) == 0, Changes: append([]compare.Change{}, changes...)}
	for _, c := range changes {
		if c.Weaker {
			out.Weaker++
		}
	}
	if a.output == "json" {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, c := range changes {
			if c.Weaker {
				fmt.Fprintln(a.stdout, paint(a.stdout, "problem", "! weaker: "+oneLine(c.String())))
			} else {
				fmt.Fprintln(a.stdout, "  "+oneLine(c.String()))
			}
		}
	}
	if len(changes) > 0 {
		return &failure{exit: exitFailed} // says it by its exit code alone
	}
	return nil
}
