package sources

import (
	"context"
	"time"

	"github.com/penstock-cd/penstock/workflows/parse"
)

const (
	// folderEvery is how often folders are looked at. What has changed counts
	// when two looks find the same, so that a file is not read half-written.
	folderEvery = 500 * time.Millisecond
	// removeAfter is how long a folder must have been the same before what is
	// missing is removed: files may be copied into it one by one, and a program
	// that writes one anew may empty it first.
	removeAfter = 3 * time.Second
)

// folder is a folder of definitions, or one file.
type folder struct {
	path    string
	seen    string // what the last look found
	since   time.Time
	given   string // what was given last
	removed bool   // and whether as all there is
}

func (f *folder) every() time.Duration { return folderEvery }

func (f *folder) near() bool { return true }

func (f *folder) look(_ context.Context, first bool) (*held, error) {
	files, err := parse.Dir(f.path)
	if err != nil {
		f.seen = ""
		return nil, err
	}
	parts := make([]string, 0, 2*len(files))
	for _, file := range files {
		parts = append(parts, file.Name, string(file.Content))
	}
	print := digestOf(parts)
	if print != f.seen {
		f.seen, f.since = print, time.Now()
		if !first {
			return nil, nil
		}
	}
	whole := time.Since(f.since) >= removeAfter
	if print == f.given && (f.removed || !whole) {
		return nil, nil
	}
	f.given, f.removed = print, whole
	return &held{files: files, whole: whole}, nil
}
