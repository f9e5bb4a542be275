package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/scale"
)

const (
	manyFiles = 1000
	checks    = 3
)

// benchFiles measures penstock check and penstock test, beside a reading of
// the same files that hashes them.
func benchFiles(ctx context.Context, o BenchOptions, dir string) (results []BenchResult, err error) {
	for _, c := range []struct {
		command, what string
		write         func(dir string, n int) error
	}{{"check", fmt.Sprintf("check of %d workflow files", manyFiles), scale.Workflows},
		{"test", fmt.Sprintf("%d scenario tests", manyFiles), scale.Scenarios}} {
		files := filepath.Join(dir, c.command)
		if err := os.Mkdir(files, 0o700); err != nil {
			return nil, err
		}
		if err := c.write(files, manyFiles); err != nil {
			return nil, err
		}
		floor, err := medianOf(checks, func() (time.Duration, error) { return scale.Digest(files) })
		if err != nil {
			return nil, err
		}
		took, err := medianOf(checks, func() (time.Duration, error) {
			o.Progress("B8: " + c.what)
			began := time.Now()
			if out, err := o.Process(ctx, c.command, files).CombinedOutput(); err != nil {
				return 0, fmt.Errorf("penstock %s: %w: %.2000s", c.command, err, out)
			}
			return time.Since(began), nil
		})
		if err != nil {
			return nil, err
		}
		results = append(results, atMost("B8", c.what, "s", took, 2, "2 s").beside(floor, "reading and hashing the files"))
	}
	return results, nil
}
