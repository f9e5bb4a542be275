// Package backup copies an installation while it runs, and restores the copy.
//
// A backup is one tar file: the streams and buckets as the server's own
// snapshots of them, in pieces, and at its end a manifest with what each held
// and the digest of it. A snapshot keeps sequences, times and gaps as they
// are, which checkpoints, fences and the audit log refer to; copying message
// by message could not. A file without a manifest is not whole.
//
// Each stream is copied as it is at one moment, one after the other, in an
// order in which no copy knows of something that the copy before it lacks and
// needs: the checkpoints before the record, so that what has been carried out
// is never less than they say; incoming events before the record, since they
// are removed once they are recorded; the audit log after the record, since
// records are removed once they are audited; and what the record refers to
// (tasks, output, artifacts) last.
//
// What is restored is old: deployments may have happened since that it knows
// nothing of. So every partition of a restored copy is stopped, by a mark in
// its checkpoint that says why, until somebody begins a new epoch for it.
//
// The bucket of live engines is not copied, and neither are the keys and
// credentials with secrets of the data directory.
package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
)

// Format is the newest form of a backup that this code reads, and the one that
// it writes.
const Format = 1

// Manifest is the last entry of a backup and says what it holds.
type Manifest struct {
	Format     int       `json:"format"`
	Version    string    `json:"version"` // of Penstock
	Server     string    `json:"server"`  // version of nats-server
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`
	Streams    []Stream  `json:"streams"`
	Principals string    `json:"principals,omitempty"` // sha256 of the file of principals, where there is one
}

// Stream is a stream of a backup. Config and State are the server's own words.
type Stream struct {
	Account string          `json:"account"`
	Name    string          `json:"name"`
	Config  json.RawMessage `json:"config"`
	State   json.RawMessage `json:"state"`
	Pieces  int             `json:"pieces"`
	Bytes   int64           `json:"bytes"`
	SHA256  string          `json:"sha256"`
}

// State is what a stream holds.
type State struct {
	Messages uint64 `json:"messages"`
	LastSeq  uint64 `json:"last_seq"`
}

// Holds reads the state of the stream at the moment of its copy.
func (s Stream) Holds() (st State, err error) {
	if err := json.Unmarshal(s.State, &st); err != nil {
		return st, fmt.Errorf("stream %s: its state cannot be read: %w", s.Name, err)
	}
	return st, nil
}

// parts are the streams of a backup, in the order in which they are copied.
var parts = []struct {
	account, name string
	consumers     bool // what they have acknowledged is part of it
}{
	{events.AccountEngine, events.StreamCkpt, false},
	{events.AccountEngine, "KV_" + events.BucketDefs, false},
	{events.AccountEngine, "KV_" + events.BucketAuth, false},
	{events.AccountExt, events.StreamIngress, false},
	{events.AccountEngine, events.StreamLog, false},
	{events.AccountEngine, events.StreamAudit, false},
	{events.AccountWork, events.StreamTasks, true},
	{events.AccountNotify, events.StreamOut, false},
	{events.AccountWork, events.StreamOutput, false},
	{events.AccountWork, "OBJ_" + events.BucketBlobs, false},
}

const (
	manifestName   = "manifest.json"
	principalsName = "principals.json"
	pieceSize      = 4 << 20
)

// Conns are the engine's connections by account.
type Conns map[string]*nats.Conn

// Options say what is copied beside the streams.
type Options struct {
	Version    string // of Penstock
	Principals []byte // content of the file of principals; nil when there is none
}

// Write copies an installation to w.
func Write(ctx context.Context, conns Conns, o Options, w io.Writer) (*Manifest, error) {
	t := tar.NewWriter(w)
	m := &Manifest{Format: Format, Version: o.Version, Server: conns[events.AccountEngine].ConnectedServerVersion(), Began: time.Now().UTC()}
	if o.Principals != nil {
		m.Principals = digest(o.Principals)
		if err := entry(t, principalsName, o.Principals); err != nil {
			return nil, err
		}
	}
	for _, p := range parts {
		s, err := copyStream(ctx, conns[p.account], p.name, p.consumers, t)
		if err != nil {
			return nil, fmt.Errorf("backup: stream %s: %w", p.name, err)
		}
		s.Account = p.account
		m.Streams = append(m.Streams, s)
	}
	m.Ended = time.Now().UTC()
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	return m, errors.Join(entry(t, manifestName, append(text, '\n')), t.Close())
}

func digest(p []byte) string {
	h := sha256.Sum256(p)
	return hex.EncodeToString(h[:])
}

func entry(t *tar.Writer, name string, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: time.Now()}); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if _, err := t.Write(content); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// copyStream writes a stream in pieces: the size of a snapshot is not known
// before its end, and an entry of a tar file begins with its size.
func copyStream(ctx context.Context, nc *nats.Conn, name string, consumers bool, t *tar.Writer) (Stream, error) {
	s := Stream{Name: name}
	sum := sha256.New()
	piece := make([]byte, 0, pieceSize)
	flush := func() error {
		if len(piece) == 0 {
			return nil
		}
		s.Pieces++
		err := entry(t, pieceName(name, s.Pieces), piece)
		s.Bytes += int64(len(piece))
		sum.Write(piece)
		piece = piece[:0]
		return err
	}
	var err error
	s.Config, s.State, err = snapshot(ctx, nc, name, consumers, func(chunk []byte) error {
		if len(piece)+len(chunk) > pieceSize {
			if err := flush(); err != nil {
				return err
			}
		}
		piece = append(piece, chunk...)
		return nil
	})
	if err != nil {
		return s, err
	}
	err = flush()
	s.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return s, err
}

func pieceName(stream string, n int) string { return fmt.Sprintf("%s/%06d", stream, n) }
