package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers/deploy/local"
)

// stand is what the story plays on: the server, the workers and the target.
type stand struct {
	layout
	*children
	server, worker *child
	nats, http     string // addresses of the server, the same after a restart
	kills          int
}

// admin is the credential that the server writes for its administrator.
func (s *stand) admin() string { return filepath.Join(s.data(), engine.AdminFile) }

func newStand(executable string, l layout, lost func(error)) *stand {
	return &stand{layout: l, children: newChildren(executable, l.logs(), lost)}
}

// startServer starts the server and returns when it is ready. The first start
// takes free ports, a later one those of the first.
func (s *stand) startServer(ctx context.Context) error {
	var err error
	for deadline := time.Now().Add(15 * time.Second); ; {
		if err = s.tryServer(ctx); err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		// Between a kill and a restart the port was nobody's; who has it for a
		// moment, such as a connection of a client, gives it back.
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (s *stand) tryServer(ctx context.Context) error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	defer context.AfterFunc(ctx, func() { out.Close() })()
	nats, http := "127.0.0.1:0", "127.0.0.1:0"
	if s.nats != "" {
		nats, http = s.nats, s.http
	}
	p, err := s.run("server", in, "server", "--data", s.data(), "--workflows", s.workflows(),
		"--listen", nats, "--http", http, "--no-remember", "--output", "json")
	in.Close()
	if err != nil {
		return err
	}
	s.server = p
	var info struct{ NATS, HTTP string }
	p.meant.Store(true) // until it is ready its end is an error here
	if err := json.NewDecoder(out).Decode(&info); err != nil {
		p.kill()
		return fmt.Errorf("the server did not start (%w); it said: %s", err, p.tail())
	}
	p.meant.Store(false)
	s.nats, s.http = hostOf(info.NATS), hostOf(info.HTTP)
	return nil
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// killServer kills the server as a power cut would.
func (s *stand) killServer() {
	s.server.kill()
	s.kills++
}

func (s *stand) startWorker() (err error) {
	s.worker, err = s.run("worker", nil, "worker", "--credential", filepath.Join(s.data(), engine.WorkerFile),
		"--targets", s.targets(), "--work-dir", s.work(), "--name", "demo", "--slots", "4", "--drain", "2s")
	return err
}

// introduce makes a credential for somebody.
func (s *stand) introduce(ctx context.Context, admin *bus.Conn, kind, name string) error {
	var c bus.Credential
	if _, err := admin.Request(ctx, events.VerbAuthAdd, events.AddPrincipal{Kind: kind, Name: name}, &c); err != nil {
		return fmt.Errorf("a credential for %s: %w", name, err)
	}
	return c.Write(s.credential(name))
}

// close ends every process: first the worker, which could start more, then
// the server, then what the worker deployed.
func (s *stand) close() error {
	if s.worker != nil {
		s.worker.stop(10 * time.Second)
	}
	if s.server != nil {
		s.server.stop(10 * time.Second)
	}
	var errs []error
	for _, dir := range local.Dirs(s.targets()) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		errs = append(errs, local.Down(ctx, dir))
		cancel()
	}
	return errors.Join(errs...)
}
