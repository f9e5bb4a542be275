package test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// maxReport bounds one JUnit file, which may hold all that the tests
// printed; maxReports how many there may be.
const (
	maxReport  = 64 << 20
	maxReports = 10_000
)

// readReports reads all files below dir that match the pattern.
func readReports(dir, pattern string) (*report, error) {
	r := &report{}
	found, err := eachReport(dir, pattern, func(root *os.Root, name string) error {
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxReport+1))
		if err != nil {
			return err
		}
		if err := r.addJUnit(b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("the command wrote no file %s", pattern)
	}
	return r, err
}

// removeReports removes what matches the pattern before the command runs.
func removeReports(dir, pattern string) error {
	_, err := eachReport(dir, pattern, func(root *os.Root, name string) error { return root.Remove(name) })
	if err != nil {
		return fmt.Errorf("an old report cannot be removed: %w", err)
	}
	return nil
}

// eachReport calls do for every file below dir that matches the pattern. It
// follows no link, and passes over all that is not a plain file: reading a
// pipe would wait for ever.
func eachReport(dir, pattern string, do func(root *os.Root, name string) error) (found int, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	want := strings.Split(path.Clean(filepath.ToSlash(pattern)), "/")
	if _, err := path.Match(path.Join(want...), ""); err != nil {
		return 0, fail("bad_inputs", "report %q is not a pattern: %v", pattern, err)
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || !matches(want, strings.Split(name, "/")) {
			return nil
		}
		if found++; found > maxReports {
			return fmt.Errorf("more than %d files match %s", maxReports, pattern)
		}
		return do(root, name)
	})
	return found, err
}

// matches reports whether the elements of a path match those of a pattern,
// in which ** stands for any number of them.
func matches(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		return matches(pattern[1:], name) || len(name) > 0 && matches(pattern, name[1:])
	}
	if len(name) == 0 {
		return false
	}
	ok, err := path.Match(pattern[0], name[0])
	return err == nil && ok && matches(pattern[1:], name[1:])
}

// addJUnit counts the test cases of a JUnit document: a testsuites or a bare
// testsuite element, nested to any depth. The format has no standard; what
// is not known is passed over.
func (r *report) addJUnit(document []byte) error {
	if len(document) > maxReport {
		return fmt.Errorf("the report is larger than %d MB", maxReport>>20)
	}
	d := xml.NewDecoder(bytes.NewReader(printable(document)))
	d.Strict = false // undeclared entities and unquoted attributes are common
	d.CharsetReader = charset
	j := junitReader{report: r}
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			return j.finish()
		}
		if err != nil {
			return fmt.Errorf("not readable as XML: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			err = j.start(t)
		case xml.EndElement:
			err = j.end(t)
		}
		if err != nil {
			return err
		}
	}
}

// junitReader holds where in a document the reader is.
type junitReader struct {
	report *report
	open   []string   // the elements around
	suites []string   // names of the suites around
	cases  []testCase // the test cases around, in all known reports at most one
	rooted bool
}

type testCase struct {
	name            string
	failed, skipped bool
}

func (j *junitReader) parent() string {
	if len(j.open) == 0 {
		return ""
	}
	return j.open[len(j.open)-1]
}

func (j *junitReader) start(e xml.StartElement) error {
	const maxDepth = 1000
	name := e.Name.Local
	switch {
	case len(j.open) == 0 && (j.rooted || name != "testsuites" && name != "testsuite"):
		return fmt.Errorf("not a JUnit report: it has the element %s at its top", name)
	case len(j.open) >= maxDepth:
		return errors.New("not a JUnit report: it is nested too deeply")
	case name == "testsuite":
		j.suites = append(j.suites, attribute(e, "name"))
	case name == "testcase":
		j.begin(e)
	case name == "failure" || name == "error":
		// flakyFailure and rerunFailure have names of their own: the first is
		// of a test that passed in the end, the second beside a failure.
		j.broken()
	case name == "skipped" && j.parent() == "testcase":
		j.cases[len(j.cases)-1].skipped = true
	}
	j.rooted = true
	j.open = append(j.open, name)
	return nil
}

func (j *junitReader) begin(e xml.StartElement) {
	class := attribute(e, "classname")
	if class == "" && len(j.suites) > 0 {
		class = j.suites[len(j.suites)-1]
	}
	c := testCase{name: strings.TrimPrefix(class+"."+attribute(e, "name"), ".")}
	for _, a := range []string{"status", "result"} {
		switch strings.ToLower(attribute(e, a)) {
		case "notrun", "skipped", "disabled", "ignored", "suppressed":
			c.skipped = true
		case "fail", "failed", "failure", "error", "errored":
			c.failed = true
		}
	}
	j.cases = append(j.cases, c)
}

// broken takes a failure or an error by what it stands in.
func (j *junitReader) broken() {
	switch j.parent() {
	case "testcase":
		j.cases[len(j.cases)-1].failed = true
	case "testsuite", "testsuites":
		j.report.fail(strings.TrimPrefix(strings.Join(j.suites, ".")+" (failed outside its tests)", " "))
	}
}

func (j *junitReader) end(e xml.EndElement) error {
	if j.parent() != e.Name.Local {
		return fmt.Errorf("not readable as XML: element %s is closed by %s", j.parent(), e.Name.Local)
	}
	j.open = j.open[:len(j.open)-1]
	switch e.Name.Local {
	case "testsuite":
		j.suites = j.suites[:len(j.suites)-1]
	case "testcase":
		c := j.cases[len(j.cases)-1]
		j.cases = j.cases[:len(j.cases)-1]
		switch {
		case c.failed:
			j.report.fail(c.name)
		case c.skipped:
			j.report.skipped++
		default:
			j.report.passed++
		}
	}
	return nil
}

func (j *junitReader) finish() error {
	if !j.rooted {
		return errors.New("the report is empty")
	}
	if len(j.open) > 0 {
		return fmt.Errorf("the report ends in the middle of the element %s", j.parent())
	}
	return nil
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

var characterReference = regexp.MustCompile(`&#(x[0-9a-fA-F]{1,6}|[0-9]{1,7});`)

// printable takes out what XML forbids and reports hold all the same, because
// tests print it: control characters, as such and as references.
func printable(document []byte) []byte {
	document = characterReference.ReplaceAllFunc(document, func(ref []byte) []byte {
		digits, base := string(ref[2:len(ref)-1]), 10
		if digits[0] == 'x' {
			digits, base = digits[1:], 16
		}
		if n, err := strconv.ParseUint(digits, base, 32); err != nil || !allowed(rune(n)) {
			return []byte("?")
		}
		return ref
	})
	return bytes.Map(func(r rune) rune {
		if !allowed(r) {
			return ' '
		}
		return r
	}, document)
}

func allowed(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= ' ' && r < 0xd800 || r >= 0xe000 && r < 0xfffe || r >= 0x10000 && r <= 0x10ffff
}

// charset reads the encodings that reports name beside UTF-8. printable has
// already made the document UTF-8, so names may have lost their accents, and
// nothing else can be lost.
func charset(name string, r io.Reader) (io.Reader, error) {
	switch strings.ToLower(name) {
	case "us-ascii", "ascii", "iso-8859-1", "iso-8859-15", "latin1", "windows-1252", "cp1252":
		return r, nil
	}
	return nil, fmt.Errorf("encoding %s is not supported: write the report in UTF-8", name)
}
