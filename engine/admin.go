package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workflows"
)

// Cluster is what a NATS server or cluster of one's own needs for Penstock.
type Cluster struct {
	Config    string          `json:"config"`   // of nats-server
	Accounts  []Account       `json:"accounts"` // what the configuration has of them, for a server in operator mode
	Streams   []ClusterStream `json:"streams"`
	Consumers []ClusterStream `json:"consumers"` // of the stream of tasks
}

// Account is an account of that server: what it shares with others, and its
// users.
type Account = broker.Account

// ClusterStream is a stream, bucket or consumer, in the form that JetStream's
// API and the nats client take.
type ClusterStream struct {
	Account string          `json:"account"`
	Name    string          `json:"name"`
	Config  json.RawMessage `json:"config"`
}

// ClusterFor says what a server of one's own needs: users for the members, who
// are written KIND:NAME, or worker:NAME:POOL; a block for a cluster when there
// are routes; and streams with so many replicas.
func ClusterFor(members, routes []string, replicas int) (*Cluster, error) {
	conf := broker.Cluster{Routes: routes}
	pools := []string{events.DefaultPool}
	for _, text := range members {
		kind, name, ok := strings.Cut(text, ":")
		if !ok {
			return nil, fmt.Errorf("member %q: must be KIND:NAME, where KIND is user, admin, worker or publisher", text)
		}
		m := broker.Member{Kind: kind, Name: name}
		if kind == bus.KindWorker {
			m.Name, m.Pool, _ = strings.Cut(name, ":")
			pools = append(pools, cmp.Or(m.Pool, events.DefaultPool))
		}
		conf.Members = append(conf.Members, m)
	}
	out := &Cluster{}
	var err error
	if out.Config, err = broker.Configuration(conf); err != nil {
		return nil, err
	}
	if out.Accounts, err = broker.Accounts(conf.Members); err != nil {
		return nil, err
	}
	for _, s := range broker.Streams(replicas) {
		if err := add(&out.Streams, s.Account, s.Config.Name, s.Config); err != nil {
			return nil, err
		}
	}
	slices.Sort(pools)
	for _, pool := range slices.Compact(pools) {
		for _, c := range broker.Consumers(pool, slices.Sorted(maps.Keys(workflows.ShippedKinds()))...) {
			if err := add(&out.Consumers, events.AccountWork, c.Durable, c); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func add(list *[]ClusterStream, account, name string, config any) error {
	p, err := json.Marshal(config)
	*list = append(*list, ClusterStream{Account: account, Name: name, Config: p})
	return err
}

// StreamState is how a stream or bucket of a server compares with what it has
// to be.
type StreamState struct {
	Account string   `json:"account"`
	Name    string   `json:"name"`
	State   string   `json:"state"` // "missing", "made", "good" or "different"
	Differs []string `json:"differs,omitempty"`
}

// Bootstrap compares the streams and buckets of an external server with what
// they have to be and, when apply says so, makes those that are missing. It
// never changes one that is there.
func Bootstrap(ctx context.Context, o Options, apply bool) ([]StreamState, error) {
	b, err := openBroker(ctx, o)
	if err != nil {
		return nil, err
	}
	defer b.Close(context.WithoutCancel(ctx))
	before, err := b.Look(ctx)
	if err != nil {
		return nil, err
	}
	var failed error
	if apply {
		failed = b.MakeStreams(ctx)
	}
	after, err := b.Look(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]StreamState, len(after))
	for i, s := range after {
		list[i] = StreamState{Account: s.Account, Name: s.Config.Name, State: "good", Differs: s.Drift}
		switch {
		case s.Missing:
			list[i].State = "missing"
		case len(s.Drift) > 0:
			list[i].State = "different"
		case before[i].Missing:
			list[i].State = "made"
		}
	}
	if failed != nil && slices.ContainsFunc(list, func(s StreamState) bool { return s.State == "missing" }) {
		return list, failed
	}
	return list, nil
}

// openBroker connects as the engine that o describes would.
func openBroker(ctx context.Context, o Options) (*broker.Broker, error) {
	external, err := broker.FindExternal(o.External, o.Creds, o.Context)
	if err != nil {
		return nil, err
	}
	return broker.Start(ctx, broker.Options{Dir: o.Dir, Listen: o.Listen, Sync: o.Sync, MaxStore: o.MaxStore,
		Replicas: o.Replicas, External: external, Strict: o.Strict, Log: o.Log})
}
