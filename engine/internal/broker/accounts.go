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

// account is one of the accounts of Penstock: who shares what with whom. The
// embedded server's configuration and the one that is printed for a server of
// one's own are both made from this.
type account struct {
	name, about string
	jetStream   bool
	exports     []share
	imports     []share
}

// share is a subject that one account offers (account is who may have it) or
// takes from another (account is whose it is).
type share struct {
	service          bool // requests, else messages
	subject, account string
}

func accounts() []account {
	user, admin := events.UserPrefix+">", events.AdminPrefix+">"
	worker := events.WorkerPrefix + events.Token(events.DefaultDomain) + ".>"
	return []account{
		{name: events.AccountSystem, about: "The servers themselves. Nobody's, but for looking at them."},
		{name: events.AccountEngine, about: "The record. Engines only.", jetStream: true, exports: []share{
			{true, user, events.AccountUsers}, {true, admin, events.AccountUsers}, {true, worker, events.AccountWork}}},
		{name: events.AccountWork, about: "Tasks, artifacts and output.", jetStream: true, imports: []share{
			{true, worker, events.AccountEngine}}},
		{name: events.AccountNotify, about: "What happened, for those who follow.", jetStream: true, exports: []share{
			{false, live, events.AccountUsers}}},
		{name: events.AccountExt, about: "Events of other services.", jetStream: true},
		{name: events.AccountUsers, about: "People and bots. No JetStream.", imports: []share{
			{true, user, events.AccountEngine}, {true, admin, events.AccountEngine}, {false, live, events.AccountNotify}}},
	}
}

// live is where users follow what happens.
const live = "penstock.live.>"

// embeddedConf is the configuration of the accounts without users: those of
// the embedded server are asked for by its authenticator.
func embeddedConf() string {
	var b strings.Builder
	writeAccounts(&b, func(string) []string { return nil })
	return b.String()
}

func writeAccounts(b *strings.Builder, users func(account string) []string) {
	fmt.Fprintf(b, "system_account: %s\n\naccounts {\n", events.AccountSystem)
	for i, a := range accounts() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "  # %s\n  %s {\n", a.about, a.name)
		if a.jetStream {
			b.WriteString("    jetstream: enabled\n")
		}
		writeList(b, "users", users(a.name))
		writeList(b, "exports", lines(a.exports, func(s share) string {
			return fmt.Sprintf("{ %s: %q, accounts: [%s] }", s.kind(), s.subject, s.account)
		}))
		writeList(b, "imports", lines(a.imports, func(s share) string {
			shared := ""
			if s.service { // so that the engine is told who asks
				shared = ", share: true"
			}
			return fmt.Sprintf("{ %s: { account: %s, subject: %q }%s }", s.kind(), s.account, s.subject, shared)
		}))
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
}

func (s share) kind() string {
	if s.service {
		return "service"
	}
	return "stream"
}

func lines(list []share, line func(share) string) []string {
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
	users, err := serverUsers(c.Members)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(confHead)
	if len(c.Routes) > 0 {
		fmt.Fprintf(&b, "\ncluster {\n  name: penstock\n  listen: \"0.0.0.0:6222\"\n  routes: [%s]\n}\n", strings.Join(quoted(c.Routes), ", "))
	}
	b.WriteByte('\n')
	writeAccounts(&b, func(account string) []string { return users[account] })
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

// serverUsers are the users by account, each as a line of the configuration.
func serverUsers(members []Member) (map[string][]string, error) {
	users := map[string][]string{events.AccountSystem: {`{ user: "sys", password: $PENSTOCK_SYS_PASSWORD }`}}
	taken := map[string]bool{"sys": true}
	for _, n := range needed {
		taken[engineName+n.suffix] = true
		users[n.account] = []string{fmt.Sprintf("{ user: %q, password: $PENSTOCK_ENGINE_PASSWORD }", engineName+n.suffix)}
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
		users[account] = append(users[account], userLine(m, variable))
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

func userLine(m Member, variable string) string {
	kinds := m.Kinds
	if len(kinds) == 0 {
		kinds = slices.Sorted(maps.Keys(workflows.ShippedKinds()))
	}
	p := permissions(&principal{Principal: events.Principal{Kind: m.Kind, Name: m.Name, Pool: m.Pool}}, kinds)
	return fmt.Sprintf("{ user: %q, password: $%s, permissions: {\n    publish: { allow: [%s] }\n    subscribe: { allow: [%s] }\n} }",
		m.Name, variable, subjects(p.Publish.Allow), subjects(p.Subscribe.Allow))
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
