package bus

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// installation is a server with the shipped configuration, and what an engine
// makes in it.
type installation struct {
	server                    *server.Server
	options                   *server.Options
	engine, work, notify, ext *nats.Conn
	key                       ed25519.PrivateKey // signs tasks
	bot, admin, ci, worker    *Credential
}

func password(who string) string { return "p" + strings.ToLower(who) + "-secret" }

// serve starts a server with deployments/nats.conf, storing in dir.
func serve(dir string) (*installation, error) {
	for _, who := range []string{"SYS", "ENGINE", "WORKER", "PUBLISHER", "ADMIN", "MARTA", "LI", "BOT"} {
		os.Setenv("PENSTOCK_"+who+"_PASSWORD", password(who))
	}
	os.Setenv("PENSTOCK_SERVER_NAME", "one")
	os.Setenv("PENSTOCK_STORE_DIR", dir)
	o, err := server.ProcessConfigFile(filepath.FromSlash("../../deployments/nats.conf"))
	if err != nil {
		return nil, err
	}
	o.Host, o.Port, o.NoSigs, o.NoLog, o.SyncAlways = "127.0.0.1", server.RANDOM_PORT, true, true, false
	in := &installation{options: o}
	if err := in.up(); err != nil {
		return nil, err
	}
	return in, in.prepare()
}

// up starts the server, again on the port that it had.
func (in *installation) up() (err error) {
	if in.server, err = server.NewServer(in.options); err != nil {
		return err
	}
	go in.server.Start()
	if !in.server.ReadyForConnections(20 * time.Second) {
		return errors.New("the server does not get ready")
	}
	in.options.Port = in.server.Addr().(*net.TCPAddr).Port
	return nil
}

func (in *installation) down() {
	in.server.Shutdown()
	in.server.WaitForShutdown()
}

func (in *installation) prepare() (err error) {
	url := in.server.ClientURL()
	for user, nc := range map[string]**nats.Conn{"engine": &in.engine, "engine-work": &in.work, "engine-notify": &in.notify, "engine-ext": &in.ext} {
		if *nc, err = nats.Connect(url, nats.UserInfo(user, password("ENGINE")), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)); err != nil {
			return err
		}
	}
	cred := func(kind, name, who string) *Credential {
		return &Credential{URL: url, User: name, Password: password(who), Kind: kind, Name: name}
	}
	in.bot, in.admin = cred(KindUser, "bot", "BOT"), cred(KindAdmin, "admin", "ADMIN")
	in.ci, in.worker = cred(KindPublisher, "ci", "PUBLISHER"), cred(KindWorker, "worker", "WORKER")
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	in.key, in.worker.TaskKeys = key, []string{base64.StdEncoding.EncodeToString(pub)}
	return in.makeStreams()
}

func (in *installation) makeStreams() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, s := range []struct {
		nc     *nats.Conn
		config jetstream.StreamConfig
	}{
		{in.ext, jetstream.StreamConfig{Name: events.StreamIngress, Subjects: []string{"penstock.ev.>"}, Discard: jetstream.DiscardNew, MaxBytes: 4 << 20}},
		{in.work, jetstream.StreamConfig{Name: events.StreamTasks, Subjects: []string{"penstock.task.>"}}},
		{in.work, jetstream.StreamConfig{Name: events.StreamOutput, Subjects: []string{"penstock.output.>"}}},
		{in.work, jetstream.StreamConfig{Name: artifactStream, Subjects: []string{"$O.PENSTOCK_ARTIFACTS.C.>", "$O.PENSTOCK_ARTIFACTS.M.>"}}},
		{in.notify, jetstream.StreamConfig{Name: events.StreamOut, Subjects: []string{"penstock.out.>"}, RePublish: &jetstream.RePublish{Source: "penstock.out.>", Destination: "penstock.live.>"}}},
	} {
		js, err := jetstream.New(s.nc)
		if err != nil {
			return err
		}
		if _, err := js.CreateStream(ctx, s.config); err != nil {
			return err
		}
	}
	js, err := jetstream.New(in.work)
	if err != nil {
		return err
	}
	_, err = js.CreateConsumer(ctx, events.StreamTasks, jetstream.ConsumerConfig{Durable: events.TaskConsumer("default", "build"),
		FilterSubject: "penstock.task.default.build.*", AckPolicy: jetstream.AckExplicitPolicy})
	return err
}

func start(t *testing.T) *installation {
	t.Helper()
	in, err := serve(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, nc := range []*nats.Conn{in.engine, in.work, in.notify, in.ext} {
			nc.Close()
		}
		in.down()
	})
	return in
}

func dial(t *testing.T, c *Credential, opts ...Option) *Conn {
	t.Helper()
	conn, err := Connect(t.Context(), c, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// answer makes the engine answer requests on a subject.
func (in *installation) answer(t *testing.T, subject string, fn func(m *nats.Msg) events.Answer) {
	t.Helper()
	sub, err := in.engine.Subscribe(subject, func(m *nats.Msg) {
		p, _ := json.Marshal(fn(m))
		_ = m.Respond(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := in.engine.Flush(); err != nil {
		t.Fatal(err)
	}
}

func result(v any) events.Answer {
	p, _ := json.Marshal(v)
	return events.Answer{Status: events.StatusApplied, Result: p}
}

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

// soon is a context for what must end by itself.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
