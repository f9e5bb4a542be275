package scan

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// severity orders findings; its names are those of the outputs.
type severity int

const (
	low severity = iota + 1
	medium
	high
	critical
)

var severityNames = map[severity]string{low: "low", medium: "medium", high: "high", critical: "critical"}

func (s severity) String() string { return severityNames[s] }

// severityOf reads the words that tools and databases use; 0 for none of them.
func severityOf(word string) severity {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "critical":
		return critical
	case "high", "important":
		return high
	case "medium", "moderate":
		return medium
	case "low", "negligible", "minor":
		return low
	}
	return 0
}

// severityOfScore is the rating of a CVSS score; 0 for a score of 0, which
// tools also write when they know none.
func severityOfScore(score float64) severity {
	switch {
	case score >= 9:
		return critical
	case score >= 7:
		return high
	case score >= 4:
		return medium
	case score > 0:
		return low
	}
	return 0
}

// finding is one thing that a tool found.
type finding struct {
	Tool     string // name of the adapter
	Rule     string // "CVE-2024-1", "private-key"
	Severity severity
	Title    string // one line
	Location string // "path:line", or the artifact
	Package  string // module or package, with Version and, when known, the one that Fixed it
	Version  string
	Fixed    string
	URL      string // where to read more
	// Fingerprint is the same for the same finding in another scan, even if
	// its line has moved.
	Fingerprint string
	own         []string // what the tool itself says makes it unique
}

// settle makes fs what is reported: sorted by severity, then by what they
// are, without repeats, each with its fingerprint.
func settle(fs []finding) []finding {
	slices.SortStableFunc(fs, compare)
	fs = slices.CompactFunc(fs, func(a, b finding) bool { return compare(a, b) == 0 })
	seen := map[string]int{}
	for i := range fs {
		f := &fs[i]
		path, _, _ := strings.Cut(f.Location, ":")
		key := strings.Join(append([]string{f.Tool, f.Rule, path, f.Package, f.Version}, f.own...), "\x00")
		seen[key]++
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", key, seen[key]))
		f.Fingerprint = fmt.Sprintf("%x", sum[:12])
	}
	return fs
}

func compare(a, b finding) int {
	return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version), compareLocation(a.Location, b.Location),
		cmp.Compare(a.Title, b.Title), cmp.Compare(a.Fixed, b.Fixed), slices.Compare(a.own, b.own))
}

// compareLocation puts line 9 before line 10.
func compareLocation(a, b string) int {
	ap, al, _ := strings.Cut(a, ":")
	bp, bl, _ := strings.Cut(b, ":")
	return cmp.Or(cmp.Compare(ap, bp), cmp.Compare(len(al), len(bl)), cmp.Compare(al, bl))
}

// maxListed bounds the findings in the outputs; the report holds all.
const maxListed = 200

// outputs are the counts and the list of the result.
func outputs(fs []finding) map[string]any {
	counts := map[severity]int{}
	list := []any{}
	for _, f := range fs {
		counts[f.Severity]++
		if len(list) < maxListed {
			list = append(list, map[string]any{"tool": f.Tool, "rule": f.Rule, "severity": f.Severity.String(), "title": f.Title,
				"location": f.Location, "package": f.Package, "version": f.Version, "fixed": f.Fixed, "fingerprint": f.Fingerprint})
		}
	}
	return map[string]any{"critical": counts[critical], "high": counts[high], "medium": counts[medium], "low": counts[low],
		"total": len(fs), "findings": list}
}

// line is text on one line, without control characters, of bounded length.
func line(text string) string {
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}
