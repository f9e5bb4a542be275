package workers_test

import (
	"context"
	"fmt"
	"log"
	"os/signal"
	"syscall"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers"
)

// A worker for the kind "migrate", until it is told to end.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	credential, err := bus.ReadCredential("migrator.json")
	if err != nil {
		log.Fatal(err)
	}
	conn, err := bus.Connect(ctx, credential, bus.Wait())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	migrate := func(ctx context.Context, job *workers.Job) events.Result {
		plan, _ := job.With["plan"].(string)
		fmt.Fprintln(job.Stderr, "migrating by", plan)
		if ctx.Err() != nil { // cancelled, timed out, …
			return workers.Interrupted(ctx)
		}
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"version": 42, "destructive": false}}
	}
	worker, err := workers.New(workers.Options{Conn: workers.OnBus(conn), Pool: credential.Pool,
		Kinds: map[string]workers.Handler{"migrate": workers.HandlerFunc(migrate)}})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
