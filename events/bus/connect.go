package bus

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Conn is a connection to the bus as one principal. It reconnects for ever;
// all its methods may be called from several goroutines at once.
type Conn struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	cred Credential
	log  *slog.Logger
	asks *asker

	denied  waiters // by subject: publishes that the server refused
	resyncs signals // told after a reconnect and after messages were dropped

	keyMu sync.RWMutex
	keys  *events.Verifier // of tasks
	learn func(context.Context) error
}

// Option changes how Connect connects.
type Option func(*options)

type options struct {
	role      string
	log       *slog.Logger
	inProcess nats.InProcessConnProvider
	wait      bool
}

// WithRole names the connection penstock/<role>/<host>, as operators of the
// server see it. Without it the role is the credential's kind.
func WithRole(role string) Option { return func(o *options) { o.role = role } }

// WithLogger gets what happens to the connection; nothing is logged without it.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// InProcess connects to a server in this process instead of by the
// credential's URL.
func InProcess(server nats.InProcessConnProvider) Option {
	return func(o *options) { o.inProcess = server }
}

// Wait makes Connect wait for a server that cannot be reached yet, until its
// context ends.
func Wait() Option { return func(o *options) { o.wait = true } }

const connectTimeout = 5 * time.Second

// Connect connects to the bus with a credential. It fails when the server
// cannot be reached (see Wait) or does not accept the credential; once it has
// connected, it connects again by itself whenever the connection is lost.
func Connect(ctx context.Context, credential *Credential, opts ...Option) (*Conn, error) {
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	c := &Conn{cred: *credential, log: o.log, asks: newAsker()}
	if c.cred.URL == "" && o.inProcess == nil {
		return nil, fmt.Errorf("credential of %s %q: it names no url of a NATS server, so it is good for HTTP only", cmp.Or(c.cred.Kind, "user"), c.cred.Name)
	}
	if err := c.TrustTaskKeys(c.cred.TaskKeys); err != nil {
		return nil, err
	}
	var err error
	for pause := newBackoff(); ; {
		if c.nc, err = nats.Connect(c.cred.URL, c.natsOptions(o)...); err == nil {
			break
		}
		err = explainConnect(&c.cred, err)
		if ctx.Err() != nil || !o.wait || !errors.Is(err, errUnreachable) {
			return nil, err
		}
		o.log.Info("waiting for the bus", "url", hideSecrets(c.cred.URL), "error", err)
		if pause.sleep(ctx, 0) != nil {
			return nil, err
		}
	}
	if c.js, err = jetstream.New(c.nc, jetstream.WithPublishAsyncTimeout(publishTimeout)); err != nil {
		c.nc.Close()
		return nil, err
	}
	c.asks.nc = c.nc
	return c, nil
}

func (c *Conn) natsOptions(o options) []nats.Option {
	host, _ := os.Hostname()
	list := []nats.Option{
		nats.Name("penstock/" + cmp.Or(o.role, c.cred.Kind, "user") + "/" + host),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectJitter(300*time.Millisecond, time.Second),
		nats.IgnoreAuthErrorAbort(), // a server that restarts may know us again
		nats.CustomInboxPrefix(cmp.Or(c.cred.InboxPrefix, InboxPrefix(c.cred.Name))),
		nats.ErrorHandler(c.onError),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				c.log.Warn("lost the connection to the bus, connecting again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.log.Info("connected to the bus again", "url", nc.ConnectedUrlRedacted())
			c.asks.end("", errReconnected) // the answers were lost with the connection
			c.resyncs.tell()
		}),
	}
	if c.cred.User != "" {
		list = append(list, nats.UserInfo(c.cred.User, c.cred.Password))
	}
	if c.cred.Creds != "" {
		list = append(list, nats.UserCredentials(c.cred.Creds))
	}
	if c.cred.CA != "" {
		list = append(list, nats.RootCAs(c.cred.CA))
	}
	if o.inProcess != nil {
		list = append(list, nats.InProcessServer(o.inProcess))
	}
	return list
}

