package parse

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/workflows"
)

// source is the text of one document and where it begins in its file. One
// goroutine at a time uses it.
type source struct {
	file  string
	first int // the line of the file that is line 1 of the document
	text  []byte
	lines []string

	// Where byteColumn last was: it is asked from left to right, and a file may
	// be one long line.
	line0, column0, at0 int
}

func newSource(file string, first int, text []byte) *source {
	return &source{file: file, first: max(first, 1), text: text, lines: strings.Split(string(text), "\n")}
}

// split cuts a file into its documents. A line that begins with "---" or "..."
// ends a document whatever stands around it, so a document with a syntax error
// cannot swallow the next one. Line ends become LF; blank lines around a
// document are not part of it, so that its digest does not depend on them.
func split(file string, content []byte) []*source {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	content = bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))
	var docs []*source
	var lines []string
	first := 1
	flush := func() {
		if src := trimmed(file, first, lines); src != nil {
			docs = append(docs, src)
		}
		lines = nil
	}
	for i, line := range strings.Split(string(content), "\n") {
		marker, rest := isMarker(line)
		if !marker {
			if lines == nil {
				first = i + 1
			}
			lines = append(lines, line)
			continue
		}
		flush()
		if rest != "" && rest[0] != '#' {
			first, lines = i+1, []string{line} // content beside the marker: the parser reads both
		}
	}
	flush()
	return docs
}

func isMarker(line string) (marker bool, rest string) {
	if !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "...") {
		return false, ""
	}
	rest = line[3:]
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return false, ""
	}
	return true, strings.TrimSpace(rest)
}

// trimmed drops blank lines around a document; nil when nothing but comments
// and directives is left.
func trimmed(file string, first int, lines []string) *source {
	for len(lines) > 0 && strings.TrimSpace(lines[0]) == "" {
		first, lines = first+1, lines[1:]
	}
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	for _, line := range lines {
		if t := strings.TrimSpace(line); t != "" && t[0] != '#' && line[0] != '%' {
			return newSource(file, first, []byte(strings.Join(lines, "\n")+"\n"))
		}
	}
	return nil
}

// line gives a line of the document, counted from 1; "" outside of it.
func (s *source) line(n int) string {
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

// byteColumn turns a column counted in characters into one counted in bytes.
func (s *source) byteColumn(line, column int) int {
	text := s.line(line)
	at, from := 0, 1
	if line == s.line0 && column >= s.column0 {
		at, from = s.at0, s.column0
	}
	for range column - from {
		if at >= len(text) {
			break
		}
		_, size := utf8.DecodeRuneInString(text[at:])
		at += size
	}
	s.line0, s.column0, s.at0 = line, column, at
	return at + 1
}

// problem builds a problem at a line and byte column of the document.
func (s *source) problem(line, column int, code, path, message, hint string) workflows.Problem {
	line = min(max(line, 1), max(len(s.lines), 1))
	column = min(max(column, 1), len(s.line(line))+1)
	return workflows.Problem{
		Pos:  workflows.Pos{File: s.file, Line: s.first + line - 1, Column: column},
		Path: path, Code: code, Message: message, Hint: hint, Excerpt: s.excerpt(line, column),
	}
}

// widest is how much of a line an excerpt shows, in bytes.
const widest = 160

// excerpt gives the line, and a line with a caret under the column.
func (s *source) excerpt(line, column int) string {
	text := strings.ToValidUTF8(s.line(line), "�")
	at := min(column-1, len(text))
	if len(text) > widest {
		from := 0
		if at > widest/2 {
			from = at - widest/2
			for from < at && !utf8.RuneStart(text[from]) {
				from++
			}
		}
		to := min(from+widest, len(text))
		for to < len(text) && !utf8.RuneStart(text[to]) {
			to++
		}
		text, at = text[from:to], at-from
	}
	var pad strings.Builder
	for _, r := range text[:at] {
		if r == '\t' {
			pad.WriteByte('\t') // as wide as the line's own
		} else {
			pad.WriteByte(' ')
		}
	}
	return text + "\n" + pad.String() + "^"
}
