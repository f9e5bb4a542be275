package bus

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
)

// demo starts a server and gives it with an end to it. The examples' engine
// is as small as they need it.
func demo() (*installation, func()) {
	dir, err := os.MkdirTemp("", "penstock-example-*")
	if err != nil {
		log.Fatal(err)
	}
	in, err := serve(dir)
	if err != nil {
		log.Fatal(err)
	}
	return in, func() {
		in.down()
		os.RemoveAll(dir)
	}
}

// A service tells that it has built something. When Publish returns nil the
// event is stored, and repeating it would change nothing.
func ExampleConn_Publish() {
	in, end := demo()
	defer end()
	ctx := context.Background()

	credential := in.ci // or ReadCredential("publisher-ci.json")
	conn, err := Connect(ctx, credential, WithRole("build-server"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	err = conn.Publish(ctx, &events.Event{
		ID: "build-4711", Source: "ci/checkout", Type: "org.example.artifact.built",
		Data: []byte(`{"commit":"3f2a9c1"}`),
	})
	fmt.Println("stored:", err == nil)
	// Output: stored: true
}

// A bot asks the engine, and is told why when it may not.
func ExampleConn_Request() {
	in, end := demo()
	defer end()
	ctx := context.Background()
	_, _ = in.engine.Subscribe("penstock.api.u.bot.run.decide", func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"status":"refused","code":"denied","reason":"bot has no role that may approve for prod"}`))
	})
	_ = in.engine.Flush()

	conn, err := Connect(ctx, in.bot)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Request(ctx, events.VerbDecide, events.Decide{ID: "click-1", Run: "r1", Decision: events.Approve}, nil)
	fmt.Println(err)
	// Output: bot has no role that may approve for prod
}

// A file is known by the digest of its content, and comes back as it was.
func ExampleConn_Artifacts() {
	in, end := demo()
	defer end()
	ctx := context.Background()

	conn, err := Connect(ctx, in.worker)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	digest, size, err := conn.Artifacts().Put(ctx, "hello.txt", strings.NewReader("hello\n"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(digest, size)
	if err := conn.Artifacts().Get(ctx, digest, os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 6
	// hello
}
