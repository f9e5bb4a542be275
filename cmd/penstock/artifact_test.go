package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

func TestAnArtifactIsPutTogetherAndComparedWithItsDigest(t *testing.T) {
	f := newFake(t)
	content := []string{"first,", "second,", "last"}
	f.handle(events.VerbArtifact, func(p json.RawMessage) events.Answer {
		var q events.ReadArtifact
		_ = json.Unmarshal(p, &q)
		return applied(t, events.ArtifactPart{Data: []byte(content[q.After]), Next: q.After + 1, Done: q.After == 2})
	})
	sum := sha256.Sum256([]byte(strings.Join(content, "")))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if got := penstock(t, "artifact", digest); got.code != 0 || got.out != "first,second,last" {
		t.Errorf("exit %d, %q, %s", got.code, got.out, got.stderr)
	}
	file := filepath.Join(t.TempDir(), "shop")
	if got := penstock(t, "artifact", digest, "--out", file); got.code != 0 || !strings.Contains(got.stderr, "wrote 17 bytes") {
		t.Errorf("exit %d, %s", got.code, got.stderr)
	}
	if got := penstock(t, "artifact", digest, "--out", file); got.code == 0 {
		t.Error("a file that was there is replaced without being asked to")
	}
	other := filepath.Join(t.TempDir(), "other")
	got := penstock(t, "artifact", "sha256:"+strings.Repeat("0", 64), "--out", other)
	if got.code != exitFailed || !strings.Contains(got.stderr, "damaged or was tampered with") {
		t.Errorf("exit %d, %s", got.code, got.stderr)
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("what does not match its digest is left behind")
	}
}
