package scenario

import (
	"regexp/syntax"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// plainInputs gives the inputs that a workflow must have.
func plainInputs(wf *workflows.Workflow) map[string]any {
	out := map[string]any{}
	for name, in := range wf.Spec.Inputs {
		switch {
		case in.Default != nil:
		case len(in.Enum) > 0:
			out[name] = in.Enum[0]
		case in.Pattern != "":
			out[name] = fitting(in.Pattern)
		default:
			out[name] = plausible("inputs", name, workflows.Type(in.Type), nil)
		}
	}
	return out
}

// fitting gives a text that a pattern matches, as short as can be.
func fitting(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	var b strings.Builder
	sample(&b, re.Simplify(), 0)
	return b.String()
}

const maxSample = 2_000 // bytes

func sample(b *strings.Builder, re *syntax.Regexp, depth int) {
	if depth > 100 || b.Len() > maxSample {
		return
	}
	switch re.Op {
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		if len(re.Rune) > 0 {
			b.WriteRune(re.Rune[0])
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte('a')
	case syntax.OpPlus, syntax.OpCapture:
		sample(b, re.Sub[0], depth+1)
	case syntax.OpAlternate:
		sample(b, re.Sub[0], depth+1)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			sample(b, sub, depth+1)
		}
	case syntax.OpRepeat:
		for range re.Min {
			sample(b, re.Sub[0], depth+1)
		}
	}
}
