package broker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	maxPayload = 4 << 20  // an answer of the API; events and records are far smaller
	maxMemory  = 64 << 20 // nothing of ours is stored in memory
)

func (b *Broker) startEmbedded(ctx context.Context) (err error) {
	if b.maxStore, err = keepMaxStore(b.opts.Dir, b.opts.MaxStore); err != nil {
		return err
	}
	b.auth = newAuthenticator(b.principals, b.log)
	options, err := b.serverOptions()
	if err != nil {
		return err
	}
	b.forgetWrongIndexes()
	if b.server, err = server.NewServer(options); err != nil {
		return fmt.Errorf("embedded nats server: %w", err)
	}
	b.auth.server = b.server
	log := &serverLog{log: b.log.With("from", "nats"), fatal: make(chan string, 1),
		frozen: func(reason string) { b.lose(fmt.Errorf("%w: %s", ErrFrozen, reason)) }}
	b.server.SetLoggerV2(log, false, false, false)
	go b.server.Start()
	if err := b.waitReady(ctx, log); err != nil {
		return err
	}
	if !options.DontListen {
		b.url = b.server.ClientURL()
	}
	for account, nc := range b.conns() {
		user, secret := engineUser(account), rand.Text()
		b.auth.admit(user, secret, account)
		*nc, err = nats.Connect("", append(b.connOptions(account), nats.InProcessServer(b.server), nats.UserInfo(user, secret))...)
		if err != nil {
			return fmt.Errorf("embedded nats server: account %s: %w", account, err)
		}
	}
	return b.watchSpace()
}

func (b *Broker) serverOptions() (*server.Options, error) {
	o := &server.Options{}
	if err := o.ProcessConfigString(embeddedConf()); err != nil {
		return nil, fmt.Errorf("embedded nats server: accounts: %w", err)
	}
	o.ServerName = "penstock"
	o.NoSigs = true // the process has its own handling of signals
	o.CustomClientAuthentication = b.auth
	o.MaxPayload = maxPayload
	o.JetStream = true
	o.StoreDir = b.opts.Dir // the server adds "jetstream"
	o.JetStreamMaxStore = b.maxStore
	o.JetStreamMaxMemory = maxMemory
	o.SyncAlways = b.opts.Sync == SyncAlways
	if b.opts.Listen == ListenNot {
		o.DontListen = true
		return o, nil
	}
	host, port, err := net.SplitHostPort(b.opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q of nats: not host:port: %w", b.opts.Listen, err)
	}
	o.Host = host
	if o.Port, err = strconv.Atoi(port); err != nil || o.Port < 0 || o.Port > 65535 {
		return nil, fmt.Errorf("listen address %q of nats: the port is not a number from 0 to 65535", b.opts.Listen)
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	return o, nil
}

// waitReady waits until the server takes connections, or says why it does not.
func (b *Broker) waitReady(ctx context.Context, log *serverLog) error {
	deadline := time.Now().Add(readyTimeout)
	for !b.server.ReadyForConnections(50 * time.Millisecond) {
		select {
		case why := <-log.fatal:
			return fmt.Errorf("embedded nats server: %s", why)
		case <-ctx.Done():
			return fmt.Errorf("embedded nats server: %w", context.Cause(ctx))
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("embedded nats server: not ready after %v; its log says why", readyTimeout)
		}
	}
	return nil
}

// settings of the embedded server that were chosen at the first start.
type settings struct {
	MaxStore int64     `json:"maxStore"` // bytes
	Chosen   time.Time `json:"chosen"`
}

// keepMaxStore gives the limit of the store: the wanted one, else the one of
// the first start. Left to itself the server would take a share of what
// happens to be free at each start, so that its limit shrinks as it fills.
func keepMaxStore(dir string, wanted int64) (int64, error) {
	path := filepath.Join(dir, "broker.json")
	var s settings
	p, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(p, &s); err != nil {
			return 0, fmt.Errorf("%s: not JSON: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	if s.MaxStore > 0 && (wanted == 0 || wanted == s.MaxStore) {
		return s.MaxStore, nil
	}
	if wanted == 0 {
		free, err := freeBytes(dir)
		if err != nil {
			return 0, err
		}
		if wanted = free / 10 * 8; wanted <= 0 {
			return 0, fmt.Errorf("data directory %s: its disk is full", dir)
		}
	}
	p, err = json.MarshalIndent(settings{MaxStore: wanted, Chosen: time.Now().UTC()}, "", "  ")
	if err != nil {
		return 0, err
	}
	return wanted, writeFile(path, append(p, '\n'))
}

// writeFile replaces path as a whole, on disk when it returns, mode 0600.
func writeFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
