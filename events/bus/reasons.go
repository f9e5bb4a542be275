package bus

import (
	"errors"

	"github.com/nats-io/nats.go"
)

// Unreachable reports whether err of Connect says that no server could be
// reached.
func Unreachable(err error) bool { return errors.Is(err, errUnreachable) }

// NotAccepted reports whether err says that the server was reached and does
// not accept the credential.
func NotAccepted(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked)
}