// InboxPrefix is where the principal of that name gets answers.
func InboxPrefix(name string) string { return "_INBOX." + events.Token(name) }

// Credential gives a copy of the credential, without its secrets.
func (c *Conn) Credential() Credential {
	cred := c.cred
	cred.Password, cred.Token = "", ""
	return cred
}

// Connected reports whether the connection is up at this moment.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Close sends what waits and closes the connection.
func (c *Conn) Close() {
	c.asks.out.Wait()
	if c.nc.IsConnected() {
		_ = c.nc.FlushTimeout(connectTimeout) // what cannot be sent now is lost by closing
	}
	c.nc.Close()
	c.asks.end("", nats.ErrConnectionClosed)
}

// TrustTaskKeys replaces the keys that may sign tasks: the credential's,
// or those of a ServerInfo. Each is a base64 ed25519 public key.
func (c *Conn) TrustTaskKeys(keys []string) error {
	parsed := make([]ed25519.PublicKey, 0, len(keys))
	for _, k := range keys {
		p, err := decodeKey(k)
		if err != nil || len(p) != ed25519.PublicKeySize {
			return fmt.Errorf("task key %q: not a base64 ed25519 public key", k)
		}
		parsed = append(parsed, p)
	}
	c.keyMu.Lock()
	defer c.keyMu.Unlock()
	c.keys = events.NewVerifier(parsed)
	return nil
}

// LearnTaskKeys has learn called when a task comes whose key is not trusted:
// it may have TrustTaskKeys called with keys that are newer. Without it such a
// task is refused at once.
func (c *Conn) LearnTaskKeys(learn func(context.Context) error) {
	c.keyMu.Lock()
	defer c.keyMu.Unlock()
	c.learn = learn
}

func decodeKey(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

func (c *Conn) taskKeys() *events.Verifier {
	c.keyMu.RLock()
	defer c.keyMu.RUnlock()
	return c.keys
}

// onError gets what the server reports beside the answers: above all that a
// publish was not allowed, which nobody would ever answer.
func (c *Conn) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		_, rest, _ := strings.Cut(err.Error(), `"`)
		subject, _, _ := strings.Cut(rest, `"`)
		c.log.Warn("the bus refused something that this credential may not do", "error", err)
		c.asks.end(subject, errDenied)
		c.denied.tell(subject)
	case errors.Is(err, nats.ErrSlowConsumer):
		c.log.Warn("messages came faster than they were taken, fetching the missed ones")
		c.resyncs.tell()
	default:
		c.log.Warn("the bus reports", "error", err)
	}
}

var errUnreachable = errors.New("cannot be reached")

// explainConnect says in words why there is no connection.
func explainConnect(c *Credential, err error) error {
	url := hideSecrets(c.URL)
	var dns *net.DNSError
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("nats server %s does not accept user %q: the password is wrong, or the credential was revoked; ask an administrator for a new one (penstock auth %s add): %w", url, c.User, cmp.Or(c.Kind, "user"), err)
	case errors.As(err, &dns):
		return fmt.Errorf("nats server %s %w: the name %q is not known; check the url in the credential or NATS_URL: %w", url, errUnreachable, dns.Name, err)
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), errors.Is(err, io.EOF), isNetworkError(err): // EOF: it ended as it was asked
		return fmt.Errorf("nats server %s %w: check that penstock server (or NATS) runs there, that the port is right and that no firewall is between: %w", url, errUnreachable, err)
	default:
		return fmt.Errorf("nats server %s: %w", url, err)
	}
}

func isNetworkError(err error) bool {
	var n net.Error
	return errors.As(err, &n)
}

// hideSecrets drops user and password from a list of server URLs.
func hideSecrets(urls string) string {
	list := strings.Split(urls, ",")
	for i, u := range list {
		scheme, rest, ok := strings.Cut(u, "://")
		if !ok {
			scheme, rest = "nats", u
		}
		list[i] = strings.TrimSpace(scheme) + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
	}
	return strings.Join(list, ",")
}
