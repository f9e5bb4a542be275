package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// installation is a broker with streams and one principal of each kind, which
// have the same names whichever server it is.
type installation struct {
	*Broker
	admin, bot, worker, ci bus.Credential
}

// shipped runs a test against everything that is shipped: the embedded
// server, and a server with deployments/nats.conf.
func shipped(t *testing.T, test func(t *testing.T, in *installation)) {
	t.Run("embedded", func(t *testing.T) { test(t, prepared(t, embedded(t))) })
	t.Run("external", func(t *testing.T) { test(t, prepared(t, external(t))) })
}

func prepared(t *testing.T, in *installation) *installation {
	t.Helper()
	if err := in.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"build", "deploy"} {
		if err := in.EnsureTaskConsumer(t.Context(), events.DefaultPool, kind); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func embedded(t *testing.T) *installation {
	in := &installation{Broker: startIn(t, Options{Dir: t.TempDir()})}
	in.admin = mustAdd(t, in.Broker, bus.KindAdmin, "admin", "")
	in.bot = mustAdd(t, in.Broker, bus.KindUser, "bot", "")
	in.worker = mustAdd(t, in.Broker, bus.KindWorker, "worker", "")
	in.ci = mustAdd(t, in.Broker, bus.KindPublisher, "ci", "")
	return in
}

func external(t *testing.T) *installation {
	s := confServer(t)
	x, err := ReadExternal(filepath.FromSlash("../../../deployments/external.json"))
	if err != nil {
		t.Fatal(err)
	}
	x.URL = s.ClientURL()
	in := &installation{Broker: startIn(t, Options{Dir: t.TempDir(), External: x})}
	cred := func(kind, name, pool, password string) bus.Credential {
		return bus.Credential{URL: s.ClientURL(), User: name, Password: os.Getenv(password), InboxPrefix: bus.InboxPrefix(name), Kind: kind, Name: name, Pool: pool}
	}
	in.admin = cred(bus.KindAdmin, "admin", "", "PENSTOCK_ADMIN_PASSWORD")
	in.bot = cred(bus.KindUser, "bot", "", "PENSTOCK_BOT_PASSWORD")
	in.worker = cred(bus.KindWorker, "worker", events.DefaultPool, "PENSTOCK_WORKER_PASSWORD")
	in.ci = cred(bus.KindPublisher, "ci", "", "PENSTOCK_PUBLISHER_PASSWORD")
	return in
}

var examples = []Member{{Kind: bus.KindAdmin, Name: "admin"}, {Kind: bus.KindUser, Name: "marta"}, {Kind: bus.KindUser, Name: "li"}, {Kind: bus.KindUser, Name: "bot"},
	{Kind: bus.KindWorker, Name: "worker"}, {Kind: bus.KindPublisher, Name: "ci"}}

// The file that is shipped is what penstock admin bootstrap prints. UPDATE=1
// writes it anew.
func TestShippedConfigurationIsTheOneThatIsPrinted(t *testing.T) {
	want, err := Configuration(Cluster{Members: examples})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.FromSlash("../../../deployments/nats.conf")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("deployments/nats.conf is another one (UPDATE=1 writes it anew):\n%s", d)
	}
}

func TestConfigurationRefusesUsersThatAreNotApart(t *testing.T) {
	for want, list := range map[string][]Member{
		"another user has that name": {{Kind: bus.KindUser, Name: "a"}, {Kind: bus.KindAdmin, Name: "a"}},
		"PENSTOCK_A_B_PASSWORD":      {{Kind: bus.KindUser, Name: "a.b"}, {Kind: bus.KindUser, Name: "a-b"}},
		`user "engine"`:              {{Kind: bus.KindUser, Name: "engine"}},
		`user "sys"`:                 {{Kind: bus.KindUser, Name: "sys"}},
		"control characters":         {{Kind: bus.KindUser, Name: "a\nb"}},
		"must be user, admin":        {{Kind: "robot", Name: "r"}},
	} {
		if _, err := Configuration(Cluster{Members: list}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want it to say %q", list, err, want)
		}
	}
}

// confServer runs a plain server with the shipped configuration file.
func confServer(t *testing.T) *server.Server {
	t.Helper()
	for _, who := range []string{"SYS", "ENGINE", "WORKER", "PUBLISHER", "ADMIN", "MARTA", "LI", "BOT"} {
		t.Setenv("PENSTOCK_"+who+"_PASSWORD", "p"+strings.ToLower(who)+"-secret")
	}
	t.Setenv("PENSTOCK_SERVER_NAME", "one")
	t.Setenv("PENSTOCK_STORE_DIR", t.TempDir())
	o, err := server.ProcessConfigFile(filepath.FromSlash("../../../deployments/nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !o.SyncAlways {
		t.Error("deployments/nats.conf does not sync before it acknowledges")
	}
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	return s
}
