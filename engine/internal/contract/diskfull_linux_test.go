package contract_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// smallDisk is a disk of 24 MB of which ballast can be removed.
func smallDisk(t *testing.T) (dir, ballast string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		required(t, "root", fmt.Sprintf("a small disk cannot be mounted here (%v); unshare -rm helps", err))
	}
	t.Cleanup(func() { check(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	ballast = filepath.Join(dir, "ballast")
	check(t, os.WriteFile(ballast, make([]byte, 8<<20), 0o600))
	return dir, ballast
}

// diskServer is a server with two streams whose limits are above the disk.
func diskServer(t *testing.T, dir string, maxStore int64) (*server.Options, *server.Server, *nats.Conn) {
	t.Helper()
	o := options(filepath.Join(dir, "store"))
	o.JetStreamMaxStore = maxStore
	s := start(t, o)
	nc := connect(t, s)
	for _, name := range []string{"A", "B"} {
		stream(t, jetStream(t, nc), jetstream.StreamConfig{Name: name, Subjects: []string{"disk." + name}, Discard: jetstream.DiscardNew})
	}
	return o, s, nc
}

// store publishes and says what became of it; no answer is an error.
func store(t *testing.T, nc *nats.Conn, subject string, wait time.Duration) (stored bool, err error) {
	t.Helper()
	reply, err := nc.Request(subject, make([]byte, 64<<10), wait)
	if err != nil {
		return false, err
	}
	return parse(t, reply.Data).code() == 0, nil
}

// Probe 7. A full disk freezes the stream that meets it: publishes are not
// answered, and freeing space does not help. Others go on; a restart heals it.
// Nothing acknowledged is lost.
func TestFullDiskFreezesAStreamUntilARestart(t *testing.T) {
	t.Parallel()
	dir, ballast := smallDisk(t)
	o, s, nc := diskServer(t, dir, 1<<30)
	acknowledged := 0
	var refused error
	for i := 0; refused == nil; i++ {
		if i == 1000 {
			t.Fatal("the disk never became full")
		}
		ok, err := store(t, nc, "disk.A", 2*time.Second)
		if refused = err; ok {
			acknowledged++
		} else if err == nil {
			t.Fatal("the stream refuses: it used to give no answer")
		}
	}
	check(t, os.Remove(ballast))
	if ok, err := store(t, nc, "disk.A", 2*time.Second); ok || err == nil {
		t.Errorf("with space again: stored %t, %v; the stream used to stay frozen", ok, err)
	}
	if ok, err := store(t, nc, "disk.B", patience); !ok || err != nil {
		t.Errorf("the other stream: stored %t, %v", ok, err)
	}
	s = restart(t, s, o)
	nc = connect(t, s)
	if ok, err := store(t, nc, "disk.A", patience); !ok || err != nil {
		t.Errorf("after a restart: stored %t, %v", ok, err)
	}
	a, err := jetStream(t, nc).Stream(t.Context(), "A")
	check(t, err)
	if n := stored(t, a, ">"); n < acknowledged+1 {
		t.Errorf("%d messages are there, %d were acknowledged", n, acknowledged+1)
	}
}

// Probe 7, shipped. A limit below the size of the disk refuses in time, and
// with a code.
func TestStoreLimitBelowTheDiskRefusesInsteadOfFreezing(t *testing.T) {
	t.Parallel()
	dir, _ := smallDisk(t)
	_, _, nc := diskServer(t, dir, 4<<20)
	check(t, fill(nc, "disk.A", 64<<10))
	if a := ask(t, nc, message("disk.A", string(make([]byte, 64<<10)))); a.code() != 10023 {
		t.Errorf("the answer is %+v", a.Error)
	}
	check(t, jetStream(t, nc).DeleteStream(t.Context(), "A"))
	if ok, err := store(t, nc, "disk.B", patience); !ok || err != nil {
		t.Errorf("with space again: stored %t, %v", ok, err)
	}
}
