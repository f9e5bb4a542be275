package broker

import (
	"crypto/subtle"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workflows"
)

// authenticator decides who connects to the embedded server, and as what.
type authenticator struct {
	principals *principals
	log        *slog.Logger
	server     *server.Server

	mu     sync.RWMutex
	engine map[string]engineLogin // by user
	kinds  map[string][]string    // by pool: kinds that are not shipped and have a consumer
}

// engineLogin lets this process in. It is made anew at each start.
type engineLogin struct{ hash, account string }

func newAuthenticator(p *principals, log *slog.Logger) *authenticator {
	return &authenticator{principals: p, log: log, engine: map[string]engineLogin{}, kinds: map[string][]string{}}
}

// admit lets a user of this process into an account, without restrictions.
func (a *authenticator) admit(user, secret, account string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.engine[user] = engineLogin{hashSecret(secret), account}
}

// Check is asked by the server about each connection.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	// A name given beside the password would stand in the server's request
	// information in the place of the name that was proved.
	if c.Kind() != server.CLIENT || o.Nkey != "" || o.JWT != "" || o.Token != "" || o.Username == "" {
		return false
	}
	a.mu.RLock()
	login, ok := a.engine[o.Username]
	a.mu.RUnlock()
	if ok {
		return subtle.ConstantTimeCompare([]byte(login.hash), []byte(hashSecret(o.Password))) == 1 &&
			a.register(c, &server.User{Username: o.Username}, login.account)
	}
	// Held until the client is registered, so that a revocation either comes
	// before or finds the client to disconnect.
	a.principals.mu.RLock()
	defer a.principals.mu.RUnlock()
	h := hashSecret(o.Password)
	for i := range a.principals.list {
		p := &a.principals.list[i]
		if p.username() == o.Username {
			return subtle.ConstantTimeCompare([]byte(p.Secret), []byte(h)) == 1 &&
				a.register(c, &server.User{Username: o.Username, Permissions: permissions(p, a.kindsOf(p))}, accountOf(p.Kind))
		}
	}
	return false
}

func (a *authenticator) register(c server.ClientAuthentication, u *server.User, account string) bool {
	acc, err := a.server.LookupAccount(account)
	if err != nil {
		a.log.Error("an account of the embedded nats server is missing", "account", account, "error", err)
		return false
	}
	u.Account = acc
	c.RegisterUser(u)
	return true
}

// kindsOf are the kinds whose tasks a worker may take: those that it was
// restricted to, else the shipped ones and those its pool has tasks for.
func (a *authenticator) kindsOf(p *principal) []string {
	if p.Kind != bus.KindWorker {
		return nil
	}
	if len(p.Kinds) > 0 {
		return p.Kinds
	}
	kinds := slices.Collect(maps.Keys(workflows.ShippedKinds()))
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Concat(kinds, a.kinds[p.Pool])
}

// learn takes note that a pool has tasks of a kind. Workers of the pool that
// are connected got their permissions before; they are disconnected, and come
// back by themselves with the new ones.
func (a *authenticator) learn(pool, kind string) error {
	if _, shipped := workflows.ShippedKinds()[kind]; shipped {
		return nil
	}
	a.mu.Lock()
	known := slices.Contains(a.kinds[pool], kind)
	if !known {
		a.kinds[pool] = append(a.kinds[pool], kind)
	}
	a.mu.Unlock()
	if known {
		return nil
	}
	users := map[string]bool{}
	a.principals.mu.RLock()
	for _, p := range a.principals.list {
		if p.Kind == bus.KindWorker && p.Pool == pool && len(p.Kinds) == 0 {
			users[p.username()] = true
		}
	}
	a.principals.mu.RUnlock()
	return a.disconnect(func(user string) bool { return users[user] })
}

// disconnect ends the connections of the users that match.
func (a *authenticator) disconnect(match func(user string) bool) error {
	const page = 1024
	var ids []uint64
	for offset := 0; ; offset += page {
		list, err := a.server.Connz(&server.ConnzOptions{Username: true, Limit: page, Offset: offset, Sort: server.ByCid})
		if err != nil {
			return err
		}
		for _, c := range list.Conns {
			if match(c.AuthorizedUser) {
				ids = append(ids, c.Cid)
			}
		}
		if len(list.Conns) < page {
			break
		}
	}
	for _, id := range ids {
		if err := a.server.DisconnectClientByID(id); err != nil && !strings.Contains(err.Error(), "no such client") {
			return err
		}
	}
	return nil
}
