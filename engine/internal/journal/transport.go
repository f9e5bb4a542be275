package journal

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Transport is what the journal needs of JetStream and of the connection to
// it. On gives the real one. A simulation puts a fake below, so that all of
// the journal, its committer, its fences and its reader, is in the simulation.
type Transport interface {
	// Connected says whether what is sent now may arrive.
	Connected() bool
	// MaxPayload is how many bytes a message may have.
	MaxPayload() int64
	// Send puts a message on its way and does not wait. It must not keep m.
	// Messages of one sender arrive in their order, or not at all.
	Send(m *nats.Msg) error
	// Listen has fn called, once at a time, with what comes to subjects that
	// begin with inbox. stop ends it.
	Listen(fn nats.MsgHandler) (inbox string, stop func(), err error)
	// Interrupted gives a channel that gets a value when the connection was
	// lost, with the answers that were on their way. stop gives it back.
	Interrupted() (lost <-chan nats.Status, stop func())
	// API asks the leader: name is a request of JetStream's API without its
	// prefix, and the answer is its JSON.
	API(ctx context.Context, name string, body []byte) ([]byte, error)
	// Stream gives a stream as it is now.
	Stream(ctx context.Context, name string) (jetstream.Stream, error)
	// DeleteConsumer removes a consumer.
	DeleteConsumer(ctx context.Context, stream, consumer string) error
}

// On gives the transport over the connection of js.
func On(js jetstream.JetStream) Transport { return &transport{JetStream: js, nc: js.Conn()} }

type transport struct {
	jetstream.JetStream
	nc *nats.Conn
}

func (t *transport) Connected() bool        { return t.nc.IsConnected() }
func (t *transport) MaxPayload() int64      { return t.nc.MaxPayload() }
func (t *transport) Send(m *nats.Msg) error { return t.nc.PublishMsg(m) }

func (t *transport) Listen(fn nats.MsgHandler) (string, func(), error) {
	inbox := t.nc.NewInbox() + "."
	sub, err := t.nc.Subscribe(inbox+"*", fn)
	if err != nil {
		return "", nil, err
	}
	// Answers are small, but a slow consumer would turn them into unknown outcomes.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return "", nil, err
	}
	// It fails only when the connection is closed, which unsubscribes too.
	return inbox, func() { _ = sub.Unsubscribe() }, nil
}

func (t *transport) Interrupted() (<-chan nats.Status, func()) {
	lost := t.nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	return lost, func() { t.nc.RemoveStatusListener(lost) }
}

func (t *transport) API(ctx context.Context, name string, body []byte) ([]byte, error) {
	answer, err := t.nc.RequestWithContext(ctx, apiPrefix(t.JetStream)+name, body)
	if err != nil {
		return nil, err
	}
	return answer.Data, nil
}

func apiPrefix(js jetstream.JetStream) string {
	o := js.Options()
	switch {
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	}
	return jetstream.DefaultAPIPrefix
}
