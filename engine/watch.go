package engine

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/workflows/parse"
)

// watchEvery is how often folders of definitions are looked at.
const watchEvery = time.Second

// applyFolder puts what is in a folder in force and gives what it looked
// like. Bad documents are told, and keep nothing else from counting.
func (e *Engine) applyFolder(ctx context.Context, dir string, before [32]byte) ([32]byte, error) {
	files, err := parse.Dir(dir)
	if err != nil {
		return before, err
	}
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s\x00%d\x00%s", f.Name, len(f.Content), f.Content)
	}
	now := [32]byte(h.Sum(nil))
	if now == before {
		return now, nil
	}
	applied, err := e.svc.Apply(ctx, "folder "+dir, files, false)
	if err != nil {
		return before, err
	}
	changed := 0
	for _, d := range applied.Definitions {
		if d.Change != "unchanged" {
			changed++
		}
	}
	e.o.Log.Info("definitions were read", "folder", dir, "files", len(files), "changed", changed, "problems", len(applied.Problems))
	if applied.Text != "" {
		e.o.Log.Warn("definitions have problems", "folder", dir, "problems", applied.Text)
	}
	return now, nil
}

// watchDefinitions reads folders again when something in them has changed.
func (e *Engine) watchDefinitions(ctx context.Context) {
	told := map[string]string{}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, dir := range e.o.Workflows {
			look, err := e.applyFolder(ctx, dir, e.folders[dir])
			e.folders[dir] = look
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != told[dir] && text != "" && ctx.Err() == nil {
				e.o.Log.Error("definitions cannot be read", "folder", dir, "error", err)
			}
			told[dir] = text
		}
	}
}
