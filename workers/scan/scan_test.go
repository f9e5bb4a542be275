package scan_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/scan"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// repository is a git repository with these files in one commit.
func repository(t *testing.T, files map[string]string) (dir, commit string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "init", "--quiet")
	git(t, dir, "add", "--all")
	git(t, dir, "-c", "user.name=ana", "-c", "user.email=ana@acme.example", "commit", "--quiet", "--allow-empty", "-m", "first")
	return dir, strings.TrimSpace(git(t, dir, "rev-parse", "HEAD"))
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// install puts a shell script named like a tool in front of PATH.
func install(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "reports", name+".sarif"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func do(t *testing.T, opts scan.Options, with map[string]any) (events.Result, *workers.Job) {
	t.Helper()
	job := workertest.New(t, with)
	return scan.New(opts).Do(t.Context(), job), job
}

// found are the findings of a scan that ran, as "severity rule location package@version→fixed".
func found(t *testing.T, r events.Result) []string {
	t.Helper()
	if r.Outcome != events.Succeeded {
		t.Fatalf("outcome %s: %v", r.Outcome, r.Error)
	}
	var list []string
	for _, f := range r.Outputs["findings"].([]any) {
		f := f.(map[string]any)
		text := f["severity"].(string) + " " + f["rule"].(string) + " " + f["location"].(string)
		if f["package"] != "" {
			text += " " + f["package"].(string) + "@" + f["version"].(string)
		}
		if f["fixed"] != "" {
			text += "→" + f["fixed"].(string)
		}
		list = append(list, strings.TrimSpace(text))
	}
	return list
}

func wantFailure(t *testing.T, r events.Result, code, word string) {
	t.Helper()
	if r.Outcome != events.Failed || r.Error == nil || r.Error.Code != code || !strings.Contains(r.Error.Message, word) {
		t.Fatalf("outcome %s, error %v; want failed with code %s and the word %q", r.Outcome, r.Error, code, word)
	}
}

// writeReport is a script that copies a recorded report to the argument after flag.
func writeReport(report, flag string, exit string) string {
	return `while [ $# -gt 0 ]; do [ "$1" = ` + flag + ` ] && cp ` + report + ` "$2"; shift; done; exit ` + exit + "\n"
}

func TestTheReportOfEachToolIsUnderstood(t *testing.T) {
	dir, commit := repository(t, map[string]string{"go.mod": "module a.example/m\n"})
	for _, c := range []struct {
		tool, script string
		want         []string
	}{
		{"gitleaks", writeReport(recorded(t, "gitleaks"), "--report-path", "0"), []string{
			"high generic-api-key deploy/settings.env:12",
			"high private-key keys/old.pem:1",
		}},
		{"trivy", writeReport(recorded(t, "trivy"), "--output", "0"), []string{
			"critical CVE-2024-0001 go.mod:11 example.com/sample@v1.2.3→1.2.4",
			"high CVE-2023-44487 go.mod:9 golang.org/x/net@v0.10.0→0.17.0",
			"low CVE-2024-0002 go.mod:10 example.com/quiet@v1.0.0",
		}},
		{"grype", writeReport(recorded(t, "grype"), "--file", "0"), []string{
			"medium GHSA-aaaa-bbbb-cccc-golang.org/x/text /go.mod:1 golang.org/x/text@v0.3.0→0.3.3",
		}},
		// exits with 1 when it has findings, and names files by absolute address
		{"osv-scanner", `for last; do :; done; sed "s#/src#$last#" ` + recorded(t, "osv-scanner") + "; exit 1\n", []string{
			"medium CVE-2021-38561 go.mod golang.org/x/text@0.3.0",
		}},
		// exits with 0 although it has findings
		{"govulncheck", "cat " + recorded(t, "govulncheck") + "\n", []string{
			"high GO-2021-0113 go.mod:1 golang.org/x/text/language@",
			"medium GO-2022-1059 go.mod:1 golang.org/x/text/language@",
			"low GO-2020-0015 go.mod:1 golang.org/x/text@",
		}},
	} {
		t.Run(c.tool, func(t *testing.T) {
			install(t, c.tool, c.script)
			r, job := do(t, scan.Options{}, map[string]any{"repository": dir, "commit": commit, "tools": []string{c.tool}})
			if diff := cmp.Diff(found(t, r), c.want); diff != "" {
				t.Errorf("findings (-got +want):\n%s", diff)
			}
			if r.Outputs["total"] != len(c.want) || !slices.Equal(r.Outputs["tools"].([]string), []string{c.tool}) {
				t.Errorf("total %v, tools %v", r.Outputs["total"], r.Outputs["tools"])
			}
			if log := workertest.Text(job.Note); !strings.Contains(log, "sarif") {
				t.Errorf("the log does not show the command: %q", log)
			}
		})
	}
}

func TestToolsAreToldToStayOffline(t *testing.T) {
	dir, commit := repository(t, nil)
	for tool, want := range map[string]string{"trivy": "--offline-scan", "osv-scanner": "--offline", "grype": "GRYPE_DB_AUTO_UPDATE=false"} {
		install(t, tool, `echo "$@" >&2; env >&2; exit 9`)
		_, job := do(t, scan.Options{Offline: true}, map[string]any{"repository": dir, "commit": commit, "tools": []string{tool}})
		if got := workertest.Text(job.Stderr); !strings.Contains(got, want) {
			t.Errorf("%s was not told %s: %s", tool, want, got)
		}
	}
}

func TestARequestThatCannotBeReliedOnFails(t *testing.T) {
	dir, _ := repository(t, map[string]string{
		"empty.sarif":  "",
		"broken.sarif": `{"version":"2.1.0","runs":[{"results":[{"ruleId":`,
		"other.json":   `{"hello":"world"}`,
		"died.sarif":   `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"invocations":[{"executionSuccessful":false,"toolExecutionNotifications":[{"level":"error","message":{"text":"out of memory"}}]}],"results":[]}]}`,
		"typed.sarif":  `{"version":"2.1.0","runs":[{"results":[{"ruleId":7}]}]}`,
	})
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link.sarif")); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", "--all")
	git(t, dir, "-c", "user.name=a", "-c", "user.email=a@x.example", "commit", "--quiet", "-m", "link")
	commit := strings.TrimSpace(git(t, dir, "rev-parse", "HEAD"))
	install(t, "gitleaks", "echo cannot open the folder >&2; exit 1\n")
	install(t, "trivy", "exit 0\n")
	install(t, "grype", writeReport(recorded(t, "grype"), "--file", "0")+"\n")
	install(t, "govulncheck", "kill -9 $$\n")
	source := map[string]any{"repository": dir, "commit": commit}
	for _, c := range []struct {
		with map[string]any
		code string
		word string
	}{
		{map[string]any{}, "bad_inputs", "nothing to scan"},
		{map[string]any{"repository": dir}, "bad_inputs", "commit"},
		{map[string]any{"artifact": "app:latest"}, "bad_inputs", "digest"},
		{map[string]any{"tools": []string{"nmap"}}, "bad_inputs", "nmap"},
		{map[string]any{"tools": "builtin"}, "bad_inputs", "list"},
		{map[string]any{"commit": "0123456789012345678901234567890123456789"}, "no_such_commit", "0123"},
		{map[string]any{"artifact": "sha256:" + strings.Repeat("0", 64)}, "artifact_missing", "sha256:0"},
		{map[string]any{"tools": []string{"gitleaks"}}, "tool_failed", "cannot open the folder"},
		{map[string]any{"tools": []string{"trivy"}}, "report_unreadable", "no report"},
		{map[string]any{"tools": []string{"govulncheck"}}, "tool_failed", "signal"},
		{map[string]any{"tools": []string{"osv-scanner"}}, "tool_missing", "osv-scanner is not installed"},
		{map[string]any{"sarif": "missing.sarif"}, "report_unreadable", "missing.sarif"},
		{map[string]any{"sarif": "../../etc/passwd"}, "report_unreadable", "out of the checkout"},
		{map[string]any{"sarif": "link.sarif"}, "report_unreadable", "out of the checkout"},
		{map[string]any{"sarif": "empty.sarif"}, "report_unreadable", "empty"},
		{map[string]any{"sarif": "broken.sarif"}, "report_unreadable", "not SARIF"},
		{map[string]any{"sarif": "other.json"}, "report_unreadable", "not SARIF"},
		{map[string]any{"sarif": "typed.sarif"}, "report_unreadable", "ruleId"},
		{map[string]any{"sarif": "died.sarif"}, "report_unreadable", "out of memory"},
	} {
		with := map[string]any{}
		if len(c.with) > 0 && c.with["repository"] == nil && c.word != "digest" {
			with = map[string]any{"repository": source["repository"], "commit": source["commit"]}
		}
		for k, v := range c.with {
			with[k] = v
		}
		if c.code == "tool_missing" {
			if _, err := exec.LookPath("osv-scanner"); err == nil {
				continue
			}
		}
		r, _ := do(t, scan.Options{}, with)
		wantFailure(t, r, c.code, c.word)
	}
}

