package bus

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Artifacts stores and fetches files by the sha256 digest of their content,
// written "sha256:<64 hex digits>", in the workers' object store.
//
// What it stores is an ordinary object of that store, named by its digest, so
// that the nats command line reads it. It reads with the one call of the
// JetStream API that lets its caller choose neither a consumer nor the body
// and headers of the answer: every other way of reading would let a worker
// have the server publish what it likes in the server's name.
type Artifacts struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	asks  *asker                                         // nil on a connection of the engine
	check func(subject string) (<-chan struct{}, func()) // tells of refused publishes; may be nil
}

// ErrNoArtifact says that nothing with this digest is stored.
var ErrNoArtifact = errors.New("there is no such artifact")

const (
	artifactStream = "OBJ_" + events.BucketBlobs
	artifactChunk  = 256 << 10
	artifactWindow = 16 // chunks on their way at a time
)

// Artifacts gives the artifacts of the workers' account.
func (c *Conn) Artifacts() *Artifacts {
	return &Artifacts{nc: c.nc, js: c.js, asks: c.asks, check: c.denied.on}
}

// NewArtifacts gives the artifacts over a connection of the engine to the
// workers' account.
func NewArtifacts(nc *nats.Conn) (*Artifacts, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(publishTimeout))
	if err != nil {
		return nil, err
	}
	return &Artifacts{nc: nc, js: js}, nil
}

// Put stores what r gives, up to its end, and returns its digest and size in
// bytes. A content that is there already is not stored again. name is for
// people who look into the store.
func (a *Artifacts) Put(ctx context.Context, name string, r io.Reader) (digest string, size int64, err error) {
	tmp, err := os.CreateTemp("", "penstock-artifact-*")
	if err != nil {
		return "", 0, fmt.Errorf("artifact %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	h := sha256.New()
	if size, err = io.Copy(io.MultiWriter(tmp, h), r); err != nil {
		return "", 0, fmt.Errorf("artifact %s: %w", name, err)
	}
	sum := h.Sum(nil)
	digest = "sha256:" + hex.EncodeToString(sum)
	switch there, err := a.info(ctx, digest); {
	case err == nil && there.Size == uint64(size):
		return digest, size, nil
	case err != nil && !errors.Is(err, ErrNoArtifact):
		return "", 0, err
	}
	for pause, try := newBackoff(), 1; ; try++ {
		if err = a.store(ctx, name, digest, sum, size, tmp); err == nil {
			return digest, size, nil
		}
		if try == 3 || isFinal(err) || pause.sleep(ctx, 0) != nil {
			return "", 0, fmt.Errorf("artifact %s (%s): %w", name, digest, err)
		}
	}
}

// isFinal reports whether storing once more would fail the same way.
func isFinal(err error) bool {
	var r *Refusal
	return errors.As(err, &r)
}

// store writes the chunks and then the entry that makes them an object. A try
// that fails leaves chunks that nothing refers to.
func (a *Artifacts) store(ctx context.Context, name, digest string, sum []byte, size int64, content io.ReadSeeker) error {
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	info := jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: digest, Description: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: artifactChunk}},
		Bucket:     events.BucketBlobs, NUID: rand.Text(), Size: uint64(size), ModTime: time.Now().UTC(),
		Digest: "SHA-256=" + base64.URLEncoding.EncodeToString(sum),
	}
	chunks, err := a.sendChunks(ctx, chunkSubject(info.NUID), content)
	if err != nil {
		return err
	}
	info.Chunks = chunks
	entry, err := json.Marshal(info)
	if err != nil {
		return err
	}
	denied, done := a.refusals(entrySubject(digest))
	defer done()
	f, err := a.js.PublishMsgAsync(&nats.Msg{Subject: entrySubject(digest), Data: entry})
	if err != nil {
		return err
	}
	return stored(ctx, f, denied)
}

func (a *Artifacts) sendChunks(ctx context.Context, subject string, content io.Reader) (n uint32, err error) {
	denied, done := a.refusals(subject)
	defer done()
	var waiting []jetstream.PubAckFuture
	for {
		buf := make([]byte, artifactChunk) // each is in the client's hands until it is acknowledged
		got, err := io.ReadFull(content, buf)
		if got > 0 {
			f, err := a.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: buf[:got]})
			if err != nil {
				return n, err
			}
			n++
			waiting = append(waiting, f)
		}
		end := err != nil
		if end && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return n, err
		}
		for len(waiting) > 0 && (end || len(waiting) >= artifactWindow) {
			if err := stored(ctx, waiting[0], denied); err != nil {
				return n, err
			}
			waiting = waiting[1:]
		}
		if end {
			return n, nil
		}
	}
}

