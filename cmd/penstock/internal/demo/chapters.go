package demo

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/deploy/local"
)

// commitArrives takes the first commit as far as the approval.
func (s *story) commitArrives(ctx context.Context) error {
	n := s.narrator
	n.chapter("1. A commit arrives")
	text, err := workflowText()
	if err != nil {
		return err
	}
	n.line("this workflow is in force:", "penstock check "+s.workflows())
	n.text(text)
	run, err := s.push(ctx, s.commits[0])
	if err != nil {
		return err
	}
	if err := s.waits(ctx, run); err != nil {
		return err
	}
	v, err := s.get(ctx, run)
	if err != nil {
		return err
	}
	together, _ := s.feed.seen(func(h happened) bool {
		return of(run, "", events.TaskQueued)(h) && strings.HasPrefix(h.State, "verify.")
	})
	if err := s.claim(len(together) == 2 && together[0].Record == together[1].Record, "test and scan were handed out together, in one record"); err != nil {
		return err
	}
	path := states(v)
	return s.claim(slices.Equal(path, []string{"build", "verify", "staging", "approve"}) && slices.Equal(v.Authors, []string{"ana"}),
		"it went %s, and its author is %s", strings.Join(path, ", "), strings.Join(v.Authors, ", "))
}

// states are the states that a run was in.
func states(v events.RunView) []string {
	var list []string
	for _, step := range v.Path {
		list = append(list, step.State)
	}
	return list
}

// peopleDecide takes the first commit to production, by the reader's hand
// when there is one.
func (s *story) peopleDecide(ctx context.Context) error {
	s.narrator.chapter("2. Two people approve, and production goes blue-green")
	run, err := s.decided(ctx, s.runs[0])
	if err != nil {
		return err
	}
	v, err := s.ended(ctx, run, "released")
	if err != nil {
		return err
	}
	s.url, _ = outputs(v, "production")["url"].(string)
	version, err := get(http.DefaultClient, s.url)
	if err != nil {
		return fmt.Errorf("production at %s: %w", s.url, err)
	}
	if err := s.claim(version == "v1", "production answers with %s", version); err != nil {
		return err
	}
	s.customer = newCustomer(s.url)
	s.narrator.line("from now on a client asks production all the time", "curl "+s.url)
	return nil
}

func outputs(v events.RunView, state string) map[string]any {
	for _, step := range slices.Backward(v.Path) {
		if step.State == state {
			return step.Outputs
		}
	}
	return nil
}

// decided has the run approved and gives the run that was: another one of the
// same commit, when the reader rejected the first.
func (s *story) decided(ctx context.Context, run string) (string, error) {
	if s.options.Yes {
		if err := s.refuseAuthor(ctx, run); err != nil {
			return "", err
		}
		if err := s.why(ctx, run); err != nil {
			return "", err
		}
		return run, s.approve(ctx, run)
	}
	return s.asked(ctx, run)
}

// asked has the reader decide.
func (s *story) asked(ctx context.Context, run string) (string, error) {
	refused := false
	for {
		choice, err := s.choose(ctx)
		if err != nil {
			return "", err
		}
		switch choice {
		case "a":
			err, refused = s.refuseAuthor(ctx, run), true
		case "w":
			err = s.why(ctx, run)
		case "q":
			return "", ErrQuit
		case "r":
			if run, err = s.rejected(ctx, run); err != nil {
				return "", err
			}
			return run, s.finish(ctx, run, refused)
		case "m":
			return run, s.finish(ctx, run, refused)
		}
		if err != nil {
			return "", err
		}
	}
}

// finish has the author refused, if that was not tried, and then approves.
func (s *story) finish(ctx context.Context, run string, refused bool) error {
	if !refused {
		if err := s.refuseAuthor(ctx, run); err != nil {
			return err
		}
	}
	return s.approve(ctx, run)
}

// rejected rejects the run as marta, and sends the commit once more.
func (s *story) rejected(ctx context.Context, run string) (string, error) {
	if err := s.people["marta"].decide(ctx, run, events.Reject, "not today"); err != nil {
		return "", err
	}
	if _, err := s.ended(ctx, run, "rejected"); err != nil {
		return "", err
	}
	s.narrator.line("a rejected run has ended; so that the story goes on, the same commit comes again", "penstock why "+run)
	again, err := s.push(ctx, s.commits[0])
	if err != nil {
		return "", err
	}
	return again, s.waits(ctx, again)
}

// refuseAuthor has ana approve her own change.
func (s *story) refuseAuthor(ctx context.Context, run string) error {
	s.narrator.line("ana, who wrote the change, tries to approve it", "penstock approve "+run+" --credential "+s.credential("ana"))
	err := s.people["ana"].decide(ctx, run, events.Approve, "trust me")
	reason, refused := refusal(err)
	if err := s.claim(refused && strings.Contains(reason, "wrote this change"), "the engine refuses her approval: %s", cmpError(reason, err)); err != nil {
		return err
	}
	_, err = s.feed.await(ctx, "the record of ana's attempt", of(run, "", events.ApprovalRefused))
	return err
}

