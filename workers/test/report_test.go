package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func goReport(t *testing.T, stream string) (*report, string, float64, error) {
	t.Helper()
	var out strings.Builder
	g := &goReader{out: &out, progress: func(string) {}}
	for i := range len(stream) { // byte by byte: a pipe may break anywhere
		g.Write([]byte{stream[i]})
	}
	g.close()
	r, err := g.report()
	return r, out.String(), g.coverage(), err
}

func TestGoEventsAreCountedByTestAndShownAsText(t *testing.T) {
	r, out, coverage, err := goReport(t, `go: finding something
{"Time":"2026-11-23T12:00:00Z","Action":"start","Package":"x/a"}
{"Action":"run","Package":"x/a","Test":"TestA"}
{"Action":"output","Package":"x/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"run","Package":"x/a","Test":"TestA/sub"}
{"Action":"output","Package":"x/a","Test":"TestA/sub","Output":"coverage: 99.0% of statements\n"}
{"Action":"fail","Package":"x/a","Test":"TestA/sub","Elapsed":0}
{"Action":"fail","Package":"x/a","Test":"TestA","Elapsed":0.1}
{"Action":"run","Package":"x/a","Test":"TestB"}
{"Action":"pause","Package":"x/a","Test":"TestB"}
{"Action":"cont","Package":"x/a","Test":"TestB"}
{"Action":"pass","Package":"x/a","Test":"TestB"}
{"Action":"run","Package":"x/a","Test":"TestC"}
{"Action":"skip","Package":"x/a","Test":"TestC"}
{"Action":"output","Package":"x/a","Output":"coverage: 50.0% of statements\n"}
{"Action":"fail","Package":"x/a"}
{"Action":"start","Package":"x/b"}
{"Action":"output","Package":"x/b","Output":"\tx/b\t\tcoverage: 0.0% of statements\n"}
{"Action":"skip","Package":"x/b"}
{"Action":"start","Package":"x/c"}
{"Action":"output","Package":"x/c","Output":"coverage: [no statements]\n"}
{"Action":"pass","Package":"x/c"}
{"json":"of another program"}
the last line`)
	if err != nil {
		t.Fatal(err)
	}
	want := report{passed: 1, failed: 2, skipped: 1, failures: []string{"x/a.TestA/sub", "x/a.TestA"}}
	if diff := cmp.Diff(want, *r, cmp.AllowUnexported(report{})); diff != "" {
		t.Errorf("report (-want +got)\n%s", diff)
	}
	if coverage != 25 {
		t.Errorf("coverage %v, want the mean of 50 and 0", coverage)
	}
	wantOut := "go: finding something\n=== RUN   TestA\ncoverage: 99.0% of statements\ncoverage: 50.0% of statements\n" +
		"\tx/b\t\tcoverage: 0.0% of statements\ncoverage: [no statements]\n{\"json\":\"of another program\"}\nthe last line\n"
	if diff := cmp.Diff(wantOut, out); diff != "" {
		t.Errorf("shown (-want +got)\n%s", diff)
	}
}

func TestAPackageNeverFailsUnseen(t *testing.T) {
	for name, tc := range map[string]struct{ stream, failure string }{
		"does not compile": {`{"ImportPath":"x [x.test]","Action":"build-output","Output":"x.go:1: wrong\n"}
{"ImportPath":"x [x.test]","Action":"build-fail"}
{"Action":"start","Package":"x"}
{"Action":"fail","Package":"x","FailedBuild":"x [x.test]"}`, "x (does not compile)"},
		"exits":              {`{"Action":"start","Package":"x"}` + "\n" + `{"Action":"fail","Package":"x"}`, "x (failed outside its tests)"},
		"test panics":        {`{"Action":"run","Package":"x","Test":"TestA"}` + "\n" + `{"Action":"fail","Package":"x"}`, "x.TestA (did not finish)"},
		"is cut in a test":   {`{"Action":"run","Package":"x","Test":"TestA"}`, "x.TestA (did not finish)"},
		"is cut before one":  {`{"Action":"start","Package":"x"}`, "x (did not finish)"},
		"is cut in the line": {`{"Action":"start","Package":"x"}` + "\n" + `{"Action":"pass","Pack`, "x (did not finish)"},
	} {
		r, _, _, err := goReport(t, tc.stream)
		if err != nil || r.failed != 1 || r.failures[0] != tc.failure {
			t.Errorf("%s: got %+v, %v; want %s", name, r, err, tc.failure)
		}
	}
}

func TestOutputWithoutEventsIsNoReport(t *testing.T) {
	for _, stream := range []string{"", "ok  \tx\t0.1s\n", "{}", `{"Action":"pass"}`, `{"Action":"jump","Package":"x"}`, "null\n[1]\n"} {
		if r, out, _, err := goReport(t, stream); err == nil {
			t.Errorf("%q gave %+v", stream, r)
		} else if out != stream && out != stream+"\n" {
			t.Errorf("%q was shown as %q", stream, out)
		}
	}
}

