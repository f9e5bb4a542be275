package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/events"
	"golang.org/x/term"
)

func isTerminal(fd int) bool { return term.IsTerminal(fd) }

// printJSON writes v to stdout as indented JSON.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printLine writes v to stdout as one line of JSON.
func (a *app) printLine(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// colours reports whether text on w may carry colour.
func colours(w io.Writer) bool { return terminal(w) && wantsColour() }

// wantsColour reports whether a terminal's user wants colour.
func wantsColour() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }

// paint colours an outcome or a status for w.
func paint(w io.Writer, word, text string) string {
	if !colours(w) {
		return text
	}
	code := ""
	switch word {
	case events.Succeeded, "approved", "created", "ok":
		code = "32"
	case events.Failed, events.TimedOut, events.Inconclusive, events.Rejected, events.Expired, "refused", "problem":
		code = "31"
	case "waiting", "held", "backoff", "changed", "warning":
		code = "33"
	case "running", "queued":
		code = "36"
	default:
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// table lines up columns as kubectl does: upper-case heads, two spaces
// between, nothing after the last.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = oneLine(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// print writes the table, each line after indent. A cell that is an outcome
// or a status gets its colour on a terminal.
func (t *table) print(w io.Writer, indent string) {
	widths := make([]int, len(t.head))
	for _, row := range slices.Concat([][]string{t.head}, t.rows) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range slices.Concat([][]string{t.head}, t.rows) {
		var b strings.Builder
		for i, cell := range row {
			text := cell
			if i < len(row)-1 {
				text += strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
			if n > 0 {
				text = paint(w, cell, text)
			}
			b.WriteString(text)
		}
		fmt.Fprintln(w, strings.TrimRight(indent+b.String(), " "))
	}
}

// fields prints "name: value" lines with the values lined up; empty values
// are left out.
func fields(w io.Writer, indent string, pairs ...string) {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, len(pairs[i]))
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s%-*s %s\n", indent, width+1, pairs[i]+":", oneLine(pairs[i+1]))
		}
	}
}

// clean takes out of text that others wrote what a terminal would obey
// instead of show: control characters other than line feed and tab, and
// characters that turn the direction of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}

// oneLine is clean with line ends shown as spaces.
func oneLine(s string) string {
	return strings.TrimSpace(strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(clean(s)))
}

func isObject(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

// stamp is how a moment is written everywhere: UTC, to the second.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// short is a duration to two figures that matter: "3m12s", "5h2m", "12d".
func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Truncate(100*time.Millisecond).Seconds()), ".0") + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return trimZero(fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60), "0s")
	case d < 48*time.Hour:
		return trimZero(fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60), "0m")
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// trimZero drops a smaller unit that is exactly zero: "5m0s" is "5m".
func trimZero(s, zero string) string {
	head, ok := strings.CutSuffix(s, zero)
	if ok && head != "" && (head[len(head)-1] < '0' || head[len(head)-1] > '9') {
		return head
	}
	return s
}

// digest shortens "sha256:<64 hex>" to what people compare.
func digest(s string) string {
	if alg, hex, ok := strings.Cut(s, ":"); ok && len(hex) > 12 {
		return alg + ":" + hex[:12]
	}
	return s
}

// value is brief with digests shortened.
func value(v any) string {
	if s, ok := v.(string); ok && strings.HasPrefix(s, "sha256:") {
		v = digest(s)
	}
	return brief(v)
}

// brief is a value on one line; of a list of objects only the length is said.
func brief(v any) string {
	if items, ok := v.([]any); ok && slices.ContainsFunc(items, isObject) {
		return "(" + count(len(items), "item") + ")"
	}
	return whole(v)
}

// whole is a value on one line with nothing left out.
func whole(v any) string {
	switch x := v.(type) {
	case string:
		return oneLine(x)
	case nil:
		return "null"
	}
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return oneLine(string(p))
}

// values is "a=1 b.c=2", as pairs gives them, each value cut at a width that
// fits a line. Empty texts are left out.
func values(m map[string]any) string {
	var parts []string
	named := pairs("", m, value)
	for i := 0; i < len(named); i += 2 {
		v := named[i+1]
		if v == "" {
			continue
		}
		if n := []rune(v); len(n) > 48 {
			v = string(n[:47]) + "…"
		}
		parts = append(parts, named[i]+"="+v)
	}
	return strings.Join(parts, " ")
}

// pairs is m as names and values in turn, by name; one names a single value.
// What an object holds stands under its path ("scan.critical"), as rules name it.
func pairs(prefix string, m map[string]any, one func(any) string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		name, v := prefix+k, m[k]
		if object, ok := v.(map[string]any); ok && len(object) > 0 {
			out = append(out, pairs(name+".", object, one)...)
			continue
		}
		out = append(out, name, one(v))
	}
	return out
}
