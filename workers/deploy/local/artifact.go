package local

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/workers"
)

// keepArtifacts is how many executables stay beside the live and the previous
// one, so that going back needs no transfer.
const keepArtifacts = 3

// artifactPath is where an artifact's executable lies.
func artifactPath(dir, digest string) string {
	return filepath.Join(dir, artifactsDir, strings.TrimPrefix(digest, "sha256:"))
}

// fetchArtifact brings an artifact into dir, unless it is there, whole and
// executable. It is stored by its digest and never changed afterwards.
func fetchArtifact(ctx context.Context, dir, digest string, from workers.Artifacts) error {
	path := artifactPath(dir, digest)
	if verifyArtifact(dir, digest) == nil {
		return os.Chtimes(path, time.Time{}, time.Now()) // it is in use: pruning takes older ones first
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is there after success
	h := sha256.New()
	err = from.Get(ctx, digest, io.MultiWriter(f, h))
	if err == nil && "sha256:"+hex.EncodeToString(h.Sum(nil)) != digest {
		err = errors.New("its content does not match its digest")
	}
	if err := errors.Join(err, f.Chmod(0o700), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("artifact %s: %w", digest, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// verifyArtifact returns an error unless the artifact is there and whole.
func verifyArtifact(dir, digest string) error {
	f, err := os.Open(artifactPath(dir, digest))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if "sha256:"+hex.EncodeToString(h.Sum(nil)) != digest {
		return fmt.Errorf("artifact %s: the file %s does not match its digest", digest, f.Name())
	}
	return nil
}

// prune removes old artifacts, and partial ones that nobody writes any more.
func pruneArtifacts(dir string, inUse ...string) {
	prune(filepath.Join(dir, artifactsDir), keepArtifacts, func(name string) bool { return slices.Contains(inUse, "sha256:"+name) })
}

// prune removes from dir all but the newest keep files and those in use.
// Temporary files, which begin with a dot, go when they are an hour old.
func prune(dir string, keep int, inUse func(name string) bool) {
	entries, _ := os.ReadDir(dir)
	var old []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil || inUse(e.Name()):
		case !strings.HasPrefix(e.Name(), "."):
			old = append(old, info)
		case time.Since(info.ModTime()) > time.Hour:
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	slices.SortFunc(old, func(a, b fs.FileInfo) int { return cmp.Compare(b.ModTime().UnixNano(), a.ModTime().UnixNano()) })
	for _, info := range old[min(keep, len(old)):] {
		os.Remove(filepath.Join(dir, info.Name()))
	}
}
