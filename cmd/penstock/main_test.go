package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"penstock": main})
}

// TestScripts runs testdata/script: what the binary does without a server.
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
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
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
