// Package scale has what is needed to measure how Penstock behaves with much
// of something: a NATS server and other processes apart from the one that
// measures, a store with many runs in it, a bare reading of that store, and
// folders with many files.
package scale

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/events"
)

// ServerOptions say what NATS server to run.
type ServerOptions struct {
	Dir      string `json:"dir"`
	Lazy     bool   `json:"lazy"`     // sync every two minutes
	Password string `json:"password"` // of the engine's users
}

// conf has the accounts that the engine works in, and its users.
const conf = `
server_name: "bench"
listen: "127.0.0.1:-1"
max_payload: 4MB
jetstream { store_dir: %q, sync_interval: %s, max_memory_store: 64MB, max_file_store: 1TB }
accounts {
  ENGINE { jetstream: enabled, users: [ { user: "engine", password: %[3]q } ] }
  WORK_default { jetstream: enabled, users: [ { user: "engine-work", password: %[3]q } ] }
  NOTIFY { jetstream: enabled, users: [ { user: "engine-notify", password: %[3]q } ] }
  EXT_default { jetstream: enabled, users: [ { user: "engine-ext", password: %[3]q } ] }
}
`

// users are those of conf, by account.
var users = map[string]string{events.AccountEngine: "engine", events.AccountWork: "engine-work",
	events.AccountNotify: "engine-notify", events.AccountExt: "engine-ext"}

// Logins are the engine's users on a server that Serve runs.
func (o ServerOptions) Logins() map[string]broker.Login {
	logins := map[string]broker.Login{}
	for account, user := range users {
		logins[account] = broker.Login{User: user, Password: o.Password}
	}
	return logins
}

// Serve runs a NATS server until ctx ends. When it is ready it says its
// address in a line.
func Serve(ctx context.Context, o ServerOptions, out io.Writer) error {
	sync := "always"
	if o.Lazy {
		sync = "2m"
	}
	file := filepath.Join(o.Dir, "nats.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, conf, o.Dir, sync, o.Password), 0o600); err != nil {
		return err
	}
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		return fmt.Errorf("the NATS server's configuration: %w", err)
	}
	options.NoLog, options.NoSigs = true, true
	s, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("the NATS server: %w", err)
	}
	go s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(time.Minute) {
		return errors.New("the NATS server does not get ready")
	}
	if err := json.NewEncoder(out).Encode(Address{s.ClientURL()}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Address is where a server is.
type Address struct {
	URL string `json:"url"`
}

// NewServer gives the options of a server of one's own.
func NewServer(dir string, lazy bool) ServerOptions {
	return ServerOptions{Dir: dir, Lazy: lazy, Password: "p" + rand.Text()} // what begins with a digit may be taken for a number
}
