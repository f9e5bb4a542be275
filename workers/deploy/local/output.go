package local

import (
	"io"
	"os"
	"sync"
)

// outputCap is how many bytes of an instance's output are kept at most,
// twice: the current file and the one before it (".1").
const outputCap = 1 << 20

// output is the log file of one instance. When it is full it becomes the
// file before, and a new one begins.
type output struct {
	mu   sync.Mutex
	path string
	f    *os.File
	size int64
}

func openOutput(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &output{path: path, f: f}, nil
}

// Write never fails: a full disk must not stop what prints.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size+int64(len(p)) > outputCap && o.size > 0 {
		os.Rename(o.path, o.path+".1")
		if f, err := os.OpenFile(o.path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600); err == nil {
			o.f.Close()
			o.f, o.size = f, 0
		}
	}
	if o.size < 2*outputCap {
		n, _ := o.f.Write(p)
		o.size += int64(n)
	}
	return len(p), nil
}

func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.f.Close()
}

// tail is the end of the file at path, at most max bytes, from the beginning of a line.
func tail(path string, max int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	cut := false
	if info, err := f.Stat(); err == nil && info.Size() > max {
		cut = true
		f.Seek(-max, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	if cut {
		for i, c := range text {
			if c == '\n' {
				text = text[i+1:]
				break
			}
		}
	}
	return string(text)
}
