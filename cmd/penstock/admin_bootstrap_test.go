package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bootstrapped runs a server with the configuration that was printed.
func bootstrapped(t *testing.T) *server.Server {
	t.Helper()
	r := penstock(t, "admin", "bootstrap", "--member", "admin:ops", "--member", "worker:b1:builders")
	if r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	for name, value := range map[string]string{"SERVER_NAME": "one", "STORE_DIR": t.TempDir(), "SYS_PASSWORD": "p-sys", "ENGINE_PASSWORD": "p-engine", "OPS_PASSWORD": "p-ops", "WORKER_PASSWORD": "p-b1"} {
		t.Setenv("PENSTOCK_"+name, value)
	}
	o := &server.Options{}
	if err := o.ProcessConfigString(r.out); err != nil {
		t.Fatalf("%v in:\n%s", err, r.out)
	}
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	return s
}

// states gives how many streams are in each state.
func states(t *testing.T, text string) map[string]int {
	t.Helper()
	var answer struct{ Streams []struct{ State string } }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	count := map[string]int{}
	for _, s := range answer.Streams {
		count[s.State]++
	}
	return count
}

func TestBootstrapMakesWhatIsMissingAndNothingElse(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	s := bootstrapped(t)
	t.Setenv("NATS_PASSWORD", "p-engine")
	bootstrap := func(how string) (int, map[string]int, string) {
		r := penstock(t, "admin", "bootstrap", how, "--nats", s.ClientURL(), "-o", "json")
		return r.code, states(t, r.out), r.stderr
	}
	exit, count, errs := bootstrap("--dry-run")
	if exit != 0 || len(count) != 1 || count["missing"] < 10 {
		t.Fatalf("on a new server: exit %d, %v: %s", exit, count, errs)
	}
	all := count["missing"]
	if exit, count, errs = bootstrap("--dry-run"); exit != 0 || count["missing"] != all {
		t.Fatalf("a dry run has made something: exit %d, %v: %s", exit, count, errs)
	}
	if exit, count, errs = bootstrap("--apply"); exit != 0 || count["made"] != all {
		t.Fatalf("applied: exit %d, %v: %s", exit, count, errs)
	}
	if exit, count, errs = bootstrap("--apply"); exit != 0 || count["good"] != all {
		t.Fatalf("applied again: exit %d, %v: %s", exit, count, errs)
	}

	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("engine", "p-engine"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.Stream(t.Context(), "PENSTOCK_LOG")
	if err != nil {
		t.Fatal(err)
	}
	changed := log.CachedInfo().Config
	changed.AllowDirect, changed.MaxAge = true, time.Hour
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	r := penstock(t, "admin", "bootstrap", "--apply", "--nats", s.ClientURL())
	for _, want := range []string{"maximum age is 1h0m0s, must be 0s", "direct get allowed is true, must be false"} {
		if r.code != exitFailed || !strings.Contains(r.out, want) || !strings.Contains(r.stderr, "nothing was changed") {
			t.Errorf("a stream that somebody changed: exit %d, want %q in:\n%s%s", r.code, want, r.out, r.stderr)
		}
	}
	info, err := log.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Config.MaxAge != time.Hour || !info.Config.AllowDirect {
		t.Errorf("it was changed back: %+v", info.Config)
	}
}

func TestBootstrapSaysWhatItNeeds(t *testing.T) {
	for _, name := range []string{"NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "PENSTOCK_ENGINE_PASSWORD"} {
		t.Setenv(name, "")
	}
	for want, args := range map[string][]string{
		"which NATS server?":             {"--apply"},
		"say --dry-run or --apply":       {"--nats", "nats://a:4222"},
		"none of config, accounts and":   {"everything"},
		"must be KIND:NAME":              {"--member", "ops"},
		"must be user, admin, worker":    {"--member", "robot:r"},
		"in NATS_PASSWORD":               {"--dry-run", "--nats", "nats://127.0.0.1:1"},
		"check that the server runs":     {"--dry-run", "--nats", "nats://engine:p@127.0.0.1:1"},
		`context "nowhere"`:              {"--dry-run", "--context", "nowhere"},
		"no credentials for account ENG": {"--dry-run", "--nats", "nats://127.0.0.1:1", "--creds", t.TempDir()},
	} {
		r := penstock(t, append([]string{"admin", "bootstrap"}, args...)...)
		if r.code == 0 || !strings.Contains(strings.ToLower(r.stderr), strings.ToLower(want)) {
			t.Errorf("%v: exit %d, want it to say %q:\n%s", args, r.code, want, r.stderr)
		}
	}
}

// What the script gives to the nats client are the streams that the engine makes.
func TestScriptHasEveryStream(t *testing.T) {
	r := penstock(t, "admin", "bootstrap", "streams", "--replicas", "3")
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	for _, want := range []string{"nats --context engine stream add --config /dev/stdin <<'EOF'\n{\"name\":\"PENSTOCK_LOG\"", `"name":"KV_PENSTOCK_AUTH"`,
		"nats --context engine-ext stream add", "nats --context engine-work consumer add PENSTOCK_TASKS", `"num_replicas":3`} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the script has no %s:\n%s", want, r.out)
		}
	}
}
