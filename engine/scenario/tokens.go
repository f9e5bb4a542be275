package scenario

import (
	"slices"
	"strings"
)

// token is a word of an expression.
type token struct {
	kind byte // 'n' number, 's' text, 'i' name, 'o' operator
	text string
	at   int // byte of the source
}

// operators of more than one character, longer ones first.
var operators = []string{"&&", "||", "<=", ">=", "==", "!=", ".?", "[?", "{?"}

// tokens splits an expression that is known to compile.
func tokens(source string) []token {
	var out []token
	for i := 0; i < len(source); {
		c := source[i]
		switch {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			i++
			continue
		case strings.HasPrefix(source[i:], "//"):
			for i < len(source) && source[i] != '\n' {
				i++
			}
			continue
		}
		kind, n := wordAt(source[i:])
		out = append(out, token{kind, source[i : i+n], i})
		i += n
	}
	return out
}

// wordAt gives the sort and the length of the first word of a text.
func wordAt(s string) (byte, int) {
	if n := textLength(s); n > 0 {
		return 's', n
	}
	c := s[0]
	switch {
	case c >= '0' && c <= '9':
		n := 1
		for n < len(s) && (isWord(s[n]) || s[n] == '.' && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '9' ||
			(s[n] == '-' || s[n] == '+') && (s[n-1] == 'e' || s[n-1] == 'E')) {
			n++
		}
		return 'n', n
	case isWord(c):
		n := 1
		for n < len(s) && isWord(s[n]) {
			n++
		}
		return 'i', n
	}
	for _, o := range operators {
		if strings.HasPrefix(s, o) {
			return 'o', len(o)
		}
	}
	return 'o', 1
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

// textLength is the length of the text literal that s begins with, 0 for none.
func textLength(s string) int {
	prefix := 0
	for prefix < len(s) && prefix < 2 && strings.IndexByte("rRbB", s[prefix]) >= 0 {
		prefix++
	}
	if prefix >= len(s) || s[prefix] != '"' && s[prefix] != '\'' {
		return 0
	}
	raw := strings.ContainsAny(s[:prefix], "rR")
	quote := s[prefix : prefix+1]
	if three := strings.Repeat(quote, 3); strings.HasPrefix(s[prefix:], three) {
		quote = three
	}
	for i := prefix + len(quote); i < len(s); i++ {
		if s[i] == '\\' && !raw {
			i++
		} else if strings.HasPrefix(s[i:], quote) {
			return i + len(quote)
		}
	}
	return len(s)
}

// depth is how much deeper it is behind a token.
func (t token) depth() int {
	if t.kind != 'o' {
		return 0
	}
	switch t.text {
	case "(", "[", "{", "[?", "{?":
		return 1
	case ")", "]", "}":
		return -1
	}
	return 0
}

func (t token) is(text string) bool { return t.kind == 'o' && t.text == text }

// expression is a source, or a part of it.
type expression struct {
	source string
	words  []token
}

func readExpression(source string) expression { return expression{source, tokens(source)} }

// text is the part as it stands in the source.
func (e expression) text() string {
	if len(e.words) == 0 {
		return ""
	}
	last := e.words[len(e.words)-1]
	return e.source[e.words[0].at : last.at+len(last.text)]
}

func (e expression) part(from, to int) expression { return expression{e.source, e.words[from:to]} }

// split splits at an operator that stands outside all brackets.
func (e expression) split(operator string) []expression {
	var parts []expression
	level, from := 0, 0
	for i, t := range e.words {
		if level == 0 && t.is(operator) {
			parts = append(parts, e.part(from, i))
			from = i + 1
		}
		level += t.depth()
	}
	return append(parts, e.part(from, len(e.words)))
}

// bare is the expression without the brackets around all of it.
func (e expression) bare() expression {
	for len(e.words) >= 2 && e.words[0].is("(") && e.closing(0) == len(e.words)-1 {
		e = e.part(1, len(e.words)-1)
	}
	return e
}

// closing is the index of the word that closes the bracket at i.
func (e expression) closing(i int) int {
	level := 0
	for j := i; j < len(e.words); j++ {
		if level += e.words[j].depth(); level == 0 {
			return j
		}
	}
	return len(e.words)
}

// choice splits condition ? one : other; false when it is none.
func (e expression) choice() (condition, one, other expression, ok bool) {
	level, open, mark := 0, 0, -1
	for i, t := range e.words {
		if level == 0 {
			switch {
			case t.is("?"):
				if open++; mark < 0 {
					mark = i
				}
			case t.is(":") && open > 0:
				if open--; open == 0 {
					return e.part(0, mark), e.part(mark+1, i), e.part(i+1, len(e.words)), true
				}
			}
		}
		level += t.depth()
	}
	return e, e, e, false
}

// quantifiers look at the elements of a list one by one.
var quantifiers = []string{"all", "exists", "exists_one", "existsOne", "filter"}

// quantifier is list.exists(element, body).
type quantifier struct {
	list, names, body expression
}

// quantified finds the quantifiers in an expression, not those within one.
func (e expression) quantified() []quantifier {
	var out []quantifier
	for i := 1; i+2 < len(e.words); i++ {
		if !e.words[i].is(".") || e.words[i+1].kind != 'i' || !slices.Contains(quantifiers, e.words[i+1].text) || !e.words[i+2].is("(") {
			continue
		}
		end := e.closing(i + 2)
		if end >= len(e.words) {
			continue
		}
		parts := e.part(i+3, end).split(",")
		if len(parts) < 2 {
			continue
		}
		body := parts[len(parts)-1]
		names := e.part(i+3, end-len(body.words)-1)
		out = append(out, quantifier{e.part(e.operand(i), i), names, body})
		i = end
	}
	return out
}

// operand is the index at which the operand begins that ends before i.
func (e expression) operand(i int) int {
	for i > 0 {
		t := e.words[i-1]
		switch {
		case t.depth() < 0:
			level := 0
			for i--; i >= 0; i-- {
				if level += e.words[i].depth(); level == 0 {
					break
				}
			}
			i = max(i, 0)
		case t.kind == 'i', t.kind == 's', t.is("."), t.is(".?"):
			i--
		default:
			return i
		}
		if i > 0 && e.words[i-1].kind != 'o' && e.words[i].kind == 'i' {
			return i // two names side by side: in, for one
		}
	}
	return i
}
