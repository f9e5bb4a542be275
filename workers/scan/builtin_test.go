package scan_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/penstock-cd/penstock/workers/scan"
	"github.com/penstock-cd/penstock/workers/workertest"
	xmodule "golang.org/x/mod/module"
	xzip "golang.org/x/mod/zip"
)

// Secrets for tests are put together here, so that no scanner takes this file
// for a leak.
var (
	awsKey      = "AKIA" + "2345672345672345"
	githubToken = "ghp_" + "x7Kq2mPz9LwR4tYb8NcV1sDf6GhJ3aQeU5Zo"
	slackToken  = "xoxb-" + "123456789012-" + "abcdefghijklmnopqrstuvwx"
	pemHead     = "-----BEGIN RSA " + "PRIVATE KEY-----"
	pemBody     = strings.Repeat("MIIEpAIBAAKCAQEA", 4)
)

// watch waits until path exists; it yields while it does not.
func watch(t *testing.T, path string) func(func(int) bool) {
	return func(yield func(int) bool) {
		deadline := time.Now().Add(time.Minute)
		for i := 0; ; i++ {
			if _, err := os.Stat(path); err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s did not appear", path)
			}
			if !yield(i) {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

const mit = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software
The above copyright notice and this permission notice shall be included in all copies`

const agpl = `GNU AFFERO GENERAL PUBLIC LICENSE
                       Version 3, 19 November 2007`

// goBinary builds a program that uses example.com/sample v1.2.3 (AGPL) and
// example.com/other v0.9.0 (MIT), from a module proxy of files, and gives the
// path of the binary and the module cache.
func goBinary(t *testing.T) (binary, cache string) {
	t.Helper()
	proxy, src := t.TempDir(), t.TempDir()
	cache = t.TempDir()
	for _, m := range []struct{ path, version, licence string }{{"example.com/sample", "v1.2.3", agpl}, {"example.com/other", "v0.9.0", mit}} {
		serve(t, proxy, m.path, m.version, map[string]string{
			"go.mod": "module " + m.path + "\n\ngo 1.24\n", "LICENSE": m.licence, "m.go": "package m\n\nfunc Run() {}\n"})
	}
	write(t, src, map[string]string{
		"go.mod":  "module a.example/app\n\ngo 1.24\n\nrequire (\n\texample.com/sample v1.2.3\n\texample.com/other v0.9.0\n)\n",
		"main.go": "package main\n\nimport (\n\to \"example.com/other\"\n\ts \"example.com/sample\"\n)\n\nfunc main() { o.Run(); s.Run() }\n",
	})
	binary = filepath.Join(t.TempDir(), "app")
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOPROXY=file://"+filepath.ToSlash(proxy), "GOSUMDB=off", "GOMODCACHE="+cache, "GOFLAGS=-mod=mod -modcacherw",
		"GONOPROXY=", "GOPRIVATE=", "GOWORK=off", "CGO_ENABLED=0", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary, cache
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// serve adds a version of a module to a proxy of files.
func serve(t *testing.T, proxy, path, version string, files map[string]string) {
	t.Helper()
	src, at := t.TempDir(), path+"/@v/"
	write(t, src, files)
	write(t, proxy, map[string]string{at + "list": version + "\n", at + version + ".mod": files["go.mod"],
		at + version + ".info": `{"Version":"` + version + `","Time":"2026-01-01T00:00:00Z"}`})
	f, err := os.Create(filepath.Join(proxy, at, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := xzip.CreateFromDir(f, xmodule.Version{Path: path, Version: version}, src); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// osv is an entry of a database about example.com/sample, with more fields.
func osv(id, more, events string) string {
	return `{"id":"` + id + `","summary":"Summary of ` + id + `","affected":[{"package":{"ecosystem":"Go","name":"example.com/sample"},
"ranges":[{"type":"SEMVER","events":[` + events + `]}]}]` + more + `}`
}

func TestABinarysModulesAreMatchedWithTheDatabase(t *testing.T) {
	binary, cache := goBinary(t)
	db := t.TempDir()
	write(t, db, map[string]string{
		"a/GO-2026-0001.json": osv("GO-2026-0001", `,"aliases":["CVE-2026-1"]`, `{"introduced":"0"},{"fixed":"1.2.4"}`),
		// the same vulnerability from another collection, which rates it
		"b/GHSA-1.json": osv("GHSA-1", `,"aliases":["CVE-2026-1"],"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]`,
			`{"introduced":"1.0.0"},{"fixed":"1.2.5"}`),
		"word.json":    osv("GO-2026-0002", `,"severity":[{"type":"CVSS_V4","score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N"}],"database_specific":{"severity":"MODERATE"}`, `{"introduced":"1.2.3"}`),
		"unrated.json": osv("GO-2026-0003", "", `{"introduced":"0"},{"last_affected":"1.2.3"}`),
		"std.json": `{"id":"GO-2026-0004","affected":[{"package":{"ecosystem":"Go","name":"stdlib"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"99.0.0"}]}]}],
"database_specific":{"severity":"LOW","url":"https://pkg.go.dev/vuln/GO-2026-0004"}}`,
		"withdrawn.json":   osv("GO-2026-0005", `,"withdrawn":"2026-02-01T00:00:00Z"`, `{"introduced":"0"}`),
		"fixed.json":       osv("GO-2026-0006", "", `{"introduced":"0"},{"fixed":"1.2.3"}`),
		"later.json":       osv("GO-2026-0007", "", `{"introduced":"1.3.0"}`),
		"last.json":        osv("GO-2026-0008", "", `{"introduced":"0"},{"last_affected":"1.2.2"}`),
		"npm.json":         strings.ReplaceAll(osv("GHSA-npm", "", `{"introduced":"0"}`), `"Go"`, `"npm"`),
		"index/vulns.json": `[{"id":"GO-2026-0001"}]`,
	})
	job := workertest.New(t, nil)
	job.With = map[string]any{"artifact": workertest.Store(t, job, "app", read(t, binary)), "database": db, "licences": []any{"AGPL-3.0-or-later"}}
	r := scan.New(scan.Options{ModuleCache: cache}).Do(t.Context(), job)
	want := []string{
		"critical GO-2026-0001 artifact example.com/sample@v1.2.3→v1.2.4",
		"high GO-2026-0003 artifact example.com/sample@v1.2.3",
		"high licence-denied/AGPL-3.0 artifact example.com/sample@v1.2.3",
		"medium GO-2026-0002 artifact example.com/sample@v1.2.3",
		"low GO-2026-0004 artifact stdlib@GO→v99.0.0",
	}
	got := found(t, r)
	for i := range got { // the Go version is that of the machine
		if head, tail, ok := strings.Cut(got[i], "stdlib@v"); ok {
			_, fix, _ := strings.Cut(tail, "→")
			got[i] = head + "stdlib@GO→" + fix
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("findings (-got +want):\n%s", diff)
	}
	if log := workertest.Text(job.Stdout); !strings.Contains(log, "module a.example/app") || !strings.Contains(log, "2 modules") {
		t.Errorf("the log does not tell the facts: %q", log)
	}
}

