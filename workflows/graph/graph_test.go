package graph

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

var update = flag.Bool("update", false, "write what is drawn as what is wanted")

var formats = map[string]func(*workflows.Workflow, Trace) string{"mmd": Mermaid, "dot": DOT, "svg": SVG}

func read(t *testing.T, name string) *workflows.Workflow {
	t.Helper()
	files, err := parse.Dir(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	set, problems := parse.Look(files)
	for _, w := range set.Catalog().Workflows {
		return w
	}
	t.Fatalf("%s: %s", name, parse.Text(problems))
	return nil
}

// TestDrawings compares each format with a file that people look at.
func TestDrawings(t *testing.T) {
	for _, c := range []struct {
		workflow, name string
		trace          Trace
	}{
		{"release", "release", Trace{}},
		{"release", "release-waiting", Trace{Run: "k3f9x2mq7tha4c2z", Path: []string{"build", "verify", "staging", "endToEnd", "approve"}, Current: "approve"}},
		{"release", "release-undone", Trace{Run: "k3f9x2mq7tha4c2z", Path: []string{"build", "verify", "staging", "endToEnd", "approve", "production", "rollback", "rolledBack"}}},
		{"loops", "loops", Trace{}},
		{"hostile", "hostile", Trace{}},
	} {
		for ext, draw := range formats {
			got := draw(read(t, c.workflow), c.trace)
			path := filepath.Join("testdata", c.name+"."+ext)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
		}
	}
}

func TestNamesAreNoMarkup(t *testing.T) {
	w := read(t, "hostile")
	for ext, bad := range map[string][]string{
		"mmd": {"<script", "<img", "%%{", "javascript:alert(1)\"", "\u202e", "<x>", "`**", "]] -->"},
		"svg": {"<script", "<img", "\u202e", "<x>"},
		"dot": {"\u202e"}, // in its quoted strings nothing but \" and \\ means anything
	} {
		text := formats[ext](w, Trace{Run: "<x>", Path: []string{"end", "class"}, Current: "class"})
		for _, b := range bad {
			if strings.Contains(text, b) {
				t.Errorf("%s holds %q:\n%s", ext, b, text)
			}
		}
	}
	for _, line := range strings.Split(DOT(w, Trace{}), "\n") {
		if quotes := strings.Count(strings.NewReplacer(`\\`, "", `\"`, "").Replace(line), `"`); quotes%2 != 0 {
			t.Errorf("an open string in %s", line)
		}
	}
}

func TestSVGIsWellFormedAndSaysInWordsWhatItShows(t *testing.T) {
	for _, name := range []string{"release", "loops", "hostile"} {
		d := xml.NewDecoder(strings.NewReader(SVG(read(t, name), Trace{})))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	text := SVG(read(t, "release"), Trace{Run: "k3f9", Path: []string{"build"}, Current: "build"})
	for _, want := range []string{"<title id=\"t\">The workflow checkout-release, and the way of run k3f9</title>", "A run begins in build.",
		"build, task, where the run is, leads to verify; stopped (otherwise).", "needsHuman, final, ends the run failed."} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// TestBoxesAndLinesKeepApart looks at the places that the layout gives: no two
// states overlap, and no line runs through a state.
func TestBoxesAndLinesKeepApart(t *testing.T) {
	for _, name := range []string{"release", "loops"} {
		c := newChart(read(t, name), Trace{})
		l := newLayout(c)
		for i, a := range l.boxes {
			for j, b := range l.boxes[:i] {
				if a.x-a.w/2 < b.x+b.w/2 && b.x-b.w/2 < a.x+a.w/2 && a.y < b.y+b.h && b.y < a.y+a.h {
					t.Errorf("%s: %s lies on %s", name, c.nodes[i].name, c.nodes[j].name)
				}
			}
		}
		for _, e := range c.edges {
			points := l.route(e)
			for k := 1; k < len(points); k++ {
				p, q := points[k-1], points[k]
				for i, b := range l.boxes {
					if min(p[0], q[0]) < b.x+b.w/2-1 && max(p[0], q[0]) > b.x-b.w/2+1 && min(p[1], q[1]) < b.y+b.h-1 && max(p[1], q[1]) > b.y+1 {
						t.Errorf("%s: the line from %s to %s runs through %s", name, c.nodes[e.from].name, c.nodes[e.to].name, c.nodes[i].name)
					}
				}
			}
		}
	}
}

func TestALargeWorkflowIsDrawnInTime(t *testing.T) {
	w := &workflows.Workflow{Spec: workflows.WorkflowSpec{Initial: "s0", States: map[string]*workflows.State{}}}
	const n = 3000
	for i := range n {
		s := &workflows.State{Name: fmt.Sprintf("s%d", i), Index: i, Next: fmt.Sprintf("s%d", (i+1)%n), OnFail: fmt.Sprintf("s%d", (i*7)%n)}
		s.Task = "t"
		w.Spec.States[s.Name] = s
	}
	begin := time.Now()
	for ext, draw := range formats {
		if len(draw(w, Trace{})) < n*20 {
			t.Errorf("%s: too short", ext)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}
