//go:build unix

package build_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/build"
	"github.com/penstock-cd/penstock/workers/workertest"
)

const hello = "package main\n\nfunc main() { println(\"hello\") }\n"

func repo(t *testing.T, files map[string]string) (r *workertest.Repo, with map[string]any) {
	t.Helper()
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-mod=mod")
	r = workertest.NewRepo(t)
	commit := r.Commit("the change\n\nand why", files)
	return r, map[string]any{"repository": r.Dir, "commit": commit}
}

func do(t *testing.T, with map[string]any) (*workers.Job, events.Result) {
	t.Helper()
	job := workertest.New(t, with)
	return job, build.New(build.Options{}).Do(t.Context(), job)
}

func succeed(t *testing.T, with map[string]any) (*workers.Job, events.Result) {
	t.Helper()
	job, res := do(t, with)
	if res.Outcome != events.Succeeded {
		t.Fatalf("outcome %s: %v\n%s", res.Outcome, res.Error, workertest.Text(job.Stderr))
	}
	return job, res
}

func wantFailure(t *testing.T, res events.Result, code string, retryable bool, parts ...string) {
	t.Helper()
	if res.Outcome != events.Failed || res.Error == nil || res.Error.Code != code || res.Error.Retryable != retryable {
		t.Fatalf("got %s %+v, want code %s, retryable %v", res.Outcome, res.Error, code, retryable)
	}
	for _, p := range parts {
		if !strings.Contains(res.Error.Message, p) {
			t.Errorf("message %q does not mention %q", res.Error.Message, p)
		}
	}
}

func bom(t *testing.T, job *workers.Job, res events.Result) *cdx.BOM {
	t.Helper()
	doc := workertest.Content(t, job, res.Outputs["sbom"].(string))
	var b cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(doc), cdx.BOMFileFormatJSON).Decode(&b); err != nil {
		t.Fatalf("not CycloneDX: %v\n%s", err, doc)
	}
	if b.SpecVersion != cdx.SpecVersion1_6 || res.Outputs["sbomComponents"] != len(*b.Components) {
		t.Errorf("version %s, %d components, outputs %v", b.SpecVersion, len(*b.Components), res.Outputs)
	}
	return &b
}

// component finds the component with this package URL, up to its version.
func component(t *testing.T, b *cdx.BOM, purl string) cdx.Component {
	t.Helper()
	var all []string
	for _, c := range *b.Components {
		if c.PackageURL == purl || strings.HasPrefix(c.PackageURL, purl+"@") {
			return c
		}
		all = append(all, c.PackageURL)
	}
	t.Fatalf("no component %s in %q", purl, all)
	return cdx.Component{}
}

func TestAGoModuleIsBuiltFromItsCommit(t *testing.T) {
	r, with := repo(t, map[string]string{"go.mod": "module shop.example/hello/v2\n\ngo 1.26\n\nrequire shop.example/lib v1.2.3\n\nreplace shop.example/lib => ./lib\n",
		"main.go":    "package main\n\nimport \"shop.example/lib\"\n\nfunc main() { println(lib.Text) }\n",
		"lib/go.mod": "module shop.example/lib\n", "lib/lib.go": "package lib\n\nconst Text = \"hello\"\n"})
	r.Commit("not this one", map[string]string{"main.go": "broken"})
	job, res := succeed(t, with)

	binary := workertest.Content(t, job, res.Outputs["digest"].(string))
	if res.Outputs["name"] != "hello" || res.Outputs["commit"] != with["commit"] || res.Outputs["size"] != int64(len(binary)) {
		t.Errorf("outputs %v", res.Outputs)
	}
	if d, ok := res.Outputs["durationMs"].(int64); !ok || d <= 0 {
		t.Errorf("durationMs is %v", res.Outputs["durationMs"])
	}
	exe := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(exe, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(exe).CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("the artifact printed %q, %v", out, err)
	}
	want := map[string]any{"authors": []string{"ana@acme.example"}, "commits": 1, "subject": "the change", "commit": res.Outputs["commit"]}
	if diff := cmp.Diff(want, res.Facts); diff != "" {
		t.Errorf("facts (-want +got)\n%s", diff)
	}
	b := bom(t, job, res)
	if m := b.Metadata.Component; m.Name != "shop.example/hello/v2" || m.Version != with["commit"] ||
		"sha256:"+(*m.Hashes)[0].Value != res.Outputs["digest"] {
		t.Errorf("the bill is about %+v", m)
	}
	if v := component(t, b, "pkg:golang/stdlib").Version; !strings.HasPrefix(v, "1.") {
		t.Errorf("standard library %q", v)
	}
	if c := component(t, b, "pkg:golang/shop.example/lib"); c.Version != "v1.2.3" || (*c.Properties)[0].Value != "./lib" {
		t.Errorf("library %+v", c)
	}
}

