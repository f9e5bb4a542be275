package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Verify reads a whole backup and compares it with its manifest.
func Verify(r io.Reader) (*Manifest, error) {
	type seen struct {
		pieces int
		bytes  int64
		sum    hash.Hash
	}
	streams := map[string]*seen{}
	var m *Manifest
	var principals string
	err := each(r, func(name string, content []byte) error {
		if m != nil {
			return fmt.Errorf("%s stands behind the manifest", name)
		}
		switch stream, number, ok := strings.Cut(name, "/"); {
		case name == manifestName:
			m = &Manifest{}
			return json.Unmarshal(content, m)
		case name == principalsName:
			principals = digest(content)
		case ok:
			s := streams[stream]
			if s == nil {
				s = &seen{sum: sha256.New()}
				streams[stream] = s
			}
			if s.pieces++; name != pieceName(stream, s.pieces) {
				return fmt.Errorf("piece %s of stream %s is not where it belongs", number, stream)
			}
			s.bytes += int64(len(content))
			s.sum.Write(content)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("backup: it is damaged or not whole: %w", err)
	case m == nil:
		return nil, errors.New("backup: it is not whole: it has no manifest, which is written last")
	case m.Format != Format:
		return nil, fmt.Errorf("backup: its format is %d, this version of Penstock reads %d", m.Format, Format)
	case m.Principals != principals:
		return nil, errors.New("backup: the principals are not those of its manifest")
	}
	for _, s := range m.Streams {
		got := streams[s.Name]
		if got == nil {
			got = &seen{sum: sha256.New()}
		}
		if got.pieces != s.Pieces || got.bytes != s.Bytes || hex.EncodeToString(got.sum.Sum(nil)) != s.SHA256 {
			return nil, fmt.Errorf("backup: stream %s is not that of its manifest: it was damaged, or somebody has changed it", s.Name)
		}
	}
	return m, nil
}

// each calls fn with every entry of a backup.
func each(r io.Reader, fn func(name string, content []byte) error) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if err := fn(h.Name, content); err != nil {
			return err
		}
	}
}

// Into says where a backup is restored to.
type Into struct {
	Conns    Conns
	Replicas int
	// Principals is given the file of principals, where there is one.
	Principals func(content []byte) error
}

// Read restores a backup: it verifies it, restores every stream, compares what
// each holds then, and marks every partition as stopped. None of the streams
// may exist. When it fails half-way, what was restored stays, and has to be
// removed before it is tried again.
func Read(ctx context.Context, file io.ReadSeeker, into Into) (*Manifest, error) {
	m, err := Verify(file)
	if err != nil {
		return nil, err
	}
	if err := into.empty(ctx, m); err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	streams := map[string]Stream{}
	for _, s := range m.Streams {
		streams[s.Name] = s
	}
	open := map[string]*restoring{}
	err = each(file, func(name string, content []byte) error {
		stream, _, ok := strings.Cut(name, "/")
		if name == principalsName && into.Principals != nil {
			return into.Principals(content)
		}
		if !ok {
			return nil
		}
		s := streams[stream]
		if open[stream] == nil {
			if open[stream], err = into.begin(ctx, s); err != nil {
				return fmt.Errorf("stream %s: %w", stream, err)
			}
		}
		if err := open[stream].send(ctx, content); err != nil {
			return fmt.Errorf("stream %s: %w", stream, err)
		}
		if strings.HasSuffix(name, pieceName("", s.Pieces)) {
			return into.end(ctx, s, open[stream])
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return m, into.stop(ctx, m)
}

// empty refuses to restore over anything.
func (into Into) empty(ctx context.Context, m *Manifest) error {
	for _, s := range m.Streams {
		nc := into.Conns[s.Account]
		if nc == nil {
			return fmt.Errorf("restore: stream %s is of account %q, which Penstock does not have", s.Name, s.Account)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		_, err = js.Stream(ctx, s.Name)
		if err == nil {
			return fmt.Errorf("restore: stream %s exists already: a backup is restored to an empty data directory or cluster, and never over what is there", s.Name)
		}
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("restore: stream %s: %w", s.Name, err)
		}
	}
	return nil
}

func (into Into) begin(ctx context.Context, s Stream) (*restoring, error) {
	config, err := with(s.Config, "num_replicas", into.Replicas)
	if err != nil {
		return nil, err
	}
	return restore(ctx, into.Conns[s.Account], s.Name, config, s.State)
}

// with replaces a value of a JSON object and leaves every other as it is.
func with(object json.RawMessage, key string, value any) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil {
		return nil, err
	}
	p, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	all[key] = p
	return json.Marshal(all)
}

func (into Into) end(ctx context.Context, s Stream, r *restoring) error {
	has, err := r.end(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Name, err)
	}
	want, err := s.Holds()
	if err != nil {
		return err
	}
	// The copy of a stream that was written to meanwhile may hold more than it
	// did at its beginning, never less.
	if has.LastSeq < want.LastSeq {
		return fmt.Errorf("stream %s ends at %d, the backup says %d", s.Name, has.LastSeq, want.LastSeq)
	}
	return nil
}

// Reason is why the partitions of a restored copy are stopped.
func Reason(m *Manifest) string {
	return fmt.Sprintf("restored from a backup of %s: what happened since is not in it; look at what is deployed, then go on with penstock admin new-epoch --all",
		m.Began.UTC().Format(time.RFC3339))
}

// stop marks every partition as stopped.
func (into Into) stop(ctx context.Context, m *Manifest) error {
	js, err := jetstream.New(into.Conns[events.AccountEngine])
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, events.StreamCkpt)
	if err != nil {
		return fmt.Errorf("restore: stream %s: %w", events.StreamCkpt, err)
	}
	for vp := range events.Partitions {
		subject := fmt.Sprintf("penstock.ckpt.%d", vp)
		object := json.RawMessage("{}")
		last, err := s.GetLastMsgForSubject(ctx, subject)
		switch {
		case err == nil:
			object = last.Data
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return fmt.Errorf("restore: checkpoint of partition %d: %w", vp, err)
		}
		marked, err := with(object, "stop", Reason(m))
		if err != nil {
			return fmt.Errorf("restore: checkpoint of partition %d: %w", vp, err)
		}
		if _, err := js.Publish(ctx, subject, marked); err != nil {
			return fmt.Errorf("restore: partition %d is not stopped: %w", vp, err)
		}
	}
	return nil
}
