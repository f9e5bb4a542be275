package deploy

import (
	"context"
	"time"
)

// Release is a version of a program and how it is to run: everything that is
// needed to start it, now or again after a crash.
type Release struct {
	Artifact string            `json:"artifact"` // digest
	Run      string            `json:"run"`      // the run that brings it
	Attempt  string            `json:"attempt"`  // and the attempt of its task
	Settings Settings          `json:"settings"` // complete
	Environ  map[string]string `json:"environ"`  // what Penstock tells it; Settings.Env has precedence
}

// Group names what a Target started for one release: instances that get
// traffic, and are stopped, together.
type Group string

// Running is a group and its release.
type Running struct {
	Group   Group
	Release Release
}

// Target is one environment as a strategy sees it. Only one rollout works on
// a target at a time. Every method may be repeated, and returns soon after
// ctx has ended. An error that a person should see as it is, is a *Failure.
type Target interface {
	// Current is what is live; ok is false when nothing is.
	Current(ctx context.Context) (live Running, ok bool, err error)
	// Prepare does what r needs and nobody notices: checks the artifact, opens ports.
	Prepare(ctx context.Context, r Release) error
	// Start starts r without traffic. On error nothing of it runs.
	Start(ctx context.Context, r Release) (Group, error)
	// Healthy returns when all of g has passed its health checks several
	// times in a row, or with a *Failure, code "never_healthy", that tells what was seen.
	Healthy(ctx context.Context, g Group) error
	// Weights gives the groups their shares of the traffic that arrives from
	// now on; requests in flight stay where they are. A group that is not
	// named gets nothing.
	Weights(ctx context.Context, shares map[Group]int) error
	// Verify asks through the front door and returns an error unless g answers well.
	Verify(ctx context.Context, g Group) error
	// Commit makes g the live release, durably: it is what is there again
	// after the target itself was restarted. With an empty g nothing is live.
	Commit(ctx context.Context, g Group) error
	// Drain waits until g has no request in flight, at most its drain time.
	Drain(ctx context.Context, g Group) error
	// Stop ends all of g. A group that has ended already is no error.
	Stop(ctx context.Context, g Group) error
	// Forgo takes back what Prepare did for a release that did not become live.
	Forgo(ctx context.Context, r Release) error
}

// Failure is why a deployment failed, for people and for a retry rule.
type Failure struct {
	Code      string // snake_case
	Message   string
	Retryable bool
	Output    string // the last that the program printed
}

func (f *Failure) Error() string { return f.Message }

// short is a digest as people read it.
func short(digest string) string {
	if len(digest) > 19 {
		return digest[:19]
	}
	return digest
}

// took is a duration as people read it.
func took(d time.Duration) string { return d.Round(10 * time.Millisecond).String() }
