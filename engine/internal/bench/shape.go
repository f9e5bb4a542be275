package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Shape is what one run stores: for each of its records the record itself and
// what is published because of it. It is taken from a run that Penstock made,
// so that the floor stores the same.
type Shape struct {
	id    string // of the run, which stands in the messages
	steps []step
}

type step struct {
	record []byte
	tasks  []journal.Message // their subjects are the floor's
	events []journal.Message
}

// PerRun counts the messages of a run.
func (s *Shape) PerRun() (c Counts) {
	for _, st := range s.steps {
		c.Records++
		c.Tasks += uint64(len(st.tasks))
		c.Events += uint64(len(st.events))
	}
	return c
}

// Bytes is how much a run stores, headers aside.
func (s *Shape) Bytes() (n int) {
	for _, st := range s.steps {
		n += len(st.record)
		for _, list := range [][]journal.Message{st.tasks, st.events} {
			for _, m := range list {
				n += len(m.Data)
			}
		}
	}
	return n
}

// ReadShape reads all that the run, which has ended, made Penstock store. It
// waits for what is still on its way.
func ReadShape(ctx context.Context, b *broker.Broker, run string) (*Shape, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s := &Shape{id: run}
	tasks, outs := 0, 0
	err := each(ctx, b.Engine, events.StreamLog, events.LogSubject(record.Run, run), func(m jetstream.Msg) (bool, error) {
		r, err := record.Decode(m.Data())
		if err != nil {
			return false, err
		}
		tasks, outs = tasks+len(r.Tasks), outs+len(r.Events)
		s.steps = append(s.steps, step{record: m.Data()})
		return len(s.steps) < 1+Tasks, nil
	})
	if err != nil {
		return nil, err
	}
	err = s.read(ctx, b.Work, events.StreamTasks, "penstock.task.>", tasks, taskRecord, func(st *step) *[]journal.Message { return &st.tasks })
	if err != nil {
		return nil, err
	}
	return s, s.read(ctx, b.Notify, events.StreamOut, "penstock.out.>", outs, eventRecord, func(st *step) *[]journal.Message { return &st.events })
}

// read gives each step what the stream holds of it, n messages in all. which
// tells the run of a message and the version of its record.
func (s *Shape) read(ctx context.Context, nc *nats.Conn, stream, filter string, n int, which func([]byte) (string, int64, error), list func(*step) *[]journal.Message) error {
	return each(ctx, nc, stream, filter, func(m jetstream.Msg) (bool, error) {
		run, v, err := which(m.Data())
		if err != nil || run != s.id {
			return true, err
		}
		if v < 1 || v > int64(len(s.steps)) {
			return false, fmt.Errorf("a message of stream %s belongs to record %d, of %d", stream, v, len(s.steps))
		}
		msgs := list(&s.steps[v-1])
		*msgs = append(*msgs, journal.Message{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
		n--
		return n > 0, nil
	})
}

func taskRecord(p []byte) (string, int64, error) {
	var t events.Task
	err := json.Unmarshal(p, &t)
	return t.Run, t.Fence.Version, err
}

func eventRecord(p []byte) (string, int64, error) {
	var e events.Event
	if err := json.Unmarshal(p, &e); err != nil {
		return "", 0, err
	}
	var h events.Happening
	err := json.Unmarshal(e.Data, &h)
	return h.Run, h.Record, err
}

// each reads a stream from its beginning until more says no.
func each(ctx context.Context, nc *nats.Conn, stream, filter string, more func(jetstream.Msg) (bool, error)) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	it, err := c.Messages()
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("stream %s: %w", stream, err)
		}
		if again, err := more(m); err != nil || !again {
			return err
		}
	}
}

// as gives p with the id of another run, of the same length, in the place of
// the one that the shape was taken from.
func (s *Shape) as(id string, p []byte) []byte {
	p = bytes.Clone(p)
	for rest := p; ; {
		i := bytes.Index(rest, []byte(s.id))
		if i < 0 {
			return p
		}
		copy(rest[i:], id)
		rest = rest[i+len(id):]
	}
}
