package audit

import (
	"context"
	"time"
)

// mostLost is how many aggregates an epoch names.
const mostLost = 500

// PutEpoch writes down that a stopped partition goes on. It returns when that
// is stored.
func PutEpoch(ctx context.Context, s Store, instance string, e Epoch, now time.Time) error {
	if n := len(e.Lost); n > mostLost {
		e.Lost, e.More = e.Lost[:mostLost], n-mostLost
	}
	return put(ctx, s, Header{Kind: KindEpoch, Writer: instance, At: now.UnixMilli(), VP: epochVP, Epoch: &e}, now)
}
