package sources

import (
	"context"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/gitdefs"
)

// branch is a branch of a Git repository. A commit is all there is: what is
// not in it is gone.
type branch struct {
	repository *gitdefs.Repository
	poll       time.Duration
	commit     string // that was given last
}

func (b *branch) every() time.Duration { return b.poll }
func (b *branch) near() bool           { return false }

func (b *branch) look(ctx context.Context, _ bool) (*held, error) {
	snap, err := b.repository.Look(ctx, b.commit)
	if snap == nil || err != nil {
		return nil, err
	}
	b.commit = snap.Commit
	return &held{files: snap.Files, problems: snap.Problems, commit: snap.Commit, author: snap.Author, whole: true}, nil
}
