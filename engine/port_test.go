package engine

import (
	"context"
	"testing"
	"time"
)

func TestAPortThatWasLeftOpenIsTheSameAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	addresses := func() (nats, http string) {
		e, err := New(Options{Dir: dir, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		select {
		case <-e.Ready():
		case err := <-done:
			t.Fatal(err)
		case <-time.After(30 * time.Second):
			t.Fatal("not ready")
		}
		info := e.Info()
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return info.NATS, info.HTTP
	}
	nats, http := addresses()
	if again, web := addresses(); again != nats || web != http {
		t.Errorf("%s and %s became %s and %s", nats, http, again, web)
	}
}
