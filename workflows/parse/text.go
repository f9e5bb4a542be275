package parse

import (
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// Text writes problems for a terminal: file:line:column, what is wrong, the
// line with a caret under the place, and what to do.
func Text(problems []workflows.Problem) string {
	var b strings.Builder
	for i, p := range problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Pos.String() + ": ")
		if p.Warning {
			b.WriteString("warning: ")
		}
		b.WriteString(p.Message + "\n")
		for line := range strings.Lines(p.Excerpt) {
			b.WriteString("  | " + strings.TrimRight(line, "\n") + "\n")
		}
		if p.Hint != "" {
			b.WriteString("  = " + p.Hint + "\n")
		}
	}
	return b.String()
}

// Failed reports whether any of the problems is more than a warning.
func Failed(problems []workflows.Problem) bool {
	for _, p := range problems {
		if !p.Warning {
			return true
		}
	}
	return false
}
