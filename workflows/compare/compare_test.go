package compare

import (
	"flag"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

var update = flag.Bool("update", false, "write what is told as what is wanted")

const casesFile = "testdata/changes.txt"

func read(t *testing.T, path string) string {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func catalog(t *testing.T, text string) *workflows.Catalog {
	t.Helper()
	set, problems := parse.Look([]parse.File{{Name: "base.yaml", Content: []byte(text)}})
	if len(problems) > 0 {
		t.Fatal(parse.Text(problems))
	}
	return set.Catalog()
}

// edit is a text of the base and what stands in its place.
type edit struct{ from, to string }

type example struct {
	head  []string // its lines up to what is told
	edits []edit
	want  string
}

// examples reads the cases: "- " lines, "+ " lines, and then what is told.
func examples(t *testing.T) (preamble string, all []*example) {
	t.Helper()
	preamble, rest, _ := strings.Cut(read(t, casesFile), "\n== ")
	for _, block := range strings.Split(rest, "\n== ") {
		lines := strings.Split(strings.TrimRight(block, "\n"), "\n")
		e := &example{head: lines[:1]}
		var told []string
		last := byte(0)
		for _, line := range lines[1:] {
			if line == "" || line[0] != '-' && line[0] != '+' {
				told = append(told, line)
				continue
			}
			e.head = append(e.head, line)
			text := strings.TrimPrefix(line[1:], " ")
			if line[0] == '-' && last != '-' {
				e.edits = append(e.edits, edit{})
			}
			now := &e.edits[len(e.edits)-1]
			switch {
			case line[0] == '-' && last == '-':
				now.from += "\n" + text
			case line[0] == '-':
				now.from = text
			case last == '+':
				now.to += "\n" + text
			default:
				now.to = text
			}
			last = line[0]
		}
		e.want = strings.Trim(strings.Join(told, "\n"), "\n")
		all = append(all, e)
	}
	return preamble, all
}

// TestChangesAreToldInWords compares what is told of each change with the file
// that holds the cases.
func TestChangesAreToldInWords(t *testing.T) {
	base := read(t, "testdata/base.yaml")
	preamble, all := examples(t)
	var out strings.Builder
	out.WriteString(preamble + "\n")
	for _, e := range all {
		changed := base
		for _, ed := range e.edits {
			if n := strings.Count(changed, ed.from); n != 1 {
				t.Fatalf("%s: %q stands %d times in the base", e.head[0], ed.from, n)
			}
			changed = strings.Replace(changed, ed.from, ed.to, 1)
		}
		got := tell(Catalogs(catalog(t, base), catalog(t, changed)))
		if diff := cmp.Diff(e.want, got); diff != "" && !*update {
			t.Errorf("%s (-want +got):\n%s", e.head[0], diff)
		}
		out.WriteString("\n== " + strings.Join(e.head, "\n") + "\n")
		if got != "" {
			out.WriteString("\n" + got + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(casesFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tell(changes []Change) string {
	var lines []string
	for _, c := range changes {
		mark := "  "
		if c.Weaker {
			mark = "! "
		}
		lines = append(lines, mark+c.String())
	}
	return strings.Join(lines, "\n")
}

// TestEveryKeyHasACase holds the list of cases complete: a key that is added
// to the language needs one.
func TestEveryKeyHasACase(t *testing.T) {
	meaningless := []string{"name", "metadata", "spec", "title", "description", "message", "template", "mode", "queue", "lock", "approval", "states", "wait",
		"notify", "inputs", "outputs", "roles", "users", "workflow", "parallel", "triggers", "schedule", "forEach", "gate", "finally", "invariants", "permissions"}
	text := read(t, casesFile)
	var missing []string
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, typ.Kind()) {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		for f := range typ.Fields() {
			key, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if key == "-" || key == "" && option == "" {
				continue
			}
			if option != "inline" && !slices.Contains(meaningless, key) && !regexp.MustCompile(`(?m)^[-+].*\b`+key+`:`).MatchString(text) {
				missing = append(missing, key)
			}
			visit(f.Type)
		}
	}
	for _, doc := range []any{workflows.Workflow{}, workflows.Environment{}, workflows.Policy{}, workflows.Roles{}, workflows.Channel{}, workflows.TaskKind{}} {
		visit(reflect.TypeOf(doc))
	}
	if len(missing) > 0 {
		t.Errorf("no case changes %s", strings.Join(missing, ", "))
	}
}

func TestADocumentComparedWithItselfMeansTheSame(t *testing.T) {
	base := read(t, "testdata/base.yaml")
	if got := Catalogs(catalog(t, base), catalog(t, base)); len(got) != 0 {
		t.Errorf("%v", got)
	}
	none := catalog(t, "")
	if got := Catalogs(none, catalog(t, base)); len(got) < 8 || slices.ContainsFunc(got, func(c Change) bool { return c.Weaker && c.Kind != "Roles" }) {
		t.Errorf("everything is new: %v", got)
	}
	if got := Catalogs(catalog(t, base), none); len(got) < 8 {
		t.Errorf("everything is gone: %v", got)
	}
}
