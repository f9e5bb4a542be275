package broker

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// startIn starts a broker with lazy sync: these tests cut no power.
func startIn(t *testing.T, o Options) *Broker {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Sync == "" {
		o.Sync = SyncLazy
	}
	b, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, b) })
	return b
}

func stop(t *testing.T, b *Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func mustAdd(t *testing.T, b *Broker, kind, name, pool string, kinds ...string) bus.Credential {
	t.Helper()
	c, err := b.AddPrincipal(kind, name, pool, kinds...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect makes a plain NATS connection with a credential.
func connect(t *testing.T, c bus.Credential, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(c.URL, append([]nats.Option{nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix),
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.IgnoreAuthErrorAbort()}, opts...)...)
	if err != nil {
		t.Fatalf("%s %s: %v", c.Kind, c.Name, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// eventually waits until ok says true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestSecondServerOnTheSameDirectoryIsRefusedAndTold(t *testing.T) {
	dir := t.TempDir()
	startIn(t, Options{Dir: dir})
	_, err := Start(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "in use by another penstock server") || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Fatalf("got %v, want a refusal that names process %d", err, os.Getpid())
	}
}

func TestPortInUseIsSaid(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	_, err := Start(t.Context(), Options{Dir: t.TempDir(), Listen: strings.TrimPrefix(b.URL(), "nats://")})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("got %v, want that the address is in use", err)
	}
}

func TestRestartKeepsPrincipalsLimitAndMessages(t *testing.T) {
	dir := t.TempDir()
	b := startIn(t, Options{Dir: dir})
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	limit := b.maxStore
	if limit <= 0 {
		t.Fatal("no limit was chosen")
	}
	cred := mustAdd(t, b, bus.KindUser, "alice", "")
	publish(t, b.Ext, "penstock.ev.default.ci.x.y", "kept")
	before := b.ListPrincipals()
	stop(t, b)

	b = startIn(t, Options{Dir: dir})
	if b.maxStore != limit {
		t.Errorf("limit of the store is %d, was %d", b.maxStore, limit)
	}
	if d := cmp.Diff(before, b.ListPrincipals()); d != "" {
		t.Errorf("principals changed:\n%s", d)
	}
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, b.Ext, events.StreamIngress); n != 1 {
		t.Errorf("%d events are left, want 1", n)
	}
	if p, ok := b.AuthenticateToken(cred.Token); !ok || p.Name != "alice" {
		t.Errorf("token of alice gives %v, %v", p, ok)
	}
	cred.URL = b.URL() // the port is another one
	connect(t, cred)
}

func TestRestartWithAnotherLimitUsesAndKeepsThatOne(t *testing.T) {
	dir := t.TempDir()
	stop(t, startIn(t, Options{Dir: dir, MaxStore: 100 << 20}))
	stop(t, startIn(t, Options{Dir: dir, MaxStore: 200 << 20}))
	if b := startIn(t, Options{Dir: dir}); b.maxStore != 200<<20 {
		t.Errorf("limit is %d, want the last one that was asked for", b.maxStore)
	}
}

func TestRevokeDisconnectsAndKeepsOut(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	alice, bob := mustAdd(t, b, bus.KindUser, "alice", ""), mustAdd(t, b, bus.KindUser, "bob", "")
	gone := make(chan struct{}, 8)
	connect(t, alice, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { gone <- struct{}{} }))
	other := connect(t, bob, nats.NoReconnect())

	if err := b.RevokePrincipal(bus.KindUser, "alice"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("the client of a revoked principal stays connected")
	}
	if _, err := nats.Connect(b.URL(), nats.UserInfo(alice.User, alice.Password)); err == nil {
		t.Error("a revoked principal connects")
	}
	if _, ok := b.AuthenticateToken(alice.Token); ok {
		t.Error("the token of a revoked principal is accepted")
	}
	if err := other.Flush(); err != nil {
		t.Errorf("somebody else was disconnected: %v", err)
	}
	if err := b.RevokePrincipal(bus.KindUser, "alice"); err == nil {
		t.Error("revoking twice is not an error")
	}
}

func TestRevokedProgramIsToldSo(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	cred := mustAdd(t, b, bus.KindUser, "alice", "")
	conn, err := bus.Connect(t.Context(), &cred)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := b.RevokePrincipal(bus.KindUser, "alice"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request fails because of it", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := conn.Request(ctx, events.VerbServer, nil, nil)
		return err != nil && strings.Contains(err.Error(), "the credential was revoked")
	})
}

