package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/penstock-cd/penstock/events"
)

// What an external server must be at least: batches and what the journal and
// the streams use. The API level is JetStream's own count of its features.
const (
	minVersion  = "2.14.0"
	minAPILevel = 4
)

// enough is how many copies of a stream survive the loss of a server without
// a gap.
const enough = 3

// checkAccount reports what keeps an account of the server from serving.
func (b *Broker) checkAccount(ctx context.Context, nc *nats.Conn, account string) error {
	if v := nc.ConnectedServerVersion(); olderThan(v, minVersion) {
		return fmt.Errorf("nats-server %s is too old, at least %s is needed", v, minVersion)
	}
	switch got := accountName(ctx, nc); {
	case isAccountKey(got):
		b.named[account] = got
	case got != "" && got != account:
		return fmt.Errorf("the user belongs to account %s", got)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	info, err := js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("jetstream is not enabled; the account needs \"jetstream: enabled\" in the server's configuration: %w", err)
	}
	if err != nil {
		return fmt.Errorf("jetstream does not answer; a cluster answers when more than half of its servers are there: %w", err)
	}
	if info.API.Level < minAPILevel {
		return fmt.Errorf("its jetstream has api level %d, at least %d is needed: a server of the cluster is too old", info.API.Level, minAPILevel)
	}
	return nil
}

// member is a server of the cluster, as far as it can be seen.
type member struct {
	Name, Version string
	JetStream     *jetStreamOf // nil when it cannot be seen
}

type jetStreamOf struct {
	Config *struct {
		SyncAlways bool `json:"sync_always"`
	} `json:"config"`
	Stats *struct {
		API struct {
			Level int `json:"level"`
		} `json:"api"`
	} `json:"stats"`
}

// checkCluster looks at every server that can be seen, chooses the number of
// copies where none was given, and tells what makes an acknowledgement worth
// less than it should be. With Strict that is an error.
func (b *Broker) checkCluster(ctx context.Context) error {
	members, whole, err := b.members(ctx)
	if err != nil {
		return err
	}
	stored, err := b.storedReplicas(ctx)
	if err != nil {
		return err
	}
	b.opts.Replicas = chooseReplicas(b.opts.Replicas, stored, len(members))
	faults, doubts := judge(members, whole, b.opts.Replicas, stored)
	if len(faults) > 0 {
		return fmt.Errorf("external nats server %s: %s", b.url, strings.Join(faults, "; "))
	}
	if b.opts.Strict && len(doubts) > 0 {
		return fmt.Errorf("external nats server %s: --strict does not allow that:\n  %s", b.url, strings.Join(doubts, "\n  "))
	}
	for _, doubt := range doubts {
		b.log.Warn("the external nats server may lose what it has acknowledged", "reason", doubt)
	}
	if b.opts.Replicas > len(members) {
		b.log.Warn("not all servers of the nats cluster are seen; it goes on with those that are", "servers", len(members), "copies", b.opts.Replicas)
	}
	b.log.Info("connected to an external nats server", "url", b.url, "servers", len(members), "replicas", b.opts.Replicas)
	return nil
}

// judge says what is wrong with the servers (faults), and what makes them less
// safe than they could be (doubts). whole says that all of them were seen from
// inside. Streams of stored copies are there already; those may well miss a
// server, which is what the copies are for.
func judge(members map[string]member, whole bool, replicas, stored int) (faults, doubts []string) {
	var lazy []string
	for _, id := range slices.Sorted(maps.Keys(members)) {
		m := members[id]
		if olderThan(m.Version, minVersion) {
			faults = append(faults, fmt.Sprintf("server %s has version %s, at least %s is needed", m.Name, m.Version, minVersion))
		}
		if m.JetStream == nil {
			continue
		}
		if s := m.JetStream.Stats; s != nil && s.API.Level < minAPILevel {
			faults = append(faults, fmt.Sprintf("server %s has api level %d, at least %d is needed", m.Name, s.API.Level, minAPILevel))
		}
		if c := m.JetStream.Config; c != nil && !c.SyncAlways {
			lazy = append(lazy, m.Name)
		}
	}
	if replicas > max(len(members), stored) {
		faults = append(faults, fmt.Sprintf("%d copies of each stream are wanted and %d servers are seen: start more of them, name them all in the url, or say --replicas %d", replicas, len(members), len(members)))
	}
	if replicas < enough {
		doubts = append(doubts, fmt.Sprintf("a stream has %d copies: with fewer than %d the loss of one server stops everything, or loses it (--replicas)", replicas, enough))
	}
	if len(lazy) > 0 {
		doubts = append(doubts, fmt.Sprintf("sync_interval is not \"always\" on %s: a power cut loses what was acknowledged", strings.Join(lazy, ", ")))
	}
	if !whole {
		doubts = append(doubts, "how the servers sync cannot be seen without a login in account SYS; \"sync_interval: always\" is needed on each of them")
	}
	return faults, doubts
}

