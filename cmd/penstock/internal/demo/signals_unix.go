//go:build unix

package demo

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

var errHangup = errors.New("the terminal was closed")

// heedSignals ends the context when the terminal is closed, too, and keeps a
// second Ctrl-C from ending this program while it puts everything away.
func heedSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for sig := range ch { // the others end the parent
			if sig == syscall.SIGHUP {
				cancel(errHangup)
			}
		}
	}()
	return ctx, func() { signal.Stop(ch); close(ch); cancel(nil) }
}