// stored waits for the acknowledgement of one message.
func stored(ctx context.Context, f jetstream.PubAckFuture, denied <-chan struct{}) error {
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		var api *jetstream.APIError
		if errors.As(err, &api) && (api.ErrorCode == errResources || api.ErrorCode == errStoreFailed) {
			return &Refusal{Status: events.StatusError, Code: events.CodeFull,
				Reason: "the artifact store is full (" + api.Description + "); remove old artifacts or give it more room"}
		}
		return err
	case <-denied:
		return &Refusal{Status: events.StatusError, Code: events.CodeDenied, Reason: "this credential may not use artifacts"}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Get writes the content of digest to w. It verifies the digest and returns an
// error, having written a part or all of it, when it does not match.
func (a *Artifacts) Get(ctx context.Context, digest string, w io.Writer) error {
	info, err := a.info(ctx, digest)
	if err != nil {
		return err
	}
	h := sha256.New()
	out := io.MultiWriter(w, h)
	next := uint64(1)
	for i := range info.Chunks {
		m, err := a.read(ctx, messageQuery{Seq: next, NextFor: chunkSubject(info.NUID)})
		if err != nil {
			return fmt.Errorf("artifact %s: chunk %d of %d: %w", digest, i+1, info.Chunks, err)
		}
		if _, err := out.Write(m.Data); err != nil {
			return fmt.Errorf("artifact %s: %w", digest, err)
		}
		next = m.Seq + 1
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("artifact %s: what is stored has the digest %s: it is damaged or was tampered with", digest, got)
	}
	return nil
}

// Part gives a part of an artifact's content, for who passes it on piece by
// piece: the first for after 0, then the one behind next of the part before.
// Nothing is verified but that it is stored; whoever has all parts compares
// the digest.
func (a *Artifacts) Part(ctx context.Context, digest string, after uint64) (*events.ArtifactPart, error) {
	info, err := a.info(ctx, digest)
	if err != nil {
		return nil, err
	}
	part := &events.ArtifactPart{Size: info.Size, Data: []byte{}}
	if info.Chunks == 0 {
		part.Done = true
		return part, nil
	}
	m, err := a.read(ctx, messageQuery{Seq: after + 1, NextFor: chunkSubject(info.NUID)})
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", digest, err)
	}
	part.Data, part.Next = m.Data, m.Seq
	_, err = a.read(ctx, messageQuery{Seq: m.Seq + 1, NextFor: chunkSubject(info.NUID)})
	part.Done = errors.Is(err, ErrNoArtifact)
	if err != nil && !part.Done {
		return nil, fmt.Errorf("artifact %s: %w", digest, err)
	}
	return part, nil
}

// info reads the entry of an object.
func (a *Artifacts) info(ctx context.Context, digest string) (*jetstream.ObjectInfo, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	m, err := a.read(ctx, messageQuery{LastFor: entrySubject(digest)})
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", digest, err)
	}
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return nil, fmt.Errorf("artifact %s: its entry is damaged: %w", digest, err)
	}
	if info.Deleted {
		return nil, fmt.Errorf("artifact %s: %w: it was deleted", digest, ErrNoArtifact)
	}
	if strings.ContainsAny(info.NUID, ".*> \t\r\n") || info.NUID == "" {
		return nil, fmt.Errorf("artifact %s: its entry is damaged", digest)
	}
	return &info, nil
}

func checkDigest(digest string) error {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if p, err := hex.DecodeString(h); !ok || err != nil || len(p) != sha256.Size || h != strings.ToLower(h) {
		return fmt.Errorf("artifact %q: not a digest; it has the form sha256: and 64 hex digits", digest)
	}
	return nil
}

func entrySubject(digest string) string {
	return "$O." + events.BucketBlobs + ".M." + base64.URLEncoding.EncodeToString([]byte(digest))
}

func chunkSubject(id string) string { return "$O." + events.BucketBlobs + ".C." + id }

// messageQuery asks for one message of a stream.
type messageQuery struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
}

type storedMessage struct {
	Seq  uint64 `json:"seq"`
	Data []byte `json:"data"`
}

const errNoMessage = 10037

// read gets one message of the object store's stream from its leader.
func (a *Artifacts) read(ctx context.Context, q messageQuery) (*storedMessage, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	subject := "$JS.API.STREAM.MSG.GET." + artifactStream
	for pause := newBackoff(); ; {
		m, err := a.readOnce(ctx, subject, body)
		if err == nil || !mayPass(err) || pause.sleep(ctx, 0) != nil {
			return m, err
		}
	}
}

func (a *Artifacts) readOnce(ctx context.Context, subject string, body []byte) (*storedMessage, error) {
	try, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	reply, err := a.ask(try, subject, body)
	if errors.Is(err, errDenied) {
		return nil, &Refusal{Status: events.StatusError, Code: events.CodeDenied, Reason: "this credential may not use artifacts"}
	}
	if err != nil {
		return nil, err
	}
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Message *storedMessage      `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &resp); err != nil {
		return nil, fmt.Errorf("the object store's answer is not JSON: %w", err)
	}
	switch {
	case resp.Error != nil && resp.Error.ErrorCode == errNoMessage:
		return nil, ErrNoArtifact
	case resp.Error != nil:
		return nil, resp.Error
	case resp.Message == nil:
		return nil, errors.New("the object store's answer holds no message")
	}
	return resp.Message, nil
}

func (a *Artifacts) ask(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	if a.asks == nil {
		return a.nc.RequestWithContext(ctx, subject, body)
	}
	return a.asks.ask(ctx, subject, body)
}

func (a *Artifacts) refusals(subject string) (<-chan struct{}, func()) {
	if a.check == nil {
		return nil, func() {}
	}
	return a.check(subject)
}
