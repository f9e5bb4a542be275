package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/cmd/penstock/internal/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Take a real service to production, told as a story",
		Long: `Starts a server and workers of its own, makes a git repository with a small
HTTP service, and takes commits of it to production: builds, tests, gates,
approvals, blue-green deployments under traffic, a roll back, and the engine
killed in the middle. Needs git and the go command, and nothing else: no
network, no container, no free port in particular.

On a terminal it asks once how to decide; --yes makes the approvals itself.
Everything lies in a temporary directory that is removed at the end, and no
process is left. Exits with 1 when anything did not hold that it tells.`,
		Example: `  penstock demo
  penstock demo --yes          by itself, for CI
  penstock demo --yes --keep   and leave the data for a look`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.In, o.Out, o.Executable, o.Command = a.stdin, a.stdout, self, called(self)
			o.Terminal, o.Colour = terminal(a.stdin) && terminal(a.stdout), colours(a.stdout)
			return demo.Run(cmd.Context(), o)
		},
		Annotations: map[string]string{outputsAnnotation: "text"},
	}
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "make the approvals without asking, and end by itself")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the directory with the data")
	return cmd
}

// called is how a person starts this program again.
func called(self string) string {
	if strings.Contains(self, string(filepath.Separator)+"go-build") { // go run removes it at the end
		return "go run ./cmd/penstock"
	}
	if found, err := exec.LookPath("penstock"); err == nil {
		if found, err = filepath.EvalSymlinks(found); err == nil && found == self {
			return "penstock"
		}
	}
	return self
}
