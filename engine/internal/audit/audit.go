// Package audit keeps the audit log: one totally ordered record of all that
// was stored in LOG and of what is decided without a record there. LOG is
// made smaller as runs end; the audit log is what remains, and from it alone
// can be proved what happened and in which order.
//
// # What stands in it
//
// Everything that is in LOG, the records byte by byte as they were stored, with
// their sequences, and the owner records, which are the history of who was
// entitled to write. Beside them notes: what was refused at the API,
// credentials made and revoked, definitions put in force, commands of
// administrators; epochs: that a stopped partition was let go on, by whom,
// why, and what was lost; and losses: that the tail of LOG was lost and its
// sequences are being used again.
//
// A message is a header, one line of JSON, and behind it the records that it
// lists, a line each. Its subject is penstock.audit.<yyyymm>.<partition>, or
// penstock.audit.<yyyymm>.api for notes and .epoch for epochs and losses: the history of one aggregate is read
// from one partition's messages, from the time at which it began.
//
// # What is promised
//
// The stream cannot be deleted from or purged. Every message is stored with
// the condition that it comes directly behind the one before (the stream's
// last sequence), so two writers cannot interleave: one that has slept is
// refused, looks where the log stands and goes on from there. Where it stands
// is what its last message says, nothing else is kept anywhere; so after a
// restart, and after a write whose outcome is unknown, every record of LOG is
// in it exactly once and in order.
//
// A group of messages is stored as one atomic batch. Should a power cut tear
// one, the next writer stores what is missing of it and nothing twice.
//
// Messages are chained: each names the digest of the one before and of all
// that it holds. A change, a removal or another order shows.
//
// While it writes, the writer checks that the versions and hashes of an
// aggregate's records follow each other (for those that it has seen lately; a
// round through all of LOG is what Watch makes, slowly). What does not fit is
// written into the log beside the record, and stops the partition.
//
// Notes are written by every engine for itself, in their order, from a queue
// with an end: a change waits for room in it, refusals that do not fit are
// counted and their number is noted. A clean stop loses none. A kill loses
// those of the last second, of refusals that is all; what a change did is in
// its own place (definitions and credentials say themselves who made them
// when), and the commands to runs and environments are in LOG with their
// answers, before anybody heard of them.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// FormatVersion is the newest form of a message that this code reads, and the
// one it writes.
const FormatVersion = 1

// Kinds of messages.
const (
	KindLog   = "log"   // records and owner records
	KindNote  = "api"   // what happened without a record
	KindEpoch = "epoch" // a stopped partition goes on
	KindLoss  = "loss"  // the tail of LOG was lost
)

// Filter matches all messages.
const Filter = "penstock.audit.>"

const (
	subjectPrefix = "penstock.audit."
	logPrefix     = "penstock.log."
	ownPrefix     = "penstock.own."
	notesToken    = "api"
	epochToken    = "epoch"
	noteFilter    = subjectPrefix + "*." + notesToken
	epochFilter   = subjectPrefix + "*." + epochToken
)

// What stands in place of a partition in messages that are of none.
const (
	noteVP  = -1
	epochVP = -2
)

// Header is the first line of a message.
type Header struct {
	Format int    `json:"f"`
	Kind   string `json:"kind"`
	Writer string `json:"w"` // instance
	At     int64  `json:"t"` // milliseconds, by the writer's clock
	// Pos is the sequence of LOG up to which everything is in the audit log,
	// this message included.
	Pos uint64 `json:"pos"`
	// Open says that a group was begun that is not whole: its other parts follow.
	Open bool   `json:"open,omitempty"`
	Prev string `json:"prev,omitempty"` // digest of the message before; empty for the first
	VP   int    `json:"vp"`             // partition; negative for what is of none

	// Of a group of records: those with the sequences From to To are spread
	// over its Parts messages; this one is number Part, from 1.
	From    uint64      `json:"from,omitempty"`
	To      uint64      `json:"to,omitempty"`
	Part    int         `json:"part,omitempty"`
	Parts   int         `json:"parts,omitempty"`
	Missing [][2]uint64 `json:"missing,omitempty"` // sequences that were not in LOG when it was read; in part 1
	Probes  [][2]uint64 `json:"probes,omitempty"`  // sequences at which LOG has a probe and no record; in part 1
	Breaks  []Break     `json:"breaks,omitempty"`
	Records []Stored    `json:"records,omitempty"`

	Notes []Note `json:"notes,omitempty"`
	Epoch *Epoch `json:"epoch,omitempty"`
	Loss  *Loss  `json:"loss,omitempty"`
}

