package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/engine"
)

func (a *app) serverCommand() *cobra.Command {
	o := engine.Options{}
	var debug, forget bool
	var secret string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the engine, with NATS in the same process or apart",
		Long: `Runs the engine. Everything is stored below --data; with the embedded NATS
server that is all there is, and an answer means: on disk. The first start
writes an administrator's credential (admin.json, mode 0600), which the other
commands find, and one for workers on this host (worker.json).

Folders named with --workflows are put in force and watched: a file that is
saved counts a second later, a bad one is reported and changes nothing, and
what was in a file that is gone is removed. A Git repository can be named
instead, as git+https://HOST/REPOSITORY#BRANCH:PATH (or git+ssh://, git+file://):
it is asked for something new every minute, or at once when its server sends a
webhook to /v1/webhooks/git. git and ssh log in as they do for the server's user.`,
		Example: `  penstock server --data ./data --workflows ./penstock
  penstock server --workflows git+ssh://git@git.acme.example/release.git#main:penstock
  penstock server --listen 0.0.0.0:4222 --nats-url nats://ci.acme.example:4222   for workers on other hosts
  penstock server --nats nats://nats-1:4222,nats://nats-2:4222 --creds /etc/penstock/creds   on a NATS cluster of your own
  penstock server --nats deployments/external.json            the same, with everything in a file`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.serverDir()
			if err != nil {
				return err
			}
			o.Dir, o.Log = dir, logger(a.stderr, debug)
			if o.WebhookSecret, err = readSecret(secret); err != nil {
				return err
			}
			return a.serve(cmd.Context(), o, !forget)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Workflows, "workflows", nil, "folder of definitions `DIR`, or git+URL#BRANCH:PATH of a repository, put in force and watched; may be given again")
	f.DurationVar(&o.WorkflowsPoll, "workflows-poll", 0, "how often repositories of definitions are asked for something new (default 1m)")
	f.StringVar(&secret, "webhook-secret", "", "`FILE` with the secret of the webhook that Git servers send when something was pushed")
	f.StringVar(&o.Listen, "listen", "", "`ADDRESS` of the embedded NATS server (default 127.0.0.1:4222; port 0 takes a free one)")
	f.StringVar(&o.HTTP, "http", "", "`ADDRESS` of the HTTP API (default "+engine.DefaultHTTP+"; port 0 takes a free one, none for nowhere)")
	f.StringVar(&o.NATS, "nats-url", "", "`URL` by which others reach the NATS server, where it is not --listen: on another host, behind a proxy")
	f.StringVar(&o.URL, "http-url", "", "`URL` by which others reach the HTTP API, where it is not --http: behind a proxy, in a container")
	f.StringVar(&o.Sync, "sync", "always", "when a record counts as stored: always (on disk) or lazy (a power cut loses up to two minutes)")
	externalFlags(cmd, &o)
	f.Int64Var(&o.MaxStore, "max-store", 0, "most `BYTES` that the embedded server stores (default: 80 % of what is free at the first start)")
	f.DurationVar(&o.KeepRecords, "keep-records", 24*time.Hour, "how long the records of a run stay in the store after its end; the audit log has them for ever, and they are read from there (negative: for ever)")
	f.DurationVar(&o.Heartbeat, "heartbeat", 0, "how often workers report (default 5s)")
	f.DurationVar(&o.HeartbeatTimeout, "heartbeat-timeout", 0, "without a report for so long a worker is lost (default 20s)")
	f.BoolVar(&debug, "debug", false, "log more")
	f.BoolVar(&forget, "no-remember", false, "do not make this the server that other commands find by themselves")
	return cmd
}

// externalFlags are those that say which NATS server is used instead of the
// embedded one.
func externalFlags(cmd *cobra.Command, o *engine.Options) {
	f := cmd.Flags()
	f.StringVar(&o.External, "nats", "", "`URL` or JSON FILE of a NATS server to use instead of the embedded one; URLs are separated by commas")
	f.StringVar(&o.Creds, "creds", "", "`DIR` with ACCOUNT.creds for each of ENGINE, WORK_default, NOTIFY and EXT_default ($NATS_CREDS)")
	f.StringVar(&o.Context, "context", "", "`NAME` of the nats client's contexts: NAME, NAME-work, NAME-notify and NAME-ext ($NATS_CONTEXT)")
	f.IntVar(&o.Replicas, "replicas", 0, "copies of every stream (default: as many as there are; 3 on a new cluster of three servers)")
	f.BoolVar(&o.Strict, "strict", false, "refuse a NATS server that could lose what it has acknowledged: fewer than three copies, or not synced")
}

