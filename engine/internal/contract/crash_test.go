package contract_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func init() {
	roles["acknowledges"] = acknowledges
	roles["publishes always"] = func(dir string) error { return publishes(dir, true) }
	roles["publishes lazily"] = func(dir string) error { return publishes(dir, false) }
}

// bare starts a server in a process that is no test.
func bare(dir string, sync bool) (*nats.Conn, jetstream.JetStream, error) {
	o := options(dir)
	o.DontListen, o.SyncAlways = true, sync
	s, err := server.NewServer(o)
	if err != nil {
		return nil, nil, err
	}
	go s.Start()
	if !s.ReadyForConnections(patience) {
		return nil, nil, errors.New("the server does not get ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	return nc, js, err
}

// acknowledges publishes five tasks, has the server confirm their
// acknowledgements, publishes one atomic batch of three, and kills itself.
func acknowledges(dir string) error {
	nc, js, err := bare(dir, false)
	if err != nil {
		return err
	}
	ctx, cancel := contextFor()
	defer cancel()
	s, err := js.CreateStream(ctx, logStream)
	if err != nil {
		return err
	}
	cons, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return err
	}
	for range 5 {
		if _, err := js.Publish(ctx, "log.a", []byte("single")); err != nil {
			return err
		}
	}
	got, err := cons.Fetch(5)
	if err != nil {
		return err
	}
	for m := range got.Messages() {
		if err := m.DoubleAck(ctx); err != nil {
			return err
		}
	}
	for i := 1; i <= 3; i++ {
		m := message("log.a", "batch", "Nats-Batch-Id", "b", "Nats-Batch-Sequence", fmt.Sprint(i))
		if i < 3 {
			if err := nc.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	fmt.Println("done")
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// killed gives the store of a server that was killed after acknowledges.
func killed(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	lines, wait := child(t, "acknowledges", dir)
	if !lines.Scan() || lines.Text() != "done" {
		t.Fatalf("the process said %q", lines.Text())
	}
	wait()
	return dir
}

// opened starts a server on a store and gives its stream.
func opened(t *testing.T, dir string) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js := jetStream(t, connect(t, start(t, options(dir))))
	s, err := js.Stream(t.Context(), "LOG")
	check(t, err)
	return js, s
}

// Probe 4. A killed server keeps every message that it acknowledged. What was
// acknowledged to it by a consumer, and confirmed, it may have forgotten.
func TestKilledServerKeepsMessagesAndForgetsConfirmedAcknowledgements(t *testing.T) {
	t.Parallel()
	for range 20 { // it writes them ten times a second: mostly the kill comes first
		_, s := opened(t, killed(t))
		if n := stored(t, s, "log.a"); n != 8 {
			t.Fatalf("%d messages are stored, want 8", n)
		}
		c, err := s.Consumer(t.Context(), "c")
		check(t, err)
		if c.CachedInfo().AckFloor.Stream < 5 {
			return
		}
	}
	t.Error("20 killed servers kept every confirmed acknowledgement: they seem to be durable now")
}

// Probe 4, cut. Without a sync before the answer, a power cut may leave a
// part of an acknowledged batch; then its sequences are used again.
func TestLostTailTearsABatchAndReusesItsSequences(t *testing.T) {
	t.Parallel()
	dir := killed(t)
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "LOG", "msgs", "*.blk"))
	check(t, err)
	if len(blocks) != 1 {
		t.Fatalf("the blocks are %v", blocks)
	}
	p, err := os.ReadFile(blocks[0])
	check(t, err)
	end := 0
	for range 7 {
		end += recordLength(p[end:])
	}
	check(t, os.Truncate(blocks[0], int64(end)))
	js, s := opened(t, dir)
	if n := stored(t, s, "log.a"); n != 7 {
		t.Errorf("%d messages are left, want 7: a batch of three is torn", n)
	}
	if seq := publish(t, js, "log.a", "after").Sequence; seq != 8 {
		t.Errorf("the next message is %d, want 8 once more", seq)
	}
}

// recordLength is that of the record at the beginning of p, in a block that
// is neither compressed nor encrypted.
func recordLength(p []byte) int { return int(binary.LittleEndian.Uint32(p) &^ (1 << 31)) }

const acknowledgements = 20

// publishes publishes singles and batches, and says when each is answered.
func publishes(dir string, sync bool) error {
	nc, js, err := bare(dir, sync)
	if err != nil {
		return err
	}
	ctx, cancel := contextFor()
	defer cancel()
	if _, err := js.CreateStream(ctx, logStream); err != nil {
		return err
	}
	for i := range acknowledgements {
		if i%2 == 1 { // in a batch of two
			if err := nc.PublishMsg(message("log.a", fmt.Sprintf("<first-%d>", i), "Nats-Batch-Id", fmt.Sprint(i), "Nats-Batch-Sequence", "1")); err != nil {
				return err
			}
		}
		m := message("log.a", fmt.Sprintf("<message-%d>", i))
		if i%2 == 1 {
			m.Header.Set("Nats-Batch-Id", fmt.Sprint(i))
			m.Header.Set("Nats-Batch-Sequence", "2")
			m.Header.Set("Nats-Batch-Commit", "1")
		}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return err
		}
		fmt.Printf("acknowledged <message-%d>\n", i)
	}
	return nil
}