func TestWrongSecretsAreRefused(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	alice, bob := mustAdd(t, b, bus.KindUser, "alice", ""), mustAdd(t, b, bus.KindUser, "bob", "")
	for name, opts := range map[string][]nats.Option{
		"no user":             {},
		"empty password":      {nats.UserInfo("alice", "")},
		"another's password":  {nats.UserInfo("alice", bob.Password)},
		"unknown user":        {nats.UserInfo("carol", alice.Password)},
		"engine's name":       {nats.UserInfo(engineUser(events.AccountEngine), alice.Password)},
		"token":               {nats.Token(alice.Token)},
		"user by another key": {nats.UserInfo("alice", alice.Password), nats.Nkey("UBOB", func([]byte) ([]byte, error) { return []byte("sig"), nil })},
	} {
		if nc, err := nats.Connect(b.URL(), opts...); err == nil {
			nc.Close()
			t.Errorf("%s: was let in", name)
		}
	}
}

func TestPrincipalsAreCheckedAndTheirFileIsPrivate(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	c := mustAdd(t, b, bus.KindUser, "alice", "")
	for _, bad := range []struct{ kind, name, pool string }{
		{bus.KindUser, "alice", ""}, {bus.KindAdmin, "alice", ""}, // one person, one name
		{"robot", "x", ""}, {bus.KindUser, "", ""}, {bus.KindUser, "a\nb", ""}, {bus.KindUser, " a", ""},
		{bus.KindUser, "worker:bob", ""}, {bus.KindUser, "engine:ENGINE", ""},
		{bus.KindPublisher, "user:ana", ""}, {bus.KindUser, "event:ci", ""}, {bus.KindUser, "run:1", ""}, {bus.KindUser, "environment:production", ""},
		{bus.KindWorker, "user:ana", ""}, {bus.KindWorker, "w", strings.Repeat("p", 64)},
		{bus.KindUser, "dave", "pool"},
		{bus.KindUser, strings.Repeat("x", 101), ""},
	} {
		if _, err := b.AddPrincipal(bad.kind, bad.name, bad.pool); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	st, err := os.Stat(b.principals.path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", st.Mode(), err)
	}
	if p, _ := os.ReadFile(b.principals.path); strings.Contains(string(p), c.Password) {
		t.Error("the secret itself is on disk")
	}
}

func TestAConnectionThatTheServerClosesForGoodIsNoticed(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	if err := b.Lost().Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.Ext.Publish("penstock.ev."+strings.Repeat("x", 6000), nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Lost().Done():
	case <-time.After(30 * time.Second):
		t.Fatal("nobody is told")
	}
	if cause := context.Cause(b.Lost()); !strings.Contains(cause.Error(), "account "+events.AccountExt) {
		t.Errorf("the cause is %v", cause)
	}
}

func TestDriftIsListedAndNothingIsChanged(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(b.Work)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), artifactStream)
	if err != nil {
		t.Fatal(err)
	}
	bad := s.CachedInfo().Config
	bad.AllowRollup, bad.AllowDirect = true, true
	if _, err := js.UpdateStream(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	err = b.EnsureStreams(t.Context())
	for _, want := range []string{artifactStream, "roll-up headers allowed is true, must be false", "direct get allowed is true, must be false"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

func TestFullStoreRefusesClearlyAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	b := startIn(t, Options{Dir: dir, MaxStore: 8 << 20})
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	cred := mustAdd(t, b, bus.KindPublisher, "ci", "")
	conn, err := bus.Connect(t.Context(), &cred)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	acked := 0
	var refusal *bus.Refusal
	for i := range 200 {
		err := conn.Publish(t.Context(), &events.Event{ID: strconv.Itoa(i), Type: "org.example.built",
			Data: []byte(`"` + strings.Repeat("x", 64<<10) + `"`)})
		if err != nil {
			var ok bool
			if refusal, ok = err.(*bus.Refusal); !ok || refusal.Code != events.CodeFull || !strings.Contains(err.Error(), "full") {
				t.Fatalf("got %v (%T), want a refusal with code full", err, err)
			}
			break
		}
		acked++
	}
	if acked == 0 || refusal == nil {
		t.Fatalf("%d events were taken, refusal %v", acked, refusal)
	}
	// The record has room still, whatever others have filled.
	publish(t, b.Engine, "penstock.audit.202601.7", "record")
	stop(t, b)
	b = startIn(t, Options{Dir: dir})
	if n := stored(t, b.Ext, events.StreamIngress); n != uint64(acked) {
		t.Errorf("%d events are stored, %d were acknowledged", n, acked)
	}
}

func publish(t *testing.T, nc *nats.Conn, subject, body string) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), subject, []byte(body)); err != nil {
		t.Fatalf("publish on %s: %v", subject, err)
	}
}

func stored(t *testing.T, nc *nats.Conn, stream string) uint64 {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}
