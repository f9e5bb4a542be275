package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// The protocol by which JetStream gives and takes snapshots of streams. The
// client library does not have it.

const (
	chunkSize  = 128 << 10 // asked for; below every server's limit of a message
	windowSize = 8 << 20
	// stalled is for how long nothing may come or be taken.
	stalled = 30 * time.Second
)

// apiError is how the server says why not.
type apiError struct {
	Code        int    `json:"code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return e.Description }

// ask sends a request to the API of JetStream.
func ask(ctx context.Context, nc *nats.Conn, subject string, request, answer any) error {
	p, err := json.Marshal(request)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, stalled)
	defer cancel()
	m, err := nc.RequestWithContext(limited, subject, p)
	if err != nil {
		return err
	}
	return read(m, answer)
}

func read(m *nats.Msg, answer any) error {
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	return json.Unmarshal(m.Data, answer)
}

// snapshot has the server send a copy of a stream, and gives what it is of.
func snapshot(ctx context.Context, nc *nats.Conn, stream string, consumers bool, fn func(chunk []byte) error) (config, state json.RawMessage, err error) {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, nil, err
	}
	defer sub.Unsubscribe()
	var about struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	request := map[string]any{"deliver_subject": inbox, "no_consumers": !consumers, "chunk_size": chunkSize, "window_size": windowSize, "jsck": true}
	if err := ask(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+stream, request, &about); err != nil {
		return nil, nil, err
	}
	for {
		limited, cancel := context.WithTimeout(ctx, stalled)
		m, err := sub.NextMsgWithContext(limited)
		cancel()
		if err != nil {
			return nil, nil, fmt.Errorf("the server stopped sending: %w", err)
		}
		if status := m.Header.Get("Status"); status >= "400" {
			return nil, nil, fmt.Errorf("the server gave up: %s %s", status, m.Header.Get("Description"))
		}
		if len(m.Data) == 0 {
			return about.Config, about.State, nil
		}
		if err := fn(m.Data); err != nil {
			return nil, nil, err
		}
		if m.Reply != "" { // lets the server send more
			if err := nc.Publish(m.Reply, nil); err != nil {
				return nil, nil, err
			}
		}
	}
}

// restoring is a stream that is sent to the server.
type restoring struct {
	nc *nats.Conn
	to string
}

// restore begins to send a stream. It must not exist.
func restore(ctx context.Context, nc *nats.Conn, stream string, config, state json.RawMessage) (*restoring, error) {
	var about struct {
		To string `json:"deliver_subject"`
	}
	request := map[string]any{"config": config, "state": state}
	if err := ask(ctx, nc, "$JS.API.STREAM.RESTORE."+stream, request, &about); err != nil {
		return nil, err
	}
	if about.To == "" {
		return nil, errors.New("the server does not say where to send it")
	}
	return &restoring{nc: nc, to: about.To}, nil
}

// send sends a piece of the snapshot.
func (r *restoring) send(ctx context.Context, piece []byte) error {
	for len(piece) > 0 {
		n := min(len(piece), chunkSize)
		m, err := r.request(ctx, piece[:n])
		if err != nil {
			return err
		}
		if len(m.Data) > 0 { // it takes no more
			if err := read(m, &struct{}{}); err != nil {
				return err
			}
			return errors.New("the server ended the restore before everything was sent")
		}
		piece = piece[n:]
	}
	return nil
}

func (r *restoring) request(ctx context.Context, p []byte) (*nats.Msg, error) {
	limited, cancel := context.WithTimeout(ctx, stalled)
	defer cancel()
	return r.nc.RequestWithContext(limited, r.to, p)
}

// end says that everything was sent and gives what the stream holds now.
func (r *restoring) end(ctx context.Context) (State, error) {
	var answer struct {
		State State `json:"state"`
	}
	m, err := r.request(ctx, nil)
	if err != nil {
		return State{}, err
	}
	return answer.State, read(m, &answer)
}
