package workflows

import (
	"fmt"
	"regexp"
	"slices"
)

var (
	wordPattern = regexp.MustCompile(`^[a-z][A-Za-z0-9]*$`)
	docPattern  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// keywords cannot be the name of anything in an expression.
var keywords = []string{"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
	"namespace", "null", "package", "return", "true", "var", "void", "while"}

// scopeNames are names that expressions know already.
var scopeNames = []string{"event", "inputs", "run", "env", "outcome", "error", "visits", "attempt", "approvals", "rejections", "artifact",
	"attestations", "value", "samples", "baseline", "elapsed", "state", "labels", "entered", "approved", "now", "semver", "why",
	"bool", "bytes", "double", "dyn", "int", "list", "map", "string", "type", "uint", "duration", "timestamp", "size", "has", "matches",
	"math", "sets", "lists", "strings", "optional", "cel", "base64", "regex"}

// CheckName says what is wrong with the name of a state or a branch; "" when
// nothing is. Such a name stands alone in expressions.
func CheckName(name string) string {
	if slices.Contains(scopeNames, name) {
		return fmt.Sprintf("%s cannot be a name here, because expressions know it already", name)
	}
	return CheckField(name)
}

// CheckField says what is wrong with the name of an input or an output; "" when
// nothing is. Expressions reach such a name after a dot.
func CheckField(name string) string {
	switch {
	case slices.Contains(keywords, name):
		return fmt.Sprintf("%s cannot be a name, because it is a word of the expression language", name)
	case len(name) > 64:
		return "a name has 64 characters at most"
	case !wordPattern.MatchString(name):
		return fmt.Sprintf("%q is not a name: small letter first, then letters and digits", name)
	}
	return ""
}

// RunOutcomes lists the outcomes that a run can have.
func RunOutcomes() []string {
	return []string{"succeeded", "failed", "rejected", "expired", "cancelled", "superseded"}
}

// OutputsOf gives the outputs of an activity with their declared types: those
// it lists itself, or all that its kind has.
func (c *Catalog) OutputsOf(a *Activity) map[string]string {
	if a.Outputs != nil {
		return a.Outputs
	}
	if kind := c.Kinds[a.Task]; kind != nil {
		return kind.Spec.Outputs
	}
	return nil
}

// Doing gives what a task or deploy body runs: a deploy is a task of the kind
// "deploy", whose artifact and strategy stand in the deploy itself.
func (b *Body) Doing() *Activity {
	if b.Deploy == nil {
		return &b.Activity
	}
	a := b.Activity
	a.Task, a.Environment, a.With = "deploy", b.Deploy.Environment, b.Deploy.With
	return &a
}