func TestTheSameCommitGivesTheSameDigests(t *testing.T) {
	_, with := repo(t, map[string]string{"go.mod": "module shop.example/hello\n", "main.go": hello})
	_, one := succeed(t, with)
	_, two := succeed(t, with)
	if one.Outputs["digest"] != two.Outputs["digest"] || one.Outputs["sbom"] != two.Outputs["sbom"] {
		t.Errorf("digests differ:\n%v\n%v", one.Outputs, two.Outputs)
	}
}

func TestTheOnlyMainPackageBelowCmdIsBuilt(t *testing.T) {
	r, with := repo(t, map[string]string{"app/go.mod": "module shop.example/app\n", "app/lib.go": "package app\n", "app/cmd/serve/main.go": hello})
	with["directory"] = "app"
	if _, res := succeed(t, with); res.Outputs["name"] != "serve" {
		t.Errorf("outputs %v", res.Outputs)
	}
	with["commit"] = r.Commit("another", map[string]string{"app/cmd/other/main.go": hello})
	_, res := do(t, with)
	wantFailure(t, res, "no_build_command", false, "shop.example/app/cmd/other", "shop.example/app/cmd/serve", "`command`")
	with["commit"] = r.Commit("none", map[string]string{"app/cmd/other/main.go": "-", "app/cmd/serve/main.go": "-"})
	_, res = do(t, with)
	wantFailure(t, res, "no_build_command", false, "no main package")
}

func TestACommandOfOnesOwnMakesTheArtifact(t *testing.T) {
	t.Setenv("CLOUD_SECRET", "s3cret")
	_, with := repo(t, map[string]string{"svc/in.txt": "content", "svc/package-lock.json": `{"lockfileVersion": 3, "packages": {
		"": {"name": "svc", "version": "1.0.0"},
		"node_modules/left-pad": {"version": "1.3.0", "integrity": "sha512-xyz"},
		"node_modules/@types/node": {"version": "20.0.0", "dev": true},
		"node_modules/linked": {"resolved": "packages/linked", "link": true}}}`})
	with["directory"], with["artifact"] = "svc", "svc/dist/out.txt"
	with["command"] = []string{"sh", "-c", `mkdir dist; cp in.txt dist/out.txt; echo "made $PENSTOCK_COMMIT $CLOUD_SECRET"; echo careful >&2`}
	job, res := succeed(t, with)
	if got := workertest.Content(t, job, res.Outputs["digest"].(string)); string(got) != "content" || res.Outputs["name"] != "out.txt" {
		t.Errorf("artifact %q, outputs %v", got, res.Outputs)
	}
	if out, want := workertest.Text(job.Stdout), "made "+with["commit"].(string)+" \n"; out != want || workertest.Text(job.Stderr) != "careful\n" {
		t.Errorf("printed %q, want %q; and %q", out, want, workertest.Text(job.Stderr))
	}
	b := bom(t, job, res)
	if c := component(t, b, "pkg:npm/left-pad"); c.Version != "1.3.0" || c.Scope != "" {
		t.Errorf("component %+v", c)
	}
	if c := component(t, b, "pkg:npm/%40types/node"); c.Scope != cdx.ScopeExcluded {
		t.Errorf("component %+v", c)
	}
	if n := len(*b.Components); n != 2 {
		t.Errorf("%d components, want 2", n)
	}
}

