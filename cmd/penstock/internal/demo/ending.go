package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// lookBack shows what is left of it all.
func (s *story) lookBack(ctx context.Context) error {
	n := s.narrator
	n.chapter("5. What is left")
	c := s.customer.close()
	s.notes.requests, s.notes.failed = c.sent, c.failed
	if err := s.answeredAll(c, "the client sent %d requests, %d failed", c.sent, c.failed); err != nil {
		return err
	}
	if err := s.verifyAll(ctx); err != nil {
		return err
	}
	if err := s.showTrail(ctx); err != nil {
		return err
	}
	if err := s.showNotifications(ctx); err != nil {
		return err
	}
	s.showTable()
	return s.showNext(ctx)
}

// verifyAll has the engine fold every run again.
func (s *story) verifyAll(ctx context.Context) error {
	rules := 0
	for _, run := range s.runs {
		var v events.Verification
		if err := s.people["marta"].ask(ctx, events.VerbVerify, events.GetRun{Run: run}, &v); err != nil {
			return err
		}
		if !v.OK {
			return fmt.Errorf("the record of run %s is not whole: %s", run, strings.Join(v.Problems, "; "))
		}
		rules += v.Decisions
	}
	s.narrator.line("every run was folded again from its records", "penstock audit verify "+s.notes.last)
	return s.claim(rules > 0, "%d runs verified: the chains of hashes hold, and %d rules gave the same again", len(s.runs), rules)
}

// showTrail prints the records of the last run: what caused each, and what
// the rules of a gate gave.
func (s *story) showTrail(ctx context.Context) error {
	stored, err := s.records(ctx, s.notes.last)
	if err != nil {
		return err
	}
	s.narrator.line(fmt.Sprintf("the trail of run %s, a line for each of its %d records: time, hash, cause", s.notes.last, len(stored)), "penstock audit show "+s.notes.last)
	var b strings.Builder
	for _, st := range stored {
		r, err := record.Decode(st.Record)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%3d  %s  %.12s  %s\n", r.V, time.UnixMilli(r.T).UTC().Format(time.TimeOnly), st.Hash, cause(r))
		for _, d := range r.Decisions {
			if strings.Contains(d.Rule, "gate") {
				fmt.Fprintf(&b, "%33s%s: %s gave %v\n", "", d.Rule, d.Source, d.Value)
			}
		}
	}
	s.narrator.text(b.String())
	return nil
}

func cause(r *record.Record) string {
	what := r.In.Kind
	switch {
	case r.In.Decide != nil:
		what = r.In.Decide.Decision + ` "` + r.In.Decide.Comment + `"`
	case r.In.Attempt != nil:
		what += " " + r.In.Attempt.Task
	}
	if r.In.By != "" {
		what += " by " + r.In.By
	}
	return what
}

// showNotifications prints what the bot heard for people.
func (s *story) showNotifications(ctx context.Context) error {
	for _, run := range s.runs { // the last word of each run may still be on its way
		if _, err := s.feed.await(ctx, "the notification about the end of run "+run, func(h happened) bool {
			return of(run, "", events.Notification)(h) && h.Outcome != ""
		}); err != nil {
			return err
		}
	}
	heard, _ := s.feed.seen(func(h happened) bool { return h.event.Type == events.Notification })
	s.narrator.line(fmt.Sprintf("the bot, a user with a credential of its own, heard on channel %q:", heard[0].Channel), "penstock events follow --type notification --all")
	ids := map[string]bool{}
	for _, h := range heard {
		ids[h.event.ID] = true
		s.narrator.text(h.event.Time.UTC().Format(time.TimeOnly) + "  " + h.Text)
	}
	return s.claim(len(ids) == len(heard), "%d notifications, none of them twice", len(heard))
}

func (s *story) showTable() {
	row := func(name string, value any) string { return fmt.Sprintf("%-22s %8v\n", name, value) }
	s.narrator.chapter("In numbers")
	s.narrator.text(row("seconds", fmt.Sprintf("%.1f", time.Since(s.began).Seconds())) +
		row("runs", len(s.runs)) +
		row("requests", s.notes.requests) +
		row("failed requests", s.notes.failed) +
		row("kills of the engine", s.stand.kills) +
		row("repeated transitions", s.notes.repeated))
}

// showNext says where everything is and what to try. At a terminal everything
// goes on until the reader has seen enough.
func (s *story) showNext(ctx context.Context) error {
	n, o := s.narrator, s.options
	n.chapter("What to try next")
	look := fmt.Sprintf("PENSTOCK_CREDENTIAL=%s %s audit show %s", s.credential("marta"), o.Command, s.notes.last)
	n.text(fmt.Sprintf("in a repository of your own:\n    %s init && %s server --workflows penstock", o.Command, o.Command))
	if !o.Yes {
		n.text("everything still runs; in another terminal, as marta:\n    " + look)
		n.write("\n        Enter ends it. ")
		if _, err := s.typed(ctx); err != nil && !errors.Is(err, ErrQuit) {
			return err
		}
		return nil
	}
	if o.Keep {
		n.text(fmt.Sprintf("the data stay in %s; to look at them as marta, start the server again and ask:\n    %s server --data %s --listen %s --http %s --no-remember\n    %s",
			s.dir, o.Command, s.data(), s.stand.nats, s.stand.http, look))
		return nil
	}
	n.text(fmt.Sprintf("the data in %s go now; %s demo --keep leaves them, for commands such as\n    %s", s.dir, o.Command, look))
	return nil
}

// end puts everything away, whatever happened. The directory stays when the
// reader wants it, or when something went wrong that its logs may explain.
// The context of the story has ended by now.
func (s *story) end(interrupted bool, told error) error {
	s.narrator.doingNow("stopping the processes")
	if s.customer != nil {
		s.customer.close()
	}
	s.following.Wait()
	for _, conn := range s.conns {
		conn.Close()
	}
	err := s.stand.close()
	s.narrator.doingNow("")
	if errors.Is(told, ErrQuit) {
		told = nil
	}
	switch {
	case s.options.Keep:
	case told != nil && !interrupted:
		s.narrator.line("the data stay for a look: "+s.dir, "")
	default:
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return errors.Join(told, err)
}