// Stored says where a record stood. Key is its subject behind the partition,
// "run.k3f9"; it is empty for an owner record.
type Stored struct {
	Seq  uint64 `json:"s"`
	Time int64  `json:"t"` // milliseconds, when the server stored it
	Key  string `json:"k,omitempty"`
	Size int    `json:"n"` // bytes
}

// Break is a record that does not follow the one before it.
type Break struct {
	Seq uint64 `json:"s"`
	Why string `json:"why"`
}

// Note is what happened without a record.
type Note struct {
	At     int64  `json:"t"`
	By     string `json:"by"`
	Kind   string `json:"kind,omitempty"` // of who did it: user, admin, worker, engine
	Via    string `json:"via,omitempty"`
	Verb   string `json:"verb"`
	What   string `json:"what,omitempty"`
	Status string `json:"status"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	Count  int    `json:"count,omitempty"` // of refusals that were too many to be noted singly
}

// Epoch says that a stopped partition was let go on.
type Epoch struct {
	Partition int    `json:"partition"`
	Stopped   string `json:"stopped"` // why it was
	By        string `json:"by"`
	Reason    string `json:"reason"` // as By has given it
	Time      int64  `json:"time"`
	// Last and Hash are of the newest record of the partition as it goes on;
	// the rest tells what is known to be missing before it.
	Last uint64 `json:"last"`
	Hash string `json:"hash,omitempty"`
	// Checkpoint is the newest record that an owner knew of.
	Checkpoint     uint64     `json:"checkpoint,omitempty"`
	CheckpointHash string     `json:"checkpointHash,omitempty"`
	Lost           []Affected `json:"lost,omitempty"`
	More           int        `json:"more,omitempty"` // aggregates that do not stand in Lost
}

// Affected is an aggregate of which records are missing.
type Affected struct {
	Aggregate string `json:"agg"`
	ID        string `json:"id"`
	Had       int64  `json:"had"` // newest version that is in the audit log
	Has       int64  `json:"has"` // newest version in LOG; 0 for none
	Why       string `json:"why,omitempty"`
}

// Loss says that LOG has other records, or none, from From to To than those
// that the audit log has.
type Loss struct {
	From       uint64 `json:"from"`
	To         uint64 `json:"to"`
	Partitions []int  `json:"partitions"` // with records among them
}

// errFormat is a message of a form that this code does not know.
var errFormat = errors.New("unknown form")

// Message is a stored message with its header read.
type Message struct {
	Raw
	Header
	body   []byte
	digest string
}

// decode reads a message.
func decode(raw Raw) (*Message, error) {
	m := &Message{Raw: raw}
	line, body := raw.Data, []byte(nil)
	for i, c := range raw.Data {
		if c == '\n' {
			line, body = raw.Data[:i], raw.Data[i+1:]
			break
		}
	}
	if err := json.Unmarshal(line, &m.Header); err != nil {
		return nil, fmt.Errorf("audit log, message %d: %w", raw.Seq, err)
	}
	if m.Format < 1 || m.Format > FormatVersion {
		return nil, fmt.Errorf("audit log, message %d has form %d, this version of Penstock reads up to %d; use the newer version: %w", raw.Seq, m.Format, FormatVersion, errFormat)
	}
	size := 0
	for _, r := range m.Header.Records {
		if r.Size < 0 || size+r.Size+1 > len(body) {
			return nil, fmt.Errorf("audit log, message %d is cut off or changed: its records do not fit", raw.Seq)
		}
		size += r.Size + 1
	}
	if size != len(body) {
		return nil, fmt.Errorf("audit log, message %d: there is more in it than it lists", raw.Seq)
	}
	m.body, m.digest = body, ""
	d := newDigest(m.Prev, line)
	for _, e := range m.Entries() {
		d.record(sha256.Sum256(e.Data))
	}
	m.digest = d.sum()
	return m, nil
}

// Entry is a record in the audit log.
type Entry struct {
	Stored
	VP   int
	Data []byte // as it was in LOG
}

// Subject is where the record stood in LOG.
func (e Entry) Subject() string {
	if e.Key == "" {
		return events.OwnSubject(e.VP)
	}
	return logPrefix + strconv.Itoa(e.VP) + "." + e.Key
}

// Entries gives the records of a message in the order of their sequences.
func (m *Message) Entries() []Entry {
	out := make([]Entry, 0, len(m.Header.Records))
	rest := m.body
	for _, r := range m.Header.Records {
		out = append(out, Entry{Stored: r, VP: m.VP, Data: rest[:r.Size:r.Size]})
		rest = rest[r.Size+1:]
	}
	return out
}

// digest chains messages: it covers the one before, the header and the hashes
// of the records, which are made for the check of their chain anyway.
type digest struct{ buf []byte }

func newDigest(prev string, header []byte) *digest {
	h := sha256.Sum256(header)
	return &digest{append([]byte(prev), h[:]...)}
}

func (d *digest) record(hash [sha256.Size]byte) { d.buf = append(d.buf, hash[:]...) }

func (d *digest) sum() string {
	h := sha256.Sum256(d.buf)
	return hex.EncodeToString(h[:])
}

// split reads the partition and the key from the subject of a record or owner
// record.
func split(subject string) (vp int, key string, err error) {
	if rest, own := strings.CutPrefix(subject, ownPrefix); own {
		vp, err = strconv.Atoi(rest)
	} else if rest, ok := strings.CutPrefix(subject, logPrefix); ok {
		number, name, _ := strings.Cut(rest, ".")
		key = name
		vp, err = strconv.Atoi(number)
	} else {
		err = errors.New("no such subject")
	}
	if err != nil || vp < 0 || vp >= events.Partitions {
		return 0, "", fmt.Errorf("%s is neither a record nor an owner record", subject)
	}
	return vp, key, nil
}

// subject is where a message of a partition goes at a time.
func subject(vp int, at time.Time) string {
	token := strconv.Itoa(vp)
	switch vp {
	case noteVP:
		token = notesToken
	case epochVP:
		token = epochToken
	}
	return subjectPrefix + at.UTC().Format("200601") + "." + token
}

// filterOf matches all messages of a partition.
func filterOf(vp int) string { return subjectPrefix + "*." + strconv.Itoa(vp) }

// Raw is a message as it is stored.
type Raw struct {
	Seq     uint64
	Subject string
	Time    time.Time
	Data    []byte
}

// Out is a message to be stored.
type Out struct {
	Subject string
	Data    []byte
}

// ErrBehind says that the stream has another last message than was expected.
var ErrBehind = errors.New("the audit log has moved on")

// Store is the stream of the audit log.
type Store interface {
	// Last gives the newest message, as the stream's leader knows it; a Raw
	// with the sequence 0 when there is none.
	Last(ctx context.Context) (Raw, error)
	// Append stores messages, together or not at all, if the stream's last
	// sequence is after; else it gives ErrBehind. After any other error they
	// may be stored.
	Append(ctx context.Context, after uint64, msgs []Out) error
	// Read calls fn with the messages that match filter, from sequence from or
	// from the time since on, in order, up to the last one that there is when
	// it is called. An error of fn ends the reading and is returned, except
	// ErrEnough.
	Read(ctx context.Context, q Query, fn func(Raw) error) error
}

// ErrEnough ends a reading from within.
var ErrEnough = errors.New("read enough")

// Query says what to read. From and Since are alternatives.
type Query struct {
	Filters []string // all where empty; no two may match the same subject
	From    uint64
	Since   time.Time
}
