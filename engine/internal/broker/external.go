package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// External is a NATS server, or a cluster of them, that runs apart.
type External struct {
	URL string `json:"url"`          // one or several, separated by commas
	CA  string `json:"ca,omitempty"` // path of a CA bundle
	// Accounts are the engine's users by account: ENGINE, WORK_default,
	// NOTIFY and EXT_default.
	Accounts map[string]Login `json:"accounts"`
}

// Login is a user and password, or a NATS credentials file. $NAME in a
// password stands for that environment variable.
type Login struct {
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	Creds    string `json:"creds,omitempty"` // path
}

// ReadExternal reads a JSON file with an External.
func ReadExternal(path string) (*External, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("external nats server: %w", err)
	}
	var x External
	if err := json.Unmarshal(p, &x); err != nil {
		return nil, fmt.Errorf("external nats server: %s: not JSON: %w", path, err)
	}
	return &x, nil
}

// What the external server must be at least: batches and what the journal and
// the streams use. The API level is JetStream's own count of its features.
const (
	minVersion  = "2.14.0"
	minAPILevel = 4
)

func (b *Broker) connectExternal(ctx context.Context) error {
	x := b.opts.External
	if x.URL == "" {
		return errors.New("external nats server: no url is given")
	}
	b.url, b.maxStore = x.URL, b.opts.MaxStore
	for account, nc := range b.conns() {
		login, ok := x.Accounts[account]
		if !ok {
			return fmt.Errorf("external nats server: no user is given for account %s; all of ENGINE, WORK_default, NOTIFY and EXT_default are needed", account)
		}
		var err error
		if *nc, err = b.dial(x, account, login); err != nil {
			return err
		}
		if err := checkServer(ctx, *nc, account); err != nil {
			return fmt.Errorf("external nats server %s, account %s: %w", (*nc).ConnectedUrlRedacted(), account, err)
		}
	}
	return nil
}

func (b *Broker) dial(x *External, account string, login Login) (*nats.Conn, error) {
	list := append(b.connOptions(account), nats.Timeout(5*time.Second))
	switch {
	case login.Creds != "":
		list = append(list, nats.UserCredentials(login.Creds))
	case login.User != "":
		list = append(list, nats.UserInfo(login.User, os.ExpandEnv(login.Password)))
	default:
		return nil, fmt.Errorf("external nats server: account %s: neither user nor creds is given", account)
	}
	if x.CA != "" {
		list = append(list, nats.RootCAs(x.CA))
	}
	nc, err := nats.Connect(x.URL, list...)
	if errors.Is(err, nats.ErrAuthorization) {
		return nil, fmt.Errorf("external nats server: account %s: user %q is not accepted; check its password here and in the server's configuration: %w", account, cmp.Or(login.User, login.Creds), err)
	}
	if err != nil {
		return nil, fmt.Errorf("external nats server: account %s: cannot connect; check that the server runs and its address is right: %w", account, err)
	}
	return nc, nil
}

// checkServer reports what keeps the server from serving.
func checkServer(ctx context.Context, nc *nats.Conn, account string) error {
	if v := nc.ConnectedServerVersion(); olderThan(v, minVersion) {
		return fmt.Errorf("nats-server %s is too old, at least %s is needed", v, minVersion)
	}
	if got := accountName(ctx, nc); got != "" && got != account {
		return fmt.Errorf("the user belongs to account %s", got)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	info, err := js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("jetstream is not enabled: %w", err)
	}
	if err != nil {
		return fmt.Errorf("jetstream does not answer: %w", err)
	}
	if info.API.Level < minAPILevel {
		return fmt.Errorf("its jetstream has api level %d, at least %d is needed: a server of the cluster is too old", info.API.Level, minAPILevel)
	}
	return nil
}

// accountName asks the server which account the connection is in. It is empty
// when the server does not say, or names the account by its key.
func accountName(ctx context.Context, nc *nats.Conn) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	if err != nil {
		return ""
	}
	var info struct {
		Data struct {
			Account string `json:"account"`
		} `json:"data"`
	}
	if json.Unmarshal(m.Data, &info) != nil || len(info.Data.Account) == 56 && strings.HasPrefix(info.Data.Account, "A") {
		return ""
	}
	return info.Data.Account
}

// olderThan compares versions of the form 2.14.0 with a possible suffix.
func olderThan(v, least string) bool {
	return slices.Compare(versionNumbers(v), versionNumbers(least)) < 0
}

func versionNumbers(v string) []int {
	v, _, _ = strings.Cut(strings.TrimPrefix(v, "v"), "-")
	var out []int
	for part := range strings.SplitSeq(v, ".") {
		n, _ := strconv.Atoi(part) // what is no number counts as 0, the oldest
		out = append(out, n)
	}
	return out
}
