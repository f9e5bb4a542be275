// Package local deploys to processes on this machine, behind a router.
//
// Every environment has a directory and, while something is live or going on
// there, a supervisor: a process of its own that owns the router and the
// instances and carries out the deployments. The worker starts it on demand
// and is only its client, so that a worker that is killed in the middle
// leaves nothing half-way: the deployment goes on, and its result is there
// for whoever asks (Settle).
//
//	worker ──control socket──▶ supervisor ──▶ instance (a process, PORT=…)
//	clients ──────HTTP───────▶  router   ────▶ instance
//
// The router listens on one port of 127.0.0.1 for the life of the
// environment. An instance is the artifact, an executable, started with PORT
// set to a port of 127.0.0.1 to listen on; it is healthy when its health path
// answers, gets SIGTERM to end and SIGKILL when it does not, is started again
// when it ends by itself, and dies with the supervisor.
//
// The rules that keep a deployment from happening twice or too late:
//
//   - one supervisor per directory (a file lock, held by the process);
//   - the highest fence and the result of every attempt are on disk before
//     anybody is told; an older fence is refused (stale_fence), a repeated
//     attempt gets the result that it has;
//   - a newer fence ends and undoes what an older one has going on;
//   - an attempt that was settled before it arrived is refused when it does;
//   - the live release is written down at the point of no return. A
//     supervisor that finds a deployment unfinished at its start brings the
//     live release back and records what that means for the attempt.
package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// Options configure a Driver.
type Options struct {
	// Dir holds a directory for each environment: Dir/<events.Token(name)>.
	Dir string
	// Command starts a supervisor when "--dir" and a directory are added to
	// it; it must call Main. The default is this program with "supervise".
	Command []string
}

// Driver is the deploy.Driver for target "local".
type Driver struct{ opt Options }

// New gives a Driver. It starts nothing before a deployment.
func New(opt Options) *Driver { return &Driver{opt} }

var _ deploy.Driver = (*Driver)(nil)

// Dir is the directory of an environment, for Status and Down.
func (d *Driver) Dir(environment string) string {
	return filepath.Join(d.opt.Dir, events.Token(environment))
}

func (d *Driver) command() ([]string, error) {
	if len(d.opt.Command) > 0 {
		return d.opt.Command, nil
	}
	self, err := os.Executable()
	return []string{self, "supervise"}, err
}

// Deploy implements deploy.Driver.
func (d *Driver) Deploy(ctx context.Context, r deploy.Request, from workers.Artifacts, to deploy.Reporter) events.Result {
	if _, _, err := plan(r); err != nil {
		return undone(workers.Fail("invalid_target", err.Error(), false))
	}
	v := &visit{driver: d, request: r, to: to, artifacts: from}
	return v.result(ctx, v.deploy)
}

// Settle implements deploy.Driver.
func (d *Driver) Settle(ctx context.Context, r deploy.Request, to deploy.Reporter) events.Result {
	v := &visit{driver: d, request: r, to: to, sent: true, settling: true}
	return v.result(ctx, v.settle)
}

// visits is how often a deployment survives the end of a supervisor: more
// than once has a reason that a further one will not cure.
const visits = 3

// visit is one task on its way to a supervisor and back. It outlives
// supervisors: what the next one says of the attempt is the result.
type visit struct {
	driver    *Driver
	request   deploy.Request
	to        deploy.Reporter
	artifacts workers.Artifacts
	dir       string
	sent      bool // the supervisor may know the attempt
	settling  bool // only asks; the attempt goes on without it
}

// errUnsent is why a deployment did not get as far as a supervisor.
type errUnsent struct{ result events.Result }

func (e *errUnsent) Error() string { return e.result.Error.Message }

// result goes to the supervisor, again when it is lost, until there is a result.
func (v *visit) result(ctx context.Context, ask func(context.Context, *client) (*events.Result, error)) events.Result {
	var last error
	for range visits {
		if !v.sent && ctx.Err() != nil {
			return undone(workers.Interrupted(ctx))
		}
		c, err := v.connect(ctx)
		if err != nil {
			return v.unreachable(ctx, err)
		}
		result, err := ask(ctx, c)
		c.close()
		if unsent, ok := errors.AsType[*errUnsent](err); ok {
			return unsent.result
		}
		if err == nil {
			return *result
		}
		last = err
		v.to.Note(fmt.Sprintf("the environment's supervisor was lost (%v); asking again", err))
	}
	return v.unreachable(ctx, last)
}

