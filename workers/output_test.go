package workers_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// printed does one task that prints and gives its chunks.
func printed(t *testing.T, most int64, do func(job *workers.Job)) (b *fakeBus, chunks []events.Chunk) {
	bubble(t, func(t *testing.T, bus *fakeBus) {
		b = bus
		stop := start(t, workers.Options{Conn: b, MaxOutput: most, Kinds: one(func(_ context.Context, job *workers.Job) events.Result {
			do(job)
			return events.Result{Outcome: events.Succeeded}
		})})
		b.deliver(task("t1"))
		if r := b.result(t, "t1"); r.Outcome != events.Succeeded {
			t.Errorf("reported %+v", r)
		}
		mustStop(t, stop)
		chunks = b.chunks["t1"]
	})
	for i, c := range chunks {
		if c.Seq != int64(i+1) || c.At.IsZero() || !utf8.ValidString(c.Text) || len(c.Text) > 3*32<<10 || c.End != (i == len(chunks)-1) {
			t.Fatalf("chunk %d of %d has seq %d, %d bytes, end %v", i+1, len(chunks), c.Seq, len(c.Text), c.End)
		}
	}
	return b, chunks
}

func write(t *testing.T, w io.Writer, text string) {
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Errorf("wrote %d of %d bytes: %v", n, len(text), err)
	}
}

func TestLinesAreCollectedIntoChunksInOrder(t *testing.T) {
	b, chunks := printed(t, 0, func(job *workers.Job) {
		write(t, job.Stdout, "one\ntw")
		write(t, job.Stderr, "warning\n")
		write(t, job.Stdout, "o\nthree")
	})
	if got := b.text("t1", "stdout"); got != "one\ntwo\nthree" {
		t.Errorf("stdout is %q", got)
	}
	if got := b.text("t1", "stderr"); got != "warning\n" {
		t.Errorf("stderr is %q", got)
	}
	if chunks[0].Text != "one\n" || chunks[1].Text != "warning\n" || chunks[2].Text != "two\nthree" || len(chunks) != 4 {
		t.Errorf("chunks are %+v", chunks)
	}
	if !b.closed["t1"] {
		t.Error("the output was not closed")
	}
}

func TestPromptIsSentAfterAWhileAndARuneIsNeverCut(t *testing.T) {
	_, chunks := printed(t, 0, func(job *workers.Job) {
		write(t, job.Stdout, "sure? \xc3")
		time.Sleep(time.Second) // of the bubble's clock
		write(t, job.Stdout, "\xa4\n")
	})
	if len(chunks) != 3 || chunks[0].Text != "sure? " || chunks[1].Text != "ä\n" {
		t.Errorf("chunks are %+v", chunks)
	}
	if gap := chunks[1].At.Sub(chunks[0].At); gap < 500*time.Millisecond {
		t.Errorf("the prompt was sent %v before the rest", gap)
	}
}

func TestMuchOutputIsSentInBoundedChunks(t *testing.T) {
	var want strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&want, "line %d ä\n", i)
	}
	b, chunks := printed(t, 0, func(job *workers.Job) {
		for rest := want.String(); len(rest) > 0; {
			n := min(len(rest), 1021) // cuts lines and runes
			write(t, job.Stdout, rest[:n])
			rest = rest[n:]
		}
	})
	if b.text("t1", "stdout") != want.String() {
		t.Error("the output is not what was written")
	}
	for _, c := range chunks {
		if len(c.Text) > 32<<10 {
			t.Errorf("a chunk has %d bytes", len(c.Text))
		}
	}
}

func TestOneEndlessLineIsSentAndInvalidBytesAreReplaced(t *testing.T) {
	b, _ := printed(t, 0, func(job *workers.Job) {
		for range 100 {
			write(t, job.Stdout, strings.Repeat("ab\xff", 1000))
		}
	})
	if got := b.text("t1", "stdout"); strings.Count(got, "ab\uFFFD") != 100_000 {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestOutputIsCappedAndSaysSo(t *testing.T) {
	b, chunks := printed(t, 1000, func(job *workers.Job) {
		write(t, job.Stdout, strings.Repeat("x", 700)+"\n")
		write(t, job.Stderr, strings.Repeat("y", 700)+"\n")
		write(t, job.Stdout, "more\n")
		write(t, job.Note, "the worker may still speak\n")
	})
	if n := len(b.text("t1", "stdout")) + len(b.text("t1", "stderr")); n != 1000 {
		t.Errorf("%d bytes were kept, want 1000", n)
	}
	if notes := b.text("t1", "worker"); !strings.Contains(notes, "still speak") || !strings.Contains(notes, "1000 bytes") {
		t.Errorf("the worker said %q", notes)
	}
	if last := chunks[len(chunks)-1]; !last.Truncated || !last.End {
		t.Errorf("the last chunk is %+v", last)
	}
}

func TestSilentTaskPublishesNoOutput(t *testing.T) {
	if _, chunks := printed(t, 0, func(*workers.Job) {}); len(chunks) != 0 {
		t.Errorf("chunks are %+v", chunks)
	}
}

func TestTaskGoesOnWhenItsOutputIsNotTaken(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.sinkFull = true
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(_ context.Context, job *workers.Job) events.Result {
			for range 100 {
				write(t, job.Stdout, strings.Repeat("x", 40<<10)+"\n")
			}
			return events.Result{Outcome: events.Succeeded}
		})})
		b.deliver(task("t1"))
		if r := b.result(t, "t1"); r.Outcome != events.Succeeded {
			t.Errorf("reported %+v", r)
		}
		mustStop(t, stop)
	})
}
