package broker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workflows"
)

// Account is one of the accounts of Penstock: who shares what with whom. The
// embedded server's configuration, the one that is printed for a server of
// one's own, and the accounts of one in operator mode are all made from this.
type Account struct {
	Name      string  `json:"name"`
	About     string  `json:"about"`
	JetStream bool    `json:"jetStream,omitempty"`
	Exports   []Share `json:"exports,omitempty"`
	Imports   []Share `json:"imports,omitempty"`
	Users     []User  `json:"users,omitempty"`
}

// Share is a subject that one account offers (Account is who may have it) or
// takes from another (Account is whose it is). The import of a service has to
// share who asks.
type Share struct {
	Kind    string `json:"kind"` // "service", for requests, or "stream", for messages
	Subject string `json:"subject"`
	Account string `json:"account"`
}

// User is a login. One without permissions may do anything in its account.
type User struct {
	Name      string   `json:"name"`
	Publish   []string `json:"publish,omitempty"`
	Subscribe []string `json:"subscribe,omitempty"`

	variable string // of the environment, with the password
}

const (
	service = "service"
	stream  = "stream"
)

// accounts are all of them, without users.
func accounts() []Account {
	user, admin := events.UserPrefix+">", events.AdminPrefix+">"
	worker := events.WorkerPrefix + events.Token(events.DefaultDomain) + ".>"
	return []Account{
		{Name: events.AccountSystem, About: "The servers themselves. Nobody's, but for looking at them."},
		{Name: events.AccountEngine, About: "The record. Engines only.", JetStream: true, Exports: []Share{
			{service, user, events.AccountUsers}, {service, admin, events.AccountUsers}, {service, worker, events.AccountWork}}},
		{Name: events.AccountWork, About: "Tasks, artifacts and output.", JetStream: true, Imports: []Share{
			{service, worker, events.AccountEngine}}},
		{Name: events.AccountNotify, About: "What happened, for those who follow.", JetStream: true, Exports: []Share{
			{stream, live, events.AccountUsers}}},
		{Name: events.AccountExt, About: "Events of other services.", JetStream: true},
		{Name: events.AccountUsers, About: "People and bots. No JetStream.", Imports: []Share{
			{service, user, events.AccountEngine}, {service, admin, events.AccountEngine}, {stream, live, events.AccountNotify}}},
	}
}

// Accounts are all accounts, with a user for the engine where it needs one and
// for every member.
func Accounts(members []Member) ([]Account, error) {
	users, err := serverUsers(members)
	all := accounts()
	for i := range all {
		all[i].Users = users[all[i].Name]
	}
	return all, err
}

// live is where users follow what happens.
const live = "penstock.live.>"

// embeddedConf is the configuration of the accounts without users: those of
// the embedded server are asked for by its authenticator.
func embeddedConf() string {
	var b strings.Builder
	writeAccounts(&b, accounts())
	return b.String()
}

func writeAccounts(b *strings.Builder, all []Account) {
	fmt.Fprintf(b, "system_account: %s\n\naccounts {\n", events.AccountSystem)
	for i, a := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "  # %s\n  %s {\n", a.About, a.Name)
		if a.JetStream {
			b.WriteString("    jetstream: enabled\n")
		}
		writeList(b, "users", lines(a.Users, userLine))
		writeList(b, "exports", lines(a.Exports, func(s Share) string {
			return fmt.Sprintf("{ %s: %q, accounts: [%s] }", s.Kind, s.Subject, s.Account)
		}))
		writeList(b, "imports", lines(a.Imports, func(s Share) string {
			shared := ""
			if s.Kind == service { // so that the engine is told who asks
				shared = ", share: true"
			}
			return fmt.Sprintf("{ %s: { account: %s, subject: %q }%s }", s.Kind, s.Account, s.Subject, shared)
		}))
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
}

func lines[T any](list []T, line func(T) string) []string {
	var out []string
	for _, s := range list {
		out = append(out, line(s))
	}
	return out
}

func writeList(b *strings.Builder, name string, list []string) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "    %s: [\n", name)
	for _, text := range list {
		b.WriteString("      " + strings.ReplaceAll(text, "\n", "\n      ") + "\n")
	}
	b.WriteString("    ]\n")
}

// Member is somebody who has a user at a server of one's own.
type Member struct {
	Kind, Name string
	Pool       string   // of a worker
	Kinds      []string // of a worker: the kinds whose tasks it may take; the shipped ones when there are none
}

// Cluster says what the configuration of a server of one's own is made for.
type Cluster struct {
	Members []Member
	Routes  []string // of a cluster: where its servers find each other, as nats://host:6222
}

// Configuration is what a nats-server of one's own needs: the accounts that the
// embedded server has, with a user for the engine in each and for every
// member with no more permissions than that has. Passwords are variables of
// the environment.
func Configuration(c Cluster) (string, error) {
	all, err := Accounts(c.Members)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(confHead)
	if len(c.Routes) > 0 {
		fmt.Fprintf(&b, "\ncluster {\n  name: penstock\n  listen: \"0.0.0.0:6222\"\n  routes: [%s]\n}\n", strings.Join(quoted(c.Routes), ", "))
	}
	b.WriteByte('\n')
	writeAccounts(&b, all)
	return b.String(), nil
}

