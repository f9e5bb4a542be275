package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/penstock-cd/penstock/events"
)

// External is a NATS server, or a cluster of them, that runs apart.
type External struct {
	URL  string `json:"url"`            // one or several, separated by commas
	CA   string `json:"ca,omitempty"`   // path of a CA bundle
	Cert string `json:"cert,omitempty"` // path of the engine's own certificate, for servers that ask for one
	Key  string `json:"key,omitempty"`  // path of its key
	// Accounts are the engine's logins by account: ENGINE, WORK_default,
	// NOTIFY and EXT_default. One of SYS may be given as well: with it the
	// engine sees how the servers store.
	Accounts map[string]Login `json:"accounts"`
	// AccountKeys are the public keys of accounts in which the engine has no
	// login, for a server in operator mode, where keys are their names: USERS.
	AccountKeys map[string]string `json:"accountKeys,omitempty"`
}

// Login is one of: a user and password, a NATS credentials file, or a context
// of the nats command line client. $NAME in a password stands for that
// environment variable.
type Login struct {
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	Creds    string `json:"creds,omitempty"`   // path
	Context  string `json:"context,omitempty"` // name
}

// needed are the accounts in which the engine must have a login, with what is
// added to the engine's name for its user and context in each.
var needed = []struct{ account, suffix string }{
	{events.AccountEngine, ""}, {events.AccountWork, "-work"}, {events.AccountNotify, "-notify"}, {events.AccountExt, "-ext"},
}

// engineName is the engine's user in ENGINE, where nothing else is said.
const engineName = "engine"

// usersKey is the variable with the public key of USERS.
const usersKey = "PENSTOCK_USERS_ACCOUNT"

// FindExternal says which external server is meant and how the engine logs
// in, by what was said on the command line and in the environment variables
// of the nats client; nil when nothing was said there: the embedded one.
//
// nats is the path of a JSON file with an External, or one or several URLs
// separated by commas. With URLs the four logins come from the first of: creds,
// a folder with a credentials file for each account; natsContext, a name from
// which four contexts of the nats client are named; the URL's own user;
// NATS_CREDS, NATS_USER with NATS_PASSWORD, and NATS_CONTEXT.
//
// The environment alone never moves an engine to another server: what it
// stores would seem to be gone. One of the three must be given.
func FindExternal(nats, creds, natsContext string) (*External, error) {
	if nats == "" && creds == "" && natsContext == "" {
		return nil, nil
	}
	if creds != "" && natsContext != "" {
		return nil, errors.New("external nats server: --creds and --context both say how the engine logs in; give one of them")
	}
	if isFile(nats) {
		if creds != "" || natsContext != "" {
			return nil, fmt.Errorf("external nats server: %s says how the engine logs in; --creds and --context are for a URL", nats)
		}
		return ReadExternal(nats)
	}
	x := &External{URL: cmp.Or(nats, os.Getenv("NATS_URL")), CA: os.Getenv("NATS_CA"), Cert: os.Getenv("NATS_CERT"), Key: os.Getenv("NATS_KEY"),
		Accounts: map[string]Login{}, AccountKeys: map[string]string{}}
	if key := os.Getenv(usersKey); key != "" {
		x.AccountKeys[events.AccountUsers] = key
	}
	own, err := x.takeUser()
	switch {
	case err != nil:
		return nil, err
	case creds != "":
		return x, x.byCreds(creds)
	case natsContext != "":
		return x, x.byContext(natsContext)
	case own != nil:
		return x, x.byPassword(own.User, own.Password)
	case os.Getenv("NATS_CREDS") != "":
		return x, x.byCreds(os.Getenv("NATS_CREDS"))
	case os.Getenv("NATS_PASSWORD") == "" && os.Getenv("NATS_CONTEXT") != "":
		return x, x.byContext(os.Getenv("NATS_CONTEXT"))
	}
	return x, x.byPassword(os.Getenv("NATS_USER"), os.Getenv("NATS_PASSWORD"))
}

// isFile tells the path of a file from URLs.
func isFile(s string) bool {
	if strings.Contains(s, "://") || s == "" {
		return false
	}
	_, err := os.Stat(s)
	return err == nil || filepath.Ext(s) == ".json"
}

