//go:build unix

package test_test

import (
	"context"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/test"
	"github.com/penstock-cd/penstock/workers/workertest"
)

func repo(t *testing.T, files map[string]string) (r *workertest.Repo, with map[string]any) {
	t.Helper()
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-mod=mod")
	r = workertest.NewRepo(t)
	commit := r.Commit("the change", files)
	return r, map[string]any{"repository": r.Dir, "commit": commit}
}

func do(t *testing.T, with map[string]any) (*workers.Job, events.Result) {
	t.Helper()
	job := workertest.New(t, with)
	return job, test.New(test.Options{}).Do(t.Context(), job)
}

func wantOutputs(t *testing.T, res events.Result, want map[string]any) {
	t.Helper()
	if res.Outcome != events.Succeeded {
		t.Fatalf("outcome %s: %v", res.Outcome, res.Error)
	}
	if d, ok := res.Outputs["durationMs"].(int64); !ok || d < 0 {
		t.Errorf("durationMs is %v", res.Outputs["durationMs"])
	}
	delete(res.Outputs, "durationMs")
	if diff := cmp.Diff(want, res.Outputs); diff != "" {
		t.Errorf("outputs (-want +got)\n%s", diff)
	}
}

func wantFailure(t *testing.T, res events.Result, code string, parts ...string) {
	t.Helper()
	if res.Outcome != events.Failed || res.Error == nil || res.Error.Code != code || res.Error.Retryable {
		t.Fatalf("got %s %+v, want code %s", res.Outcome, res.Error, code)
	}
	for _, p := range parts {
		if !strings.Contains(res.Error.Message, p) {
			t.Errorf("message %q does not mention %q", res.Error.Message, p)
		}
	}
}

var shop = map[string]string{
	"go.mod":  "module shop.example\n\ngo 1.26\n",
	"shop.go": "package shop\n\nfunc Add(a, b int) int { return a + b }\n\nfunc Unused() int { return 1 }\n",
	"shop_test.go": `package shop

import (
	"os"
	"testing"
)

func TestAdd(t *testing.T) {
	t.Run("small", func(t *testing.T) {
		if Add(1, 2) != 3 {
			t.Fatal("wrong")
		}
	})
}

func TestNetwork(t *testing.T) {
	t.Logf("suite=%s url=%s secret=%s", os.Getenv("PENSTOCK_SUITE"), os.Getenv("PENSTOCK_URL"), os.Getenv("CLOUD_SECRET"))
	t.Skip("offline")
}
`,
}

func TestAGoModuleIsTested(t *testing.T) {
	t.Setenv("CLOUD_SECRET", "s3cret")
	_, with := repo(t, shop)
	with["suite"], with["url"] = "e2e", "http://127.0.0.1:1"
	job, res := do(t, with)
	wantOutputs(t, res, map[string]any{"passed": 2, "failed": 0, "skipped": 1, "coverage": 50.0, "failures": []string{}})
	out := workertest.Text(job.Stdout)
	if !strings.Contains(out, "--- PASS: TestAdd/small") || strings.Contains(out, `"Action"`) {
		t.Errorf("shown:\n%s", out)
	}
	if !strings.Contains(out, "suite=e2e url=http://127.0.0.1:1 secret=\n") {
		t.Errorf("the tests see another environment:\n%s", out)
	}
	if notes := workertest.Text(job.Note); !strings.Contains(notes, "running go test -json") || !strings.Contains(notes, "2 passed, 0 failed, 1 skipped") {
		t.Errorf("notes:\n%s", notes)
	}
}

func TestFailedTestsAreForTheGate(t *testing.T) {
	r, with := repo(t, shop)
	with["commit"] = r.Commit("break it", map[string]string{
		"shop.go":          "package shop\n\nfunc Add(a, b int) int { return a - b }\n",
		"broken/b.go":      "package broken\n\nfunc F() { undefinedName() }\n",
		"broken/b_test.go": "package broken\n\nimport \"testing\"\n\nfunc TestF(t *testing.T) { F() }\n",
		"panics/p_test.go": "package panics\n\nimport \"testing\"\n\nfunc TestP(t *testing.T) { panic(\"oh\") }\n",
		"exits/e_test.go":  "package exits\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) { os.Exit(3) }\n",
	})
	_, res := do(t, with)
	wantOutputs(t, res, map[string]any{"passed": 0, "failed": 5, "skipped": 1, "coverage": res.Outputs["coverage"], "failures": []string{
		"shop.example.TestAdd/small", "shop.example.TestAdd", "shop.example/broken (does not compile)",
		"shop.example/exits (failed outside its tests)", "shop.example/panics.TestP"}})
}

func TestACommandOfOnesOwnPrintsGoEvents(t *testing.T) {
	r, with := repo(t, shop)
	with["commit"] = r.Commit("move", map[string]string{"sub/go.mod": "module shop.example/sub\n\ngo 1.26\n", "sub/s_test.go": "package sub\n\nimport \"testing\"\n\nfunc TestS(t *testing.T) {}\n"})
	with["directory"], with["command"] = "sub", []string{"go", "test", "-json", "./..."}
	_, res := do(t, with)
	wantOutputs(t, res, map[string]any{"passed": 1, "failed": 0, "skipped": 0, "coverage": 0.0, "failures": []string{}})
	with["command"] = []string{"go", "test", "./..."}
	_, res = do(t, with)
	wantFailure(t, res, "tests_unreadable", "-json", "ok")
}

const junit = `<testsuite name="s"><testcase name="a"/><testcase name="b"><failure/></testcase></testsuite>`