func TestAHugeLineIsShownAndNotKept(t *testing.T) {
	var out strings.Builder
	g := &goReader{out: &out, progress: func(string) {}}
	part := []byte(strings.Repeat("x", 300_000))
	for range 10 {
		g.Write(part)
		if len(g.line) > maxLine {
			t.Fatalf("%d bytes are kept", len(g.line))
		}
	}
	g.Write([]byte("\n" + `{"Action":"pass","Package":"x","Test":"T"}` + "\n"))
	g.close()
	if r, err := g.report(); err != nil || r.passed != 1 || out.Len() != 3_000_001 {
		t.Errorf("report %+v, %v; %d bytes shown", r, err, out.Len())
	}
}

func TestOnlyTheFirstNamesAreKept(t *testing.T) {
	var r report
	for i := range 250 {
		r.fail(fmt.Sprint("Test", i, strings.Repeat("x", 1000)))
	}
	if r.failed != 250 || len(r.names()) != 100 || len(r.names()[99]) != 300 || !strings.HasPrefix(r.names()[99], "Test99x") {
		t.Errorf("%d failed, %d names", r.failed, len(r.names()))
	}
	if new(report).names() == nil {
		t.Error("no failures are null in JSON, not a list")
	}
}

func TestCoverageOfAProfileIsThatOfItsStatements(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cover.out")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("mode: set\nx/a.go:1.1,2.2 3 1\nx/a b.go:3.1,4.2 6 0\nx/a.go:1.1,2.2 3 0\n")
	if got := profileCoverage(file, 7); got != 33.33 {
		t.Errorf("got %v, want 33.33", got)
	}
	write("mode: set\nx/a.go:1.1,2.2 99999 1\nx/a.go:3.1,4.2 1 0\n")
	if got := profileCoverage(file, 7); got != 99.99 {
		t.Errorf("got %v: not all is covered", got)
	}
	write("mode: set\n")
	if got := profileCoverage(file, 7); got != 7 {
		t.Errorf("got %v without statements", got)
	}
	if got := profileCoverage(file+"x", 7); got != 7 {
		t.Errorf("got %v without a profile", got)
	}
}

