package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// notice is what an engine tells or asks all others.
type notice struct {
	Format int             `json:"f"`
	From   string          `json:"from"`
	Body   json.RawMessage `json:"body,omitempty"`
	Error  string          `json:"error,omitempty"` // of an answer
}

func topicSubject(topic string) string { return "penstock.engines." + topic }

// Listen calls f with what other engines tell under a topic. Where they ask,
// a result that is not nil answers; nil leaves that to others.
func (p *Peers) Listen(topic string, f func(ctx context.Context, body []byte) (any, error)) error {
	if p.o.Conn == nil {
		return nil
	}
	sub, err := p.o.Conn.Subscribe(topicSubject(topic), func(m *nats.Msg) {
		var n notice
		if json.Unmarshal(m.Data, &n) != nil || n.Format < 1 || n.Format > formatVersion || n.From == p.o.Instance || p.ctx.Err() != nil {
			return
		}
		p.work.Go(func() { p.hear(m, n.Body, f) })
	})
	if err != nil {
		return fmt.Errorf("listen to other engines: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, sub)
	return nil
}

func (p *Peers) hear(m *nats.Msg, body []byte, f func(context.Context, []byte) (any, error)) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	out, err := f(ctx, body)
	if m.Reply == "" || out == nil && err == nil {
		return
	}
	n := notice{Format: formatVersion, From: p.o.Instance}
	if err != nil {
		n.Error = err.Error()
	} else if n.Body, err = json.Marshal(out); err != nil {
		n.Error = err.Error()
	}
	data, err := json.Marshal(n)
	if err != nil { // unreachable: texts always encode
		return
	}
	p.answers.Add(nats.Msg{Subject: m.Reply, Data: data})
}

// Tell tells all other engines something. Who is not there does not hear it.
func (p *Peers) Tell(topic string, body any) {
	if p.o.Conn == nil {
		return
	}
	data, err := p.notice(body)
	if err == nil {
		err = p.o.Conn.Publish(topicSubject(topic), data)
	}
	if err != nil {
		p.o.Log.Warn("the other engines were not told", "topic", topic, "error", err)
	}
}

func (p *Peers) notice(body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(notice{Format: formatVersion, From: p.o.Instance, Body: raw})
}

// Gather asks all other engines and gives the answers of so many of them, or
// of fewer when those have not come after a while.
func (p *Peers) Gather(ctx context.Context, topic string, body any, answers int, wait time.Duration) ([]json.RawMessage, error) {
	if p.o.Conn == nil || answers <= 0 {
		return nil, nil
	}
	data, err := p.notice(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	inbox := p.o.Conn.NewRespInbox()
	sub, err := p.o.Conn.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe() // the connection forgets it with itself when this fails
	if err := p.o.Conn.PublishRequest(topicSubject(topic), inbox, data); err != nil {
		return nil, err
	}
	var got []json.RawMessage
	for len(got) < answers {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return got, fmt.Errorf("%d of %d engines have answered about %s: %w", len(got), answers, topic, err)
		}
		var n notice
		if err := json.Unmarshal(m.Data, &n); err != nil {
			return got, fmt.Errorf("the answer of another engine cannot be read: %w", err)
		}
		if n.Error != "" {
			return got, fmt.Errorf("engine %s: %s", n.From, n.Error)
		}
		got = append(got, n.Body)
	}
	return got, nil
}