func TestAnythingThatWritesSARIFIsRead(t *testing.T) {
	report, err := os.ReadFile(recorded(t, "other"))
	if err != nil {
		t.Fatal(err)
	}
	dir, commit := repository(t, map[string]string{"out/lint.sarif": "\ufeff" + string(report)})
	r, _ := do(t, scan.Options{}, map[string]any{"repository": dir, "commit": commit, "sarif": "out/lint.sarif"})
	want := []string{
		"critical A3",
		"high A1",
		"high A1/sub /src/cmd/a b.go:7",
		"high B1",
		"medium Z9",
		"low A2 pkg.Type.Func",
	}
	if diff := cmp.Diff(found(t, r), want); diff != "" {
		t.Errorf("findings (-got +want):\n%s", diff)
	}
	last := r.Outputs["findings"].([]any)[5].(map[string]any)
	if last["title"] != "name is too long by 3" || last["tool"] != "acmelint" {
		t.Errorf("title %q of tool %q; want the message with its arguments, and the tool's own name", last["title"], last["tool"])
	}
}

func TestTheMergedReportHoldsEveryFindingAndReadsBack(t *testing.T) {
	many := map[string]string{}
	for i := range 250 { // more than the outputs list
		many[filepath.Join("keys", string(rune('a'+i%26)), strings.Repeat("k", i/26+1)+".env")] = "id = " + awsKey + "\n"
	}
	dir, commit := repository(t, many)
	install(t, "trivy", writeReport(recorded(t, "trivy"), "--output", "0"))
	r, job := do(t, scan.Options{}, map[string]any{"repository": dir, "commit": commit, "tools": []string{"trivy", "builtin"}})
	if n := len(found(t, r)); n != 200 || r.Outputs["total"] != 253 || r.Outputs["critical"] != 1 || r.Outputs["high"] != 251 || r.Outputs["low"] != 1 {
		t.Fatalf("%d listed, outputs %v %v %v %v; want 200 listed, total 253, 1 critical, 251 high, 1 low", n,
			r.Outputs["total"], r.Outputs["critical"], r.Outputs["high"], r.Outputs["low"])
	}
	report := workertest.Content(t, job, r.Outputs["report"].(string))
	again, commit := repository(t, map[string]string{"merged.sarif": string(report)})
	back, _ := do(t, scan.Options{}, map[string]any{"repository": again, "commit": commit, "sarif": "merged.sarif"})
	if diff := cmp.Diff(found(t, back), found(t, r), cmp.Transformer("rules", withoutPackage)); diff != "" {
		t.Errorf("the report read back (-got +want):\n%s", diff)
	}
}