func TestWhatWasNotCheckedIsAFinding(t *testing.T) {
	binary, _ := goBinary(t)
	job := workertest.New(t, nil)
	job.With = map[string]any{"artifact": workertest.Store(t, job, "app", read(t, binary)), "licences": []any{"GPL-3.0"}}
	r := scan.New(scan.Options{ModuleCache: t.TempDir()}).Do(t.Context(), job)
	if diff := cmp.Diff(found(t, r), []string{"low licence-unchecked artifact", "low no-database artifact"}); diff != "" {
		t.Errorf("findings (-got +want):\n%s", diff)
	}
}

func TestAnArtifactThatIsNoGoBinaryIsNotClean(t *testing.T) {
	job := workertest.New(t, nil)
	job.With = map[string]any{"artifact": workertest.Store(t, job, "x", []byte("#!/bin/sh\n"))}
	r := scan.New(scan.Options{}).Do(t.Context(), job)
	wantFailure(t, r, "artifact_unreadable", "not a Go binary")
}

func TestABrokenDatabaseIsNotClean(t *testing.T) {
	dir, commit := repository(t, map[string]string{"go.mod": "module a.example/m\n", "db/x.json": `{"id":`, "none/readme.txt": "", "noid/x.json": `{"a":1}`})
	for path, word := range map[string]string{"db": "x.json", "none": "no .json", "noid": "no id", "missing": "not in the checkout", "../..": "out of the checkout", "/does/not/exist": "no such file"} {
		r, _ := do(t, scan.Options{}, map[string]any{"repository": dir, "commit": commit, "database": path})
		wantFailure(t, r, "database_unreadable", word)
	}
}

