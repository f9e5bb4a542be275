package bus

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(p)
	return p
}

func TestArtifactsComeBackAsTheyWerePut(t *testing.T) {
	in := start(t)
	a := dial(t, in.worker).Artifacts()
	for _, size := range []int{0, 1, artifactChunk, artifactChunk + 1, 20*artifactChunk + 7} {
		want := noise(size)
		digest, n, err := a.Put(soon(t), "some file", bytes.NewReader(want))
		sum := sha256.Sum256(want)
		if err != nil || n != int64(size) || digest != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Fatalf("%d bytes: %s, %d, %v", size, digest, n, err)
		}
		var got bytes.Buffer
		if err := a.Get(soon(t), digest, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes: got %d back, %v", size, got.Len(), err)
		}
		if got := inParts(t, a, digest, uint64(size)); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d back in parts", size, len(got))
		}
	}
}

// inParts puts an artifact together from its parts.
func inParts(t *testing.T, a *Artifacts, digest string, size uint64) (content []byte) {
	t.Helper()
	for after := uint64(0); ; {
		part, err := a.Part(soon(t), digest, after)
		if err != nil || part.Size != size {
			t.Fatalf("part after %d: %+v, %v", after, part, err)
		}
		content = append(content, part.Data...)
		if part.Done {
			return content
		}
		after = part.Next
	}
}

func TestArtifactIsStoredOnce(t *testing.T) {
	in := start(t)
	a := dial(t, in.worker).Artifacts()
	js, _ := jetstream.New(in.work)
	count := func() uint64 {
		s, err := js.Stream(t.Context(), artifactStream)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	for range 3 {
		if _, _, err := a.Put(soon(t), "x", strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n != 2 {
		t.Errorf("%d messages are stored, want a chunk and an entry", n)
	}
}

func TestArtifactsAreObjectsOfAnOrdinaryObjectStore(t *testing.T) {
	in := start(t)
	want := noise(3*artifactChunk + 5)
	digest, _, err := dial(t, in.worker).Artifacts().Put(soon(t), "app.tar", bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	js, _ := jetstream.New(in.work)
	store, err := js.ObjectStore(soon(t), events.BucketBlobs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.GetBytes(soon(t), digest)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	engine, err := NewArtifacts(in.work)
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := engine.Get(soon(t), digest, &again); err != nil || !bytes.Equal(again.Bytes(), want) {
		t.Errorf("the engine reads %d bytes, %v", again.Len(), err)
	}
}

func TestMissingAndDamagedArtifactsAreErrors(t *testing.T) {
	in := start(t)
	a := dial(t, in.worker).Artifacts()
	none := "sha256:" + strings.Repeat("0", 64)
	if err := a.Get(soon(t), none, &bytes.Buffer{}); !errors.Is(err, ErrNoArtifact) {
		t.Errorf("missing: got %v", err)
	}
	for _, bad := range []string{"", "x", "sha256:12", "sha512:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("A", 64)} {
		if err := a.Get(soon(t), bad, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "not a digest") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	// Somebody else's content under the digest.
	digest, _, err := a.Put(soon(t), "x", strings.NewReader("harmless"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("wanted"))
	wanted := "sha256:" + hex.EncodeToString(sum[:])
	js, _ := jetstream.New(in.work)
	if _, err := js.Publish(soon(t), entrySubject(wanted), lastOf(t, in.work, artifactStream, entrySubject(digest)).Data); err != nil {
		t.Fatal(err)
	}
	if err := a.Get(soon(t), wanted, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "tampered") {
		t.Errorf("tampered: got %v", err)
	}
	var r *Refusal
	if _, _, err := dial(t, in.bot).Artifacts().Put(soon(t), "x", strings.NewReader("x")); !errors.As(err, &r) || r.Code != events.CodeDenied {
		t.Errorf("a user who stores artifacts: got %v", err)
	}
}
