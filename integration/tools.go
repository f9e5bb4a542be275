//go:build tools

// The server that images and tests run is built from the version in go.mod:
// go build github.com/nats-io/nats-server/v2. This import keeps what its main
// package needs in go.sum.
package integration

import _ "github.com/nats-io/nats-server/v2"
