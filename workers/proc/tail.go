package proc

import (
	"bytes"
	"strings"
	"sync"
)

// tailSize bounds what a Tail keeps, in bytes.
const tailSize = 4 << 10

// Tail is a writer that keeps the end of what was written, for an error
// message. The zero value is ready; it is safe for concurrent use.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailSize):]...)
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[extra:])]
	}
	return len(p), nil
}

// Lines are the last n lines that are not blank, joined by line breaks.
func (t *Tail) Lines(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for l := range bytes.Lines(t.buf) {
		if l = bytes.TrimRight(l, " \t\r\n"); len(l) > 0 {
			lines = append(lines, strings.ToValidUTF8(string(l), "?"))
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
