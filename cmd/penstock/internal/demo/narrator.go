package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// narrator writes the story. On a terminal the last line shows what goes on
// and for how long; elsewhere a line says so when it takes long. It may be
// used by several goroutines.
type narrator struct {
	out              io.Writer
	terminal, colour bool
	began            time.Time
	stop             chan struct{}
	ended            sync.WaitGroup

	mu    sync.Mutex
	doing string    // what goes on; empty for nothing
	since time.Time // when it began, or was last told
	shown bool      // it stands on the last line
}

const (
	hintColumn = 86              // where the commands begin that show more
	slow       = 5 * time.Second // after which a line tells that something goes on
)

func newNarrator(o Options) *narrator {
	n := &narrator{out: o.Out, terminal: o.Terminal, colour: o.Colour, began: time.Now(), stop: make(chan struct{})}
	n.ended.Go(n.tick)
	return n
}

func (n *narrator) close() {
	close(n.stop)
	n.ended.Wait()
	n.doingNow("")
}

// tick keeps the moving line moving.
func (n *narrator) tick() {
	period := time.Second
	if n.terminal {
		period = 100 * time.Millisecond
	}
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-t.C:
		}
		n.mu.Lock()
		waited := time.Since(n.since)
		switch {
		case n.doing == "":
		case n.terminal:
			fmt.Fprintf(n.out, "\r\x1b[K%s  %s … %.1fs", n.clock(), n.doing, waited.Seconds())
			n.shown = true
		case waited >= slow:
			fmt.Fprintf(n.out, "%s  %s goes on\n", n.clock(), n.doing)
			n.since = time.Now()
		}
		n.mu.Unlock()
	}
}

// doingNow says what goes on from now on; empty text is nothing.
func (n *narrator) doingNow(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear()
	n.doing, n.since = what, time.Now()
}

func (n *narrator) clear() {
	if n.shown {
		fmt.Fprint(n.out, "\r\x1b[K")
		n.shown = false
	}
}

func (n *narrator) clock() string { return fmt.Sprintf("%5.1fs", time.Since(n.began).Seconds()) }

// chapter begins a part of the story.
func (n *narrator) chapter(title string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear()
	fmt.Fprintf(n.out, "\n%s\n", n.paint("1", title))
}

// line says that something happened, and which command shows more.
func (n *narrator) line(what, more string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear()
	what = clean(what)
	text := n.clock() + "  " + what
	if more != "" {
		text += strings.Repeat(" ", max(2, hintColumn-utf8.RuneCountInString(text))) + n.paint("2", "$ "+more)
	}
	fmt.Fprintln(n.out, text)
	n.since = time.Now()
}

// holds says that a claim of the story was checked and holds.
func (n *narrator) holds(what string) { n.line(n.paint("32", "✓")+" "+what, "") }

// text writes a block as it is, each line indented.
func (n *narrator) text(block string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear()
	for line := range strings.Lines(strings.TrimRight(block, "\n")) {
		fmt.Fprintln(n.out, "        "+strings.TrimRight(clean(line), "\n"))
	}
}

// write writes text with nothing before it, such as a question.
func (n *narrator) write(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear()
	fmt.Fprint(n.out, text)
}

func (n *narrator) paint(code, text string) string {
	if !n.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// clean takes out what a terminal would obey instead of show; the colours of
// this program stay.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\x1b' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return -1
	}, s)
}
