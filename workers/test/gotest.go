package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxLine bounds a line of the stream. go test breaks longer output itself.
const maxLine = 1 << 20

// goReader reads the events of go test -json from what is written to it. It
// writes the text in them to out as it comes, and so it does with lines that
// are no events, which other programs in the command may print.
type goReader struct {
	out      io.Writer
	progress func(line string)

	line     []byte
	tooLong  bool // the rest of the current line is text
	packages map[string]*goPackage
	passed   int
	skipped  int
}

// goPackage is what is known of one package.
type goPackage struct {
	running     map[string]bool // tests that have begun and not ended
	failed      []string
	ended       bool
	ok          bool
	failedBuild bool
	coverage    float64 // in percent, when hasCoverage
	hasCoverage bool
}

// goEvent is one line; see go doc test2json and go help buildjson.
type goEvent struct {
	Action      string
	Package     string
	Test        string
	Output      string
	ImportPath  string
	FailedBuild string
}

// Write takes the next part of the stream.
func (g *goReader) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, whole := bytes.Cut(p, []byte("\n"))
		p = rest
		g.take(part)
		if whole {
			g.endLine()
		}
	}
	return n, nil
}

func (g *goReader) take(part []byte) {
	if !g.tooLong && len(g.line)+len(part) > maxLine {
		g.text(g.line)
		g.line, g.tooLong = g.line[:0], true
	}
	if g.tooLong {
		g.text(part)
		return
	}
	g.line = append(g.line, part...)
}

func (g *goReader) endLine() {
	switch {
	case g.tooLong:
		g.text([]byte("\n"))
	case !g.event(bytes.TrimSpace(g.line)):
		g.text(append(g.line, '\n'))
	}
	g.line, g.tooLong = g.line[:0], false
}

// close takes what is left as the last line.
func (g *goReader) close() {
	if len(g.line) > 0 || g.tooLong {
		g.endLine()
	}
}

// text shows p. What becomes of shown output does not touch the result.
func (g *goReader) text(p []byte) { g.out.Write(p) }

// event takes a line as an event and reports whether it is one.
func (g *goReader) event(line []byte) bool {
	var e goEvent
	if len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &e) != nil {
		return false
	}
	if e.Package == "" {
		if e.ImportPath == "" || !strings.HasPrefix(e.Action, "build-") {
			return false
		}
		g.text([]byte(e.Output))
		return true
	}
	if !slices.Contains([]string{"start", "run", "pause", "cont", "pass", "bench", "fail", "output", "skip", "attr", "artifacts"}, e.Action) {
		return false
	}
	g.apply(e)
	return true
}

func (g *goReader) apply(e goEvent) {
	p := g.packages[e.Package]
	if p == nil {
		if g.packages == nil {
			g.packages = map[string]*goPackage{}
		}
		p = &goPackage{running: map[string]bool{}}
		g.packages[e.Package] = p
	}
	if e.Action == "output" {
		g.text([]byte(e.Output))
		if e.Test == "" { // a test may print anything
			p.findCoverage(e.Output)
		}
		return
	}
	if e.Test == "" {
		p.end(e)
		return
	}
	switch e.Action {
	case "run":
		p.running[e.Test] = true
		g.progress("testing " + e.Package + " " + e.Test)
		return
	case "pass":
		g.passed++
	case "skip":
		g.skipped++
	case "fail":
		p.failed = append(p.failed, e.Test)
	default:
		return
	}
	delete(p.running, e.Test)
}

// end takes an event about the package itself.
func (p *goPackage) end(e goEvent) {
	switch e.Action {
	case "pass", "skip", "fail":
		p.ended, p.ok = true, e.Action != "fail"
		p.failedBuild = e.FailedBuild != ""
	}
}

var coverageLine = regexp.MustCompile(`coverage: ([0-9]+(?:\.[0-9]+)?)% of statements`)

// findCoverage keeps the last percentage that the package printed. Packages
// without statements print none.
func (p *goPackage) findCoverage(text string) {
	m := coverageLine.FindStringSubmatch(text)
	if m == nil {
		return
	}
	if v, err := strconv.ParseFloat(m[1], 64); err == nil && v <= 100 {
		p.coverage, p.hasCoverage = v, true
	}
}

// report counts what has been read. A test that began and has no result
// failed: the package panicked, exited, ran out of time or was killed.
func (g *goReader) report() (*report, error) {
	if len(g.packages) == 0 {
		return nil, errors.New("the command printed no events of go test: it needs the flag -json, and a package to test")
	}
	r := &report{passed: g.passed, skipped: g.skipped}
	for _, name := range slices.Sorted(maps.Keys(g.packages)) {
		p := g.packages[name]
		for _, t := range p.failed {
			r.fail(name + "." + t)
		}
		for _, t := range slices.Sorted(maps.Keys(p.running)) {
			r.fail(name + "." + t + " (did not finish)")
		}
		switch {
		case p.ended && p.ok, len(p.failed)+len(p.running) > 0:
		case p.failedBuild:
			r.fail(name + " (does not compile)")
		case p.ended:
			r.fail(name + " (failed outside its tests)")
		default:
			r.fail(name + " (did not finish)")
		}
	}
	return r, nil
}

// coverage is the mean of the packages that printed one.
func (g *goReader) coverage() float64 {
	sum, n := 0.0, 0
	for _, name := range slices.Sorted(maps.Keys(g.packages)) { // in order: sums of floats depend on it
		if p := g.packages[name]; p.hasCoverage {
			sum, n = sum+p.coverage, n+1
		}
	}
	if n == 0 {
		return 0
	}
	return math.Round(100*sum/float64(n)) / 100
}

// profileCoverage is the part of all statements that a coverage profile
// counts as covered, in percent; without a readable profile, or statements
// in it, it is otherwise.
func profileCoverage(file string, otherwise float64) float64 {
	f, err := os.Open(file)
	if err != nil {
		return otherwise
	}
	defer f.Close()
	type block struct {
		statements int
		covered    bool
	}
	blocks := map[string]block{} // the tests of several packages may tell of the same one
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			continue
		}
		at := strings.Join(fields[:len(fields)-2], " ") // a file name may hold spaces
		n, err1 := strconv.Atoi(fields[len(fields)-2])
		count, err2 := strconv.ParseUint(fields[len(fields)-1], 10, 64)
		if err1 != nil || err2 != nil || n < 0 {
			continue
		}
		blocks[at] = block{n, count > 0 || blocks[at].covered}
	}
	all, covered := 0, 0
	for _, b := range blocks {
		all += b.statements
		if b.covered {
			covered += b.statements
		}
	}
	if all == 0 {
		return otherwise
	}
	return float64(int64(covered)*10_000/int64(all)) / 100 // down: 100 means all
}
