package broker

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// principal is what is kept of a principal. Its secret is 256 random bits, so
// a plain hash of it can be kept: there is nothing to guess.
type principal struct {
	events.Principal
	Kinds  []string `json:"kinds,omitempty"` // of a worker that may take only these
	Secret string   `json:"secretSha256"`
}

// username is what the principal is called at the NATS server. People and
// bots have their own name, so that it reads the same everywhere.
func (p *principal) username() string { return username(p.Kind, p.Name) }

func username(kind, name string) string {
	if isPerson(kind) {
		return name
	}
	return kind + ":" + name
}

func engineUser(account string) string { return "engine:" + account }

func isPerson(kind string) bool { return kind == bus.KindUser || kind == bus.KindAdmin }

// principals are those of an installation: in a file, or with an external
// server in a bucket that all its engines share.
type principals struct {
	path string
	mu   sync.RWMutex
	list []principal

	adding sync.Mutex         // one is added at a time
	kv     jetstream.KeyValue // nil: the file
}

// PrincipalsFile is where the data directory keeps the principals.
const PrincipalsFile = "auth/principals.json"

func openPrincipals(dir string) (*principals, error) {
	s := &principals{path: filepath.Join(dir, filepath.FromSlash(PrincipalsFile))}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return nil, fmt.Errorf("principals: %w", err)
	}
	p, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("principals: %w", err)
	}
	if err := json.Unmarshal(p, &s.list); err != nil {
		return nil, fmt.Errorf("principals: %s: not JSON: %w; restore it from a backup, or remove it and make all credentials anew", s.path, err)
	}
	return s, nil
}

// save stores list and, when that has worked, makes it the present one.
func (s *principals) save(list []principal) error {
	p, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(s.path, append(p, '\n')); err != nil {
		return fmt.Errorf("principals: %w", err)
	}
	s.list = list
	return nil
}