// withoutPackage drops what SARIF has no place for.
func withoutPackage(list []string) (out []string) {
	for _, l := range list {
		f := strings.Fields(l)
		out = append(out, strings.Join(f[:min(3, len(f))], " "))
	}
	return out
}

func TestTwoScansOfTheSameGiveTheSame(t *testing.T) {
	dir, commit := repository(t, map[string]string{"a.env": awsKey, "b/c.env": "x\n" + awsKey})
	install(t, "trivy", writeReport(recorded(t, "trivy"), "--output", "0"))
	with := map[string]any{"repository": dir, "commit": commit, "tools": []string{"trivy", "builtin", "trivy"}}
	first, _ := do(t, scan.Options{}, with)
	second, _ := do(t, scan.Options{}, with)
	if diff := cmp.Diff(first, second); diff != "" || first.Outcome != events.Succeeded {
		t.Errorf("outcome %s, results differ:\n%s", first.Outcome, diff)
	}
}

func TestAFingerprintOutlivesAMovedLine(t *testing.T) {
	prints := func(content string) (list []any) {
		dir, commit := repository(t, map[string]string{"a.env": content})
		r, _ := do(t, scan.Options{}, map[string]any{"repository": dir, "commit": commit})
		found(t, r)
		for _, f := range r.Outputs["findings"].([]any) {
			list = append(list, f.(map[string]any)["fingerprint"])
		}
		return list
	}
	before, after := prints(awsKey+"\n"+awsKey+"\n"), prints("# a comment\n\n"+awsKey+"\n\n"+awsKey+"\n")
	if diff := cmp.Diff(before, after); diff != "" || len(before) != 2 || before[0] == before[1] {
		t.Errorf("fingerprints %v and %v; want the same two, different from each other", before, after)
	}
}