// members are the servers by their id. With a login in SYS they are seen from
// inside (whole), else by connecting to each.
func (b *Broker) members(ctx context.Context) (list map[string]member, whole bool, err error) {
	x := b.opts.External
	if _, ok := x.Accounts[events.AccountSystem]; ok {
		nc, err := x.dial(events.AccountSystem, nats.Name("penstock/engine/look"), nats.NoReconnect())
		if err != nil {
			return nil, false, err
		}
		defer nc.Close()
		if list, err = askAll(ctx, nc); err != nil {
			return nil, false, fmt.Errorf("external nats server: account %s: the servers do not say how they are: %w; is it the system_account?", events.AccountSystem, err)
		}
		return list, true, nil
	}
	return b.lookAtEach(), false, nil
}

// lookAtEach connects to each address that the cluster names, all at once: a
// server has addresses that cannot be reached from here, and each takes as
// long as is waited for it.
func (b *Broker) lookAtEach() map[string]member {
	list := map[string]member{b.Engine.ConnectedServerId(): {Name: b.Engine.ConnectedServerName(), Version: b.Engine.ConnectedServerVersion()}}
	var mu sync.Mutex
	var looks sync.WaitGroup
	for _, server := range unique(b.Engine.Servers()) {
		looks.Go(func() {
			nc, err := b.opts.External.dial(events.AccountEngine, append(one(server), nats.Name("penstock/engine/look"))...)
			if err != nil {
				b.log.Info("an address of the cluster cannot be reached from here", "url", server, "error", err)
				return
			}
			defer nc.Close()
			if nc.ConnectedClusterName() != b.Engine.ConnectedClusterName() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			list[nc.ConnectedServerId()] = member{Name: nc.ConnectedServerName(), Version: nc.ConnectedServerVersion()}
		})
	}
	looks.Wait()
	return list
}

// quiet is for how long no further server may answer before all have.
const quiet = 500 * time.Millisecond

// askAll asks every server how it is; those with JetStream are given.
func askAll(ctx context.Context, nc *nats.Conn) (map[string]member, error) {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe()
	if err := nc.PublishRequest("$SYS.REQ.SERVER.PING.VARZ", inbox, nil); err != nil {
		return nil, err
	}
	list := map[string]member{}
	for wait := 5 * time.Second; ; wait = quiet {
		limited, cancel := context.WithTimeout(ctx, wait)
		m, err := sub.NextMsgWithContext(limited)
		cancel()
		if err != nil && len(list) > 0 {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if len(m.Data) == 0 { // nobody listens
			return nil, nats.ErrNoResponders
		}
		var answer struct {
			Server struct {
				ID      string `json:"id"`
				Name    string `json:"name"`
				Cluster string `json:"cluster"`
				Version string `json:"ver"`
			} `json:"server"`
			Data struct {
				JetStream *jetStreamOf `json:"jetstream"`
			} `json:"data"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return nil, err
		}
		if js := answer.Data.JetStream; js != nil && js.Config != nil && answer.Server.Cluster == nc.ConnectedClusterName() {
			list[answer.Server.ID] = member{Name: answer.Server.Name, Version: answer.Server.Version, JetStream: js}
		}
	}
}

// storedReplicas is how many copies the record has already; 0 when there is no
// record.
func (b *Broker) storedReplicas(ctx context.Context) (int, error) {
	js, err := jetstream.New(b.Engine)
	if err != nil {
		return 0, err
	}
	s, err := js.Stream(ctx, events.StreamLog)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("external nats server: stream %s: %w", events.StreamLog, err)
	}
	return max(s.CachedInfo().Config.Replicas, 1), nil
}

// chooseReplicas gives how many copies every stream has: as many as were
// asked for, else as many as are stored already, else three where there are
// three servers.
func chooseReplicas(asked, stored, servers int) int {
	if n := cmp.Or(asked, stored); n > 0 {
		return n
	}
	if servers >= enough {
		return enough
	}
	return 1
}

// accountName asks the server which account the connection is in. It is empty
// when the server does not say.
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
	if json.Unmarshal(m.Data, &info) != nil {
		return ""
	}
	return info.Data.Account
}

// isAccountKey tells the public key of an account, by which servers in operator
// mode name it, from a name.
func isAccountKey(name string) bool { return nkeys.IsValidPublicAccountKey(name) }

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
