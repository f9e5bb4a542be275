package contract_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/events"
)

// naive is the configuration that suggests itself and that nobody must use:
// one account with JetStream, where a subject is thought to prove who wrote.
const naive = `accounts { A {
	jetstream: enabled
	users: [
		{ user: engine, password: p }
		{ user: bob, password: p, permissions: { publish: ["in.approve.bob.>", "in2.approve.bob.>"] } }
		{ user: mallory, password: p, permissions: { publish: ["in.evt.mallory.>", "in2.evt.mallory.>", "$JS.API.DIRECT.GET.IN", "$JS.API.CONSUMER.MSG.NEXT.IN.c1"] } }
	]
} }`

func naiveServer(t *testing.T, cfg jetstream.StreamConfig) (s *server.Server, in jetstream.Stream) {
	t.Helper()
	s = start(t, configured(t, naive))
	return s, stream(t, jetStream(t, as(t, s, "engine")), cfg)
}

// lastOn waits for a message on a subject and gives it as the leader has it.
func lastOn(t *testing.T, s *server.Server, stream, subject string) (m struct{ Data, Header []byte }) {
	t.Helper()
	engine := as(t, s, "engine")
	eventually(t, "a message on "+subject, func() error {
		var got struct {
			Message struct{ Data, Hdrs []byte }
			Error   *struct{ Description string }
		}
		getLast(t, engine, stream, subject, &got)
		if got.Error != nil {
			return errors.New(got.Error.Description)
		}
		m.Data, m.Header = got.Message.Data, got.Message.Hdrs
		return nil
	})
	return m
}

// T1. The server does not check the permission to publish on a reply subject,
// and JetStream answers as somebody who may do everything.
func TestDirectGetStoresAForgedMessageOnAnothersSubject(t *testing.T) {
	s, in := naiveServer(t, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}, AllowDirect: true})
	mallory := as(t, s, "mallory")
	forged := `{"decision":"approve","by":"bob"}`
	publish(t, jetStream(t, mallory), "in.evt.mallory.1", forged)
	check(t, mallory.PublishRequest("$JS.API.DIRECT.GET.IN", "in.approve.bob.run1", []byte(`{"last_by_subj":"in.evt.mallory.1","no_hdr":true}`)))
	if m := lastOn(t, s, "IN", "in.approve.bob.run1"); string(m.Data) != forged || len(m.Header) > 0 {
		t.Errorf("on bob's subject: %q with the header %q", m.Data, m.Header)
	}
	// The control: directly, she may not.
	check(t, mallory.Publish("in.approve.bob.control", []byte(forged)))
	check(t, mallory.Flush())
	if n := stored(t, in, "in.approve.bob.control"); n != 0 {
		t.Error("mallory may publish on bob's subject")
	}
}

