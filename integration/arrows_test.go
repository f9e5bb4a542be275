package integration_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/penstock-cd/penstock"

// arrow says what a package may import of this module: patterns, where a final
// /... stands for everything below, and for the folder itself. The first arrow
// whose pattern fits a package is its own.
type arrow struct {
	from string
	to   []string
}

// arrows go one way: events ← workflows ← the core ← the shell ← cmd, and
// events ← workers ← cmd.
var arrows = []arrow{
	{"events", []string{"events/wire"}},
	{"events/bus/funnel", nil}, // the standard library only
	{"events/wire", nil},       // likewise
	{"events/wire/wiretest", []string{"events/wire"}},
	{"events/bus", []string{"events", "events/bus/funnel", "events/wire"}},
	{"workflows", []string{"events"}},
	{"workflows/...", []string{"events", "workflows"}},
	{"engine/record", []string{"events", "events/wire", "workflows"}},
	{"engine/run", []string{"events", "events/wire", "workflows", "engine/record"}},
	{"engine/env", []string{"events", "workflows", "engine/record", "engine/run"}},
	{"engine/scenario", []string{"events", "workflows", "engine/record", "engine/run", "engine/env"}},
	{"engine/internal/journal/...", []string{"events", "engine/internal/journal"}},
	{"engine/internal/...", []string{"events", "events/bus", "workflows", "workflows/parse", "workflows/compare", "engine/record", "engine/run", "engine/env", "engine/internal/...", "events/bus/funnel", "events/wire"}},
	{"engine/api", []string{"events", "events/bus", "workflows", "engine/record", "engine/internal/service"}},
	{"engine/console", []string{"events", "events/bus", "workflows", "engine/record", "engine/internal/service"}},
	{"engine", []string{"events", "events/bus", "workflows", "workflows/parse", "engine/..."}},
	{"workers", []string{"events", "events/bus"}},
	{"workers/...", []string{"events", "workers/..."}},
	{"cmd/...", []string{"events", "events/bus", "workflows", "workflows/...", "engine", "engine/record", "engine/scenario", "workers/...", "cmd/..."}},
	{"integration", nil},
}

// kept says where a library may be imported: everything else goes through
// those packages. Tests may run a NATS server and clients of it anywhere.
var kept = []struct {
	library string // module path, or the beginning of it
	in      []string
	tests   bool // tests may import it anywhere
}{
	{"github.com/nats-io/nats-server", []string{"engine/internal/broker", "engine/internal/scale", "integration"}, true}, // scale: a server beside which others are measured
	{"github.com/nats-io/", []string{"events/bus", "engine", "engine/internal/..."}, true},                               // engine: where the server is embedded
	{"cel.dev/", []string{"workflows/parse"}, false},
	{"github.com/google/cel-go", nil, false}, // its path of old, where cost limits do not always hold
	{"go.yaml.in/", []string{"workflows/parse"}, false},
	{"gopkg.in/yaml", nil, false},
	{"github.com/goccy/go-yaml", nil, false},
	{"github.com/spf13/", []string{"cmd/..."}, false},
	{"github.com/danielgtaylor/huma", []string{"engine/api"}, false},
	{"github.com/prometheus/", []string{"engine/api"}, false},
	{"github.com/testcontainers/", []string{"integration"}, false},
	{"github.com/moby/", []string{"integration"}, false},
	{"github.com/stretchr/testify", nil, false},
}

// pure are the packages that decide. They know no clock, no input or output,
// no goroutine and no random number; time comes in with what happened.
var pure = []string{"engine/record", "engine/run", "engine/env", "engine/scenario"}

var impure = []string{"os", "os/...", "net", "net/...", "io/fs", "math/rand", "math/rand/...", "crypto/rand", "log", "log/...", "sync", "sync/...",
	"runtime", "runtime/...", "syscall", "unsafe"}

var impureTime = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

// listed is a package as go list tells it.
type listed struct {
	ImportPath, Dir, Name              string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

func packages(t *testing.T) map[string]listed {
	t.Helper()
	all := map[string]listed{}
	for _, platform := range []string{"linux", "darwin", "windows"} {
		d := json.NewDecoder(strings.NewReader(output(t, repository(t), []string{"GOOS=" + platform, "CGO_ENABLED=0"},
			"go", "list", "-e", "-json=ImportPath,Dir,Name,Imports,TestImports,XTestImports,GoFiles", "./...")))
		for d.More() {
			var p listed
			if err := d.Decode(&p); err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
			if before, ok := all[name]; ok {
				p.Imports = slices.Concat(before.Imports, p.Imports)
				p.TestImports = slices.Concat(before.TestImports, p.TestImports)
				p.XTestImports = slices.Concat(before.XTestImports, p.XTestImports)
				p.GoFiles = slices.Concat(before.GoFiles, p.GoFiles)
			}
			all[name] = p
		}
	}
	if len(all) < 20 {
		t.Fatalf("go list knows only %d packages", len(all))
	}
	return all
}

func fits(pattern, name string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == folder || strings.HasPrefix(name, folder+"/")
	}
	return pattern == name
}