func TestJUnitFilesAreRead(t *testing.T) {
	_, with := repo(t, map[string]string{"r.xml": junit, "app/build/old.xml": "<testsuite><testcase name='stale'/></testsuite>"})
	with["report"] = "**/build/*.xml"
	with["command"] = []string{"sh", "-c", "mkdir -p web/build; cp r.xml web/build/1.xml; cp r.xml app/build/2.xml; echo testing; exit 1"}
	job, res := do(t, with)
	wantOutputs(t, res, map[string]any{"passed": 2, "failed": 2, "skipped": 0, "coverage": 0.0, "failures": []string{"s.b", "s.b"}})
	if out := workertest.Text(job.Stdout); out != "testing\n" {
		t.Errorf("shown %q", out)
	}
}

func TestWithoutAResultTheTaskFails(t *testing.T) {
	_, with := repo(t, map[string]string{"r.xml": "<testsuite><testcase name='a'/></testsuite>", "cut.xml": "<testsuite>", "r2/x.xml": "no"})
	for name, tc := range map[string]struct {
		more map[string]any
		code string
		says string
	}{
		"no command":           {nil, "no_test_command", "`command`"},
		"junit, no command":    {map[string]any{"report": "r.xml"}, "no_test_command", "`command`"},
		"no such program":      {map[string]any{"command": []string{"no-such-program"}}, "test_command_failed", "not installed"},
		"stale report":         {map[string]any{"command": []string{"true"}, "report": "r.xml"}, "tests_unreadable", "wrote no file r.xml"},
		"broken report":        {map[string]any{"command": []string{"sh", "-c", "echo '<testsuite>' >r.xml; exit 4"}, "report": "r.xml"}, "tests_unreadable", "exit code 4"},
		"one of them broken":   {map[string]any{"command": []string{"sh", "-c", "echo '<testsuite/>' >1.xml; echo oops >2.xml"}, "report": "?.xml"}, "tests_unreadable", "2.xml"},
		"a pipe for a report":  {map[string]any{"command": []string{"sh", "-c", "mkfifo p.xml"}, "report": "p.xml"}, "tests_unreadable", "no file"},
		"a link for a report":  {map[string]any{"command": []string{"ln", "-s", "/etc/passwd", "l.xml"}, "report": "l.xml"}, "tests_unreadable", "no file"},
		"fails, no test did":   {map[string]any{"command": []string{"sh", "-c", "echo '<testsuite/>' >r.xml; echo no database >&2; exit 5"}, "report": "r.xml"}, "test_command_failed", "no database"},
		"nothing printed":      {map[string]any{"command": []string{"true"}}, "tests_unreadable", "-json"},
		"unknown format":       {map[string]any{"format": "tap"}, "bad_inputs", "tap"},
		"junit without report": {map[string]any{"format": "junit"}, "bad_inputs", "`report`"},
		"go with report":       {map[string]any{"format": "go", "report": "x"}, "bad_inputs", "`report`"},
		"report outside":       {map[string]any{"report": "../*.xml"}, "bad_inputs", "inside"},
		"bad pattern":          {map[string]any{"report": "[.xml", "command": []string{"true"}}, "bad_inputs", "pattern"},
		"wrong type":           {map[string]any{"command": "go test"}, "bad_inputs", "command"},
		"no such commit":       {map[string]any{"commit": strings.Repeat("9", 40)}, "no_such_commit", "999"},
		"no such directory":    {map[string]any{"directory": "nowhere"}, "bad_source", "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			m := map[string]any{"repository": with["repository"], "commit": with["commit"]}
			maps.Copy(m, tc.more)
			_, res := do(t, m)
			wantFailure(t, res, tc.code, tc.says)
		})
	}
}

// cancelOnOutput ends a context when something has been written.
type cancelOnOutput struct {
	workertest.Output
	cancel func()
}

func (c *cancelOnOutput) Write(p []byte) (int, error) {
	defer c.cancel()
	return c.Output.Write(p)
}

func TestACancelledTestSaysWhyItEnded(t *testing.T) {
	_, with := repo(t, map[string]string{"a": "1"})
	with["command"] = []string{"sh", "-c", "echo ready; exec sleep 600"}
	for cause, outcome := range map[error]string{workers.ErrCancelled: events.Cancelled, workers.ErrTimeout: events.TimedOut} {
		ctx, cancel := context.WithCancelCause(t.Context())
		job := workertest.New(t, with)
		job.Stdout = &cancelOnOutput{cancel: func() { cancel(cause) }}
		if res := test.New(test.Options{Grace: time.Second}).Do(ctx, job); res.Outcome != outcome {
			t.Errorf("%v: outcome %s, want %s", cause, res.Outcome, outcome)
		}
	}
}

func TestTheTestsLeaveNothingOutsideTheirDirectory(t *testing.T) {
	outside := t.TempDir()
	t.Setenv("TMPDIR", outside)
	_, with := repo(t, map[string]string{"a": "1"})
	with["command"] = []string{"sh", "-c", `mktemp; echo '<testsuite/>' >r.xml`}
	with["report"] = "r.xml"
	job, res := do(t, with)
	wantOutputs(t, res, map[string]any{"passed": 0, "failed": 0, "skipped": 0, "coverage": 0.0, "failures": []string{}})
	made := strings.TrimSpace(workertest.Text(job.Stdout))
	if _, err := os.Stat(made); err != nil || !strings.HasPrefix(made, job.Dir) {
		t.Errorf("a temporary file was made at %q, outside %s (%v)", made, job.Dir, err)
	}
}
