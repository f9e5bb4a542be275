package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dryRun, yes bool
	request := events.Apply{}
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Put definitions in force",
		Long: `Sends definitions to the server, which checks them all and puts the good ones
in force. Runs that have begun keep the definitions they began with. A bad
document is refused with all its problems, never hides a good one, and makes
the command exit with 2. A directory stands for the .yaml and .yml files in it
and below, hidden directories left out.

What is applied is remembered under a name, --source, which is the path unless
another one is given. --prune removes what was applied under that name before
and is not in the files any more; nothing else is ever removed. What would
change is shown first, and what that means, as penstock diff says it. Before
something is removed or weakened it asks; elsewhere than on a terminal it wants
--yes before it removes anything. What comes from a folder or repository that the
server watches is changed there, not with this command.`,
		Example: `  penstock apply -f penstock/
  penstock apply -f release.yaml --dry-run
  penstock apply -f penstock/ --source checkout --prune --yes
  generate | penstock apply -f -`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("penstock apply needs -f FILE, DIR or -").withHint("penstock apply -f penstock/")
			}
			var err error
			if request.Files, err = a.readSources(files); err != nil {
				return err
			}
			request.Source = cmp.Or(request.Source, pathsOf(files))
			return a.with(cmd.Context(), func(s *session) error {
				return s.apply(cmd.Context(), request, dryRun, yes, terminal(a.stdin) && terminal(a.stderr))
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "`FILE` or directory with definitions, - for stdin; may be repeated")
	f.BoolVar(&dryRun, "dry-run", false, "only say what would change")
	f.BoolVar(&request.Prune, "prune", false, "remove what was applied from the same source before and is not in the files")
	f.StringVar(&request.Source, "source", "", "`NAME` of where the files come from (default: the path)")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// pathsOf is the name of a source that nobody named.
func pathsOf(files []string) string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = filepath.ToSlash(filepath.Clean(f))
	}
	return strings.Join(names, ",")
}

// apply shows what would change where somebody looks or something may be
// removed, and puts the definitions in force. watched says that somebody looks.
func (s *session) apply(ctx context.Context, request events.Apply, dryRun, yes, watched bool) error {
	a := s.app
	if dryRun || !yes && (watched || request.Prune) {
		var would events.Applied
		request.ID, request.DryRun = commandID(), true
		if _, err := s.ask(ctx, events.VerbApply, request, &would); err != nil {
			return err
		}
		if dryRun {
			return a.printApplied(would, request.Files, true)
		}
		removed := changed(would, "removed")
		if len(removed) > 0 && !watched {
			return usagef("%s would be removed: %s", count(len(removed), "definition"), strings.Join(removed, ", ")).withHint("--yes, if that is meant")
		}
		if lines := applyLines(would); watched && len(lines) > 0 {
			a.note("%s", strings.Join(lines, "\n"))
			if (len(removed) > 0 || weakens(would)) && !a.confirm("apply") {
				return &failure{exit: exitFailed, code: "not_confirmed", message: "nothing was changed"}
			}
		}
	}
	var applied events.Applied
	request.ID, request.DryRun = commandID(), false
	if _, err := s.ask(ctx, events.VerbApply, request, &applied); err != nil {
		return err
	}
	return a.printApplied(applied, request.Files, false)
}

// changed names the definitions of which a change makes one thing.
func changed(a events.Applied, change string) (names []string) {
	for _, d := range a.Definitions {
		if d.Change == change {
			names = append(names, d.Kind+"/"+d.Name)
		}
	}
	return names
}

// applyLines says what would change, and what that means.
func applyLines(a events.Applied) (lines []string) {
	for _, change := range []string{"created", "changed", "removed"} {
		for _, name := range changed(a, change) {
			lines = append(lines, change+": "+clean(name))
		}
	}
	for _, m := range a.Meaning {
		lines = append(lines, meaning(m))
	}
	return lines
}

// meaning is a line of penstock diff.
func meaning(m events.Meaning) string {
	if m.Weaker {
		return "! weaker: " + oneLine(m.Text)
	}
	return "  " + oneLine(m.Text)
}

func weakens(a events.Applied) bool {
	return slices.ContainsFunc(a.Meaning, func(m events.Meaning) bool { return m.Weaker })
}

// printApplied shows what became of what was sent, and what else has changed.
func (a *app) printApplied(applied events.Applied, sent []events.SourceFile, dryRun bool) error {
	refused := 0
	t := table{head: []string{"KIND", "NAME", "DIGEST", "CHANGE"}}
	for _, d := range applied.Definitions {
		if d.Change == "refused" {
			refused++
		}
		ours := slices.ContainsFunc(sent, func(f events.SourceFile) bool { return f.Name == d.File })
		if d.Change != "unchanged" || ours {
			t.add(d.Kind, d.Name, digest(d.Digest), d.Change)
		}
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
			for _, m := range applied.Meaning {
				a.note("%s", meaning(m))
			}
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
// that are named, and stdin for "-"; what is named twice is read once.
func (a *app) definitionFiles(names []string) ([]parse.File, error) {
	var files []parse.File
	seen := map[string]bool{}
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
		for _, f := range found {
			if key := filepath.Clean(f.Name); !seen[key] {
				seen[key], files = true, append(files, f)
			}
		}
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
