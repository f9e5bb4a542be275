package journal_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/natstest"
)

// TestAClusterStoresUnderTheFence appends under a few fences at once, which a
// cluster refuses while another commit under the same fence is in process.
func TestAClusterStoresUnderTheFence(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	servers := newCluster(t, 3)
	open := func(i int) journal.Journal {
		nc, err := nats.Connect(servers[i].ClientURL(), nats.MaxReconnects(-1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		within(t, func(ctx context.Context) error {
			return journal.EnsureStreams(ctx, js, journal.Streams(3)...)
		})
		j, err := journal.Open(t.Context(), js, journal.Options{AckTimeout: slow})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeJournal(t, j) })
		return j
	}
	one, two := open(0), open(1)
	own(t, one, 1, 2, 3, 4)
	if failed := appendAll(t, one, "a", 400, 4); len(failed) > 0 {
		t.Fatalf("%d records failed: %v", len(failed), failed)
	}
	own(t, two, 2)
	failed := appendAll(t, one, "b", 400, 4)
	if len(failed) != 100 {
		t.Fatalf("%d records failed, want the 100 of partition 2", len(failed))
	}
	for subject, err := range failed {
		if !errors.Is(err, journal.ErrFenced) {
			t.Fatalf("%s: %v", subject, err)
		}
	}
	n := 0
	if err := two.LastPerSubject(t.Context(), []string{"penstock.log.>"}, func(journal.Entry) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if n != 700 {
		t.Fatalf("%d subjects have records, want 700", n)
	}
}

func own(t *testing.T, j journal.Journal, vps ...int) {
	t.Helper()
	if err := j.Own(t.Context(), vps, []byte("me")); err != nil {
		t.Fatal(err)
	}
}

// appendAll appends n records to the partitions 1 to vps, each to a subject
// of its own, and gives the errors by subject.
func appendAll(t *testing.T, j journal.Journal, id string, n, vps int) map[string]error {
	t.Helper()
	var mu sync.Mutex
	failed := map[string]error{}
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		vp := 1 + i%vps
		subject := fmt.Sprintf("penstock.log.%d.run.%s%d", vp, id, i)
		j.Append(vp, subject, []byte(subject), func(_ uint64, err error) {
			defer wg.Done()
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[subject] = err
			}
		})
	}
	wg.Wait()
	return failed
}

func within(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func newCluster(t *testing.T, n int) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range n {
		// Every server must know the others' addresses before it starts.
		port := natstest.FreePort(t)
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", port)})
	}
	var servers []*server.Server
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{
			Host: "127.0.0.1", Port: -1, ServerName: fmt.Sprint("s", i),
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
			Routes:  routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		servers = append(servers, s)
	}
	for _, s := range servers {
		if !s.ReadyForConnections(time.Minute) {
			t.Fatal("a server did not start")
		}
	}
	return servers
}
