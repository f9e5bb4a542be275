package journal_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// damaged gives a journal whose file had a bit changed while the server did
// not run: in the record that holds what.
func damaged(t *testing.T, records [][2]string, what ...string) journal.Journal {
	t.Helper()
	b := newBroker(t, journal.SyncAlways)
	j := b.open(t, b.connect(b.server.ClientURL()), slow)
	if err := j.Own(t.Context(), []int{0, 1, 2}, []byte("owner")); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		stored := make(chan error, 1)
		j.Append(events.LogPartition(r[0]), r[0], []byte(r[1]), func(_ uint64, err error) { stored <- err })
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
	closeJournal(t, j)
	b.damage(t, events.StreamLog, what...)
	return b.open(t, b.connect(b.server.ClientURL()), slow)
}

// damage changes a bit of each of some messages while the server does not run.
func (b *broker) damage(t *testing.T, stream string, what ...string) {
	t.Helper()
	b.stop()
	files, err := filepath.Glob(filepath.Join(b.dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the files are %v, %v", files, err)
	}
	p, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range what {
		at := bytes.Index(p, []byte(w))
		if at < 0 {
			t.Fatalf("%s does not hold %q", files[0], w)
		}
		p[at] ^= 1
	}
	if err := os.WriteFile(files[0], p, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
}

// told is what a reading gave, in short.
func told(list *[]string) func(journal.Entry) error {
	return func(e journal.Entry) error {
		if e.Damaged {
			*list = append(*list, fmt.Sprintf("%d damaged %s", e.Seq, e.Subject))
		} else {
			*list = append(*list, fmt.Sprintf("%d %s", e.Seq, e.Data))
		}
		return nil
	}
}

var some = [][2]string{{"penstock.log.0.run.a", "a-1"}, {"penstock.log.0.run.b", "b-1"}, {"penstock.log.1.run.c", "c-1"},
	{"penstock.log.0.run.a", "a-2"}, {"penstock.log.0.run.d", "d-1"}}

// The server passes over a message that it cannot read when it gives the last
// ones, and says that there is none when it is asked for it.
func TestTheLastRecordOfASubjectThatCannotBeReadIsTold(t *testing.T) {
	j := damaged(t, some, "b-1", "a-2")
	want := []string{"5 damaged penstock.log.0.run.b", "6 c-1", "7 damaged penstock.log.0.run.a", "8 d-1"}
	for _, filters := range [][]string{{"penstock.log.>"}, {"penstock.log.0.>", "penstock.log.1.>", "penstock.log.2.>"}} {
		var got []string
		if err := j.LastPerSubject(t.Context(), filters, told(&got)); err != nil {
			t.Fatal(err)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("of %v it gives %q, want %q", filters, got, want)
		}
	}
}

// What nothing else is beside, nothing that is read tells the end of.
func TestAPartitionWhoseOnlyRecordCannotBeReadIsRead(t *testing.T) {
	j := damaged(t, some, "c-1")
	for _, read := range []func(context.Context, func(journal.Entry) error) error{
		func(ctx context.Context, fn func(journal.Entry) error) error {
			return j.LastPerSubject(ctx, []string{"penstock.log.1.>"}, fn)
		},
		func(ctx context.Context, fn func(journal.Entry) error) error {
			return j.Select(ctx, "penstock.log.1.>", 1, fn)
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), slow)
		var got []string
		err := read(ctx, told(&got))
		cancel()
		if err != nil || len(got) != 1 || !strings.Contains(got[0], " damaged ") {
			t.Errorf("it gives %q, %v", got, err)
		}
	}
}

// A consumer stands still before a message that the server cannot read.
func TestAReadingEndsWhereTheLastRecordCannotBeRead(t *testing.T) {
	j := damaged(t, some, "d-1")
	for filter, want := range map[string][]string{"": {"4 a-1", "5 b-1", "6 c-1", "7 a-2", "8 damaged "}, "penstock.log.0.>": {"4 a-1", "5 b-1", "7 a-2", "8 damaged "}} {
		var got []string
		var err error
		if filter == "" {
			err = j.From(t.Context(), 4, told(&got))
		} else {
			err = j.Select(t.Context(), filter, 1, told(&got))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %q it gives %q, %v; want %q", filter, got, err, want)
		}
	}
}

// A checkpoint that cannot be read is there, and another one takes its place.
func TestADamagedCheckpointIsToldAndReplaced(t *testing.T) {
	b := newBroker(t, journal.SyncAlways)
	j := b.open(t, b.connect(b.server.ClientURL()), slow)
	if err := j.Checkpoint(t.Context(), map[int][]byte{1: []byte("first"), 2: []byte("second"), 3: []byte("third")}); err != nil {
		t.Fatal(err)
	}
	closeJournal(t, j)
	b.damage(t, events.StreamCkpt, "second")
	for mended, want := range []string{"", "instead"} {
		nc := b.connect(b.server.ClientURL())
		j := b.open(t, nc, slow)
		got, err := j.LoadCheckpoints(t.Context())
		if err != nil || len(got) != 3 || string(got[1]) != "first" || got[2] == nil || string(got[2]) != want || string(got[3]) != "third" {
			t.Errorf("the checkpoints are %v, %v; want %q as that of partition 2", got, err, want)
		}
		vps, err := j.MendCheckpoints(t.Context(), b.jetStream(nc), []byte("instead"))
		if err != nil || len(vps) != 1-mended {
			t.Errorf("mended are %v, %v", vps, err)
		}
		closeJournal(t, j)
		b.stop()
		b.start()
	}
}
