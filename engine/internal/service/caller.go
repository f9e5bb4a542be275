package service

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// requestInfo is what the server says of the client behind a request that
// came through a service import with sharing. Its user field is not read: a
// client can forge it.
type requestInfo struct {
	Account string `json:"acc"`
	Kind    string `json:"kind"`
}

// caller tells who asks for what: the token below which only the principal
// may publish, in the account that such principals are in. named is what the
// server calls an account.
func caller(m *nats.Msg, named func(account string) string) (Principal, string, error) {
	var who Principal
	var verb []string
	tokens := strings.Split(m.Subject, ".")
	account := events.AccountUsers
	switch {
	case len(tokens) >= 5 && tokens[2] == "u":
		who.Kind, who.Name, verb = "user", tokens[3], tokens[4:]
	case len(tokens) >= 5 && tokens[2] == "a":
		who.Kind, who.Name, verb = "admin", tokens[3], tokens[4:]
	case len(tokens) >= 7 && tokens[2] == "w":
		who.Kind, who.Pool, who.Name, verb = "worker", tokens[4], tokens[5], tokens[6:]
		account = events.AccountWork
	default:
		return who, "", refuse(events.CodeInvalid, "there is no API at %s", m.Subject)
	}
	var err error
	if who.Name, err = events.Untoken(who.Name); err != nil {
		return who, "", refuse(events.CodeInvalid, "%v", err)
	}
	if who.Pool != "" {
		if who.Pool, err = events.Untoken(who.Pool); err != nil {
			return who, "", refuse(events.CodeInvalid, "%v", err)
		}
	}
	info, ok := requestInfoOf(m)
	if !ok {
		return who, "", refuse(events.CodeDenied, "the server does not say where the request comes from; the account's import must share it")
	}
	if info.Account != named(account) || info.Kind != "Client" {
		return who, "", refuse(events.CodeDenied, "the request comes from account %s as %s, where it must not", info.Account, info.Kind)
	}
	who.Via = "bus"
	return who, strings.Join(verb, "."), nil
}

// infos keeps what was read of headers: a client's is the same for some time.
var infos struct {
	mu   sync.Mutex
	read map[string]requestInfo
}

// maxInfos is how many are kept.
const maxInfos = 4096

// requestInfoOf reads what the server says of the client.
func requestInfoOf(m *nats.Msg) (requestInfo, bool) {
	text := m.Header.Get("Nats-Request-Info")
	infos.mu.Lock()
	info, known := infos.read[text]
	infos.mu.Unlock()
	if known {
		return info, true
	}
	if json.Unmarshal([]byte(text), &info) != nil {
		return info, false
	}
	infos.mu.Lock()
	defer infos.mu.Unlock()
	if len(infos.read) >= maxInfos || infos.read == nil {
		infos.read = map[string]requestInfo{}
	}
	infos.read[text] = info
	return info, true
}

// workerVerbs are what workers report with, and nobody else.
var workerVerbs = []string{events.VerbAttemptStart, events.VerbAttemptHeartbeat, events.VerbAttemptFinish, events.VerbWorkerHello}

// mayAsk keeps the kinds of principals apart. A name belongs to one principal
// of a kind only: a worker that is called like a person is not that person,
// and may neither decide nor read in the person's name.
func mayAsk(who Principal, verb string) error {
	if forWorkers := slices.Contains(workerVerbs, verb); forWorkers != (who.Kind == bus.KindWorker) || who.Kind == bus.KindPublisher {
		return refuse(events.CodeDenied, "%s is a %s, and %s is not for those", who.Name, who.Kind, verb)
	}
	return nil
}