// moduleProxy is a file: GOPROXY that has one module.
func moduleProxy(t *testing.T, path, version string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	at := filepath.Join(dir, path, "@v")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range files {
		w, err := z.Create(path + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"list": version + "\n", version + ".info": `{"Version": "` + version + `"}`,
		version + ".mod": files["go.mod"], version + ".zip": b.String()} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + dir
}

func TestTheBillListsWhatIsLinkedIntoABinary(t *testing.T) {
	_, with := repo(t, map[string]string{"go.mod": "module shop.example/hello\n\ngo 1.26\n\nrequire shop.example/lib v1.2.3\n",
		"main.go": "package main\n\nimport \"shop.example/lib\"\n\nfunc main() { println(lib.Text) }\n"})
	t.Setenv("GOPROXY", moduleProxy(t, "shop.example/lib", "v1.2.3", map[string]string{
		"go.mod": "module shop.example/lib\n", "lib.go": "package lib\n\nconst Text = \"hello\"\n"}))
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOSUMDB", "off")
	t.Setenv("GOFLAGS", "-mod=mod -modcacherw")
	job, res := succeed(t, with)
	c := component(t, bom(t, job, res), "pkg:golang/shop.example/lib")
	if c.Version != "v1.2.3" || c.Properties == nil || !strings.HasPrefix((*c.Properties)[0].Value, "h1:") {
		t.Errorf("component %+v", c)
	}
}

func TestTheBillOfASourceListsWhatItRequires(t *testing.T) {
	_, with := repo(t, map[string]string{"go.mod": `module shop.example/x
require (
	shop.example/a v1.0.0
	shop.example/b v2.0.0+incompatible
)
replace shop.example/a => shop.example/fork v1.1.0
`})
	with["command"], with["artifact"] = []string{"tar", "cf", "x.tar", "go.mod"}, "x.tar"
	job, res := succeed(t, with)
	b := bom(t, job, res)
	if c := component(t, b, "pkg:golang/shop.example/fork"); c.Version != "v1.1.0" || (*c.Properties)[0].Value != "shop.example/a@v1.0.0" {
		t.Errorf("component %+v", c)
	}
	component(t, b, "pkg:golang/shop.example/b")
}

func TestMakeIsRunWhereThereIsAMakefile(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("needs make")
	}
	_, with := repo(t, map[string]string{"Makefile": "all:\n\techo made >out\n"})
	_, res := do(t, with)
	wantFailure(t, res, "bad_inputs", false, "`artifact`", "`make`")
	with["artifact"] = "out"
	job, res := succeed(t, with)
	if got := workertest.Content(t, job, res.Outputs["digest"].(string)); string(got) != "made\n" {
		t.Errorf("artifact %q", got)
	}
}

func TestAFailedBuildShowsTheLastLines(t *testing.T) {
	_, with := repo(t, map[string]string{"go.mod": "module shop.example/hello\n", "main.go": "package main\n\nfunc main() { undefinedName() }\n"})
	job, res := do(t, with)
	wantFailure(t, res, "build_failed", false, "exit code 1", "undefined: undefinedName")
	if !strings.Contains(workertest.Text(job.Stderr), "undefinedName") {
		t.Errorf("stderr %q", workertest.Text(job.Stderr))
	}
	if res.Facts["authors"] == nil {
		t.Error("the authors of a commit that does not build are not told")
	}
	_, broken := repo(t, map[string]string{"go.mod": "this is no module file\n"})
	_, res = do(t, broken)
	wantFailure(t, res, "build_failed", false, "go.mod")
}