func cmpError(reason string, err error) string {
	if reason != "" {
		return reason
	}
	return fmt.Sprint(err)
}

// why shows the command's own answer.
func (s *story) why(ctx context.Context, run string) error {
	s.narrator.line("what is missing?", "penstock why "+run)
	text, err := s.stand.command(ctx, "why", run, "--credential", s.credential("marta"))
	if err != nil {
		return err
	}
	s.narrator.text(text)
	return s.claim(strings.Contains(text, "does not hold:") && strings.Contains(text, "ana wrote this change"), "why says what is missing, and who cannot give it")
}

// blueGreen takes the second commit to production beside the first.
func (s *story) blueGreen(ctx context.Context) error {
	run, err := s.release(ctx, s.commits[1])
	if err != nil {
		return err
	}
	pids := s.watchProcesses(ctx, run)
	if _, err := s.ended(ctx, run, "released"); err != nil {
		return err
	}
	if err := s.claim(len(pids()) > 1, "the new version ran as a process beside the old one: %v", pids()); err != nil {
		return err
	}
	if err := s.answered(ctx, s.commits[1].version); err != nil {
		return err
	}
	after := s.customer.seen()
	if after.versions["v1"] == 0 {
		return fmt.Errorf("the client was never answered by v1: %v", after.versions)
	}
	return s.answeredAll(after, "the client was answered by v1, then by v2: %d requests, %d failed", after.sent, after.failed)
}

// watchProcesses looks at production while the run deploys there. What it
// gives waits until the run has ended, and tells the processes that were seen
// side by side.
func (s *story) watchProcesses(ctx context.Context, run string) (together func() []int) {
	var most []int
	var looking sync.WaitGroup
	looking.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			found, _ := s.feed.seen(of(run, "", events.RunFinished))
			if len(found) > 0 || ctx.Err() != nil {
				tick.Stop()
				return
			}
			if now := s.processes(); len(now) > len(most) {
				most = now
			}
			<-tick.C
		}
	})
	return func() []int { looking.Wait(); return most }
}

// processes are the instances of production that run now.
func (s *story) processes() []int {
	st, err := local.Status(s.environment("production"))
	if err != nil {
		return nil
	}
	pids := map[int]bool{}
	for _, g := range st.Groups {
		for _, in := range g.Instances {
			if in.Running {
				pids[in.PID] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(pids))
}

// answered waits until the client has been answered by a version.
func (s *story) answered(ctx context.Context, version string) error {
	before := s.customer.seen().versions[version]
	for deadline := time.Now().Add(30 * time.Second); ; {
		seen := s.customer.seen()
		if seen.versions[version] > before {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the client was never answered by %s: %v %s", version, seen.versions, seen.trouble)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(customerPace):
		}
	}
}

// heldAtTheGate brings a commit whose test fails.
func (s *story) heldAtTheGate(ctx context.Context) error {
	s.narrator.chapter("3. Bad commits: one is held, one is rolled back")
	run, err := s.push(ctx, s.commits[2])
	if err != nil {
		return err
	}
	v, err := s.ended(ctx, run, "stopped")
	if err != nil {
		return err
	}
	path := states(v)
	return s.claim(!slices.Contains(path, "staging") && !slices.Contains(path, "production"),
		"a failing test is held at the gate: it went %s and nowhere else", strings.Join(path, ", "))
}

// rolledBack brings a commit that is healthy in staging only.
func (s *story) rolledBack(ctx context.Context) error {
	before, err := local.Status(s.environment("production"))
	if err != nil {
		return err
	}
	run, err := s.release(ctx, s.commits[3])
	if err != nil {
		return err
	}
	s.narrator.line("it was fine in staging, but in production nobody has configured a currency", "")
	if _, err := s.ended(ctx, run, "rolledBack"); err != nil {
		return err
	}
	after, err := local.Status(s.environment("production"))
	if err != nil {
		return err
	}
	kept := before.Live != nil && after.Live != nil && after.Live.Artifact == before.Live.Artifact
	if err := s.claim(kept && len(s.processes()) == 1, "it never became healthy and was taken away; production still runs %s", digest(before.Live.Artifact)); err != nil {
		return err
	}
	if err := s.answered(ctx, "v2"); err != nil {
		return err
	}
	seen := s.customer.seen()
	if seen.versions["v4"] > 0 {
		return fmt.Errorf("the client was answered by v4, which was never healthy: %v", seen.versions)
	}
	return s.answeredAll(seen, "the client did not notice: %d requests, %d failed, none answered by v4", seen.sent, seen.failed)
}
