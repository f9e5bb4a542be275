package engine

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// Files that the engine keeps in its data directory, mode 0600.
const (
	AdminFile   = "admin.json"   // credential of the administrator
	WorkerFile  = "worker.json"  // credential of workers on this host
	taskKeyFile = "task-key.pem" // signs tasks
	pemType     = "PENSTOCK TASK KEY"
)

// writeKey writes a file that is on disk as a whole when it returns: half a key
// after a power cut would keep the engine from starting.
func writeKey(path string, key []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// taskKey reads the key that signs tasks, or makes it.
func taskKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, taskKeyFile)
	p, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		block := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: key.Seed()})
		return key, writeKey(path, block)
	}
	if err != nil {
		return nil, fmt.Errorf("the key that signs tasks: %w", err)
	}
	block, _ := pem.Decode(p)
	if block == nil || block.Type != pemType || len(block.Bytes) != ed25519.SeedSize {
		return nil, fmt.Errorf("the key that signs tasks: %s holds no such key; restore it, or remove it to have a new one made", path)
	}
	return ed25519.NewKeyFromSeed(block.Bytes), nil
}

// samePort gives the address to listen at: where listen leaves the port open,
// the port of the last start if it is free, so that workers and people who
// were connected find the engine again.
func samePort(listen, before string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port != "0" {
		return listen
	}
	u, err := url.Parse(before)
	if err != nil || u.Port() == "" {
		return listen
	}
	address := net.JoinHostPort(host, u.Port())
	l, err := net.Listen("tcp", address)
	if err != nil {
		return listen
	}
	l.Close()
	return address
}

// lastAddresses gives the addresses of the last start; empty at the first.
func lastAddresses(dir string) (nats, http string) {
	c, err := bus.ReadCredential(filepath.Join(dir, AdminFile))
	if err != nil {
		return "", ""
	}
	return c.URL, c.HTTP
}

// writeCredentials keeps the credentials of the administrator and of local
// workers in the data directory, with the addresses of this start.
func (e *Engine) writeCredentials() error {
	if err := e.writeCredential(AdminFile, bus.KindAdmin, "admin"); err != nil {
		return err
	}
	if e.external() {
		return nil // workers are users of the external server
	}
	return e.writeCredential(WorkerFile, bus.KindWorker, "local")
}

// external says that the NATS server is not the embedded one.
func (e *Engine) external() bool { return e.o.external() }

func (o Options) external() bool { return o.External != "" || o.Creds != "" || o.Context != "" }

func (e *Engine) writeCredential(file, kind, name string) error {
	path := filepath.Join(e.o.Dir, file)
	known := slices.ContainsFunc(e.broker.ListPrincipals(), func(p events.Principal) bool { return p.Kind == kind && p.Name == name })
	c, err := bus.ReadCredential(path)
	if err != nil || !known || c.Name != name {
		if known && e.external() { // another engine of the installation may have its secret
			e.o.Log.Info("this engine has no administrator's credential: take "+file+" from the data directory of the engine that made it, or make one there with penstock auth admin add", "file", path)
			return nil
		}
		if known { // its secret is in no file any more
			if err := e.broker.RevokePrincipal(kind, name); err != nil {
				return err
			}
		}
		added, err := e.broker.AddPrincipal(kind, name, "")
		if err != nil {
			return err
		}
		c = &added
	}
	if !e.external() || c.URL == "" {
		c.URL = e.info.NATS
	}
	c.HTTP, c.TaskKeys = e.info.HTTP, e.keeper.TaskKeys()
	return c.Write(path)
}