func TestTheFactsOfABinaryAreCompared(t *testing.T) {
	dir, commit := repository(t, map[string]string{"go.mod": "module a.example/app\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() {}\n"})
	write(t, dir, map[string]string{"main.go": "package main\n\nfunc main() { println() }\n"})
	binary := filepath.Join(t.TempDir(), "app")
	cmd := exec.Command("go", "build", "-buildvcs=true", "-o", binary, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, c := range []struct {
		commit string
		want   []string
	}{
		{commit, []string{"medium uncommitted-changes artifact", "low no-database artifact"}},
		{strings.Repeat("0", 40), []string{"high other-commit artifact", "medium uncommitted-changes artifact", "low no-database artifact"}},
	} {
		job := workertest.New(t, nil)
		job.With = map[string]any{"artifact": workertest.Store(t, job, "app", read(t, binary)), "commit": c.commit}
		if diff := cmp.Diff(found(t, scan.New(scan.Options{}).Do(t.Context(), job)), c.want); diff != "" {
			t.Errorf("built from %s, asked for %s (-got +want):\n%s", commit, c.commit, diff)
		}
	}
}

func TestWithoutAnArtifactTheRequirementsAreChecked(t *testing.T) {
	dir, commit := repository(t, map[string]string{
		"go.mod": "module a.example/m\n\ngo 1.24\n\nrequire (\n\texample.com/sample v1.2.3\n\texample.com/fork v1.0.0\n\texample.com/near v1.0.0 // indirect\n)\n\n" +
			"replace example.com/fork => example.com/sample v1.1.0\n\nreplace example.com/near => ./near\n",
		"near/LICENSE":                      agpl,
		"vendor/example.com/sample/LICENSE": mit,
		"db/x.json":                         osv("GO-2026-0001", `,"database_specific":{"severity":"CRITICAL"}`, `{"introduced":"0"},{"fixed":"1.2.0"}`),
	})
	r, _ := do(t, scan.Options{ModuleCache: t.TempDir()}, map[string]any{"repository": dir, "commit": commit, "database": "db", "licences": []string{"agpl-3.0"}})
	want := []string{
		"critical GO-2026-0001 go.mod example.com/sample@v1.1.0→v1.2.0",
		"high licence-denied/AGPL-3.0 go.mod example.com/near@",
		"low local-module go.mod",
	}
	if diff := cmp.Diff(found(t, r), want); diff != "" {
		t.Errorf("findings (-got +want):\n%s", diff)
	}
}

func TestSecretsInTheSourceAreFoundAndNotShown(t *testing.T) {
	dir, commit := repository(t, map[string]string{
		"key.pem":    pemHead + "\n" + pemBody + "\n",
		"one.go":     "k := `" + strings.ReplaceAll(pemHead, "RSA ", "") + `\n` + pemBody + "`\n",
		"a.env":      "x=1\nID=" + awsKey + "\nTOKEN=" + githubToken + "\n",
		"b.env":      "slack: " + slackToken,
		"c.env":      "url: https://hooks." + "slack.com/services/T12345678/B12345678/abcdefghijklmnopqrstuvwx",
		"allowed.go": "// penstock:allow-secret: a test's\nid := \"" + awsKey + "\"\nid2 := \"" + awsKey + "\" // penstock:allow-secret\n",
		"doc.md":     "A key begins with `" + pemHead + "`, an id looks like AKIA" + "IOSFODNN7EXAMPLE.\n",
		"bin.dat":    "\x00" + awsKey,
		"weak.env":   `password = "hunter2hunter2hunter2"`,
	})
	r, job := do(t, scan.Options{}, map[string]any{"repository": dir, "commit": commit})
	want := []string{
		"high aws-access-key a.env:2",
		"high github-token a.env:3",
		"high private-key key.pem:1",
		"high private-key one.go:1",
		"high slack-token b.env:1",
		"high slack-webhook c.env:1",
	}
	if diff := cmp.Diff(found(t, r), want); diff != "" {
		t.Errorf("findings (-got +want):\n%s", diff)
	}
	report := string(workertest.Content(t, job, r.Outputs["report"].(string)))
	all := report + workertest.Text(job.Note) + workertest.Text(job.Stdout)
	for _, f := range r.Outputs["findings"].([]any) {
		all += f.(map[string]any)["title"].(string)
	}
	for _, secret := range []string{awsKey[4:], githubToken[4:], slackToken[5:], pemBody, "B12345678"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is shown", secret)
		}
	}
}
