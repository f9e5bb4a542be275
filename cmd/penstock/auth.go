package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/spf13/cobra"
)

// principalKinds are the kinds of credentials, with what each is for.
var principalKinds = []struct{ kind, is string }{
	{bus.KindUser, "a person or bot: starts runs, decides, follows events, as its roles allow"},
	{bus.KindWorker, "a worker process: does tasks of its pool"},
	{bus.KindPublisher, "a service: publishes events of its own source and nothing else"},
	{bus.KindAdmin, "an administrator: may do everything, also make credentials"},
}

func (a *app) authCommand() *cobra.Command {
	sub := []*cobra.Command{a.authListCommand("", "List all credentials")}
	for _, k := range principalKinds {
		c := group(k.kind, "Credentials for "+k.is,
			a.authAddCommand(k.kind), a.authListCommand(k.kind, "List the credentials of "+k.kind+"s"), a.authRevokeCommand(k.kind))
		sub = append(sub, c)
	}
	c := group("auth", "Make, list and revoke credentials", sub...)
	c.Long = `Makes, lists and revokes credentials. Only an administrator can: the server
writes the first one's credential into its data directory. What a user may do
is said by the Roles definitions, under the name that the credential is for.`
	return c
}

func (a *app) authAddCommand(kind string) *cobra.Command {
	var out, pool string
	var force bool
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a credential",
		Long: `Makes a credential for NAME and writes it to --out, readable only by you, or to
stdout. It is shown once; the server keeps no copy of its secret.`,
		Example: fmt.Sprintf(`  penstock auth %s add NAME --out NAME.json
  penstock auth %s add NAME > NAME.json`, kind, kind),
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if err := mayWrite(out, force); err != nil {
				return err
			}
			return a.asAdmin(cmd, func(s *session) error {
				var cred bus.Credential
				request := events.AddPrincipal{Kind: kind, Name: arg[0], Pool: pool}
				if _, err := s.ask(cmd.Context(), events.VerbAuthAdd, request, &cred); err != nil {
					return err
				}
				if out == "" {
					return a.printJSON(cred)
				}
				if err := cred.Write(out); err != nil {
					return &failure{exit: exitFailed, code: "failed", message: fmt.Sprintf("credential of %s %s was made but not written: %s", kind, arg[0], err),
						hint: fmt.Sprintf("penstock auth %s revoke %s, then try again", kind, arg[0])}
				}
				a.note("wrote the credential of %s %s to %s", kind, arg[0], out)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write the credential to, mode 0600 (default stdout)")
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE when it is there")
	if kind == bus.KindWorker {
		cmd.Flags().StringVar(&pool, "pool", "", "`POOL` the worker belongs to (default \""+events.DefaultPool+"\")")
	}
	return cmd
}

// mayWrite refuses to lose a file, before a secret is made that could not be
// written.
func mayWrite(path string, force bool) error {
	if path == "" || force {
		return nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return usagef("--out %s: it is there already", path).withHint("--force replaces it")
	}
	return nil
}

func (a *app) authListCommand(kind, text string) *cobra.Command {
	example := "  penstock auth list"
	if kind != "" {
		example = "  penstock auth " + kind + " list"
	}
	return &cobra.Command{
		Use: "list", Short: text, Example: example, Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asAdmin(cmd, func(s *session) error {
				list := events.Principals{}
				if _, err := s.ask(cmd.Context(), events.VerbAuthList, nil, &list); err != nil {
					return err
				}
				list.Principals = slices.DeleteFunc(list.Principals, func(p events.Principal) bool { return kind != "" && p.Kind != kind })
				return a.printPrincipals(list)
			})
		},
	}
}

func (a *app) printPrincipals(list events.Principals) error {
	if list.Principals == nil {
		list.Principals = []events.Principal{}
	}
	if a.output == "json" {
		return a.printJSON(list)
	}
	if len(list.Principals) == 0 {
		a.note("none")
		return nil
	}
	t := table{head: []string{"KIND", "NAME", "POOL", "AGE"}}
	for _, p := range list.Principals {
		t.add(p.Kind, p.Name, cmp.Or(p.Pool, "-"), short(a.now().Sub(p.CreatedAt)))
	}
	t.print(a.stdout, "")
	return nil
}

func (a *app) authRevokeCommand(kind string) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke NAME",
		Short:   "Make a credential useless, at once",
		Example: "  penstock auth " + kind + " revoke NAME",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.asAdmin(cmd, func(s *session) error {
				request := events.RevokePrincipal{Kind: kind, Name: arg[0]}
				if _, err := s.ask(cmd.Context(), events.VerbAuthRevoke, request, nil); err != nil {
					return err
				}
				a.note("revoked %s %s", kind, arg[0])
				return nil
			})
		},
	}
}

// asAdmin is with, for an administrator only. The server enforces it; here it
// is said in words.
func (a *app) asAdmin(cmd *cobra.Command, fn func(*session) error) error {
	cred, from, err := a.findCredential()
	if err != nil {
		return err
	}
	if cred.Kind != bus.KindAdmin {
		return (&failure{exit: exitDenied, code: events.CodeDenied,
			message: fmt.Sprintf("%s needs an administrator's credential, and %s %q is none", cmd.CommandPath(), cred.Kind, cred.Name)}).
			withHint("the credential is %s (from %s)\nthe server's own is admin.json in its data directory: --data DIR", from.path, from.from)
	}
	return a.with(cmd.Context(), fn)
}
