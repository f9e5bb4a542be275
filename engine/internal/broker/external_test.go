package broker

import (
	"maps"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

func TestEmbeddedServerSyncsUnlessToldOtherwise(t *testing.T) {
	for sync, want := range map[string]bool{"": true, SyncAlways: true, SyncLazy: false} {
		dir := t.TempDir()
		b, err := Start(t.Context(), Options{Dir: dir, Sync: sync, Listen: ListenNot})
		if err != nil {
			t.Fatal(err)
		}
		c := b.server.JetStreamConfig()
		if c.SyncAlways != want || c.MaxStore != b.maxStore || !strings.HasPrefix(c.StoreDir, dir) {
			t.Errorf("sync %q: the server has %+v", sync, c)
		}
		if b.URL() != "" {
			t.Errorf("it listens at %s, though it must not", b.URL())
		}
		stop(t, b)
	}
	if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Sync: "never"}); err == nil {
		t.Error("an unknown way of syncing is taken")
	}
}

func TestExternalServerThatDoesNotFitIsRefusedInWords(t *testing.T) {
	s := confServer(t)
	good := map[string]Login{
		events.AccountEngine: {User: "engine", Password: "$PENSTOCK_ENGINE_PASSWORD"},
		events.AccountWork:   {User: "engine-work", Password: "$PENSTOCK_ENGINE_PASSWORD"},
		events.AccountNotify: {User: "engine-notify", Password: "$PENSTOCK_ENGINE_PASSWORD"},
		events.AccountExt:    {User: "engine-ext", Password: "$PENSTOCK_ENGINE_PASSWORD"},
	}
	with := func(account string, l Login) map[string]Login {
		m := maps.Clone(good)
		m[account] = l
		return m
	}
	missing := maps.Clone(good)
	delete(missing, events.AccountNotify)
	bare, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go bare.Start()
	t.Cleanup(func() { bare.Shutdown(); bare.WaitForShutdown() })
	if !bare.ReadyForConnections(readyTimeout) {
		t.Fatal("the server does not get ready")
	}
	for name, c := range map[string]struct {
		x    External
		want string
	}{
		"wrong password":      {External{URL: s.ClientURL(), Accounts: with(events.AccountExt, Login{User: "engine-ext", Password: "wrong"})}, `user "engine-ext" is not accepted`},
		"user of another":     {External{URL: s.ClientURL(), Accounts: with(events.AccountWork, Login{User: "engine", Password: "$PENSTOCK_ENGINE_PASSWORD"})}, "the user belongs to account ENGINE"},
		"account left out":    {External{URL: s.ClientURL(), Accounts: missing}, "no user is given for account NOTIFY"},
		"nothing given":       {External{URL: s.ClientURL(), Accounts: with(events.AccountWork, Login{})}, "neither user nor creds"},
		"nobody there":        {External{URL: "nats://127.0.0.1:1", Accounts: good}, "check that the server runs"},
		"no url":              {External{Accounts: good}, "no url"},
		"server without them": {External{URL: bare.ClientURL(), Accounts: good}, "the user belongs to account $G"},
	} {
		_, err := Start(t.Context(), Options{Dir: t.TempDir(), External: &c.x})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestVersionsAreCompared(t *testing.T) {
	for v, older := range map[string]bool{"2.14.0": false, "2.15.2": false, "3.0.0": false, "2.14.0-RC.1": false, "2.9.25": true, "2.13.9": true, "": true} {
		if got := olderThan(v, minVersion); got != older {
			t.Errorf("%q older than %s: %v", v, minVersion, got)
		}
	}
}

func TestExternalServersUsersAreNotOursButHTTPTokensAre(t *testing.T) {
	in := external(t)
	c := mustAdd(t, in.Broker, bus.KindUser, "alice", "")
	if c.URL != "" || c.User != "" || c.Token == "" {
		t.Errorf("a credential for HTTP only looks so: %+v", c)
	}
	if p, ok := in.AuthenticateToken(c.Token); !ok || p.Name != "alice" || p.Kind != bus.KindUser {
		t.Errorf("its token gives %+v, %v", p, ok)
	}
	if _, err := in.AddPrincipal(bus.KindWorker, "w", ""); err == nil || !strings.Contains(err.Error(), "deployments/nats.conf") {
		t.Errorf("a worker: got %v", err)
	}
	if err := in.RevokePrincipal(bus.KindUser, "bot"); err == nil || !strings.Contains(err.Error(), "its own configuration") {
		t.Errorf("revoking a user of the server: got %v", err)
	}
	if err := in.RevokePrincipal(bus.KindUser, "alice"); err != nil {
		t.Error(err)
	}
	if _, ok := in.AuthenticateToken(c.Token); ok {
		t.Error("a revoked token is accepted")
	}
}