func TestJUnitReportsAreCountedByElement(t *testing.T) {
	for name, tc := range map[string]struct {
		document string
		want     report
	}{
		"suites": {`<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="99" failures="0"><testsuite name="s" failures="0">
  <testcase name="a" classname="c.D"/><testcase name="b" classname="c.D"><failure message="m">text</failure></testcase>
  <testcase name="e"><error/></testcase><testcase name="k"><skipped/></testcase>
</testsuite></testsuites>`, report{passed: 1, failed: 2, skipped: 1, failures: []string{"c.D.b", "s.e"}}},
		"bare suite, nested": {`<testsuite name="o"><testsuite name="i"><testcase name="a"/></testsuite><testcase name="b"><failure/></testcase></testsuite>`,
			report{passed: 1, failed: 1, failures: []string{"o.b"}}},
		"flaky and rerun": {`<testsuite><testcase name="flaky"><flakyFailure>x</flakyFailure><flakyError/></testcase>
<testcase name="bad"><failure/><rerunFailure/><rerunError/></testcase></testsuite>`, report{passed: 1, failed: 1, failures: []string{"bad"}}},
		"error of a suite": {`<testsuites><testsuite name="s" errors="1"><error message="no database"/></testsuite></testsuites>`,
			report{failed: 1, failures: []string{"s (failed outside its tests)"}}},
		"error of all":        {`<testsuites><error/></testsuites>`, report{failed: 1, failures: []string{"(failed outside its tests)"}}},
		"status":              {`<testsuite><testcase name="a" status="notrun"/><testcase name="b" status="run" result="completed"/><testcase name="c" status="failed"/></testsuite>`, report{passed: 1, failed: 1, skipped: 1, failures: []string{"c"}}},
		"failure and skipped": {`<testsuite><testcase name="a"><failure/><skipped/></testcase></testsuite>`, report{failed: 1, failures: []string{"a"}}},
		"case in a case":      {`<testsuite><testcase name="a"><failure/><testcase name="b"/></testcase></testsuite>`, report{passed: 1, failed: 1, failures: []string{"a"}}},
		"words in output":     {`<testsuite><testcase name="a"><system-out><![CDATA[<failure/>]]></system-out><system-err>&lt;error/></system-err></testcase></testsuite>`, report{passed: 1}},
		"control characters":  {"<testsuite><testcase name=\"a\"><system-out>\x1b[31mred\x00 &#27; &#x1B; &#xd800; &#65; &nbsp;</system-out></testcase></testsuite>", report{passed: 1}},
		"another encoding":    {"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><testsuite><testcase name=\"gr\xfcn\"><failure/></testcase></testsuite>", report{failed: 1, failures: []string{"gr\ufffdn"}}},
		"name spaces":         {`<j:testsuite xmlns:j="urn:j"><j:testcase name="a"/></j:testsuite>`, report{passed: 1}},
		"no tests":            {`<testsuites/>`, report{}},
		"bombs":               {`<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><testsuite><testcase name="&c;"/></testsuite>`, report{passed: 1}},
	} {
		var got report
		if err := got.addJUnit([]byte(tc.document)); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(report{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestBrokenJUnitReportsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ document, says string }{
		"empty":       {"", "empty"},
		"not XML":     {"PASS", "empty"},
		"HTML":        {"<html><body/></html>", "element html"},
		"cut":         {`<testsuite><testcase name="a"/>`, "middle of the element testsuite"},
		"cut in tag":  {`<testsuite><testca`, "XML"},
		"crossed":     {`<testsuite><testcase></testsuite></testcase>`, "closed by"},
		"two roots":   {`<testsuite/><testsuite/>`, "at its top"},
		"closed only": {`</testsuite>`, "closed by"},
		"encoding":    {`<?xml version="1.0" encoding="EBCDIC"?><testsuite/>`, "EBCDIC"},
		"deep":        {strings.Repeat("<testsuite>", 2000), "deeply"},
	} {
		if err := new(report).addJUnit([]byte(tc.document)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: error %v, want %q", name, err, tc.says)
		}
	}
	huge := append([]byte("<testsuite><!--"), make([]byte, maxReport)...)
	if err := new(report).addJUnit(huge); err == nil || !strings.Contains(err.Error(), "64 MB") {
		t.Errorf("huge: error %v", err)
	}
}

func TestReportPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"out.xml", "out.xml", true}, {"out.xml", "a/out.xml", false}, {"*/out.xml", "a/out.xml", true},
		{"**/*.xml", "out.xml", true}, {"**/*.xml", "a/b/out.xml", true}, {"**/t/**/*.xml", "a/t/x.xml", true},
		{"a/**", "a/b/c", true}, {"a/**", "b/c", false}, {"**/t/*.xml", "a/t/b/x.xml", false}, {"TEST-?.xml", "TEST-1.xml", true},
	} {
		if got := matches(strings.Split(tc.pattern, "/"), strings.Split(tc.name, "/")); got != tc.want {
			t.Errorf("%s with %s: %v", tc.pattern, tc.name, got)
		}
	}
}

func FuzzGoEventsNeverPanicAndNeverLoseAFailure(f *testing.F) {
	f.Add([]byte(`{"Action":"run","Package":"x","Test":"T"}`+"\n"), []byte(`{"Action":"fail","Package":"x"}`))
	f.Add([]byte(`{"ImportPath":"x","Action":"build-output","Output":"o"}`), []byte("\n\n{}\xff"))
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		read := func(parts ...[]byte) (*report, error) {
			g := &goReader{out: new(strings.Builder), progress: func(string) {}}
			for _, p := range parts {
				g.Write(p)
			}
			g.close()
			return g.report()
		}
		one, err1 := read(append(append([]byte{}, head...), tail...))
		two, err2 := read(head, tail)
		if diff := cmp.Diff(one, two, cmp.AllowUnexported(report{})); (err1 == nil) != (err2 == nil) || diff != "" {
			t.Fatalf("where the stream breaks matters: %v, %v\n%s", err1, err2, diff)
		}
		fail := []byte("\n" + `{"Action":"fail","Package":"fuzz.example","Test":"TestFails"}` + "\n")
		if r, err := read(head, tail, fail); err != nil || r.failed == 0 {
			t.Fatalf("a failure was lost: %+v, %v", r, err)
		}
	})
}

func FuzzJUnitNeverPanicsAndNeverLosesAFailure(f *testing.F) {
	f.Add([]byte(`<testsuite name="s"><testcase name="a"/></testsuite>`))
	f.Add([]byte("<testsuites><testsuite><testcase><system-out>&#27;\x1b</system-out><skipped/></testcase></testsuite></testsuites>"))
	f.Fuzz(func(t *testing.T, document []byte) {
		var r report
		if r.addJUnit(document) == nil && min(r.passed, r.failed, r.skipped) < 0 {
			t.Fatalf("got %+v", r)
		}
		whole := append(append([]byte("<testsuites>"), document...), "<testsuite><testcase><failure/></testcase></testsuite></testsuites>"...)
		var with report
		if err := with.addJUnit(whole); err == nil && with.failed == 0 && !strings.Contains(string(document), "<!") && !strings.Contains(string(document), "<?") {
			t.Fatalf("a failure was lost: %+v", with)
		}
	})
}
