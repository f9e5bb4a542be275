package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"penstock": main})
}

// TestScripts runs testdata/script: what the binary does without a server, and
// with one that a script starts.
// UPDATE=1 writes the outputs that the scripts compare with.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			for name, value := range map[string]string{
				"HOME": home, "XDG_STATE_HOME": filepath.Join(home, "state"), "XDG_CONFIG_HOME": filepath.Join(home, "config"),
				"USER": "ana", "GIT_CONFIG_NOSYSTEM": "1", "GITHUB_ACTIONS": "", "NO_COLOR": "", "NATS_URL": "",
				"PENSTOCK_CREDENTIAL": "", "PENSTOCK_DATA": "",
			} {
				env.Setenv(name, value)
			}
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "serves": serves},
	})
}

// exits runs penstock and compares its exit code: exits 2 check bad.yaml.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE ARGS...")
	}
	err := ts.Exec("penstock", args[1:]...)
	if got := exitCode(err); got != args[0] {
		ts.Fatalf("penstock %q exited with %s, want %s\n%s", args[1:], got, args[0], ts.ReadFile("stderr"))
	}
}

// serves starts a server in $WORK/data, which the commands find from then on,
// and waits until it answers: serves --workflows watched.
func serves(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: serves ARGS...")
	}
	data := ts.MkAbs("data")
	program, err := exec.LookPath("penstock")
	ts.Check(err)
	cmd := exec.Command(program, append([]string{"server", "--data", data, "--listen", "127.0.0.1:0", "--http", "none", "--no-remember"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "USER", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was asked to end
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "ready") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			ts.Setenv("PENSTOCK_DATA", data)
			ts.Setenv("PENSTOCK_CREDENTIAL", filepath.Join(data, "admin.json"))
			return
		}
	}
	ts.Fatalf("the server does not get ready")
}
