package broker

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// requestInfo is what the server says of who asks, across accounts.
type requestInfo struct {
	Account string `json:"acc"`
	User    string `json:"user"`
	Kind    string `json:"kind"`
}

func infoOf(t *testing.T, m *nats.Msg) requestInfo {
	t.Helper()
	var i requestInfo
	if text := m.Header.Get("Nats-Request-Info"); text != "" {
		if err := json.Unmarshal([]byte(text), &i); err != nil {
			t.Errorf("request information %q: %v", text, err)
		}
	}
	return i
}

// listen gives what reaches the engine's API in the engine's account.
func listen(t *testing.T, in *installation) *nats.Subscription {
	t.Helper()
	sub, err := in.Engine.SubscribeSync("penstock.api.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Engine.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

func next(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	m, err := sub.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// marker sends a last request as the bot and gives what came before it.
func untilMarker(t *testing.T, in *installation, sub *nats.Subscription) (before []*nats.Msg) {
	t.Helper()
	nc := connect(t, in.bot)
	if err := nc.Publish("penstock.api.u.bot.marker", nil); err != nil {
		t.Fatal(err)
	}
	for {
		m := next(t, sub)
		if m.Subject == "penstock.api.u.bot.marker" {
			return before
		}
		before = append(before, m)
	}
}

// P1, P2: the server itself says who asks, whatever the asker claims.
func TestRequestsNameWhoAskedAndCannotLie(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		api := listen(t, in)
		for _, c := range []struct {
			cred             bus.Credential
			subject, account string
		}{
			{in.bot, "penstock.api.u.bot.run.list", events.AccountUsers},
			{in.admin, "penstock.api.a.admin.auth.list", events.AccountUsers},
			{in.worker, "penstock.api.w.default.default.worker.attempt.start", events.AccountWork},
		} {
			m := nats.NewMsg(c.subject)
			m.Header.Set("Nats-Request-Info", `{"acc":"ENGINE","user":"carol","kind":"Client"}`)
			if err := connect(t, c.cred).PublishMsg(m); err != nil {
				t.Fatal(err)
			}
			want := requestInfo{Account: c.account, User: c.cred.User, Kind: "Client"}
			if got := infoOf(t, next(t, api)); got != want {
				t.Errorf("%s: the server says %+v, want %+v", c.subject, got, want)
			}
		}
	})
}

// P3, P4: nobody reaches the API below another's subject, not by having the
// engine answer there either.
func TestNobodyAsksInAnothersName(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		api := listen(t, in)
		nc := connect(t, in.bot)
		if err := nc.Publish("penstock.api.u.admin.run.decide", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("penstock.api.u.bot.echo", "penstock.api.u.admin.run.decide", []byte(`{"decision":"approved"}`)); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		m := next(t, api)
		if m.Subject != "penstock.api.u.bot.echo" {
			t.Fatalf("got a request on %s", m.Subject)
		}
		if err := m.Respond(m.Data); err != nil {
			t.Fatal(err)
		}
		for _, m := range untilMarker(t, in, api) {
			t.Errorf("a request reached the API on %s: %s", m.Subject, m.Data)
		}
	})
}

