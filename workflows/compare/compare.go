// Package compare says what a change of definitions means: which states, rules,
// people and times are other than before, one line a change, and which of them
// make it easier to get a change somewhere. It is pure and compares what stands
// in the definitions, not their text: comments, the order of keys and texts for
// people (titles, descriptions, messages) mean nothing here.
//
// Whether a quorum is weaker is decided exactly, with the people that the Roles
// documents name. What a rule means is not decided: a rule that reads otherwise
// has changed, and a person must look.
package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// Change is one difference in meaning.
type Change struct {
	Kind   string `json:"kind"`            // of the document: "Workflow"
	Name   string `json:"name"`            // of the document; empty for Roles, which count together
	Place  string `json:"place,omitempty"` // in it: a state, a rule, a role
	Text   string `json:"text"`            // "quorum lowered from 2 × lead to 1 × lead"
	Weaker bool   `json:"weaker"`          // it lets through what was held before
}

func (c Change) String() string {
	text := c.Kind
	if c.Name != "" {
		text += " " + c.Name
	}
	if c.Place != "" {
		text += ", " + c.Place
	}
	return text + ": " + c.Text
}

// Catalogs gives the changes from one set of definitions to another, those
// that weaken first. None means that both mean the same.
func Catalogs(before, after *workflows.Catalog) []Change {
	d := &differ{before: before, after: after}
	each(d, workflows.KindWorkflow, before.Workflows, after.Workflows, d.workflow)
	each(d, workflows.KindEnvironment, before.Environments, after.Environments, d.environment)
	each(d, workflows.KindPolicy, before.Policies, after.Policies, d.policy)
	d.roles()
	each(d, workflows.KindChannel, before.Channels, after.Channels, d.channel)
	each(d, workflows.KindTaskKind, before.Kinds, after.Kinds, d.taskKind)
	each(d, workflows.KindScenario, scenarios(before), scenarios(after), func(a, b *workflows.Scenario) {
		if !same(a.Spec, b.Spec) {
			d.add("changed")
		}
	})
	slices.SortStableFunc(d.changes, func(a, b Change) int {
		switch {
		case a.Weaker == b.Weaker:
			return 0
		case a.Weaker:
			return -1
		}
		return 1
	})
	return d.changes
}

func scenarios(c *workflows.Catalog) map[string]*workflows.Scenario {
	m := map[string]*workflows.Scenario{}
	for _, s := range c.Scenarios {
		m[s.Metadata.Name] = s
	}
	return m
}

// differ collects the changes of one comparison. kind, name and place say
// where it is just now.
type differ struct {
	before, after     *workflows.Catalog
	kind, name, place string
	changes           []Change
}

func (d *differ) add(format string, args ...any)    { d.note(false, format, args...) }
func (d *differ) weaker(format string, args ...any) { d.note(true, format, args...) }

func (d *differ) note(weaker bool, format string, args ...any) {
	d.changes = append(d.changes, Change{Kind: d.kind, Name: d.name, Place: d.place, Text: fmt.Sprintf(format, args...), Weaker: weaker})
}

// at calls fn with the place set.
func (d *differ) at(place string, fn func()) {
	old := d.place
	d.place = place
	fn()
	d.place = old
}

// each compares the documents of a kind. When they differ and no words were
// found for it, that is said.
func each[T any](d *differ, kind string, before, after map[string]*T, compare func(a, b *T)) {
	for _, name := range keysOf(before, after) {
		a, b := before[name], after[name]
		d.kind, d.name, d.place = kind, name, ""
		switch {
		case a == nil:
			d.add("added")
		case b == nil:
			d.note(kind == workflows.KindPolicy, "removed")
		default:
			found := len(d.changes)
			compare(a, b)
			if len(d.changes) == found && !same(a, b) {
				d.add("changed in a way that has no words here; compare the files")
			}
		}
	}
}

// keysOf gives the keys of two maps, sorted, each once.
func keysOf[T any](a, b map[string]T) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// unmeant are keys that mean nothing for what happens, or whose meaning is
// compared whole however it is written.
var unmeant = []string{"pos", "origin", "index", "message", "title", "description", "lock", "allow", "quorum",
	"pool", "outputs", "retry", "steps", "waves", "failures",
	"next", "onFail", "onReject", "onExpire", "onTimeout", "onInconclusive", "transitions"}

// usual are values that mean the same as nothing.
var usual = map[string]any{"join": "all", "policy": "queue", "onHold": "wait", "atEnd": "finish", "timezone": "UTC", "stopAfterFailures": 1.0}