// T1b. So does the answer to a publish.
func TestAcknowledgementIsStoredOnAnothersSubject(t *testing.T) {
	s, _ := naiveServer(t, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	check(t, as(t, s, "mallory").PublishRequest("in.evt.mallory.1", "in.approve.bob.run2", []byte("x")))
	if m := lastOn(t, s, "IN", "in.approve.bob.run2"); !strings.Contains(string(m.Data), `"stream":"IN"`) {
		t.Errorf("on bob's subject: %q", m.Data)
	}
}

// T1c. What a consumer delivers keeps its own subject: it can be put into its
// stream again, but not on the subject of another.
func TestConsumerReinjectsOnItsOwnSubjectOnly(t *testing.T) {
	s, in := naiveServer(t, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	_, err := in.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c1", FilterSubject: "in.evt.mallory.>", AckPolicy: jetstream.AckExplicitPolicy})
	check(t, err)
	mallory := as(t, s, "mallory")
	publish(t, jetStream(t, mallory), "in.evt.mallory.1", "hers")
	check(t, mallory.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.IN.c1", "in.approve.bob.run3", []byte(`{"batch":1}`)))
	eventually(t, "her message is stored again", func() error {
		if n := stored(t, in, "in.evt.mallory.>"); n != 2 {
			return fmt.Errorf("%d messages", n)
		}
		return nil
	})
	if n := stored(t, in, "in.approve.bob.>"); n != 0 {
		t.Errorf("%d messages on bob's subject", n)
	}
}

// T2. The target of a message schedule is not checked.
func TestScheduleStoresOnAnothersSubject(t *testing.T) {
	s, _ := naiveServer(t, jetstream.StreamConfig{Name: "IN2", Subjects: []string{"in2.>"}, AllowMsgSchedules: true})
	a := ask(t, as(t, s, "mallory"), message("in2.evt.mallory.1", "forged",
		"Nats-Schedule", "@at "+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), "Nats-Schedule-Target", "in2.approve.bob.run1"))
	if a.code() != 0 {
		t.Fatalf("the schedule was refused: %+v", a.Error)
	}
	if m := lastOn(t, s, "IN2", "in2.approve.bob.run1"); string(m.Data) != "forged" {
		t.Errorf("on bob's subject: %q", m.Data)
	}
}

// T3. Message schedules turn roll-up on, with which any publisher wipes the stream.
func TestSchedulesLetAnyPublisherWipeTheStream(t *testing.T) {
	s, in := naiveServer(t, jetstream.StreamConfig{Name: "IN2", Subjects: []string{"in2.>"}, AllowMsgSchedules: true, DenyPurge: false})
	publish(t, jetStream(t, as(t, s, "engine")), "in2.approve.bob.run9", "precious")
	if a := ask(t, as(t, s, "mallory"), message("in2.evt.mallory.1", "x", "Nats-Rollup", "all")); a.code() != 0 {
		t.Fatalf("the roll-up was refused: %+v", a.Error)
	}
	info, err := in.Info(t.Context())
	check(t, err)
	if info.State.Msgs != 1 || !info.Config.AllowRollup || info.Config.DenyPurge {
		t.Errorf("%d messages are left, roll-up allowed %t, purge denied %t", info.State.Msgs, info.Config.AllowRollup, info.Config.DenyPurge)
	}
}

// T4. Duplicates are recognised by the id alone, whoever used it first.
func TestDuplicateIDMakesAnothersMessageVanish(t *testing.T) {
	s, in := naiveServer(t, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	publish(t, jetStream(t, as(t, s, "mallory")), "in.evt.mallory.1", "x", jetstream.WithMsgID("approve-run7"))
	ack := publish(t, jetStream(t, as(t, s, "bob")), "in.approve.bob.run7", "yes", jetstream.WithMsgID("approve-run7"))
	if n := stored(t, in, "in.approve.bob.>"); !ack.Duplicate || n != 0 {
		t.Errorf("bob was told %+v, and %d messages are on his subject", ack, n)
	}
}

// T2 and T3 against what is shipped: no stream takes schedules or roll-ups
// from those who may publish to it.
func TestShippedStreamsTakeNeitherSchedulesNorRollups(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Options{Dir: t.TempDir(), Listen: broker.ListenNot})
	check(t, err)
	t.Cleanup(func() { check(t, b.Close(context.Background())) })
	check(t, b.EnsureStreams(t.Context()))
	for subject, nc := range map[string]*nats.Conn{
		"penstock.ev.default.ci.k.t":               b.Ext,
		"penstock.output.r.build.1":                b.Work,
		"penstock.task.default.build.7":            b.Work,
		"$O." + events.BucketBlobs + ".C.evil":     b.Work,
		"penstock.out.default.harbour.shop.staged": b.Notify,
		"penstock.audit.202611":                    b.Engine,
	} {
		for _, m := range []*nats.Msg{
			message(subject, "x", "Nats-Rollup", "all"),
			message(subject, "x", "Nats-Rollup", "sub"),
			message(subject, "x", "Nats-Schedule", "@at 2026-01-01T00:00:00Z", "Nats-Schedule-Target", subject+"x"),
			message(subject, "x", "Nats-TTL", "1s"),
		} {
			if a := ask(t, nc, m); a.code() == 0 {
				t.Errorf("%s takes %v", subject, m.Header)
			}
		}
	}
}

// services are accounts as Penstock has them: people without JetStream reach
// the engine through an import.
const services = `accounts {
	ENGINE {
		users: [ { user: engine, password: p } ]
		exports: [ { service: "penstock.api.>" } ]
	}
	USERS {
		imports: [ { service: { account: ENGINE, subject: "penstock.api.>" }%s } ]
		users: [
			{ user: alice, password: p, permissions: { publish: ["penstock.api.alice.>"] } }
			{ user: bob, password: p, permissions: { publish: ["penstock.api.bob.>"] } }
			{ user: carol, password: p }
		]
	}
}`

type requestInfo struct {
	Account string `json:"acc"`
	User    string `json:"user"`
	Kind    string `json:"kind"`
}

// api starts a server with services and gives what reaches the engine.
func api(t *testing.T, share string) (*server.Server, *nats.Conn, *nats.Subscription) {
	t.Helper()
	s := start(t, configured(t, fmt.Sprintf(services, share)))
	engine := as(t, s, "engine")
	sub, err := engine.SubscribeSync("penstock.api.>")
	check(t, err)
	check(t, engine.Flush())
	return s, engine, sub
}

func nextOf(t *testing.T, sub *nats.Subscription) (*nats.Msg, *requestInfo) {
	t.Helper()
	m, err := sub.NextMsg(patience)
	check(t, err)
	text := m.Header.Get("Nats-Request-Info")
	if text == "" {
		return m, nil
	}
	var i requestInfo
	check(t, json.Unmarshal([]byte(text), &i))
	return m, &i
}

// P1. Across accounts the server says who asks.
func TestServerNamesWhoAsksAcrossAccounts(t *testing.T) {
	s, _, sub := api(t, ", share: true")
	check(t, as(t, s, "alice").Publish("penstock.api.alice.echo", nil))
	if _, i := nextOf(t, sub); i == nil || *i != (requestInfo{"USERS", "alice", "Client"}) {
		t.Errorf("the server says %+v", i)
	}
}

// P2. What somebody claims to be is overwritten. Without share there is only
// the account in its place.
func TestServerOverwritesWhatTheAskerClaims(t *testing.T) {
	for share, want := range map[string]requestInfo{
		", share: true": {"USERS", "alice", "Client"},
		"":              {Account: "USERS"},
	} {
		s, _, sub := api(t, share)
		check(t, as(t, s, "alice").PublishMsg(message("penstock.api.alice.echo", "", "Nats-Request-Info", `{"acc":"USERS","user":"bob","kind":"Client"}`)))
		if _, i := nextOf(t, sub); i == nil || *i != want {
			t.Errorf("import%s: the engine sees %+v, want %+v", share, i, want)
		}
	}
}

// The user in the server's word is no proof: a client that logs in with a
// password may name any key. Account and kind are the server's own.
func TestUserInTheServersWordCanBeForged(t *testing.T) {
	s, _, sub := api(t, ", share: true")
	conn, err := net.Dial("tcp", s.Addr().String())
	check(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(`CONNECT {"user":"alice","pass":"p","nkey":"bob","verbose":false,"headers":true}` + "\r\nPUB penstock.api.alice.echo 0\r\n\r\nPING\r\n"))
	check(t, err)
	if _, i := nextOf(t, sub); i == nil || *i != (requestInfo{"USERS", "bob", "Client"}) {
		t.Errorf("the server says %+v", i)
	}
}

// P3, P4. Nobody reaches the API below another's subject: not directly, and
// not by having the engine answer there.
func TestNobodyReachesTheAPIBelowAnothersSubject(t *testing.T) {
	s, engine, sub := api(t, ", share: true")
	alice := as(t, s, "alice")
	check(t, alice.Publish("penstock.api.bob.approve", []byte("direct")))
	check(t, alice.PublishRequest("penstock.api.alice.echo", "penstock.api.bob.approve", []byte("by reply")))
	m, _ := nextOf(t, sub)
	if m.Subject != "penstock.api.alice.echo" {
		t.Fatalf("a request arrives on %s", m.Subject)
	}
	check(t, m.Respond(m.Data))
	// What comes after the answer comes last.
	check(t, engine.Flush())
	check(t, alice.Publish("penstock.api.alice.marker", nil))
	if m, _ := nextOf(t, sub); m.Subject != "penstock.api.alice.marker" {
		t.Errorf("a request arrives on %s: %q", m.Subject, m.Data)
	}
}

// In an account without JetStream nothing answers that could be misused so.
func TestAccountWithoutJetStreamHasNoDeputy(t *testing.T) {
	s, _, _ := api(t, ", share: true")
	reply, err := as(t, s, "carol").Request("$JS.API.INFO", nil, patience)
	if err != nil {
		if !errors.Is(err, nats.ErrNoResponders) {
			t.Error(err)
		}
		return
	}
	if a := parse(t, reply.Data); a.code() != 10039 {
		t.Errorf("JetStream answers %s", reply.Data)
	}
}