// T1, T1b: a worker has JetStream answer on the subject of another worker.
// Whatever arrives there is not from a client, by the server's own word, and
// its body is not the attacker's.
func TestWorkerCannotSpeakForAnotherWorkerThroughJetStream(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		forged := `{"task":"t1","run":"r1","worker":"other","result":{"outcome":"succeeded"}}`
		victim := "penstock.api.w.default.default.other.attempt.finish"
		nc := connect(t, in.worker)
		// Stored with a claim in its header, then fetched onto the victim's subject.
		m := nats.NewMsg("$O.PENSTOCK_ARTIFACTS.C.evil")
		m.Data = []byte(forged)
		m.Header.Set("Nats-Request-Info", `{"acc":"WORK_default","user":"worker:other","kind":"Client"}`)
		if _, err := nc.RequestMsg(m, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		api := listen(t, in)
		for subject, body := range map[string]string{
			"$O.PENSTOCK_ARTIFACTS.C.evil":                                 forged,
			"penstock.output.r1.build.1":                                   forged,
			"$JS.API.STREAM.MSG.GET.OBJ_PENSTOCK_ARTIFACTS":                `{"last_by_subj":"$O.PENSTOCK_ARTIFACTS.C.evil"}`,
			"$JS.API.DIRECT.GET.OBJ_PENSTOCK_ARTIFACTS":                    `{"last_by_subj":"$O.PENSTOCK_ARTIFACTS.C.evil"}`,
			"$JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-build":       `{"batch":1,"no_wait":true}`,
			"$JS.API.CONSUMER.CREATE.OBJ_PENSTOCK_ARTIFACTS.x":             `{"stream_name":"OBJ_PENSTOCK_ARTIFACTS","config":{"name":"x","deliver_subject":"` + victim + `"}}`,
			"$JS.API.CONSUMER.INFO.PENSTOCK_TASKS.default-build":           ``,
			"penstock.api.w.default.default.worker.worker.hello.not.asked": forged,
		} {
			if err := nc.PublishRequest(subject, victim, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		// JetStream answers in its own time: a last call through the same
		// stream, whose answer comes after those before it.
		if _, err := nc.Request("$JS.API.STREAM.MSG.GET.OBJ_PENSTOCK_ARTIFACTS", []byte(`{"seq":1}`), 5*time.Second); err != nil {
			t.Fatal(err)
		}
		for _, m := range untilMarker(t, in, api) {
			if m.Subject != victim {
				continue
			}
			if i := infoOf(t, m); i.Kind == "Client" {
				t.Errorf("arrived as from a client %+v: %s", i, m.Data)
			}
			var f events.FinishRequest
			if json.Unmarshal(m.Data, &f) == nil && (f.Task != "" || f.Worker != "" || f.Result.Outcome != "") {
				t.Errorf("the attacker's body arrived: %s", m.Data)
			}
		}
	})
}

// What a worker can make JetStream put on a task's subject is not signed by
// the engine, so no worker takes it.
func TestForgedTaskIsNeverTaken(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		nc := connect(t, in.worker)
		if err := nc.PublishRequest("penstock.output.r1.build.1", events.TaskSubject("default", "build", 7), []byte(`{"id":"evil"}`)); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the forged message is stored", func() bool { return stored(t, in.Work, events.StreamTasks) == 1 })
		good, _ := json.Marshal(events.Task{ID: "good", Pool: "default", Kind: "build"})
		m := nats.NewMsg(events.TaskSubject("default", "build", 7))
		m.Data = good
		m.Header.Set(events.HeaderSignature, events.SignGroup(key, [][]byte{good})[0])
		js, err := jetstream.New(in.Work)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		cred := in.worker
		cred.TaskKeys = []string{base64.StdEncoding.EncodeToString(pub)}
		conn, err := bus.Connect(t.Context(), &cred)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var got []string
		eventually(t, "the signed task is taken", func() bool {
			list, err := conn.Tasks("", "build").Fetch(t.Context(), 10, 100*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			for _, task := range list {
				got = append(got, task.Task.ID)
				if err := task.Ack(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			return len(got) > 0
		})
		if strings.Join(got, " ") != "good" {
			t.Errorf("took %v", got)
		}
	})
}

// T3: no worker can wipe the artifacts, which an ordinary object store lets
// every writer do.
func TestWorkerCannotWipeArtifacts(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		publish(t, in.Work, "$O.PENSTOCK_ARTIFACTS.C.mine", "precious")
		nc := connect(t, in.worker)
		m := nats.NewMsg("$O.PENSTOCK_ARTIFACTS.C.evil")
		m.Header.Set("Nats-Rollup", "all")
		reply, err := nc.RequestMsg(m, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(reply.Data), "rollup not permitted") {
			t.Errorf("the server answers %s", reply.Data)
		}
		if n := stored(t, in.Work, artifactStream); n != 1 {
			t.Errorf("%d messages are left, want 1", n)
		}
	})
}