// shortestSecret is how many characters a secret has at least.
const shortestSecret = 16

// readSecret reads a secret from a file; none when no file is named.
func readSecret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	p, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("--webhook-secret: %v", err)
	}
	secret := strings.TrimSpace(string(p))
	if len(secret) < shortestSecret {
		return "", usagef("--webhook-secret: the secret in %s has %d characters; it needs %d at least", file, len(secret), shortestSecret).
			withHint("openssl rand -hex 32 > %s", file)
	}
	return secret, nil
}

// serverDir is the data directory: --data, $PENSTOCK_DATA, or the user's own.
func (a *app) serverDir() (string, error) {
	if dir := cmp.Or(a.data, os.Getenv("PENSTOCK_DATA")); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "penstock"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("where to store data: %w; name a folder with --data", err)
	}
	return filepath.Join(home, ".local", "share", "penstock"), nil
}

// serve runs an engine and says where it is. One that ends because a stream
// of its store takes nothing more is started again: that is what mends it,
// as soon as the disk lets it.
func (a *app) serve(ctx context.Context, o engine.Options, remember bool) error {
	err := a.serveOnce(ctx, o, func(e *engine.Engine) error { return a.sayReady(e, o, remember) })
	for pause := time.Second; errors.Is(err, engine.ErrFrozen) && ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		o.Log.Error("the engine is started again", "in", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		again := a.serveOnce(ctx, o, func(*engine.Engine) error { return nil })
		if time.Since(began) > time.Hour { // it had recovered
			pause = time.Second
		}
		if again == nil {
			return nil
		}
		err = fmt.Errorf("%w: %w", engine.ErrFrozen, again) // whatever keeps it from starting now
	}
	return err
}

// serveOnce runs an engine until it ends; ready is called when it answers.
func (a *app) serveOnce(ctx context.Context, o engine.Options, ready func(*engine.Engine) error) error {
	e, err := engine.New(o)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	select {
	case err := <-done:
		return startHint(stopped(ctx, err))
	case <-e.Ready():
	}
	if err := ready(e); err != nil {
		return err
	}
	return stopped(ctx, <-done)
}

// sayReady says where the engine is, and remembers it for other commands.
func (a *app) sayReady(e *engine.Engine, o engine.Options, remember bool) error {
	info := e.Info()
	admin := filepath.Join(o.Dir, engine.AdminFile)
	if remember {
		if err := rememberServer(admin); err != nil {
			a.note("the server is not remembered for other commands: %v", err)
		}
	}
	if a.output == "json" {
		if err := a.printJSON(info); err != nil {
			return err
		}
	} else {
		fields(a.stdout, "", "Server", "ready", "NATS", info.NATS, "HTTP", cmp.Or(info.HTTP, "none"), "Data", o.Dir, "Credential", admin)
		if o.External == "" && o.Creds == "" && o.Context == "" { // else workers are users of that server
			a.note("next: penstock worker --data %s", o.Dir)
		}
	}
	return nil
}

// startHint says what to do about an address that somebody else has.
func startHint(err error) error {
	if err == nil || !strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
		return err
	}
	return (&failure{exit: exitFailed, code: "failed", message: clean(err.Error())}).withHint(
		"another server may have it: penstock status\nother addresses: --listen 127.0.0.1:4223 --http 127.0.0.1:8421")
}

// stopped is nil for a server or worker that was asked to stop.
func stopped(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// logger writes lines for people on a terminal, JSON elsewhere.
func logger(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	if terminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// hardStop ends the process at a second signal, for somebody who will not wait.
func hardStop(ctx context.Context, w io.Writer) {
	<-ctx.Done()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	<-ch
	fmt.Fprintln(w, "stopped at once")
	os.Exit(exitInterrupt)
}

// words splits a list that is given with commas.
func words(s string) []string {
	var out []string
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}
