// Package journal keeps the record of Penstock: what was decided, in the
// order in which it was decided, and nothing from anybody who is no longer
// entitled to write it.
//
// A record is opaque bytes on a subject of its partition. The journal knows
// nothing of runs or environments; it promises
//
//   - that a record whose done was called without an error is stored, and on
//     disk when the server syncs before it answers;
//   - that the records of a subject are stored in the order in which they
//     were appended, and that none is stored behind a failed one that it was
//     appended after without waiting;
//   - that as soon as somebody else has stored an owner record for a
//     partition, no record of the former owner gets in (the fence);
//   - that every error other than ErrUnknown means: nothing was stored.
//
// Open gives the journal on JetStream, OpenOn the same code on another
// Transport, such as the fake one of simulations. NewMemory gives a small twin
// for the tests of what stands above the journal. The package journaltest
// holds the tests that all of them pass. Checkpoints lie in a stream of their
// own, so that a lost tail of the record does not take the proof of its loss
// with it.
//
// Publisher is the same group commit for what leaves the engine: tasks and
// notifications, in other streams and under no fence.
package journal

import (
	"context"
	"errors"
	"time"
)

// What can go wrong with a record. Errors are wrapped; use errors.Is.
// Every one of them but ErrUnknown means that nothing was stored.
var (
	// ErrFenced: somebody else owns the partition, or this journal never did.
	// Drop the partition. In a cluster it may be ErrUnknown as well: a server
	// that leads no longer refuses so what the leader stores.
	ErrFenced = errors.New("not the owner of the partition")
	// ErrUnknown: the record may be stored, or may yet be. Own the partition
	// again (that fences what is still on its way), reload and compare.
	ErrUnknown = errors.New("the outcome is unknown")
	// ErrFull: a limit of the stream or of the server is reached, or the
	// server takes no more for now. Try again later.
	ErrFull = errors.New("the stream takes no more")
	// ErrUnavailable: the stream cannot be reached or has no leader. Try
	// again later.
	ErrUnavailable = errors.New("the stream is not available")
	// ErrTooLarge: the record is over the size limit; it will never be taken.
	ErrTooLarge = errors.New("the record is too large")
	// ErrNotFound: there is no record on the subject.
	ErrNotFound = errors.New("no record")
	// ErrLost: the stream ends before what has been read of it already: its
	// tail was lost and its sequences are being used again. Stop.
	ErrLost = errors.New("the tail of the record was lost")
	// ErrClosed: the journal or publisher is closed.
	ErrClosed = errors.New("closed")
)

// Entry is a stored record.
type Entry struct {
	Seq     uint64    // its sequence in the stream
	Subject string    //
	Data    []byte    // not shared with anybody
	Time    time.Time // when the server stored it, by the server's clock
	// Damaged says that the server has a record there and cannot read it: there
	// is no Data. Where the reading goes in order, Subject is not known, and it
	// may be several, of which the last has the sequence Seq.
	Damaged bool
}

// AllRecords is a filter for the records of all partitions. A Log counts what
// matches it without a list of all subjects.
const AllRecords = "penstock.log.>"

