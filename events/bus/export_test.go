package bus

import (
	"context"
	"encoding/json"
	"log"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// ServeBot starts a server for the example of a bot. As soon as the bot
// follows, an approval is waited for; decide answers decisions.
func ServeBot(decide func(events.Decide) events.Answer) (bot *Credential, end func()) {
	in, end := demo()
	respond := func(verb string, fn func(m *nats.Msg) events.Answer) {
		_, err := in.engine.Subscribe("penstock.api.u.bot."+verb, func(m *nats.Msg) {
			p, _ := json.Marshal(fn(m))
			_ = m.Respond(p)
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	respond(events.VerbEvents, func(*nats.Msg) events.Answer {
		if err := in.notice(); err != nil {
			return events.Answer{Status: events.StatusError, Reason: err.Error()}
		}
		return result(events.EventPage{}) // the bot begins before what happens now
	})
	respond(events.VerbDecide, func(m *nats.Msg) events.Answer {
		var d events.Decide
		if err := json.Unmarshal(m.Data, &d); err != nil {
			return events.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: err.Error()}
		}
		return decide(d)
	})
	if err := in.engine.Flush(); err != nil {
		log.Fatal(err)
	}
	return in.bot, end
}

// notice reports that an approval is waited for.
func (in *installation) notice() error {
	js, err := jetstream.New(in.notify)
	if err != nil {
		return err
	}
	data, _ := json.Marshal(events.Happening{Run: "r1", Workflow: "release", State: "approve", Channel: "releases",
		Content: "sha256:af1e", Text: "release 1f2e3d4 waits: 1 more release-manager"})
	e := events.Event{ID: "n1", Source: "/penstock/run/r1", Type: events.Notification, Subject: "r1", Data: data}
	p, err := e.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = js.Publish(context.Background(), events.OutSubject(events.DefaultTenant, "", "release", "notification"), p)
	return err
}
