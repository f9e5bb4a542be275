package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/build"
	"github.com/penstock-cd/penstock/workers/command"
	"github.com/penstock-cd/penstock/workers/deploy"
	"github.com/penstock-cd/penstock/workers/deploy/local"
	"github.com/penstock-cd/penstock/workers/exec"
	"github.com/penstock-cd/penstock/workers/notify"
	"github.com/penstock-cd/penstock/workers/scan"
	"github.com/penstock-cd/penstock/workers/test"
)

// workerOptions are the flags of both worker commands.
type workerOptions struct {
	dir, targets, name string
	slots              int
	drain              time.Duration
	debug              bool
}

func (o *workerOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.dir, "work-dir", "", "where tasks get their `DIR` (default: the system's temporary directory)")
	f.StringVar(&o.name, "name", "", "`NAME` of this process, for people")
	f.IntVar(&o.slots, "slots", 0, "tasks at a time (default: the number of processors)")
	f.DurationVar(&o.drain, "drain", 5*time.Minute, "how long running tasks may go on after SIGTERM")
	f.BoolVar(&o.debug, "debug", false, "log more")
}

func (a *app) workerCommand() *cobra.Command {
	var o workerOptions
	var kinds string
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Do tasks: build, test, scan, deploy, notify, command",
		Long: `Takes tasks from the bus and does them, each in a directory of its own. It may
run on any host that reaches the bus, with a credential of its own
(penstock auth worker add). SIGTERM lets running tasks finish; a second one
ends at once.`,
		Example: `  penstock worker                                   all kinds, beside a server on this host
  penstock worker --kinds build,test --credential worker.json
  penstock worker exec --kind migrate -- ./migrate.sh`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			targets, err := targetsDir(o.targets)
			if err != nil {
				return err
			}
			driver := local.New(local.Options{Dir: targets})
			served, err := shippedHandlers(words(kinds), driver)
			if err != nil {
				return err
			}
			if served["deploy"] != nil {
				go a.guard(cmd.Context(), driver)
			}
			return a.work(cmd.Context(), o, served)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&kinds, "kinds", "", "`KINDS` to serve, with commas (default: all that are shipped)")
	cmd.Flags().StringVar(&o.targets, "targets", "", "where the local deploy target keeps its environments (default: below the user's data `DIR`)")
	cmd.AddCommand(a.workerExecCommand())
	return cmd
}

func (a *app) workerExecCommand() *cobra.Command {
	var o workerOptions
	var kind string
	cmd := &cobra.Command{
		Use:   "exec --kind NAME -- COMMAND [ARG…]",
		Short: "Make any program a worker",
		Long: `Runs COMMAND for every task of the kind: the task is JSON on its stdin, its
stderr is the log, its stdout is the result as JSON. docs/workers.md has the
protocol. The kind is declared by a TaskKind definition. COMMAND is found from
here, and runs in a directory of the task's own: give files in its arguments
by their whole path.`,
		Example: `  penstock worker exec --kind migrate -- ./migrate.sh --verbose`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, command []string) error {
			if kind == "" {
				return usagef("worker exec: which tasks? name them with --kind")
			}
			program, err := findProgram(command[0])
			if err != nil {
				return err
			}
			args := append([]string{program}, command[1:]...)
			return a.work(cmd.Context(), o, map[string]workers.Handler{kind: exec.Handler{Args: args}})
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&kind, "kind", "", "`KIND` of tasks to do")
	return cmd
}

// findProgram is name as a path that holds in every directory. A program that
// is not there is told now, and not by every task.
func findProgram(name string) (string, error) {
	found, err := osexec.LookPath(name)
	if err != nil {
		f := usagef("worker exec: %v", err)
		if _, err := os.Stat(name); err == nil && filepath.Base(name) == name {
			return "", f.withHint("the one in this folder is ./%s", name)
		}
		return "", f
	}
	return filepath.Abs(found)
}

// targetsDir is where the local deploy target keeps its environments.
func targetsDir(dir string) (string, error) {
	if dir == "" {
		data, err := (&app{}).serverDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(data, "targets")
	}
	return filepath.Abs(dir)
}

