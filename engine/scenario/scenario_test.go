package scenario_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

var update = flag.Bool("update", false, "write what came of the scenarios anew")

// catalog reads the YAML files of an archive.
func catalog(t testing.TB, ar *txtar.Archive) *workflows.Catalog {
	t.Helper()
	var files []parse.File
	for _, f := range ar.Files {
		if strings.HasSuffix(f.Name, ".yaml") {
			files = append(files, parse.File{Name: f.Name, Content: f.Data})
		}
	}
	set, problems := parse.Files(files)
	if parse.Failed(problems) {
		t.Fatalf("definitions:\n%s", parse.Text(problems))
	}
	return set.Catalog()
}

// TestScenarios plays the scenarios of each testdata/*.txtar and compares what
// came of them. The name of a file is the promise that it shows.
func TestScenarios(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c := catalog(t, ar)
			var b strings.Builder
			for _, s := range c.Scenarios {
				tell(&b, scenario.Play(c, s))
			}
			i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == "result" })
			if i < 0 {
				i = len(ar.Files)
				ar.Files = append(ar.Files, txtar.File{Name: "result"})
			}
			if *update {
				ar.Files[i].Data = []byte(b.String())
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(ar.Files[i].Data), b.String()); d != "" {
				t.Errorf("the result differs (-want +got); if that is right, run the test with -update:\n%s", d)
			}
		})
	}
}

// tell writes down what came of a scenario.
func tell(b *strings.Builder, r *scenario.Result) {
	end := r.Outcome
	if end == "" {
		end = "waits in " + r.At
	}
	fmt.Fprintf(b, "%s: %s after %v\n", r.Scenario.Metadata.Name, end, r.Took)
	for _, f := range r.Failures {
		text, _, _ := strings.Cut(f.Text, "accepted:")
		fmt.Fprintf(b, "  not as expected: %s: %s", f.Pos, text)
		if f.Want != nil || f.Got != nil {
			fmt.Fprintf(b, ": want %q, got %q", f.Want, f.Got)
		}
		b.WriteByte('\n')
	}
	for _, m := range r.Story {
		fmt.Fprintf(b, "  +%v", m.At)
		if m.Run != "" {
			fmt.Fprintf(b, " (%s)", m.Run)
		}
		fmt.Fprintf(b, " %s\n", told(m))
	}
	for _, w := range r.Waiting {
		fmt.Fprintf(b, "  waits: %s: %s\n", w.State, w.What)
	}
}

// told is a moment in a line: what happened, not the words of the core for it,
// which its own transcripts hold.
func told(m scenario.Moment) string {
	if m.Text != "" {
		return m.Text
	}
	h, s := m.Event.Data, events.ShortType(m.Event.Type)
	for _, part := range []string{h.State, h.Environment, h.RequestedBy, h.By, h.Decision, h.Outcome, strings.Join(h.Authors, ",")} {
		if part != "" {
			s += " " + part
		}
	}
	if h.Attempt > 1 {
		s += fmt.Sprintf(" attempt %d", h.Attempt)
	}
	if h.To != "" {
		s += " → " + h.To
	}
	if h.Error != nil {
		s += fmt.Sprintf(" [%s]", h.Error.Code)
	}
	return s
}

// archive is a testdata file.
func archive(t testing.TB, name string) *txtar.Archive {
	t.Helper()
	ar, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	return ar
}

func TestTheSameScenarioGivesTheSameForEver(t *testing.T) {
	c := catalog(t, archive(t, "workers-answer-as-the-scenario-says"))
	for _, s := range c.Scenarios {
		var a, b strings.Builder
		tell(&a, scenario.Play(c, s))
		tell(&b, scenario.Play(c, s))
		if a.String() != b.String() {
			t.Errorf("%s: first\n%s\nthen\n%s", s.Metadata.Name, a.String(), b.String())
		}
	}
}

func TestAWorldCanBeLookedAtOnItsWay(t *testing.T) {
	c := catalog(t, archive(t, "people-decide-on-what-they-are-shown"))
	for _, x := range []struct {
		at   time.Duration
		want string
	}{{0, "ask"}, {59 * time.Minute, "ask"}, {2 * time.Hour, "done"}} {
		if r := scenario.PlayUntil(c, c.Scenarios[0], x.at); r.At != x.want {
			t.Errorf("after %v it is in %s, want %s", x.at, r.At, x.want)
		}
	}
}
