// Package natstest has what tests need that start NATS servers of their own.
package natstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreePort gives a port of 127.0.0.1 that nobody listens on, of those that the
// system gives to nobody by itself: it is still free a moment later.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port was found")
	return 0
}