// guard keeps what is live alive: it starts supervisors that are missing.
func (a *app) guard(ctx context.Context, driver *local.Driver) {
	if err := driver.Guard(ctx); err != nil && ctx.Err() == nil {
		a.note("the local deploy target is not watched: %v", err)
	}
}

// shippedHandlers gives the handlers of the kinds that come with Penstock.
func shippedHandlers(kinds []string, driver *local.Driver) (map[string]workers.Handler, error) {
	all := map[string]workers.Handler{
		"build":   build.New(build.Options{}),
		"test":    test.New(test.Options{}),
		"scan":    scan.New(scan.Options{}),
		"deploy":  deploy.New(map[string]deploy.Driver{"local": driver}),
		"notify":  notify.New(notify.Options{}),
		"command": command.Handler{},
	}
	if len(kinds) == 0 {
		return all, nil
	}
	served := map[string]workers.Handler{}
	for _, k := range kinds {
		if all[k] == nil {
			return nil, usagef("worker: there is no shipped kind %q; there are %s", k, strings.Join(slices.Sorted(maps.Keys(all)), ", ")).
				withHint("for a kind of your own: penstock worker exec --kind %s -- COMMAND", k)
		}
		served[k] = all[k]
	}
	return served, nil
}

// work runs a worker until it is told to stop.
func (a *app) work(ctx context.Context, o workerOptions, kinds map[string]workers.Handler) error {
	cred, err := a.workerCredential()
	if err != nil {
		return err
	}
	if o.dir != "" { // tasks' commands run in other directories than this process
		if o.dir, err = filepath.Abs(o.dir); err != nil {
			return err
		}
	}
	log := logger(a.stderr, o.debug)
	conn, err := bus.Connect(ctx, cred, bus.WithRole("worker"), bus.WithLogger(log), bus.Wait())
	if err != nil {
		return err
	}
	defer conn.Close()
	w, err := workers.New(workers.Options{Conn: workers.OnBus(conn), Kinds: kinds, Pool: cred.Pool, Concurrency: o.slots,
		Dir: o.dir, Name: o.name, Version: engine.Version(), DrainTimeout: o.drain, Log: log})
	if err != nil {
		return err
	}
	a.note("worker serves %s on %s", strings.Join(slices.Sorted(maps.Keys(kinds)), ", "), cred.URL)
	go hardStop(ctx, a.stderr)
	return stopped(ctx, w.Run(ctx))
}

// workerCredential finds a worker's credential: the one that is named, or the
// one that the server on this host wrote beside the administrator's.
func (a *app) workerCredential() (*bus.Credential, error) {
	path := a.credential
	if path == "" {
		path = os.Getenv("PENSTOCK_CREDENTIAL")
	}
	if path == "" {
		dir, err := a.dataDir()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(dir, engine.WorkerFile)
	}
	cred, err := bus.ReadCredential(path)
	if err != nil {
		return nil, err
	}
	cred = bus.FromEnvironment(cred)
	if cred.Kind != bus.KindWorker {
		return nil, usagef("worker: %s is the credential of a %s", path, cred.Kind).withHint("penstock auth worker add NAME --out worker.json")
	}
	return cred, nil
}

// dataDir is where the server on this host keeps its data, as far as it is known.
func (a *app) dataDir() (string, error) {
	if a.data != "" || os.Getenv("PENSTOCK_DATA") != "" {
		return a.serverDir()
	}
	if _, err := os.Stat(filepath.Join(".penstock", engine.WorkerFile)); err == nil {
		return ".penstock", nil
	}
	if path, err := rememberedServer(); err == nil {
		return filepath.Dir(path), nil
	}
	return a.serverDir()
}

// superviseCommand is what the local deploy target starts for an environment;
// people never call it.
func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "supervise --dir DIR",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := local.Main(args); code != 0 {
				return &failure{exit: code, message: fmt.Sprintf("supervise ended with %d", code)}
			}
			return nil
		},
	}
}
