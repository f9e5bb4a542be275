package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

// checked is the output of check as JSON.
type checked struct {
	OK          bool                `json:"ok"`
	Files       int                 `json:"files"`
	Definitions []checkedDefinition `json:"definitions"` // the good ones
	Problems    []workflows.Problem `json:"problems"`
}

type checkedDefinition struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
	File   string `json:"file"`
}

func (a *app) checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE|DIR|-...",
		Short: "Check definitions, without a server",
		Long: `Checks definitions and prints every problem with file, line, column, the line
with a caret, and what to do. Needs no server. Exits with 2 when anything is
worse than a warning. What refers to each other must be checked together.

--output github prints annotations for GitHub Actions; it is the default where
$GITHUB_ACTIONS is "true". --output sarif prints SARIF 2.1.0 for code scanning
and editors.`,
		Example: `  penstock check penstock/
  penstock check release.yaml environments.yaml
  penstock check penstock/ -o json | jq '.problems[].message'
  penstock check penstock/ -o sarif > penstock.sarif`,
		Annotations: map[string]string{outputsAnnotation: "text,json,github,sarif"},
		Args: func(cmd *cobra.Command, arg []string) error {
			if len(arg) == 0 {
				return usagef("penstock check needs FILE, DIR or -").withHint("penstock check penstock/")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, arg []string) error {
			files, err := a.definitionFiles(arg)
			if err != nil {
				return err
			}
			set, problems := parse.Files(files)
			if !cmd.Flag("output").Changed && os.Getenv("GITHUB_ACTIONS") == "true" {
				a.output = "github"
			}
			return a.printChecked(files, set, problems)
		},
	}
	return cmd
}

func (a *app) printChecked(files []parse.File, set *parse.Set, problems []workflows.Problem) error {
	bad := 0
	for _, p := range problems {
		if !p.Warning {
			bad++
		}
	}
	out := checked{OK: bad == 0, Files: len(files), Definitions: []checkedDefinition{}, Problems: problems}
	for _, d := range set.Documents {
		out.Definitions = append(out.Definitions, checkedDefinition{d.Kind, d.Name, d.Digest, d.Origin.Pos.File})
	}
	if out.Problems == nil {
		out.Problems = []workflows.Problem{}
	}
	summary := fmt.Sprintf("%s, %s", count(len(files), "file"), count(len(set.Documents), "good definition"))
	if warnings := len(problems) - bad; warnings > 0 {
		summary += ", " + count(warnings, "warning")
	}
	switch a.output {
	case "json":
		if err := a.printJSON(out); err != nil {
			return err
		}
	case "sarif":
		if err := sarifReport(files, problems).PrettyWrite(a.stdout); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	case "github":
		for _, p := range problems {
			fmt.Fprintln(a.stdout, annotation(p))
		}
	default:
		if len(problems) > 0 {
			fmt.Fprintln(a.stdout, strings.TrimRight(clean(parse.Text(problems)), "\n"))
			fmt.Fprintln(a.stdout)
		}
	}
	if bad > 0 {
		return &failure{exit: exitUsage, code: "invalid", message: fmt.Sprintf("%s (%s)", count(bad, "problem"), summary)}
	}
	if a.output == "text" {
		fmt.Fprintln(a.stdout, paint(a.stdout, "ok", "ok")+" ("+summary+")")
	}
	return nil
}

// annotation is a problem as GitHub Actions reads it from a job's output.
func annotation(p workflows.Problem) string {
	level := "error"
	if p.Warning {
		level = "warning"
	}
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	text := p.Message
	if p.Hint != "" {
		text += "\n" + p.Hint
	}
	return fmt.Sprintf("::%s file=%s,line=%d,col=%d,title=%s::%s", level, property.Replace(p.Pos.File),
		max(p.Pos.Line, 1), max(p.Pos.Column, 1), property.Replace(cmp.Or(p.Code, "penstock")), data.Replace(text))
}