func TestCancelStopsTheTool(t *testing.T) {
	dir, commit := repository(t, nil)
	started := filepath.Join(t.TempDir(), "started")
	install(t, "trivy", "mkfifo "+started+".pipe; : > "+started+"; read x < "+started+".pipe\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	job := workertest.New(t, map[string]any{"repository": dir, "commit": commit, "tools": []string{"trivy"}})
	done := make(chan events.Result, 1)
	go func() { done <- scan.New(scan.Options{}).Do(ctx, job) }()
	for range watch(t, started) {
	}
	cancel(workers.ErrCancelled)
	if r := <-done; r.Outcome != events.Cancelled {
		t.Errorf("outcome %s, error %v; want cancelled", r.Outcome, r.Error)
	}
}

func TestTheRealToolsAreUnderstood(t *testing.T) {
	dir, commit := repository(t, map[string]string{"go.mod": "module a.example/m\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() {}\n",
		"deploy.env": "TOKEN=" + githubToken + "\n"})
	for _, tool := range []string{"gitleaks", "trivy", "grype", "osv-scanner", "govulncheck"} {
		t.Run(tool, func(t *testing.T) {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("%s is not on PATH: its adapter is tested on a recorded report only", tool)
			}
			job := workertest.New(t, map[string]any{"repository": dir, "commit": commit, "tools": []string{tool}})
			if tool == "govulncheck" {
				binary, _ := goBinary(t)
				job.With["database"] = goDatabase(t)
				job.With["artifact"] = workertest.Store(t, job, "app", read(t, binary))
			}
			r := scan.New(scan.Options{}).Do(t.Context(), job)
			if r.Error != nil && r.Error.Code == "tool_failed" && (tool == "trivy" || tool == "grype" || tool == "osv-scanner") {
				t.Skipf("%s has no vulnerability database here: %v", tool, r.Error)
			}
			list := found(t, r)
			if tool == "gitleaks" && (len(list) == 0 || !strings.Contains(list[0], "deploy.env:1")) {
				t.Errorf("findings %q, want the token in deploy.env", list)
			}
			if tool == "govulncheck" && (len(list) != 1 || !strings.Contains(list[0], "GO-2026-9001 artifact")) {
				t.Errorf("findings %q, want GO-2026-9001 in the artifact", list)
			}
			if strings.Contains(workertest.Text(job.Stdout), githubToken) {
				t.Error("the log shows the secret")
			}
		})
	}
}

// goDatabase is a database in the layout that govulncheck asks for.
func goDatabase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, v any) {
		p, err := json.Marshal(v)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), p, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const at = "2026-01-01T00:00:00Z"
	write("index/db.json", map[string]any{"modified": at})
	write("index/modules.json", []any{map[string]any{"path": "example.com/sample", "vulns": []any{map[string]any{"id": "GO-2026-9001", "modified": at, "fixed": "1.2.4"}}}})
	write("index/vulns.json", []any{map[string]any{"id": "GO-2026-9001", "modified": at}})
	write("ID/GO-2026-9001.json", map[string]any{"schema_version": "1.3.1", "id": "GO-2026-9001", "modified": at, "published": at, "summary": "Sample runs what it is given",
		"affected": []any{map[string]any{"package": map[string]any{"name": "example.com/sample", "ecosystem": "Go"},
			"ranges":             []any{map[string]any{"type": "SEMVER", "events": []any{map[string]any{"introduced": "0"}, map[string]any{"fixed": "1.2.4"}}}},
			"ecosystem_specific": map[string]any{"imports": []any{map[string]any{"path": "example.com/sample", "symbols": []any{"Run"}}}}}}})
	return dir
}
