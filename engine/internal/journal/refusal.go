package journal

import (
	"errors"
	"fmt"
	"strings"
)

// Error codes of the server that the journal tells apart.
const (
	codeNotAvailable     = 10008
	codeNotLeader        = 10009
	codeInsufficient     = 10023
	codeStorageExceeded  = 10047
	codeMessageTooLarge  = 10054
	codeWrongSequence    = 10071 // stale fence
	codeStoreFailed      = 10077
	codeInFlight         = 10164 // another write under the same fence is in process; says nothing about who owns
	codeTooManyRequests  = 10167
	codeBatchIncomplete  = 10176
	codeBatchTooMany     = 10210
	codeAccountResources = 10002
	codeMaximumBytes     = 10122
)

// refusal is the server's answer that it did not store a flight.
type refusal struct {
	Status      int    `json:"code"`
	Code        int    `json:"err_code"`
	Description string `json:"description"`
	stream      string
	// doubtful: of a stream that several servers store. One that is no longer its
	// leader may not know it yet and refuse what the present one stores.
	doubtful bool
}

// errDoubtful is what somebody refuses who may not be the leader.
var errDoubtful = fmt.Errorf("%w, and %w", ErrFenced, ErrUnknown)

func (r *refusal) Error() string {
	return fmt.Sprintf("stream %s: the server refuses: %s (%d)", r.stream, r.Description, r.Code)
}

// Unwrap gives what the refusal means for a record.
func (r *refusal) Unwrap() error {
	switch r.Code {
	case codeWrongSequence:
		if r.doubtful {
			return errDoubtful
		}
		return ErrFenced
	case codeInsufficient, codeStorageExceeded, codeTooManyRequests, codeBatchTooMany, codeAccountResources, codeMaximumBytes:
		return ErrFull
	case codeMessageTooLarge:
		return ErrTooLarge
	case codeInFlight:
		// Somebody refuses who has lost the others. Another one may lead by now,
		// and have stored it.
		return ErrUnknown
	case codeNotAvailable, codeNotLeader, codeBatchIncomplete:
		if r.doubtful {
			return ErrUnknown
		}
		return ErrUnavailable
	case codeStoreFailed:
		// The limits of a stream are checked before anything is written. Any
		// other failure may have come in the midst of writing, and a batch
		// that stopped half-way is finished when the server starts again.
		if strings.HasPrefix(r.Description, "maximum ") {
			return ErrFull
		}
		return ErrUnknown
	}
	if r.Status == 503 || r.Status == 429 {
		return ErrUnavailable
	}
	return nil
}

// code gives the server's error code, or 0.
func code(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.Code
	}
	return 0
}
