package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// show puts every notification into the chat. What waits for people gets
// buttons, which carry what they are about: a click decides on what was shown.
func show(ctx context.Context, conn *bus.Conn, cursor uint64, store func(uint64), post func(text string, about *events.Decide)) error {
	o := bus.FollowOptions{Types: []string{"notification"}, After: cursor, OnCursor: store}
	return conn.Follow(ctx, o, func(_ context.Context, e *events.Event) error {
		h, err := events.DecodeHappening(e)
		if err != nil {
			return err
		}
		var about *events.Decide
		if h.Content != "" {
			about = &events.Decide{Run: h.Run, State: h.State, Content: h.Content, Via: "chat"}
		}
		post(h.Text, about)
		return nil
	})
}

// click passes on what somebody decided, over a connection of their own, and
// gives the answer for the chat. id is the chat's own of this click.
func click(ctx context.Context, person *bus.Conn, id, decision, comment string, about events.Decide) (string, error) {
	about.ID, about.Decision, about.Comment = id, decision, comment
	answer, err := person.Request(ctx, events.VerbDecide, about, nil)
	if refusal, ok := errors.AsType[*bus.Refusal](err); ok {
		return "this does not count: " + refusal.Reason, nil
	}
	if err != nil {
		return "", err // nobody answered; the same click may be sent again
	}
	return fmt.Sprintf("%s, record %d", decision, answer.Record), nil
}

// A chat bot: it shows what waits for people, and passes on what they decide.
func Example_bot() {
	credential, end := bus.ServeBot(func(d events.Decide) events.Answer {
		if d.Content != "sha256:af1e" {
			return events.Answer{Status: events.StatusRefused, Code: events.CodeConflict, Reason: "the decision is about something else than what waits now"}
		}
		return events.Answer{Status: events.StatusApplied, Record: 22}
	})
	defer end()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	conn, err := bus.Connect(ctx, credential, bus.WithRole("bot")) // or bus.ReadCredential("bot.json")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	post := func(text string, about *events.Decide) {
		fmt.Println(text)
		answer, err := click(ctx, conn, "click-1", events.Approve, "looks good", *about)
		fmt.Println(answer, err)
		about.Content = "sha256:0000" // what waits has changed since it was shown
		answer, err = click(ctx, conn, "click-2", events.Approve, "", *about)
		fmt.Println(answer, err)
	}
	store := func(cursor uint64) {
		if cursor == 1 { // the notification has been handled
			cancel()
		}
	}
	fmt.Println(show(ctx, conn, 0, store, post))
	// Output:
	// release 1f2e3d4 waits: 1 more release-manager
	// approved, record 22 <nil>
	// this does not count: the decision is about something else than what waits now <nil>
	// context canceled
}