// same reports whether two values mean the same, as far as their fields tell.
func same(a, b any) bool {
	p, err := json.Marshal(a)
	q, err2 := json.Marshal(b)
	if err != nil || err2 != nil {
		return false
	}
	if bytes.Equal(p, q) {
		return true
	}
	var x, y any
	if json.Unmarshal(p, &x) != nil || json.Unmarshal(q, &y) != nil {
		return false
	}
	p, _ = json.Marshal(meant(x))
	q, _ = json.Marshal(meant(y))
	return bytes.Equal(p, q)
}

// meant takes out of a decoded value what means nothing.
func meant(v any) any {
	switch x := v.(type) {
	case map[string]any:
		if _, expr := x["source"]; expr && x["pos"] != nil { // an expression: spaces mean nothing
			if s, ok := x["source"].(string); ok {
				x["source"] = strings.Join(strings.Fields(s), " ")
			}
		}
		for _, k := range unmeant {
			delete(x, k)
		}
		for k := range x {
			if x[k] = meant(x[k]); x[k] == usual[k] {
				delete(x, k)
			}
		}
	case []any: // lists are compared element by element before this; their order is no news
		for i := range x {
			x[i] = meant(x[i])
		}
		slices.SortFunc(x, func(a, b any) int {
			p, _ := json.Marshal(a) // what was just decoded always encodes
			q, _ := json.Marshal(b)
			return bytes.Compare(p, q)
		})
	}
	return v
}

// text is a value on one line: "none" for nothing.
func text(v any) string {
	switch x := v.(type) {
	case *workflows.Expr:
		if x == nil {
			return ""
		}
		return cut(x.Source)
	case *workflows.Data:
		if x == nil {
			return ""
		}
		return text(x.Value)
	case workflows.Duration:
		if x == 0 {
			return ""
		}
		return x.String()
	case string:
		return cut(x)
	case nil:
		return ""
	case int:
		if x == 0 {
			return ""
		}
	}
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return cut(string(p))
}

// cut puts a text on one line that is not too long.
func cut(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 160 {
		return string(r[:159]) + "…"
	}
	return s
}

// effect says what removing or changing a value does.
type effect struct{ added, removed, changed bool } // whether that weakens

var (
	plainly = effect{}
	guard   = effect{removed: true} // something that holds or bounds
	opening = effect{added: true}   // something that lets through
)

// field compares a value that may be missing.
func (d *differ) field(what string, a, b any, e effect) {
	x, y := text(a), text(b)
	switch {
	case x == y:
	case x == "":
		d.note(e.added, "%s added: %s", what, y)
	case y == "":
		d.note(e.removed, "%s removed (was %s)", what, x)
	default:
		d.note(e.changed, "%s changed from %s to %s", what, x, y)
	}
}

// span compares a duration or a number, by which way it has moved. 0 is none.
func span[T int | workflows.Duration](d *differ, what string, a, b T, none, raised, lowered bool) {
	x, y := text(a), text(b)
	switch {
	case a == b:
	case a == 0:
		d.add("%s added: %s", what, y)
	case b == 0:
		d.note(none, "%s removed (was %s)", what, x)
	case b > a:
		d.note(raised, "%s raised from %s to %s", what, x, y)
	default:
		d.note(lowered, "%s lowered from %s to %s", what, x, y)
	}
}

// set compares lists whose order means nothing.
func (d *differ) set(a, b []string, added, removed func(string)) {
	for _, v := range a {
		if !slices.Contains(b, v) {
			removed(v)
		}
	}
	for _, v := range b {
		if !slices.Contains(a, v) {
			added(v)
		}
	}
}

// datas compares named values.
func (d *differ) datas(what string, a, b map[string]*workflows.Data) {
	for _, k := range keysOf(a, b) {
		d.field(what+" "+k, a[k], b[k], plainly)
	}
}

func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// matched pairs the elements of two lists by a key: those with the same key
// are compared, the others were added or removed. Of several with one key the
// first ones belong together.
func matched[T any](a, b []T, key func(T) string, both func(x, y T), added, removed func(T)) {
	left := slices.Clone(b)
	for _, x := range a {
		i := slices.IndexFunc(left, func(y T) bool { return key(x) == key(y) })
		if i < 0 {
			removed(x)
			continue
		}
		both(x, left[i])
		left = slices.Delete(left, i, i+1)
	}
	for _, y := range left {
		added(y)
	}
}