// connect finds or starts the supervisor. When the attempt is with it
// already, ctx no longer matters: its end must be learned.
func (v *visit) connect(ctx context.Context) (*client, error) {
	if v.sent && !v.settling {
		ctx = context.WithoutCancel(ctx)
	}
	command, err := v.driver.command()
	if err != nil {
		return nil, err
	}
	if v.dir, err = realDir(v.driver.Dir(v.request.Environment)); err != nil {
		return nil, err
	}
	return ensure(ctx, v.dir, command)
}

// unreachable is the result when no supervisor tells one.
func (v *visit) unreachable(ctx context.Context, err error) events.Result {
	switch {
	case !v.sent && ctx.Err() != nil:
		return undone(workers.Interrupted(ctx))
	case !v.sent:
		return undone(workers.Fail("target_unavailable", err.Error(), true))
	case v.settling && ctx.Err() != nil:
		return workers.Interrupted(ctx)
	}
	return events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: "target_unavailable",
		Message: fmt.Sprintf("what became of attempt %s cannot be learned: %v", v.request.Attempt, err)}}
}

// deploy hands the deployment over and follows it.
func (v *visit) deploy(ctx context.Context, c *client) (*events.Result, error) {
	use := ctx
	if v.sent {
		use = context.WithoutCancel(ctx)
	}
	known, err := c.knows(use, v.request.Attempt)
	if err != nil {
		return nil, err
	}
	if !known {
		if refused, err := v.hand(use, c); refused != nil || err != nil {
			return refused, err
		}
	}
	v.sent = true
	follow, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { v.cancel(ctx, follow, c, giveUp) })()
	return c.follow(follow, v.request.Attempt, v.to)
}

// hand brings the artifact and submits the deployment.
func (v *visit) hand(ctx context.Context, c *client) (*events.Result, error) {
	if err := v.bring(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, &errUnsent{undone(workers.Interrupted(ctx))}
		}
		return nil, &errUnsent{undone(workers.Fail("artifact_unavailable", err.Error(), true))}
	}
	v.sent = true
	refused, err := c.submit(context.WithoutCancel(ctx), v.request)
	if _, ok := errors.AsType[*refusal](err); ok {
		v.sent = false // it answered, and did not take it on
	}
	return refused, err
}

// bring brings the artifact, if there is one to bring.
func (v *visit) bring(ctx context.Context) error {
	if v.request.Removes() {
		return nil
	}
	v.to.Progress("bringing artifact " + v.request.Artifact)
	return fetchArtifact(ctx, v.dir, v.request.Artifact, v.artifacts)
}

// cancelMargin is how much longer than its undo may take a cancelled
// deployment is waited for.
const cancelMargin = 30 * time.Second

// cancel tells the supervisor that the task has ended, and gives the wait for
// the result an end.
func (v *visit) cancel(task, ctx context.Context, c *client, giveUp func()) {
	reason := "cancelled"
	for name, err := range reasons {
		if errors.Is(context.Cause(task), err) {
			reason = name
		}
	}
	err := c.call(ctx, http.MethodPost, "/v1/deployments/cancel", control{v.request.Attempt, v.request.Fence, reason}, nil)
	if err != nil && ctx.Err() == nil {
		v.to.Note("cancel: " + err.Error())
	}
	release, _, _ := plan(v.request)
	time.AfterFunc(deploy.UndoTime+cancelMargin+2*time.Duration(release.Settings.HealthTimeout+release.Settings.Drain), giveUp)
}

// settle asks for the result of an attempt.
func (v *visit) settle(ctx context.Context, c *client) (*events.Result, error) {
	if err := c.call(ctx, http.MethodPost, "/v1/deployments/settle", control{Attempt: v.request.Attempt, Fence: v.request.Fence}, nil); err != nil {
		return nil, err
	}
	return c.follow(ctx, v.request.Attempt, v.to)
}

// guardInterval is how often Guard looks.
const guardInterval = 2 * time.Second

// Guard sees to it, until ctx ends, that every environment with a live
// release has a supervisor: it starts those that are missing, for example
// after the machine was restarted. A worker runs it beside its tasks.
func (d *Driver) Guard(ctx context.Context) error {
	command, err := d.command()
	if err != nil {
		return err
	}
	every := time.NewTicker(guardInterval)
	defer every.Stop()
	for {
		for _, dir := range Dirs(d.opt.Dir) {
			if st, err := Status(dir); err != nil || st.Live == nil || st.Supervisor != 0 {
				continue
			}
			if c, err := ensure(ctx, dir, command); err == nil {
				c.close()
			}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Dirs are the directories of the environments below root, in the order of their names.
func Dirs(root string) []string {
	found, _ := filepath.Glob(filepath.Join(root, "*", lockFile))
	for i := range found {
		found[i] = filepath.Dir(found[i])
		if real, err := existing(found[i]); err == nil {
			found[i] = real
		}
	}
	return found
}
