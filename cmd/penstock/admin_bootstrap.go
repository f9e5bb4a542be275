package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/engine"
)

// clusterMembers are the users that the printed configuration has where none
// are named: those of the examples.
var clusterMembers = []string{"admin:admin", "user:marta", "user:li", "user:bot", "worker:worker", "publisher:ci"}

func (a *app) adminBootstrapCommand() *cobra.Command {
	o := engine.Options{}
	var members, routes []string
	var apply, dry bool
	cmd := &cobra.Command{
		Use:   "bootstrap [config|accounts|streams]",
		Short: "Show or make what a NATS server of your own needs",
		Long: `Prints what a NATS server or cluster of your own needs for Penstock: "config", a
configuration of nats-server with accounts, users and permissions, the same ones
that the embedded server has; "accounts", the same as a table, for a server in
operator mode, whose accounts are made with nsc; or "streams", a script for the nats client that
makes all streams and buckets. The engine makes these itself at its first start:
the script is for whoever wants to see or do it before.

With --dry-run it connects instead, as the engine would, and says how the streams
there compare with what they have to be. With --apply it also makes those that
are missing. It never changes one that is there.

In operator mode every export is private, with an activation for the account that
may have it, and every import of a service shares the connection: the engine is
told who asks by it.`,
		Example: `  penstock admin bootstrap --route nats://nats-1:6222 --route nats://nats-2:6222 --route nats://nats-3:6222 > nats.conf
  penstock admin bootstrap --member admin:ops --member worker:builder-1:builders --member publisher:git > nats.conf
  penstock admin bootstrap streams --replicas 3
  penstock admin bootstrap --dry-run --nats nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222 --creds /etc/penstock/creds
  penstock admin bootstrap --apply --context engine`,
		Args: args("[config|accounts|streams]"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			what := append(arg, "config")[0]
			if !slices.Contains([]string{"config", "accounts", "streams"}, what) {
				return usagef("%s: %q is none of config, accounts and streams", cmd.CommandPath(), what)
			}
			if apply || dry {
				return a.bootstrap(cmd.Context(), o, apply && !dry)
			}
			for flag, value := range map[string]string{"--nats": o.External, "--creds": o.Creds, "--context": o.Context} {
				if value != "" {
					return usagef("%s says where to look or to make streams; say --dry-run or --apply too", flag)
				}
			}
			if !cmd.Flags().Changed("member") {
				members = clusterMembers
			}
			return a.printCluster(what, members, routes, o.Replicas)
		},
	}
	externalFlags(cmd, &o)
	f := cmd.Flags()
	f.StringArrayVar(&members, "member", nil, "user of the configuration, `KIND:NAME` or worker:NAME:POOL; may be given again (default: those of the examples)")
	f.StringArrayVar(&routes, "route", nil, "`URL` of a server of the cluster, as nats://HOST:6222; may be given again")
	f.BoolVar(&apply, "apply", false, "make the streams and buckets that are missing")
	f.BoolVar(&dry, "dry-run", false, "only say which streams and buckets are missing or different")
	return cmd
}

func (a *app) printCluster(what string, members, routes []string, replicas int) error {
	if replicas == 0 {
		if replicas = 1; len(routes) >= 3 {
			replicas = 3
		}
	}
	c, err := engine.ClusterFor(members, routes, replicas)
	if err != nil {
		return usagef("%v", err)
	}
	if a.output == "json" {
		return a.printJSON(c)
	}
	if what == "accounts" {
		a.printAccounts(c.Accounts)
		return nil
	}
	if what == "config" {
		_, err = io.WriteString(a.stdout, c.Config)
		return err
	}
	fmt.Fprint(a.stdout, `#!/bin/sh
# Makes the streams, buckets and consumers of Penstock with the nats client, as
# its engine would. The client needs a context for each account: `+strings.Join(contextsOf(c), ", ")+`.
set -eu
`)
	for _, s := range c.Streams {
		fmt.Fprintf(a.stdout, "\nnats --context %s stream add --config /dev/stdin <<'EOF'\n%s\nEOF\n", contextOf(s.Account), s.Config)
	}
	for _, s := range c.Consumers {
		fmt.Fprintf(a.stdout, "\nnats --context %s consumer add PENSTOCK_TASKS --config /dev/stdin <<'EOF'\n%s\nEOF\n", contextOf(s.Account), s.Config)
	}
	return nil
}