func TestWhatCannotBeBuiltIsSaid(t *testing.T) {
	r, with := repo(t, map[string]string{"readme": "hi"})
	change := func(more map[string]any) map[string]any {
		m := map[string]any{}
		for _, from := range []map[string]any{with, more} {
			maps.Copy(m, from)
		}
		return m
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(r.Dir, "escape")); err != nil {
		t.Fatal(err)
	}
	r.Commit("a link", nil)
	for name, tc := range map[string]struct {
		with map[string]any
		code string
		says string
	}{
		"nothing known":    {with, "no_build_command", "`command`"},
		"no artifact told": {change(map[string]any{"command": []string{"true"}}), "bad_inputs", "`artifact`"},
		"artifact outside": {change(map[string]any{"command": []string{"true"}, "artifact": "../x"}), "bad_inputs", "inside"},
		"artifact linked":  {change(map[string]any{"command": []string{"true"}, "artifact": "escape", "commit": "main"}), "no_artifact", "escape"},
		"artifact absent":  {change(map[string]any{"command": []string{"true"}, "artifact": "x"}), "no_artifact", "x"},
		"a directory":      {change(map[string]any{"command": []string{"mkdir", "x"}, "artifact": "x"}), "no_artifact", "not a file"},
		"wrong type":       {change(map[string]any{"command": "make all"}), "bad_inputs", "command"},
		"no such program":  {change(map[string]any{"command": []string{"no-such-program"}, "artifact": "x"}), "build_failed", "not installed"},
		"no such commit":   {change(map[string]any{"commit": strings.Repeat("9", 40)}), "no_such_commit", "999"},
		"no directory":     {change(map[string]any{"directory": "x"}), "bad_source", "x"},
		"no repository":    {map[string]any{"repository": "/no/such", "commit": "main"}, "clone_failed", "/no/such"},
	} {
		t.Run(name, func(t *testing.T) {
			_, res := do(t, tc.with)
			wantFailure(t, res, tc.code, false, tc.says)
		})
	}
}

type brokenStore struct{ workers.Artifacts }

func (brokenStore) Put(context.Context, string, io.Reader) (string, int64, error) {
	return "", 0, errors.New("the disk is full")
}

func TestAStoreThatFailsMayBeTriedAgain(t *testing.T) {
	_, with := repo(t, map[string]string{"a": "1"})
	with["command"], with["artifact"] = []string{"true"}, "a"
	job := workertest.New(t, with)
	job.Artifacts = brokenStore{}
	wantFailure(t, build.New(build.Options{}).Do(t.Context(), job), "store_failed", true, "the disk is full")
}

func TestUnknownAuthorsAreLeftOut(t *testing.T) {
	_, with := repo(t, map[string]string{"a": "1"})
	with["command"], with["artifact"], with["since"] = []string{"true"}, "a", strings.Repeat("8", 40)
	_, res := succeed(t, with)
	if authors, known := res.Facts["authors"]; known {
		t.Errorf("authors are said to be %v", authors)
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

func TestACancelledBuildSaysWhyItEnded(t *testing.T) {
	_, with := repo(t, map[string]string{"a": "1"})
	with["command"], with["artifact"] = []string{"sh", "-c", "echo ready; exec sleep 600"}, "a"
	for cause, outcome := range map[error]string{workers.ErrCancelled: events.Cancelled, workers.ErrTimeout: events.TimedOut} {
		ctx, cancel := context.WithCancelCause(t.Context())
		job := workertest.New(t, with)
		job.Stdout = &cancelOnOutput{cancel: func() { cancel(cause) }}
		if res := build.New(build.Options{Grace: time.Second}).Do(ctx, job); res.Outcome != outcome {
			t.Errorf("%v: outcome %s, want %s", cause, res.Outcome, outcome)
		}
	}
}
