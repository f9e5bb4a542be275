package integration_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
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
var buildPenstock = sync.OnceValues(func() (string, error) { return buildStatic("linux", "./cmd/penstock") })

// buildNATS builds the NATS server of the version in go.mod.
var buildNATS = sync.OnceValues(func() (string, error) { return buildStatic("linux", "github.com/nats-io/nats-server/v2") })

// buildHere builds the binary for a host that is not what images are for.
var buildHere = sync.OnceValues(func() (string, error) { return buildStatic(runtime.GOOS, "./cmd/penstock") })

func buildStatic(system, pkg string) (string, error) {
	dir, err := temporary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "binary")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-tags=timetzdata", "-o", path, pkg)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &buildError{pkg, string(out), err}
	}
	return path, nil
}

// temporary makes a folder that is removed when all tests are over.
func temporary() (string, error) {
	dir, err := os.MkdirTemp("", "penstock-build-")
	atTheEnd(func() { os.RemoveAll(dir) })
	return dir, err
}

// atTheEnd has something done when all tests are over.
func atTheEnd(do func()) {
	end.mu.Lock()
	defer end.mu.Unlock()
	end.do = append(end.do, do)
}

var end struct {
	mu sync.Mutex
	do []func()
}

type buildError struct {
	pkg, out string
	err      error
}

func (e *buildError) Error() string { return "build " + e.pkg + ": " + e.err.Error() + "\n" + e.out }

// TestMain lets more tests run at a time than there are processors: they wait
// for processes and containers more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if n := flag.Lookup("test.parallel"); n.Value.String() == n.DefValue {
		_ = n.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))) // it is a number
	}
	code := m.Run()
	for _, do := range end.do {
		do()
	}
	os.Exit(code)
}

// penstock is the path of a freshly built binary.
func penstock(t testing.TB) string {
	t.Helper()
	build := buildPenstock
	if runtime.GOOS != "linux" {
		build = buildHere
	}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
