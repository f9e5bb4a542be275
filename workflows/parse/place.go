package parse

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// locate gives the line and byte column, in the document, of the byte at
// offset of a scalar's value. Where quoting or folding hides it, it gives the
// beginning of the scalar.
func (s *source) locate(n *yaml.Node, offset int) (line, column int) {
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return s.locateBlock(n, offset)
	}
	w := walk{src: s, node: n, line: n.Line, at: s.byteColumn(n.Line, n.Column) - 1}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		w.at++
	}
	start := w
	for w.offset < offset {
		if !w.step() {
			return start.line, start.at + 1
		}
	}
	return w.line, w.at + 1
}

// locateBlock searches the lines of a block scalar in its value, in order.
func (s *source) locateBlock(n *yaml.Node, offset int) (line, column int) {
	cursor := 0
	line, column = n.Line, s.byteColumn(n.Line, n.Column)
	for i := n.Line + 1; i <= len(s.lines); i++ {
		text := strings.TrimSpace(s.line(i))
		if text == "" {
			continue
		}
		at := strings.Index(n.Value[min(cursor, len(n.Value)):], text)
		if at < 0 {
			break
		}
		begin := cursor + at
		if offset < begin && cursor > 0 {
			break
		}
		line, column = i, strings.Index(s.line(i), text)+1
		if offset <= begin+len(text) {
			return line, column + max(offset-begin, 0)
		}
		cursor = begin + len(text)
	}
	return line, column
}

// walk goes through the raw text of a flow scalar and its value side by side.
type walk struct {
	src    *source
	node   *yaml.Node
	line   int // of the document, from 1
	at     int // byte in the line
	offset int // byte in the value
}

// step passes one character of the value; false when text and value part ways.
func (w *walk) step() bool {
	value := w.node.Value
	if w.offset >= len(value) {
		return false
	}
	raw := w.src.line(w.line)
	if w.at >= len(raw) || strings.TrimSpace(raw[w.at:]) == "" && value[w.offset] != raw[w.at] {
		return w.fold()
	}
	if w.node.Style&yaml.DoubleQuotedStyle != 0 && raw[w.at:] == "\\" {
		return w.nextLine() // an escaped break: the value has nothing of it
	}
	r, size := utf8.DecodeRuneInString(raw[w.at:])
	v, vsize := utf8.DecodeRuneInString(value[w.offset:])
	switch {
	case w.node.Style&yaml.DoubleQuotedStyle != 0 && r == '\\':
		length := escapeLength(raw[w.at:])
		w.at, w.offset = w.at+length, w.offset+vsize
	case w.node.Style&yaml.SingleQuotedStyle != 0 && strings.HasPrefix(raw[w.at:], "''") && v == '\'':
		w.at, w.offset = w.at+2, w.offset+1
	case r == v:
		w.at, w.offset = w.at+size, w.offset+vsize
	default:
		return false
	}
	return true
}

// fold passes a line break, which the value holds as a space or as newlines.
func (w *walk) fold() bool {
	value := w.node.Value
	if c := value[w.offset]; c != ' ' && c != '\n' {
		return false
	}
	if value[w.offset] == ' ' {
		w.offset++
	}
	for w.offset < len(value) && value[w.offset] == '\n' {
		w.offset++
	}
	return w.nextLine()
}

// nextLine goes to the beginning of the next line that is not blank.
func (w *walk) nextLine() bool {
	for w.line++; w.line <= len(w.src.lines); w.line++ {
		if text := w.src.line(w.line); strings.TrimSpace(text) != "" {
			w.at = len(text) - len(strings.TrimLeft(text, " \t"))
			return true
		}
	}
	return false
}

func escapeLength(raw string) int {
	length := 2
	if len(raw) > 1 {
		switch raw[1] {
		case 'x':
			length = 4
		case 'u':
			length = 6
		case 'U':
			length = 10
		}
	}
	return min(length, len(raw))
}
