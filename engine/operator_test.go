package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// operatorMode runs a server whose accounts are JWTs, made from what is printed
// for such a server, and gives its URL and a folder with everybody's credentials:
// those of the engine as ACCOUNT.creds, those of others as USER.creds.
func operatorMode(t *testing.T, members ...string) (url, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		t.Helper()
		k, err := make()
		must(err)
		public, err := k.PublicKey()
		must(err)
		return k, public
	}
	c, err := ClusterFor(members, nil, 1)
	must(err)
	operator, trusted := key(nkeys.CreateOperator)
	pairs, public := map[string]nkeys.KeyPair{}, map[string]string{}
	for _, a := range c.Accounts {
		pairs[a.Name], public[a.Name] = key(nkeys.CreateAccount)
	}
	kinds := map[string]jwt.ExportType{"service": jwt.Service, "stream": jwt.Stream}
	resolver, dir := &server.MemAccResolver{}, t.TempDir()
	for _, a := range c.Accounts {
		claims := jwt.NewAccountClaims(public[a.Name])
		claims.Name = a.Name
		if a.JetStream {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1, MaxAckPending: -1}
		}
		for _, s := range a.Exports {
			claims.Exports.Add(&jwt.Export{Name: s.Subject, Subject: jwt.Subject(s.Subject), Type: kinds[s.Kind], TokenReq: true})
		}
		for _, s := range a.Imports {
			activation := jwt.NewActivationClaims(public[a.Name])
			activation.ImportSubject, activation.ImportType = jwt.Subject(s.Subject), kinds[s.Kind]
			token, err := activation.Encode(pairs[s.Account])
			must(err)
			claims.Imports.Add(&jwt.Import{Name: s.Subject, Subject: jwt.Subject(s.Subject), Account: public[s.Account], Token: token, Type: kinds[s.Kind], Share: s.Kind == "service"})
		}
		text, err := claims.Encode(operator)
		must(err)
		must(resolver.Store(public[a.Name], text))
		for _, u := range a.Users {
			pair, id := key(nkeys.CreateUser)
			claims := jwt.NewUserClaims(id)
			claims.Name = u.Name
			claims.Permissions.Pub.Allow.Add(u.Publish...)
			claims.Permissions.Sub.Allow.Add(u.Subscribe...)
			text, err := claims.Encode(pairs[a.Name])
			must(err)
			seed, err := pair.Seed()
			must(err)
			creds, err := jwt.FormatUserConfig(text, seed)
			must(err)
			name := u.Name
			if strings.HasPrefix(name, "engine") {
				name = a.Name
			}
			must(os.WriteFile(filepath.Join(dir, name+".creds"), creds, 0o600))
		}
	}
	must(os.WriteFile(filepath.Join(dir, "USERS.pub"), []byte(public[events.AccountUsers]+"\n"), 0o600))
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 4 << 20, JetStream: true, SyncAlways: true,
		StoreDir: t.TempDir(), TrustedKeys: []string{trusted}, AccountResolver: resolver, SystemAccount: public[events.AccountSystem]})
	must(err)
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not get ready")
	}
	return s.ClientURL(), dir
}

func TestAServerInOperatorModeServesAsAnyOther(t *testing.T) {
	url, dir := operatorMode(t, "admin:ops", "user:marta")
	e := join(t, url, "a", func(e *Engine) { e.o.Creds = dir })
	e.asks(t, events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: asking}}}, nil)

	ops, err := nats.Connect(url, nats.UserCredentials(filepath.Join(dir, "ops.creds")), nats.CustomInboxPrefix(bus.InboxPrefix("ops")))
	if err != nil {
		t.Fatal(err)
	}
	defer ops.Close()
	live, err := ops.SubscribeSync("penstock.live.>")
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(events.StartRun{ID: "1", Workflow: "asking"})
	if err != nil {
		t.Fatal(err)
	}
	var a events.Answer
	m, err := ops.Request(events.AdminSubject("ops", events.VerbStart), body, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &a); err != nil || a.Status != events.StatusApplied {
		t.Fatalf("the administrator was answered %s %v", m.Data, err)
	}
	if _, err := live.NextMsg(time.Minute); err != nil {
		t.Errorf("nothing is told of it: %v", err)
	}
}

func TestInOperatorModeTheAccountOfUsersMustBeKnown(t *testing.T) {
	url, dir := operatorMode(t)
	if err := os.Remove(filepath.Join(dir, "USERS.pub")); err != nil {
		t.Fatal(err)
	}
	e, err := New(Options{Dir: t.TempDir(), HTTP: "none", External: url, Creds: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "USERS.pub") || !strings.Contains(err.Error(), "operator mode") {
		t.Errorf("it says %v", err)
	}
}