// ReadExternal reads a JSON file with an External.
func ReadExternal(path string) (*External, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("external nats server: %w", err)
	}
	var x External
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(&x); err != nil {
		return nil, fmt.Errorf("external nats server: %s: not JSON of the form of deployments/external.json: %w", path, err)
	}
	return &x, nil
}

// takeUser gives the user of the URLs, which then have none: the client would
// use it for every account.
func (x *External) takeUser() (*Login, error) {
	var own *Login
	var list []string
	for one := range strings.SplitSeq(x.URL, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("external nats server: %q is neither a file nor a URL such as nats://nats.acme.example:4222", one)
		}
		if u.User != nil && own == nil {
			password, _ := u.User.Password()
			own = &Login{User: u.User.Username(), Password: password}
		}
		u.User = nil
		list = append(list, u.String())
	}
	x.URL = strings.Join(list, ",")
	return own, nil
}

// byCreds takes the logins from a folder: ACCOUNT.creds, or as nsc keeps
// them, ACCOUNT/USER.creds.
func (x *External) byCreds(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("external nats server: credentials: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("external nats server: credentials: %s is one file, and a file is for one account; name a folder that has ENGINE.creds, WORK_default.creds, NOTIFY.creds and EXT_default.creds", dir)
	}
	find := func(account, user string) (path string, err error) {
		for _, path = range []string{filepath.Join(dir, account+".creds"), filepath.Join(dir, account, user+".creds")} {
			if _, err = os.Stat(path); err == nil {
				return path, nil
			}
		}
		return path, err
	}
	for _, n := range needed {
		path, err := find(n.account, engineName+n.suffix)
		if err != nil {
			return fmt.Errorf("external nats server: no credentials for account %s: there is neither %s.creds nor %s/%s.creds in %s", n.account, n.account, n.account, engineName+n.suffix, dir)
		}
		x.Accounts[n.account] = Login{Creds: path}
	}
	if path, err := find(events.AccountSystem, "sys"); err == nil {
		x.Accounts[events.AccountSystem] = Login{Creds: path}
	}
	key, err := os.ReadFile(filepath.Join(dir, events.AccountUsers+".pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("external nats server: credentials: %w", err)
	}
	x.AccountKeys[events.AccountUsers] = strings.TrimSpace(string(key))
	return nil
}

// byContext names a context for each account: name, name-work, …
func (x *External) byContext(name string) error {
	for _, n := range needed {
		x.Accounts[n.account] = Login{Context: name + n.suffix}
	}
	if sys := name + "-sys"; hasContext(sys) {
		x.Accounts[events.AccountSystem] = Login{Context: sys}
	}
	return nil
}

func hasContext(name string) bool {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home, _ := os.UserHomeDir()
		dir = filepath.Join(home, ".config")
	}
	_, err := os.Stat(filepath.Join(dir, "nats", "context", name+".json"))
	return err == nil
}

// byPassword names the users by convention: user, user-work, … with one
// password.
func (x *External) byPassword(user, password string) error {
	user, password = cmp.Or(user, engineName), cmp.Or(password, os.Getenv("PENSTOCK_ENGINE_PASSWORD"))
	if password == "" {
		return errors.New("external nats server: nothing says how the engine logs in: give --creds DIR, --context NAME, or the password of the users " +
			"engine, engine-work, engine-notify and engine-ext in NATS_PASSWORD")
	}
	for _, n := range needed {
		x.Accounts[n.account] = Login{User: user + n.suffix, Password: literal(password)}
	}
	if sys := os.Getenv("PENSTOCK_SYS_PASSWORD"); sys != "" {
		x.Accounts[events.AccountSystem] = Login{User: "sys", Password: literal(sys)}
	}
	return nil
}

// literal is a password in which nothing stands for a variable.
func literal(password string) string { return strings.ReplaceAll(password, "$", "${PENSTOCK_DOLLAR}") }

func expand(password string) string {
	return os.Expand(password, func(name string) string {
		if name == "PENSTOCK_DOLLAR" {
			return "$"
		}
		return os.Getenv(name)
	})
}