func anyFits(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, name) })
}

// ours gives the packages of this module among imports, by their short names.
func ours(imports []string) []string {
	var out []string
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, module+"/"); ok && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// wrongArrows reports what is imported against the arrows.
func wrongArrows(all map[string]listed) []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		i := slices.IndexFunc(arrows, func(a arrow) bool { return fits(a.from, name) })
		if i < 0 {
			wrong = append(wrong, fmt.Sprintf("%s is in no arrow: say in arrows what it may import", name))
			continue
		}
		for _, to := range ours(all[name].Imports) {
			if !anyFits(arrows[i].to, to) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s; it may import %s", name, to, strings.Join(arrows[i].to, ", ")))
			}
		}
	}
	return wrong
}

// mixedSides reports where engine and workers meet, tests included.
func mixedSides(all map[string]listed) []string {
	var wrong []string
	for name, p := range all {
		for _, to := range ours(slices.Concat(p.Imports, p.TestImports, p.XTestImports)) {
			if fits("engine/...", name) && fits("workers/...", to) || fits("workers/...", name) && fits("engine/...", to) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: engine and workers know each other by events only", name, to))
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// strayLibraries reports libraries outside of the packages that keep them.
func strayLibraries(all map[string]listed) []string {
	var wrong []string
	for name, p := range all {
		check := func(imports []string, test bool) {
			for _, lib := range imports {
				for _, k := range kept {
					if !strings.HasPrefix(lib, k.library) {
						continue
					}
					if !anyFits(k.in, name) && !(test && k.tests) {
						wrong = append(wrong, fmt.Sprintf("%s imports %s, which belongs in %s", name, lib, strings.Join(k.in, ", ")))
					}
					break // the first that fits is the library's own
				}
			}
		}
		check(p.Imports, false)
		check(slices.Concat(p.TestImports, p.XTestImports), true)
	}
	slices.Sort(wrong)
	return slices.Compact(wrong)
}

func TestImportsFollowTheArrows(t *testing.T) {
	all := packages(t)
	for _, w := range slices.Concat(wrongArrows(all), mixedSides(all), strayLibraries(all)) {
		t.Error(w)
	}
	for name, p := range all {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "helper", "types", "models", "misc"}, path.Base(name)) || slices.Contains([]string{"util", "common", "helpers", "types", "models"}, p.Name) {
			t.Errorf("%s (package %s): the name says nothing of its job", name, p.Name)
		}
	}
}

func TestArrowsThatPointTheWrongWayAreReported(t *testing.T) {
	of := func(imports ...string) listed { return listed{Imports: imports} }
	all := map[string]listed{
		"events":        of(module + "/workflows"),
		"engine/run":    of(module+"/engine/internal/journal", "fmt"),
		"workers/build": of(module+"/engine", "github.com/nats-io/nats.go"),
		"workflows":     of("cel.dev/cel-go/cel"),
		"new":           of("fmt"),
		"engine/api":    {XTestImports: []string{module + "/workers", "github.com/nats-io/nats-server/v2/server"}},
	}
	if got := wrongArrows(all); len(got) != 4 {
		t.Errorf("wrong arrows: %q", got)
	}
	if got := mixedSides(all); len(got) != 2 {
		t.Errorf("engine and workers: %q", got)
	}
	if got := strayLibraries(all); len(got) != 2 {
		t.Errorf("libraries: %q", got)
	}
}

func TestWhatDecidesKnowsNoClockAndNoWorld(t *testing.T) {
	all := packages(t)
	for _, name := range pure {
		p, ok := all[name]
		if !ok {
			t.Errorf("there is no package %s", name)
			continue
		}
		for _, i := range p.Imports {
			if anyFits(impure, i) {
				t.Errorf("%s imports %s", name, i)
			}
		}
		for _, file := range slices.Compact(slices.Sorted(slices.Values(p.GoFiles))) {
			src, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range impurities(t, name+"/"+file, src) {
				t.Error(w)
			}
		}
	}
}

// impurities reports goroutines, channels and readings of the clock.
func impurities(t *testing.T, name string, src []byte) []string {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wrong []string
	report := func(n ast.Node, what string) {
		wrong = append(wrong, fmt.Sprintf("%s: %s", set.Position(n.Pos()), what))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n, "starts a goroutine")
		case *ast.ChanType, *ast.SelectStmt:
			report(n, "uses a channel")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(impureTime, n.Sel.Name) {
				report(n, "reads the clock by time."+n.Sel.Name)
			}
		}
		return true
	})
	return wrong
}

func TestClocksAndGoroutinesAreReported(t *testing.T) {
	src := "package x\nimport \"time\"\nfunc f() { go f(); _ = time.Now(); _ = time.Second; var c chan int; select {}; _ = c }\n"
	if got := impurities(t, "x.go", []byte(src)); len(got) != 4 {
		t.Errorf("got %q", got)
	}
}
