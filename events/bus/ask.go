package bus

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events/bus/funnel"
)

// asker sends requests and pairs the answers with them: one inbox, one
// subscription, a token for each request. It does what nats.Conn.Request does,
// for hundreds of goroutines that ask at a time, and ends at once what cannot
// be answered any more.
type asker struct {
	nc  *nats.Conn
	out *funnel.Funnel[outgoing]

	mu      sync.Mutex
	sub     *nats.Subscription
	inbox   string
	next    uint64
	pending map[string]*asked
}

// asked is a request that waits for its answer.
type asked struct {
	subject string
	answer  chan answered // has room for one
}

type answered struct {
	msg *nats.Msg
	err error
}

// outgoing is a message to be sent; token is that of a request.
type outgoing struct {
	msg   nats.Msg
	token string
}

// newAsker makes an asker; it can be told of a connection's troubles before it
// is given the connection.
func newAsker() *asker {
	a := &asker{pending: map[string]*asked{}}
	a.out = funnel.New(a.send)
	return a
}

// ask sends body and waits for one answer, for a refusal of the server
// (errDenied), for the connection to be lost (errReconnected) or closed, or
// for ctx to end.
func (a *asker) ask(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	r := &asked{subject: subject, answer: make(chan answered, 1)}
	token, inbox, err := a.register(r)
	if err != nil {
		return nil, err
	}
	a.out.Add(outgoing{nats.Msg{Subject: subject, Reply: inbox + token, Data: body}, token})
	select {
	case got := <-r.answer:
		return got.msg, got.err
	case <-ctx.Done():
		a.take(token)
		return nil, ctx.Err()
	}
}

// tell sends a message to which there is no answer.
func (a *asker) tell(subject string, body []byte) error {
	if a.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	a.out.Add(outgoing{msg: nats.Msg{Subject: subject, Data: body}})
	return nil
}

func (a *asker) register(r *asked) (token, inbox string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sub == nil {
		a.inbox = a.nc.NewInbox() + "."
		if a.sub, err = a.nc.Subscribe(a.inbox+"*", a.answered); err != nil {
			return "", "", fmt.Errorf("subscribe to answers: %w", err)
		}
		// Answers are small, and one that is dropped is asked for again.
		if err := a.sub.SetPendingLimits(-1, -1); err != nil {
			return "", "", err
		}
	}
	a.next++
	token = strconv.FormatUint(a.next, 36)
	a.pending[token] = r
	return token, a.inbox, nil
}

// take removes a request, for the one who will answer it.
func (a *asker) take(token string) *asked {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.pending[token]
	delete(a.pending, token)
	return r
}

func (a *asker) send(batch []outgoing) {
	for i := range batch {
		if err := a.nc.PublishMsg(&batch[i].msg); err != nil {
			if r := a.take(batch[i].token); r != nil {
				r.answer <- answered{err: err}
			}
		}
	}
}

func (a *asker) answered(m *nats.Msg) {
	r := a.take(m.Subject[len(a.inbox):])
	switch {
	case r == nil: // nobody waits for it any more
	case len(m.Data) == 0 && m.Header.Get("Status") == "503":
		r.answer <- answered{err: nats.ErrNoResponders}
	default:
		r.answer <- answered{msg: m}
	}
}

// end ends the requests on a subject, all of them when it is empty.
func (a *asker) end(subject string, err error) {
	a.mu.Lock()
	var over []*asked
	for token, r := range a.pending {
		if subject == "" || r.subject == subject {
			delete(a.pending, token)
			over = append(over, r)
		}
	}
	a.mu.Unlock()
	for _, r := range over {
		r.answer <- answered{err: err}
	}
}