// printAccounts prints what there is to make in each account.
func (a *app) printAccounts(list []engine.Account) {
	t := table{head: []string{"ACCOUNT", "", "", "SUBJECT", "WITH"}}
	for _, acc := range list {
		stores := "without JetStream"
		if acc.JetStream {
			stores = "with JetStream"
		}
		t.add(acc.Name, stores)
		for _, s := range acc.Exports {
			t.add("", "export", s.Kind, s.Subject, "for "+s.Account)
		}
		for _, s := range acc.Imports {
			from := "of " + s.Account
			if s.Kind == "service" {
				from += ", shares the connection"
			}
			t.add("", "import", s.Kind, s.Subject, from)
		}
		for _, u := range acc.Users {
			for i, subject := range append(tagged("publish", u.Publish), tagged("subscribe", u.Subscribe)...) {
				if i == 0 {
					t.add("", "user "+u.Name, subject[0], subject[1])
				} else {
					t.add("", "", subject[0], subject[1])
				}
			}
			if len(u.Publish)+len(u.Subscribe) == 0 {
				t.add("", "user "+u.Name, "everything")
			}
		}
	}
	t.print(a.stdout, "")
}

func tagged(what string, subjects []string) (list [][2]string) {
	for _, s := range subjects {
		list = append(list, [2]string{what, s})
	}
	return list
}

// contextOf names the context of an account as the engine looks for it.
func contextOf(account string) string {
	word, _, _ := strings.Cut(strings.ToLower(account), "_")
	return strings.TrimSuffix("engine-"+word, "-engine")
}

func contextsOf(c *engine.Cluster) []string {
	var list []string
	for _, s := range c.Streams {
		list = append(list, contextOf(s.Account))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// bootstrap compares with the server, and makes what is missing.
func (a *app) bootstrap(ctx context.Context, o engine.Options, apply bool) error {
	if o.External == "" && o.Creds == "" && o.Context == "" {
		return usagef("which NATS server? The embedded one needs nothing").withHint("--nats URL, with --creds DIR, --context NAME or NATS_PASSWORD")
	}
	dir, err := os.MkdirTemp("", "penstock-bootstrap-") // nothing of this is kept
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.Dir, o.Log = dir, logger(a.stderr, false)
	list, err := engine.Bootstrap(ctx, o, apply)
	if len(list) > 0 {
		if printed := a.printStreamStates(list); printed != nil {
			return printed
		}
	}
	if err != nil {
		return err
	}
	different := slices.ContainsFunc(list, func(s engine.StreamState) bool { return s.State == "different" })
	if different {
		return (&failure{exit: exitFailed, code: "different", message: "streams are not as they must be; nothing was changed in them"}).
			withHint("set them back with nats stream edit, or remove them if they are empty")
	}
	if !apply && slices.ContainsFunc(list, func(s engine.StreamState) bool { return s.State == "missing" }) {
		a.note("--apply makes what is missing; so does the engine at its first start")
	}
	return nil
}

func (a *app) printStreamStates(list []engine.StreamState) error {
	if a.output == "json" {
		return a.printJSON(map[string]any{"streams": list})
	}
	t := table{head: []string{"ACCOUNT", "STREAM", "STATE"}}
	for _, s := range list {
		t.add(s.Account, s.Name, s.State)
		for _, d := range s.Differs {
			t.add("", "", "  "+d)
		}
	}
	t.print(a.stdout, "")
	return nil
}
