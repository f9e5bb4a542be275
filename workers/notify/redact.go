package notify

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// redactor takes every part of a URL out of a text.
type redactor struct{ pattern *regexp.Regexp }

// word is a run that a library may take out of a URL, to put it together in
// another way: services split tokens at nearly every other character.
var word = regexp.MustCompile(`[\pL\pN]{3,}`)

const redacted = "[redacted]"

// newRedactor knows the parts of rawURL, as they are written and decoded.
// The names of its parameters stay readable, their values do not.
func newRedactor(rawURL string) *redactor {
	_, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		rest = rawURL
	}
	beforeQuery, query, _ := strings.Cut(rest, "?")
	pieces := []string{beforeQuery}
	for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' || r == '#' }) {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || strings.ContainsAny(name, "@$") || strings.HasPrefix(name, "%") {
			pieces = append(pieces, name)
		}
		pieces = append(pieces, value)
	}
	r := &redactor{}
	var parts []string
	for _, p := range pieces {
		parts = append(parts, partsOf(p)...)
		if d, err := url.PathUnescape(p); err == nil {
			parts = append(parts, partsOf(d)...)
		}
		if d, err := url.QueryUnescape(p); err == nil {
			parts = append(parts, partsOf(d)...)
		}
	}
	// Longest first, so that no rest of a longer one stays.
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	if len(parts) > 0 {
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		r.pattern = regexp.MustCompile("(?i)" + strings.Join(parts, "|"))
	}
	return r
}

// partsOf are piece and the words in it.
func partsOf(piece string) (parts []string) {
	piece = strings.ToValidUTF8(piece, "")
	if len(piece) >= 3 {
		parts = append(parts, piece)
	}
	return append(parts, word.FindAllString(piece, -1)...)
}

// clean is text without the parts, on one line and not too long.
func (r *redactor) clean(text string) string {
	text = strings.Join(strings.Fields(printable(text)), " ")
	if r.pattern != nil {
		text = r.pattern.ReplaceAllString(text, redacted)
	}
	for strings.Contains(text, redacted+redacted) {
		text = strings.ReplaceAll(text, redacted+redacted, redacted)
	}
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}
