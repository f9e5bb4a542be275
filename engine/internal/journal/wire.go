package journal

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// record is a message and what is known of it.
type record struct {
	subject string
	header  map[string][]string // the caller's own
	data    []byte
	vp      int // partition; -1 without a fence

	// When expectOn is set, the server stores the record only while expect is
	// the last sequence on that subject.
	expectOn string
	expect   uint64

	err  error // found out before sending
	done func(seq uint64, err error)
}

// flight is what gets one answer: a single record or an atomic batch.
type flight struct {
	number   uint64 // in the order of sending
	records  []*record
	batch    bool
	deadline time.Time
	landed   func(first uint64, err error) // first record's sequence
}

// wire sends flights and pairs the server's answers with them: one inbox, one
// subscription, a token for each flight.
type wire struct {
	t          Transport
	stream     string
	inbox      string
	mute       func() // ends the answers
	timeout    time.Duration
	replicated bool // a refusal may be that of a server that leads no longer

	sendMu  sync.Mutex // one flight after the other, so that order holds
	scratch scratch

	mu      sync.Mutex
	next    uint64
	pending map[string]*flight
	closed  bool
	lost    <-chan nats.Status
	forget  func() // gives lost back
	stop    chan struct{}
	watcher sync.WaitGroup

	interruptions atomic.Uint64
}

func newWire(t Transport, stream string, replicas int, timeout time.Duration) (*wire, error) {
	w := &wire{
		t: t, stream: stream, replicated: replicas > 1, timeout: timeout,
		scratch: scratch{header: nats.Header{}},
		pending: map[string]*flight{},
		stop:    make(chan struct{}),
	}
	var err error
	if w.inbox, w.mute, err = t.Listen(w.answer); err != nil {
		return nil, fmt.Errorf("subscribing to the answers of stream %s: %w", stream, err)
	}
	w.lost, w.forget = t.Interrupted()
	w.watcher.Go(w.watch)
	return w, nil
}

// send puts records on their way and calls landed once: with the sequence of
// the first, or with an error, perhaps before send returns.
func (w *wire) send(records []*record, batch bool, landed func(uint64, error)) {
	if !w.t.Connected() {
		landed(0, fmt.Errorf("stream %s: no connection to the server: %w", w.stream, ErrUnavailable))
		return
	}
	f := &flight{records: records, batch: batch, landed: landed, deadline: time.Now().Add(w.timeout)}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		landed(0, fmt.Errorf("stream %s: %w", w.stream, ErrClosed))
		return
	}
	w.next++
	f.number = w.next
	token := strconv.FormatUint(w.next, 36)
	w.pending[token] = f
	w.mu.Unlock()

	if err := w.publish(f, w.inbox+token); err != nil && w.take(token) != nil {
		// The message that would have had it stored never left.
		landed(0, fmt.Errorf("stream %s: sending: %w: %w", w.stream, err, ErrUnavailable))
	}
}

func (w *wire) publish(f *flight, reply string) error {
	w.sendMu.Lock()
	defer w.sendMu.Unlock()
	var id string
	if f.batch {
		id = nuid.Next()
	}
	for i, r := range f.records {
		msg := nats.Msg{Subject: r.subject, Data: r.data, Header: w.scratch.header}
		clear(w.scratch.header)
		maps.Copy(w.scratch.header, r.header)
		if r.expectOn != "" {
			w.scratch.set(0, strconv.FormatUint(r.expect, 10))
			w.scratch.set(1, r.expectOn)
		}
		if f.batch {
			w.scratch.set(2, id)
			w.scratch.set(3, strconv.Itoa(i+1))
		}
		if i == len(f.records)-1 {
			msg.Reply = reply
			if f.batch {
				w.scratch.set(4, "1")
			}
		}
		if err := w.t.Send(&msg); err != nil {
			return err
		}
	}
	return nil
}

// scratch are the headers of the message that is being sent; whoever sends it
// keeps nothing of them.
type scratch struct {
	header nats.Header
	values [len(ours)][1]string
}

// ours are the headers that the journal sets.
var ours = [...]string{"Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Last-Subject-Sequence-Subject",
	"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"}

func (s *scratch) set(which int, value string) {
	s.values[which][0] = value
	s.header[ours[which]] = s.values[which][:]
}

// take removes a flight, for the one who will call its landed.
func (w *wire) take(token string) *flight {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.pending[token]
	delete(w.pending, token)
	return f
}

type pubAck struct {
	Seq   uint64   `json:"seq"`
	Batch string   `json:"batch"`
	Count int      `json:"count"`
	Error *refusal `json:"error"`
}

func (w *wire) answer(msg *nats.Msg) {
	f := w.take(strings.TrimPrefix(msg.Subject, w.inbox))
	if f == nil {
		return // too late: its outcome has been called unknown
	}
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		f.landed(0, fmt.Errorf("stream %s: nobody takes messages on %s: %w", w.stream, f.records[0].subject, ErrUnavailable))
		return
	}
	var ack pubAck
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		f.landed(0, fmt.Errorf("stream %s: unreadable answer %q: %w", w.stream, msg.Data, ErrUnknown))
		return
	}
	n := len(f.records)
	switch {
	case ack.Error != nil:
		ack.Error.stream, ack.Error.doubtful = w.stream, w.replicated
		f.landed(0, ack.Error)
	case ack.Seq == 0, f.batch && ack.Count != n:
		f.landed(0, fmt.Errorf("stream %s: answer %q to %d messages: %w", w.stream, msg.Data, n, ErrUnknown))
	default:
		// The server stores a batch without a gap; its answer names the last.
		f.landed(ack.Seq-uint64(n)+1, nil)
	}
}

// watch calls the outcome of flights unknown whose answer is overdue, and of
// all of them when the connection is lost, because answers are not repeated.
func (w *wire) watch() {
	tick := time.NewTicker(max(w.timeout/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-w.lost:
			w.interruptions.Add(1)
			w.giveUp(func(*flight) bool { return true }, errors.New("the connection was lost"))
		case now := <-tick.C:
			w.giveUp(func(f *flight) bool { return now.After(f.deadline) },
				fmt.Errorf("no answer within %s", w.timeout))
		}
	}
}

func (w *wire) giveUp(which func(*flight) bool, why error) {
	var lost []*flight
	w.mu.Lock()
	for token, f := range w.pending {
		if which(f) {
			lost = append(lost, f)
			delete(w.pending, token)
		}
	}
	w.mu.Unlock()
	slices.SortFunc(lost, func(a, b *flight) int { return cmp.Compare(a.number, b.number) })
	for _, f := range lost {
		f.landed(0, fmt.Errorf("stream %s: %w: %w", w.stream, why, ErrUnknown))
	}
}

// close gives up what is still on its way.
func (w *wire) close() {
	w.mu.Lock()
	was := w.closed
	w.closed = true
	w.mu.Unlock()
	if was {
		return
	}
	close(w.stop)
	w.watcher.Wait()
	w.forget()
	w.mute()
	w.giveUp(func(*flight) bool { return true }, errors.New("closed while it was on its way"))
}