var (
	written  = regexp.MustCompile(`(?:write|pwrite64|writev|pwritev)\(\d+<[^>]*/LOG/msgs/[^>]*\.blk>.*<message-(\d+)>`)
	synced   = regexp.MustCompile(`(?:fsync|fdatasync)\(\d+<[^>]*/LOG/msgs/[^>]*\.blk>`)
	answered = regexp.MustCompile(`write\(1<[^>]*>, "acknowledged <message-(\d+)>`)
)

// Durable by default: with SyncAlways the message has been synced before the
// server answers, single or batch; without it, it has not.
func TestSyncAlwaysSyncsBeforeItAnswers(t *testing.T) {
	t.Parallel()
	for role, want := range map[string]int{"publishes always": acknowledgements, "publishes lazily": 0} {
		if n := syncedBeforeAnswer(t, role); n != want {
			t.Errorf("a server that %s: %d of %d messages were on disk when they were acknowledged, want %d", role, n, acknowledgements, want)
		}
	}
}

// syncedBeforeAnswer counts the messages that had been synced when they were
// acknowledged, by the system calls of the server.
func syncedBeforeAnswer(t *testing.T, role string) (n int) {
	t.Helper()
	if out, err := exec.Command("strace", "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		required(t, "strace", fmt.Sprintf("%v %s", err, out))
	}
	trace := filepath.Join(t.TempDir(), "trace")
	lines, wait := child(t, role, t.TempDir(), "strace", "-f", "-y", "-s", "4096", "-o", trace,
		"-e", "trace=write,pwrite64,writev,pwritev,fsync,fdatasync", "-e", "signal=none")
	for lines.Scan() {
	}
	wait()
	p, err := os.ReadFile(trace)
	check(t, err)
	dirty, durable, answers := map[string]bool{}, map[string]bool{}, 0
	syncing := map[string]bool{} // threads that are within a sync of the block
	for line := range strings.Lines(string(p)) {
		thread, call, _ := strings.Cut(line, " ")
		switch {
		case synced.MatchString(call) && strings.Contains(call, "<unfinished"):
			syncing[thread] = true
		case synced.MatchString(call), syncing[thread] && strings.Contains(call, "sync resumed>"):
			delete(syncing, thread)
			for m := range dirty {
				durable[m] = true
			}
			clear(dirty)
		case written.MatchString(call):
			dirty[written.FindStringSubmatch(call)[1]] = true
		case answered.MatchString(call):
			answers++
			if durable[answered.FindStringSubmatch(call)[1]] {
				n++
			}
		}
	}
	if answers != acknowledgements {
		t.Fatalf("the trace has %d answers, want %d", answers, acknowledgements)
	}
	return n
}