// Journal is the record and its checkpoints. All methods may be called from
// several goroutines at once.
type Journal interface {
	// Own stores an owner record, owner, for each of the partitions and from
	// then on appends under its fence. Records of former owners that have not
	// been stored by then, including this journal's own, are refused by the
	// server. Nothing can be appended to the partitions while Own runs or
	// after it failed. One call for many partitions is one commit.
	Own(ctx context.Context, vps []int, owner []byte) error

	// Renew stores a new owner record for a partition, as Own does, but only
	// while the one that stands has sequence expect: who was taken over does
	// not take back. Else it gives ErrFenced.
	Renew(ctx context.Context, vp int, expect uint64, owner []byte) error

	// Disown forgets the fences of partitions: what is appended to them from
	// now on, or waits and has not been sent, fails with ErrFenced.
	Disown(vps []int)

	// Fence gives the sequence of the owner record under which this journal
	// appends to the partition; false when it does not own it.
	Fence(vp int) (seq uint64, owned bool)

	// Interruptions grows whenever the connection to the server was lost. A
	// server that comes back may have lost the end of what it acknowledged.
	Interruptions() uint64

	// Append hands a record to the group committer and returns at once. data
	// must not be changed afterwards. done is called once, never before
	// Append was called and never in the caller's goroutine, with the
	// record's sequence or with an error. It must not block; it may call
	// Append. A record goes under the fence that its partition had when it
	// was appended. When a record fails, the records of the same subject that
	// were appended after it, and before its done was called, fail with it.
	Append(vp int, subject string, data []byte, done func(seq uint64, err error))

	// Last gives the last record of a subject, or ErrNotFound. It asks the
	// stream's leader, so it sees every acknowledged record.
	Last(ctx context.Context, subject string) (Entry, error)

	// At gives the record with a sequence: ErrNotFound when it was removed,
	// ErrLost when the stream ends before it.
	At(ctx context.Context, seq uint64) (Entry, error)

	// History gives all records of a subject, oldest first.
	History(ctx context.Context, subject string) ([]Entry, error)

	// LastPerSubject calls fn with the last record of each subject that
	// matches one of the filters (wildcards allowed, no two of which may
	// match the same subject), by rising sequence. Records that
	// are stored meanwhile may be given too; the last one given for a subject
	// counts. An error of fn ends the reading and is returned.
	LastPerSubject(ctx context.Context, filters []string, fn func(Entry) error) error

	// From calls fn with every record from sequence seq on (0 and 1 are the
	// beginning), up to the last one that was stored when From was called, and
	// with the probes among them. It gives ErrLost when the stream ends before
	// seq-1.
	From(ctx context.Context, seq uint64, fn func(Entry) error) error

	// Select calls fn with the records from sequence seq on whose subject
	// matches filter, wildcards allowed, up to the last one that was stored
	// when Select was called.
	Select(ctx context.Context, filter string, seq uint64, fn func(Entry) error) error

	// Tail is From going on: it calls fn with every record from seq on, each
	// once and in order, across reconnects and restarts of the server, until
	// ctx ends (it returns ctx's error) or fn gives an error (which it
	// returns). It also ends when the stream is gone, and with ErrLost.
	Tail(ctx context.Context, seq uint64, fn func(Entry) error) error

	// Checkpoint stores a checkpoint for each of the partitions, replacing
	// the one before. A checkpoint of a former owner does not replace one
	// that the present owner has stored: ErrFenced, for those partitions
	// only.
	Checkpoint(ctx context.Context, data map[int][]byte) error

	// LoadCheckpoints gives the checkpoints of all partitions that have one;
	// an empty one is there and cannot be read.
	LoadCheckpoints(ctx context.Context) (map[int][]byte, error)

	// Close sends what waits, waits for what is on its way until ctx ends,
	// and fails the rest: ErrUnknown what was sent, ErrClosed what was not.
	Close(ctx context.Context) error
}

// Message is what a Publisher sends.
type Message struct {
	Subject string
	Header  map[string][]string // may be nil; must not be changed afterwards
	Data    []byte              // must not be changed afterwards
	// Done is called once, never in the caller's goroutine, with the
	// message's sequence or with an error. It must not block. It may be nil.
	Done func(seq uint64, err error)
}

// Publisher sends messages to one stream, grouped and pipelined. After
// ErrUnknown a message may be sent again: it is then stored once or twice.
type Publisher interface {
	// Publish queues messages and returns at once. Messages are stored in
	// the order of their queueing, except that one which was refused and is
	// published again comes later.
	Publish(msgs ...Message)
	// Close sends what waits and waits for what is on its way, as
	// Journal.Close does.
	Close(ctx context.Context) error
}