const confHead = `# A NATS server of one's own for Penstock (nats-server 2.14 or newer), as
# penstock admin bootstrap prints it:
#
#   nats-server -c nats.conf
#   penstock server --nats nats://127.0.0.1:4222        with NATS_PASSWORD set
#
# The accounts are those of the embedded server. They are the security
# boundary: keep them as they are. The users are yours: one for each person,
# bot, worker and publisher. A name stands in subjects; a byte of it that is no
# letter, digit, "_" or "-" is written there as "=" and two hex digits ("a.b" is
# "a=2Eb"). Nobody but the engine has a right to make consumers, to direct get,
# or to $JS.API.> in general: with these anybody could have the server speak in
# its own name.
#
# Passwords come from the environment. Give each user one of its own, with a
# letter in front (the configuration takes what looks like a number for one),
# for example: export PENSTOCK_ENGINE_PASSWORD="p$(openssl rand -hex 32)"

server_name: $PENSTOCK_SERVER_NAME
listen: "0.0.0.0:4222"
max_payload: 4MB

# Who does not answer is taken off within 15 seconds. Until then a share of what
# is asked goes to an engine that stands still or whose machine is gone, and is
# asked again only when no answer has come.
ping_interval: "5s"
ping_max: 2

jetstream {
  store_dir: $PENSTOCK_STORE_DIR
  # An acknowledgement means: on disk. Without it a power cut loses
  # approvals that were acknowledged.
  sync_interval: always
  max_memory_store: 64MB
  # Below the size of the disk, so that a full store refuses with an error
  # instead of freezing: set it to about 80 % of the disk.
  max_file_store: 8GB
}
`

// serverUsers are the users by account.
func serverUsers(members []Member) (map[string][]User, error) {
	users := map[string][]User{events.AccountSystem: {{Name: "sys", variable: "PENSTOCK_SYS_PASSWORD"}}}
	taken := map[string]bool{"sys": true}
	for _, n := range needed {
		taken[engineName+n.suffix] = true
		users[n.account] = []User{{Name: engineName + n.suffix, variable: "PENSTOCK_ENGINE_PASSWORD"}}
	}
	variables := map[string]bool{"PENSTOCK_ENGINE_PASSWORD": true, "PENSTOCK_SYS_PASSWORD": true}
	var errs []error
	for _, m := range members {
		if m.Kind == bus.KindWorker {
			m.Pool = cmp.Or(m.Pool, events.DefaultPool)
		}
		if err := checkPrincipal(m.Kind, m.Name, m.Pool); err != nil {
			errs = append(errs, err)
			continue
		}
		variable := passwordVariable(m, variables)
		if taken[m.Name] || variables[variable] {
			errs = append(errs, fmt.Errorf("%s %q: another user has that name, or one that is the same in the variable %s", m.Kind, m.Name, variable))
			continue
		}
		taken[m.Name], variables[variable] = true, true
		account := accountOf(m.Kind)
		users[account] = append(users[account], userOf(m, variable))
	}
	return users, errors.Join(errs...)
}

// passwordVariable names the variable for a password after the user, and of
// the first worker and publisher after what they are.
func passwordVariable(m Member, used map[string]bool) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(m.Name))
	if first := "PENSTOCK_" + strings.ToUpper(m.Kind) + "_PASSWORD"; !isPerson(m.Kind) && !used[first] {
		return first
	}
	return "PENSTOCK_" + name + "_PASSWORD"
}

func userOf(m Member, variable string) User {
	kinds := m.Kinds
	if len(kinds) == 0 {
		kinds = slices.Sorted(maps.Keys(workflows.ShippedKinds()))
	}
	p := permissions(&principal{Principal: events.Principal{Kind: m.Kind, Name: m.Name, Pool: m.Pool}}, kinds)
	return User{m.Name, p.Publish.Allow, p.Subscribe.Allow, variable}
}

// userLine is a user of the configuration.
func userLine(u User) string {
	if len(u.Publish)+len(u.Subscribe) == 0 {
		return fmt.Sprintf("{ user: %q, password: $%s }", u.Name, u.variable)
	}
	return fmt.Sprintf("{ user: %q, password: $%s, permissions: {\n    publish: { allow: [%s] }\n    subscribe: { allow: [%s] }\n} }",
		u.Name, u.variable, subjects(u.Publish), subjects(u.Subscribe))
}

// subjects writes a list in one line where it is short.
func subjects(list []string) string {
	list = quoted(list)
	if len(list) <= 2 {
		return strings.Join(list, ", ")
	}
	return "\n      " + strings.Join(list, "\n      ") + "\n    "
}

func quoted(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return out
}