// T4: somebody uses the id of another's event first. The event is stored all
// the same.
func TestPoisonedDuplicateWindowLosesNoEvent(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		event := &events.Event{ID: "7", Source: "ci", Type: "org.example.built", Data: []byte(`{"commit":"abc"}`)}
		// The engine's own user stands for another publisher of the tenant.
		poison := nats.NewMsg("penstock.ev.default.mallory.x.y")
		poison.Header.Set(jetstream.MsgIDHeader, events.MessageID(events.DefaultTenant, event.Source, event.ID))
		js, err := jetstream.New(in.Ext)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(t.Context(), poison); err != nil {
			t.Fatal(err)
		}
		conn, err := bus.Connect(t.Context(), &in.ci)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.Publish(t.Context(), event); err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), events.StreamIngress)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.GetLastMsgForSubject(t.Context(), "penstock.ev.default.ci.>")
		if err != nil {
			t.Fatalf("the event was acknowledged and is not stored: %v", err)
		}
		if e, err := events.Parse(m.Header, m.Data); err != nil || e.ID != "7" {
			t.Errorf("stored is %s: %v", m.Data, err)
		}
	})
}

// A publisher that has its acknowledgement sent to another source's subject
// leaves there what is no event.
func TestPublisherCannotForgeAnotherSourcesEvent(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		nc := connect(t, in.ci)
		body := `{"specversion":"1.0","id":"1","source":"bank","type":"org.example.paid"}`
		if err := nc.PublishRequest("penstock.ev.default.ci.k.t", "penstock.ev.default.bank.k.t", []byte(body)); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both messages are stored", func() bool { return stored(t, in.Ext, events.StreamIngress) == 2 })
		js, err := jetstream.New(in.Ext)
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), events.StreamIngress)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.GetLastMsgForSubject(t.Context(), "penstock.ev.default.bank.>")
		if err != nil {
			t.Fatal(err)
		}
		if e, err := events.Parse(m.Header, m.Data); err == nil {
			t.Errorf("an event of the bank: %+v", e)
		}
	})
}

// Tasks of a kind that was declared later reach the workers of the pool, and
// only those; a worker restricted to kinds gets no other.
func TestDeclaredKindsReachTheirPoolOnly(t *testing.T) {
	in := prepared(t, embedded(t))
	other := mustAdd(t, in.Broker, bus.KindWorker, "other", "gpu")
	narrow := mustAdd(t, in.Broker, bus.KindWorker, "narrow", "", "build")
	here, there, few := connect(t, in.worker), connect(t, other), connect(t, narrow)
	pull := "pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-render"
	if try(t, here, pull) == nil {
		t.Fatal("a kind that nobody declared is allowed")
	}
	if err := in.EnsureTaskConsumer(t.Context(), "default", "render"); err != nil {
		t.Fatal(err)
	}
	// The worker was connected: it comes back with the new permissions.
	again := pull + ""
	eventually(t, "the worker may take the new kind", func() bool {
		nc := connect(t, in.worker)
		defer nc.Close()
		return try(t, nc, again) == nil
	})
	eventually(t, "the worker's connection is up again", func() bool { return here.Stats().Reconnects > 0 && here.IsConnected() })
	if try(t, there, pull) == nil {
		t.Error("a worker of another pool may take it")
	}
	if try(t, few, pull) == nil || try(t, few, "pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-deploy") == nil {
		t.Error("a worker for builds only may take more")
	}
	if err := try(t, few, "pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-build"); err != nil {
		t.Error(err)
	}
	if events.TaskConsumer("a-b", "c") == events.TaskConsumer("a", "b-c") {
		t.Error("two pools share a consumer")
	}
}
