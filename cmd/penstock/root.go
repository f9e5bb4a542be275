package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// app is one invocation of the binary: where it reads and writes, and the
// flags that every command has.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	credential string        // --credential
	data       string        // --data
	output     string        // --output
	timeout    time.Duration // --timeout; 0 is the command's default
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
}

// commands is the list of all commands, in the groups of the help text. A
// command that is added goes into its group here and into docs/cli.md.
func (a *app) commands() map[string][]*cobra.Command {
	return map[string][]*cobra.Command{
		"runs": {a.runCommand(), a.runsCommand(), a.getCommand(), a.watchCommand(), a.logsCommand(), a.artifactCommand(), a.whyCommand(),
			a.approveCommand(), a.rejectCommand(), a.requestChangesCommand(), a.withdrawCommand(), a.delegateCommand(), a.escalateCommand(),
			a.cancelCommand(), a.pauseCommand(), a.resumeCommand(), a.retryCommand()},
		"definitions": {a.showCommand(), a.graphCommand(), a.diffCommand(),
			a.initCommand(), a.checkCommand(), a.testCommand(), a.evalCommand(), a.schemaCommand(), a.applyCommand(), a.definitionsCommand(), a.environmentsCommand()},
		"events": {a.eventsCommand(), a.auditCommand()},
		"server": {a.demoCommand(), a.serverCommand(), a.workerCommand(), a.superviseCommand(), a.statusCommand(), a.healthcheckCommand(), a.authCommand(), a.credentialCommand(), a.adminCommand(), a.benchCommand(), a.benchProcessCommand(), a.versionCommand()},
	}
}

var groups = []*cobra.Group{
	{ID: "runs", Title: "Runs:"},
	{ID: "definitions", Title: "Definitions:"},
	{ID: "events", Title: "Events and audit:"},
	{ID: "server", Title: "Server and workers:"},
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Take changes to production, gate by gate",
		Long: `Penstock takes changes to production: workflows in files, a bus that records
every step, gates and approvals that hold or let pass, workers that do the work.`,
		Example: `  penstock demo                                    see all of it in a minute
  penstock init && penstock server --workflows penstock
  penstock run release --input commit=$(git rev-parse HEAD) --wait
  penstock why RUN                                 what a run waits for`,
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		Args:                       cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
		PersistentPreRunE: a.checkFlags,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s: %s", cmd.CommandPath(), flagText(err)).withHint("%s --help", cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.credential, "credential", "", "credential `FILE` ($PENSTOCK_CREDENTIAL)")
	f.StringVar(&a.data, "data", "", "data `DIR` of a server, whose administrator's credential is used ($PENSTOCK_DATA)")
	f.StringVarP(&a.output, "output", "o", "text", "output `FORMAT`: text or json")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after this `DURATION` (default 15s; none where a command follows something)")
	_ = root.RegisterFlagCompletionFunc("output", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return outputs(cmd), cobra.ShellCompDirectiveNoFileComp
	})
	root.AddGroup(groups...)
	root.SetHelpCommandGroupID("server")
	root.SetCompletionCommandGroupID("server")
	tree := a.commands()
	for _, g := range groups {
		for _, c := range tree[g.ID] {
			c.GroupID = g.ID
			root.AddCommand(c)
		}
	}
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" { // cobra's own, which takes any argument for help
			c.Args, c.RunE = cobra.ArbitraryArgs, needsCommand
		}
	}
	return root
}

// flagText is an error of a flag without the name of the function that read it.
func flagText(err error) string {
	n, ok := errors.AsType[*strconv.NumError](err)
	if !ok {
		return err.Error()
	}
	return strings.Replace(err.Error(), n.Error(), "not a number that fits", 1)
}

// execute runs the command line args and returns the exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	if wantsJSON(args) {
		a.output = "json" // so that an error in the flags themselves is JSON too
	}
	format := a.output
	root := a.root()
	if n := len(args); n > 1 && args[0] == "init" && args[n-1] == "--from" {
		args = append(args[:n-1:n-1], "--from=list") // who does not know a name wants to see them
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if format == "json" {
		a.output = format
	}
	return a.print(asFailure(ctx, err))
}

func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "-o=json", "-ojson", "--output=json":
			return true
		case "-o", "--output":
			return i+1 < len(args) && args[i+1] == "json"
		case "--":
			return false
		}
	}
	return false
}

// outputsAnnotation lists the formats that a command knows, where they are
// not text and json.
const outputsAnnotation = "outputs"

func outputs(cmd *cobra.Command) []string {
	if list := cmd.Annotations[outputsAnnotation]; list != "" {
		return strings.Split(list, ",")
	}
	return []string{"text", "json"}
}

func (a *app) checkFlags(cmd *cobra.Command, _ []string) error {
	if a.credential != "" && a.data != "" {
		return usagef("--credential and --data both say which credential to use; give one of them")
	}
	if known := outputs(cmd); !slices.Contains(known, a.output) {
		return usagef("--output %q: %s knows %s", a.output, cmd.CommandPath(), strings.Join(known, ", "))
	}
	return nil
}

// unknownCommand says what was meant, where that can be guessed.
func unknownCommand(cmd *cobra.Command, name string) error {
	f := usagef("%s has no command %q", cmd.CommandPath(), name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return f.withHint("did you mean %s %s?", cmd.CommandPath(), strings.Join(near, " or "))
	}
	return f.withHint("%s --help lists them", cmd.CommandPath())
}

// group makes a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2, RunE: needsCommand,
	}
	c.AddCommand(sub...)
	return c
}

// needsCommand is what a command does that only holds others.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	var names []string
	for _, s := range cmd.Commands() {
		names = append(names, s.Name())
	}
	return usagef("%s needs one of: %s", cmd.CommandPath(), strings.Join(names, ", ")).withHint("%s --help", cmd.CommandPath())
}

// args checks the number of arguments against names such as "RUN" or "[STATE]".
func args(names ...string) cobra.PositionalArgs {
	least := len(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasPrefix(n, "[") }))
	return func(cmd *cobra.Command, given []string) error {
		switch {
		case len(given) < least:
			return usagef("%s needs %s", cmd.CommandPath(), names[len(given)]).withHint("%s", cmd.UseLine())
		case len(given) > len(names):
			return usagef("%s: unexpected argument %q", cmd.CommandPath(), given[len(names)]).withHint("%s", cmd.UseLine())
		}
		return nil
	}
}

// note writes a line for people to stderr.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", args...)
}

// terminal reports whether w is a terminal.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && isTerminal(int(f.Fd()))
}
