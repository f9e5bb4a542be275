package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Put definitions in force",
		Long: `Sends definitions to the server, which checks them all and puts the good ones
in force. Runs that have begun keep the definitions they began with. A bad
document is refused with all its problems, never hides a good one, and makes
the command exit with 2. A directory stands for the .yaml and .yml files in it
and below, hidden directories left out.`,
		Example: `  penstock apply -f penstock/
  penstock apply -f release.yaml --dry-run
  generate | penstock apply -f -`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("penstock apply needs -f FILE, DIR or -").withHint("penstock apply -f penstock/")
			}
			sources, err := a.readSources(files)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				var applied events.Applied
				request := events.Apply{ID: commandID(), Files: sources, DryRun: dryRun}
				if _, err := s.ask(cmd.Context(), events.VerbApply, request, &applied); err != nil {
					return err
				}
				return a.printApplied(applied, dryRun)
			})
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`FILE` or directory with definitions, - for stdin; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would change")
	return cmd
}

func (a *app) printApplied(applied events.Applied, dryRun bool) error {
	refused := 0
	t := table{head: []string{"KIND", "NAME", "DIGEST", "CHANGE"}}
	for _, d := range applied.Definitions {
		if d.Change == "refused" {
			refused++
		}
		t.add(d.Kind, d.Name, digest(d.Digest), d.Change)
	}
	if a.output == "json" {
		if err := a.printJSON(applied); err != nil {
			return err
		}
	} else {
		if len(t.rows) > 0 {
			t.print(a.stdout, "")
		}
		if text := strings.TrimSpace(clean(applied.Text)); text != "" {
			a.note("%s", text)
		}
		if dryRun {
			a.note("(dry run: nothing was changed)")
		}
	}
	if bad := serious(applied.Problems); refused > 0 || bad > 0 {
		return &failure{exit: exitUsage, code: events.CodeInvalid,
			message: fmt.Sprintf("%s in what was sent; what has one is not in force", count(max(refused, bad), "problem"))}
	}
	return nil
}

// readSources reads files, directories and stdin as the server wants them.
func (a *app) readSources(names []string) ([]events.SourceFile, error) {
	files, err := a.definitionFiles(names)
	if err != nil {
		return nil, err
	}
	sources := make([]events.SourceFile, len(files))
	for i, f := range files {
		if len(f.Content) > parse.MaxFile {
			return nil, usagef("%s: the file is larger than %d bytes", f.Name, parse.MaxFile).withHint("split it up")
		}
		sources[i] = events.SourceFile{Name: f.Name, Content: string(f.Content)}
	}
	return sources, nil
}

// definitionFiles reads the files that are named, those in the directories
// that are named, and stdin for "-".
func (a *app) definitionFiles(names []string) ([]parse.File, error) {
	var files []parse.File
	for _, name := range names {
		if name == "-" {
			p, err := io.ReadAll(io.LimitReader(a.stdin, parse.MaxFile+1))
			if err != nil {
				return nil, err
			}
			files = append(files, parse.File{Name: "stdin", Content: p})
			continue
		}
		found, err := parse.Dir(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, usagef("%s: there is no such file or directory", name)
		case err != nil:
			return nil, usagef("%s", err)
		case len(found) == 0:
			return nil, usagef("%s: there is no .yaml or .yml file in it", name).withHint("penstock init writes some")
		}
		files = append(files, found...)
	}
	return files, nil
}

// serious counts the problems that are more than warnings.
func serious(raw []json.RawMessage) (n int) {
	for _, p := range raw {
		var problem workflows.Problem
		if json.Unmarshal(p, &problem) != nil || !problem.Warning {
			n++
		}
	}
	return n
}

// count is "1 document", "2 documents".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
