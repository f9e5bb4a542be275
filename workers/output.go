package workers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/events"
)

const (
	chunkSize  = 32 << 10               // bytes of text in a chunk, at most
	chunkAge   = 200 * time.Millisecond // how long output is held back for more of it
	chunkQueue = 16                     // chunks on their way; then the writers wait
	maxNotes   = 64 << 10               // bytes that the worker itself may add beyond the cap
	chunkTry   = 10 * time.Second       // how long the writers wait for room in the queue
	endTry     = 20 * time.Second       // how long the end of the output may take
)

// output makes chunks of what is written to its writers: lines where there
// are lines, valid UTF-8, in the order in which lines were completed, capped.
// An attempt that prints nothing publishes nothing.
type output struct {
	sink Output
	log  *slog.Logger

	mu        sync.Mutex
	room      int64             // bytes that may still come, for stdout and stderr together
	noteRoom  int64             // the same for the worker's own lines
	cap       int64             // what room was
	truncated bool              //
	partial   map[string][]byte // by stream: a line that is not complete
	pending   []segment         // complete lines
	size      int               // bytes in pending
	timer     *time.Timer       // flushes; nil when nothing is held back
	seq       int64
	stalled   bool // the bus takes nothing; chunks that find no room are dropped at once
	closed    bool

	chunks chan events.Chunk
	sent   chan struct{} // closed when the sender has ended
}

// segment is text of one stream that follows text of another.
type segment struct {
	stream string
	text   []byte
}

func newOutput(sink Output, most int64, log *slog.Logger) *output {
	return &output{sink: sink, log: log, room: most, cap: most, noteRoom: maxNotes, partial: map[string][]byte{}}
}

type streamWriter struct {
	o      *output
	stream string
}

func (o *output) writer(stream string) io.Writer { return streamWriter{o, stream} }

func (s streamWriter) Write(p []byte) (int, error) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 0, io.ErrClosedPipe
	}
	o.add(s.stream, o.cut(s.stream, p))
	if o.size >= chunkSize {
		o.flush()
	} else if o.timer == nil && (o.size > 0 || len(o.partial[s.stream]) > 0) {
		o.timer = time.AfterFunc(chunkAge, o.flushAged)
	}
	return len(p), nil
}

// cut gives the part of p for which there is room.
func (o *output) cut(stream string, p []byte) []byte {
	room := &o.room
	if stream == "worker" {
		room = &o.noteRoom
	}
	n := min(int64(len(p)), *room)
	*room -= n
	if n < int64(len(p)) {
		o.truncated = true
	}
	return p[:n]
}

// add puts complete lines, and what is too long for one chunk, among the
// pending text and keeps the rest.
func (o *output) add(stream string, p []byte) {
	line := append(o.partial[stream], p...)
	end := bytes.LastIndexByte(line, '\n') + 1
	if end == 0 && len(line) >= chunkSize {
		end = wholeRunes(line)
	}
	o.push(stream, line[:end])
	o.partial[stream] = bytes.Clone(line[end:])
}

func (o *output) push(stream string, text []byte) {
	if len(text) == 0 {
		return
	}
	o.size += len(text)
	if last := len(o.pending) - 1; last >= 0 && o.pending[last].stream == stream {
		o.pending[last].text = append(o.pending[last].text, text...)
		return
	}
	o.pending = append(o.pending, segment{stream, bytes.Clone(text)})
}

// flushAged sends what has waited long enough, also lines that are not
// complete: a prompt or a progress bar may never be.
func (o *output) flushAged() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.pushPartial(wholeRunes)
	o.flush()
}

func (o *output) pushPartial(upTo func([]byte) int) {
	for _, stream := range []string{"stdout", "stderr", "worker"} {
		line := o.partial[stream]
		n := upTo(line)
		o.push(stream, line[:n])
		o.partial[stream] = bytes.Clone(line[n:])
	}
}

// flush hands pending text to the sender. It blocks while the bus is slower
// than the task prints, for a while.
func (o *output) flush() {
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	for _, s := range o.pending {
		for len(s.text) > 0 {
			n := len(s.text)
			if n > chunkSize {
				n = cutPoint(s.text[:chunkSize])
			}
			o.emit(events.Chunk{Stream: s.stream, Text: strings.ToValidUTF8(string(s.text[:n]), "\uFFFD")})
			s.text = s.text[n:]
		}
	}
	o.pending, o.size = nil, 0
}

func (o *output) emit(c events.Chunk) {
	if o.chunks == nil {
		o.chunks, o.sent = make(chan events.Chunk, chunkQueue), make(chan struct{})
		go o.send()
	}
	o.seq++
	c.Seq, c.At = o.seq, time.Now().UTC()
	if o.enqueue(c) {
		o.stalled = false
	} else if !o.stalled {
		o.stalled = true
		o.log.Warn("the bus does not take the task's output; a part of it is missing")
	}
}

// enqueue waits for room, but not again and again: the task goes on without
// the output that does not reach the bus.
func (o *output) enqueue(c events.Chunk) bool {
	select {
	case o.chunks <- c:
		return true
	default:
	}
	if o.stalled {
		return false
	}
	patience := time.NewTimer(chunkTry)
	defer patience.Stop()
	select {
	case o.chunks <- c:
		return true
	case <-patience.C:
		return false
	}
}

func (o *output) send() {
	defer close(o.sent)
	for c := range o.chunks {
		if err := o.sink.Write(c); err != nil {
			o.log.Warn("output of the task did not reach the bus; a part of it is missing", "error", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTry)
	defer cancel()
	if err := o.sink.Close(ctx); err != nil {
		o.log.Warn("the end of the task's output did not reach the bus", "error", err)
	}
}

// close sends the rest and the last chunk. What is written afterwards is
// refused.
func (o *output) close() {
	o.mu.Lock()
	o.pushPartial(func(p []byte) int { return len(p) })
	o.closed = true
	o.flush()
	if o.seq == 0 && !o.truncated {
		o.mu.Unlock()
		return
	}
	text := ""
	if o.truncated {
		text = fmt.Sprintf("the output was cut: at most %d bytes of it are kept\n", o.cap)
	}
	o.emit(events.Chunk{Stream: "worker", Text: text, Truncated: o.truncated, End: true})
	close(o.chunks)
	o.mu.Unlock()
	patience := time.NewTimer(endTry)
	defer patience.Stop()
	select {
	case <-o.sent:
	case <-patience.C: // the sender ends by itself; the result must not wait for it
	}
}

// cutPoint is where to cut full chunk text: after its last line break, else
// after its last whole rune.
func cutPoint(p []byte) int {
	if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
		return i + 1
	}
	if n := wholeRunes(p); n > 0 {
		return n
	}
	return len(p)
}

// wholeRunes is the length of p without the beginning of a rune at its end,
// of which the rest may still come.
func wholeRunes(p []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(p); back++ {
		if tail := p[len(p)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return len(p) - back
			}
			break
		}
	}
	return len(p)
}
