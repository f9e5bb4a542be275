package local

import (
	"math/rand/v2"
	"net"
)

// Free ports are looked for below the range from which systems take the
// ports of outgoing connections, which come and go all the time.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// listen opens 127.0.0.1:port, or a free port when port is 0.
func listen(port int) (net.Listener, error) {
	if port != 0 {
		return net.Listen("tcp", loopback(port))
	}
	for range 50 {
		if l, err := net.Listen("tcp", loopback(lowestPort+rand.IntN(highestPort-lowestPort))); err == nil {
			return l, nil
		}
	}
	return net.Listen("tcp", loopback(0))
}

// freePort finds a port for an instance. Somebody else may take it before the
// instance does; the caller looks with portTaken.
func freePort() (int, error) {
	l, err := listen(0)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// portTaken reports whether somebody listens on port.
func portTaken(port int) bool {
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return true
	}
	l.Close()
	return false
}
