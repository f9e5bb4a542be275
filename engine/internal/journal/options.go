package journal

import "time"

// How the server stores before it acknowledges. It is the server's setting;
// the journal is told because another way of sending is fastest with each.
const (
	SyncAlways = "always" // the server syncs to disk before it answers
	SyncLazy   = "lazy"   // the server syncs now and then
)

// Options say how to send. The zero value is for an embedded server that
// syncs always.
type Options struct {
	// Sync is SyncAlways (when empty) or SyncLazy.
	Sync string
	// AckTimeout is how long to wait for the server's answer before a
	// record's outcome counts as unknown; 5 s when 0.
	AckTimeout time.Duration
	// MaxQueue is how many records may wait to be sent; one more fails with
	// ErrFull. 100,000 when 0.
	MaxQueue int
}

const (
	defaultAckTimeout = 5 * time.Second
	defaultMaxQueue   = 100_000
)

func (o Options) withDefaults() Options {
	if o.Sync == "" {
		o.Sync = SyncAlways
	}
	if o.AckTimeout <= 0 {
		o.AckTimeout = defaultAckTimeout
	}
	if o.MaxQueue <= 0 {
		o.MaxQueue = defaultMaxQueue
	}
	return o
}
