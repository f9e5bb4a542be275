package integration_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program is what somebody makes of the Go code of the pages: BOT is that of
// docs/bots.md, PUBLISH and FOLLOW are the blocks of docs/events.md.
const program = `package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

BOT

func publish(ctx context.Context) error {
	PUBLISH
	return err
}

func follow(ctx context.Context, conn *bus.Conn, cursor uint64, store func(uint64)) error {
	FOLLOW
	return err
}

func connect(ctx context.Context, file string) *bus.Conn {
	credential, err := bus.ReadCredential(file)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := bus.Connect(ctx, credential)
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := publish(ctx); err != nil {
		log.Fatal(err)
	}
	ana, marta := connect(ctx, "ana.json"), connect(ctx, "marta.json")
	post := func(text string, about *events.Decide) {
		fmt.Println(text)
		if about == nil { // the run has ended
			cancel()
			return
		}
		for _, person := range []*bus.Conn{ana, marta} {
			fmt.Println(click(ctx, person, "click-1", events.Approve, "looks good", *about))
		}
	}
	err := show(ctx, connect(ctx, "bot.json"), 1, func(uint64) {}, post)
	if !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
	if len(os.Args) > 1 { // only compiled: it follows for ever
		log.Fatal(follow(ctx, ana, 0, nil))
	}
}
`

func TestTheGoCodeOfThePagesPublishesFollowsAndApproves(t *testing.T) {
	t.Parallel()
	d := newDesk(t, block(t, "events.md", "yaml", 0))
	source := strings.NewReplacer("BOT", block(t, "bots.md", "go", 0), "PUBLISH", block(t, "events.md", "go", 0),
		"FOLLOW", block(t, "events.md", "go", 1)).Replace(program)
	main := filepath.Join(d.dir, "main.go")
	require(t, os.WriteFile(main, []byte(source), 0o644))
	if out, err := exec.Command("go", "build", "-o", filepath.Join(d.dir, "bot"), main).CombinedOutput(); err != nil {
		t.Fatalf("the code of the pages: %v\n%s", err, out)
	}
	d.types("penstock auth publisher add git --out git.json")
	for _, name := range []string{"ana", "marta"} {
		d.types("penstock auth user add " + name + " --out " + name + ".json")
	}
	d.types("penstock auth user add releases-bot --out bot.json")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := d.command(ctx, "./bot").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := 0
	for _, want := range []string{
		"approve waits for approval: 1 more release-manager\n",
		"this does not count: ana may not approve runs of checkout",
		"approved, record ",
		"succeeded in state done\n",
	} {
		i := strings.Index(string(out)[at:], want)
		if i < 0 {
			t.Fatalf("the bot does not say %q there:\n%s", want, out)
		}
		at += i + len(want)
	}
	d.everythingEmittedIsDocumented()
}