func (s *principals) add(kind, name, pool string, kinds []string) (secret string, p principal, err error) {
	if err := checkPrincipal(kind, name, pool); err != nil {
		return "", p, err
	}
	if err := s.free(kind, name); err != nil {
		return "", p, err
	}
	var random [32]byte
	rand.Read(random[:])
	secret = hex.EncodeToString(random[:])
	p = principal{Principal: events.Principal{Kind: kind, Name: name, Pool: pool, CreatedAt: time.Now().UTC().Truncate(time.Second)},
		Kinds: kinds, Secret: hashSecret(secret)}
	if s.kv != nil {
		if err = s.create(p); errors.Is(err, jetstream.ErrKeyExists) {
			err = fmt.Errorf("%s %q exists already: another engine has just made it", kind, name)
		}
		return secret, p, err
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	if err := s.free(kind, name); err != nil {
		return "", p, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return secret, p, s.save(append(slices.Clone(s.list), p))
}

// free says that no principal has the name that one of this kind would have.
func (s *principals) free(kind, name string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, other := range s.list {
		if other.username() == username(kind, name) {
			return fmt.Errorf("%s %q exists already since %s; revoke it first, or choose another name", other.Kind, name, other.CreatedAt.Format(time.DateOnly))
		}
	}
	return nil
}

// maxPool is the longest name of a pool, as in a workflow.
const maxPool = 63

// checkPrincipal says what is wrong with a new principal.
func checkPrincipal(kind, name, pool string) error {
	if !slices.Contains([]string{bus.KindUser, bus.KindAdmin, bus.KindWorker, bus.KindPublisher}, kind) {
		return fmt.Errorf("kind %q of a principal: must be user, admin, worker or publisher", kind)
	}
	if name == "" || len(name) > 100 || strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("name %q of a %s: must have 1 to 100 bytes, no control characters and no space around it", name, kind)
	}
	if strings.Contains(name, ":") { // "user:ana", "event:ci" or "run:…" are names that the engine gives
		return fmt.Errorf("name %q of a %s: must have no \":\"", name, kind)
	}
	if len(pool) > maxPool {
		return fmt.Errorf("pool %q of %s %q: must have %d bytes at most", pool, kind, name, maxPool)
	}
	if kind != bus.KindWorker && pool != "" {
		return fmt.Errorf("%s %q: only a worker has a pool", kind, name)
	}
	return nil
}

func (s *principals) remove(kind, name string) error {
	s.mu.RLock()
	known := slices.ContainsFunc(s.list, func(p principal) bool { return p.Kind == kind && p.Name == name })
	s.mu.RUnlock()
	if !known {
		return fmt.Errorf("%s %q: there is no such principal; penstock auth list shows them all", kind, name)
	}
	if s.kv != nil {
		return s.drop(principal{Principal: events.Principal{Kind: kind, Name: name}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save(slices.DeleteFunc(slices.Clone(s.list), func(p principal) bool { return p.Kind == kind && p.Name == name }))
}

func (s *principals) all() []events.Principal {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]events.Principal, 0, len(s.list))
	for _, p := range s.list {
		out = append(out, p.Principal)
	}
	slices.SortFunc(out, func(a, b events.Principal) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return out
}

// bySecret gives the principal with this secret. It looks at every principal,
// so that the time it takes tells nothing.
func (s *principals) bySecret(secret string) (found principal, ok bool) {
	h := hashSecret(secret)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.list {
		if subtle.ConstantTimeCompare([]byte(p.Secret), []byte(h)) == 1 {
			found, ok = p, true
		}
	}
	return found, ok
}

func hashSecret(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

// AddPrincipal makes a principal and gives its credential, whose secret is
// kept nowhere else. kind is that of a bus.Credential: user, admin, worker or
// publisher. pool is a worker's, the default one when empty; kinds, of a
// worker, are the only ones whose tasks it may take, all of its pool's when
// there are none. The caller adds the base URL of the HTTP API and the task
// keys. With an external server the credential is for HTTP only, and a worker
// is refused.
func (b *Broker) AddPrincipal(kind, name, pool string, kinds ...string) (bus.Credential, error) {
	if kind == bus.KindWorker {
		pool = cmp.Or(pool, events.DefaultPool)
	} else if len(kinds) > 0 {
		return bus.Credential{}, fmt.Errorf("%s %q: only a worker has kinds", kind, name)
	}
	if b.opts.External != nil && kind == bus.KindWorker {
		return bus.Credential{}, fmt.Errorf("worker %q: the users of an external nats server are its own configuration; add the worker there (deployments/nats.conf shows which permissions it needs)", name)
	}
	secret, p, err := b.principals.add(kind, name, pool, kinds)
	if err != nil {
		return bus.Credential{}, err
	}
	c := bus.Credential{Description: "Penstock " + kind + " " + name, Kind: kind, Name: name, Pool: p.Pool, Token: secret}
	if b.opts.External == nil {
		c.URL, c.User, c.Password, c.InboxPrefix = b.url, p.username(), secret, bus.InboxPrefix(name)
	}
	return c, nil
}

// WorkerKinds gives the only kinds whose tasks a worker's credential is for;
// none is no limit.
func (b *Broker) WorkerKinds(name string) []string {
	b.principals.mu.RLock()
	defer b.principals.mu.RUnlock()
	for i := range b.principals.list {
		if p := &b.principals.list[i]; p.Kind == bus.KindWorker && p.Name == name {
			return p.Kinds
		}
	}
	return nil
}

// ListPrincipals lists all principals, by kind and name.
func (b *Broker) ListPrincipals() []events.Principal { return b.principals.all() }

// RevokePrincipal makes a credential useless and disconnects who uses it.
func (b *Broker) RevokePrincipal(kind, name string) error {
	if err := b.principals.remove(kind, name); err != nil {
		if b.opts.External != nil {
			return fmt.Errorf("%w; users of the external nats server are its own configuration and are revoked there", err)
		}
		return err
	}
	if b.auth != nil {
		return b.auth.disconnect(func(user string) bool { return user == username(kind, name) })
	}
	return nil
}

// AuthenticateToken gives the principal that a token for HTTP belongs to.
func (b *Broker) AuthenticateToken(token string) (events.Principal, bool) {
	p, ok := b.principals.bySecret(token)
	return p.Principal, ok
}