// dial connects with the login of an account.
func (x *External) dial(account string, opts ...nats.Option) (*nats.Conn, error) {
	login, ok := x.Accounts[account]
	if !ok || login == (Login{}) {
		return nil, fmt.Errorf("external nats server: no login is given for account %s (user and password, creds, or a context); the engine needs one in each of ENGINE, WORK_default, NOTIFY and EXT_default", account)
	}
	opts = append(opts, nats.Timeout(5*time.Second))
	if x.CA != "" {
		opts = append(opts, nats.RootCAs(x.CA))
	}
	if x.Cert != "" || x.Key != "" {
		opts = append(opts, nats.ClientCert(x.Cert, x.Key))
	}
	var nc *nats.Conn
	var err error
	who := ""
	switch {
	case login.Context != "":
		who = fmt.Sprintf("the login of context %q", login.Context)
		nc, err = x.dialContext(login.Context, opts)
	case x.URL == "":
		return nil, errors.New("external nats server: no url is given; name one with --nats, in NATS_URL, or as \"url\" of the file")
	case login.Creds != "":
		who = fmt.Sprintf("the login of %s", login.Creds)
		nc, err = nats.Connect(x.URL, append([]nats.Option{nats.UserCredentials(login.Creds)}, opts...)...)
	default:
		who = fmt.Sprintf("user %q", login.User)
		nc, err = nats.Connect(x.URL, append([]nats.Option{nats.UserInfo(login.User, expand(login.Password))}, opts...)...)
	}
	if errors.Is(err, nats.ErrAuthorization) {
		return nil, fmt.Errorf("external nats server: account %s: %s is not accepted; check it here and in the server's configuration (penstock admin bootstrap shows what that needs): %w", account, who, err)
	}
	if err != nil {
		return nil, fmt.Errorf("external nats server: account %s: cannot connect with %s; check that the server runs and its address is right: %w", account, who, err)
	}
	return nc, nil
}

// dialContext connects by a context of the nats client. A URL that was given
// counts before the context's.
func (x *External) dialContext(name string, opts []nats.Option) (*nats.Conn, error) {
	if x.URL != "" {
		opts = append([]nats.Option{servers(x.URL)}, opts...)
	}
	nc, settings, err := natscontext.Connect(name, opts...)
	if err == nil && (settings.JSDomain != "" || settings.JSAPIPrefix != "") {
		nc.Close()
		return nil, errors.New("the context names a JetStream domain or API prefix; the engine works in the account that it logs in to, and in no other")
	}
	return nc, err
}

// servers replaces the servers to connect to.
func servers(urls string) nats.Option {
	return func(o *nats.Options) error {
		o.Servers = strings.Split(urls, ",")
		return nil
	}
}

func (b *Broker) connectExternal(ctx context.Context) error {
	x := b.opts.External
	b.url, b.maxStore = x.URL, b.opts.MaxStore
	b.named = maps.Clone(x.AccountKeys)
	if b.named == nil {
		b.named = map[string]string{}
	}
	conns := b.conns()
	for _, n := range needed {
		nc, err := x.dial(n.account, b.connOptions(n.account)...)
		if err != nil {
			return err
		}
		*conns[n.account] = nc
		check := func(ctx context.Context) error { return b.checkAccount(ctx, nc, n.account) }
		if err := b.awaitLeader(ctx, check); err != nil {
			return fmt.Errorf("external nats server %s, account %s: %w", nc.ConnectedUrlRedacted(), n.account, err)
		}
	}
	b.url = cmp.Or(b.url, b.Engine.ConnectedUrlRedacted())
	if users := b.named[events.AccountUsers]; isAccountKey(b.named[events.AccountWork]) && !isAccountKey(users) {
		return fmt.Errorf("external nats server %s: it is in operator mode, where accounts are named by their keys, and that of USERS is %q: "+
			"put its public key (56 letters and digits, with an A first) into USERS.pub beside the credentials, in %s, or in accountKeys of the file", b.url, users, usersKey)
	}
	return b.awaitLeader(ctx, b.checkCluster)
}

// AccountName is what the server calls an account: in operator mode its key.
func (b *Broker) AccountName(account string) string { return cmp.Or(b.named[account], account) }

// one makes a connection to one server only, which ends when it is lost.
func one(server string) []nats.Option {
	return []nats.Option{servers(server), nats.NoReconnect(), nats.IgnoreDiscoveredServers(), nats.DontRandomize(), nats.Timeout(3 * time.Second)}
}

func unique(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
