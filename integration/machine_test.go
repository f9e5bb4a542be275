package integration_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// missing says that this machine lacks what a test needs: the test is skipped,
// and fails where $PENSTOCK_REQUIRE names it.
func missing(t testing.TB, what, why string) {
	t.Helper()
	required := strings.Split(os.Getenv("PENSTOCK_REQUIRE"), ",")
	if slices.Contains(required, what) {
		t.Fatalf("%s is required by PENSTOCK_REQUIRE: %s", what, why)
	}
	t.Skipf("needs %s: %s", what, why)
}

// repository is the top of the checkout.
func repository(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("the tests run in their folder of the repository: %v", err)
	}
	return dir
}

// output runs a program in dir and gives what it prints.
func output(t testing.TB, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String()
}

// buildPenstock builds the binary once for all tests of this run, as it is
// built for images.
var buildPenstock = sync.OnceValues(func() (string, error) { return buildStatic("./cmd/penstock") })

// buildNATS builds the NATS server of the version in go.mod.
var buildNATS = sync.OnceValues(func() (string, error) { return buildStatic("github.com/nats-io/nats-server/v2") })

func buildStatic(pkg string) (string, error) {
	dir, err := os.MkdirTemp("", "penstock-build-")
	if err != nil {
		return "", err
	}
	builds.mu.Lock()
	builds.dirs = append(builds.dirs, dir)
	builds.mu.Unlock()
	path := filepath.Join(dir, "binary")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-tags=timetzdata", "-o", path, pkg)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &buildError{pkg, string(out), err}
	}
	return path, nil
}

var builds struct {
	mu   sync.Mutex
	dirs []string
}

type buildError struct {
	pkg, out string
	err      error
}

func (e *buildError) Error() string { return "build " + e.pkg + ": " + e.err.Error() + "\n" + e.out }

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range builds.dirs {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// penstock is the path of a freshly built binary.
func penstock(t testing.TB) string {
	t.Helper()
	path, err := buildPenstock()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
