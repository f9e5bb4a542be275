package scenario

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/workflows"
)

// expect compares the end of a world with what was expected.
func (w *world) expect(r *Result) {
	if w.main().run() == nil {
		return // why not is told already
	}
	x := w.spec.Expect
	add := func(path, text string, want, got []string) {
		r.Failures = append(r.Failures, Failure{Pos: w.doc.Origin.Place("spec.expect." + path), Text: text, Want: want, Got: got})
	}
	if x.NotStarted {
		add("notStarted", "the run is started", nil, nil)
	}
	if x.Path != nil && !slices.Equal(x.Path, r.Path) {
		add("path", "the run took another path", x.Path, r.Path)
	}
	if x.Outcome != "" && x.Outcome != r.Outcome {
		add("outcome", "the outcome is another one", []string{x.Outcome}, []string{outcomeText(r)})
	}
	if x.Waits != "" && (r.Outcome != "" || x.Waits != r.At) {
		add("waits", "the run does not wait there", []string{"waits in " + x.Waits}, []string{outcomeText(r)})
	}
	if x.Ends > 0 && (r.Outcome == "" || !sameTime(x.Ends.D(), r.Took)) {
		got := workflows.ShortDuration(r.Took)
		if r.Outcome == "" {
			got = "it has not ended"
		}
		add("ends", "the run ends at another time", []string{workflows.ShortDuration(x.Ends.D())}, []string{got})
	}
	for _, name := range sortedKeys(x.Outputs) {
		if want, got := x.Outputs[name], r.Outputs[name]; !holds(want, got) {
			add("outputs."+name, "the output "+name+" is another one", []string{valueText(want)}, []string{valueText(got)})
		}
	}
	for i, n := range x.Notified {
		if got := r.Notified[n.Channel]; got != n.Times {
			add(fmt.Sprintf("notified[%d]", i), "channel "+n.Channel+" was told more or less often", []string{fmt.Sprint(n.Times)}, []string{fmt.Sprint(got)})
		}
	}
	if x.Effects != nil {
		w.expectEffects(r, x.Effects, add)
	}
}

func outcomeText(r *Result) string {
	if r.Outcome == "" {
		return "it has not ended and waits in " + r.At
	}
	return r.Outcome
}

// expectEffects compares what workers began.
func (w *world) expectEffects(r *Result, want []*workflows.EffectExpected, add func(path, text string, want, got []string)) {
	same := len(want) == len(r.Effects)
	var wanted, got []string
	for i, e := range want {
		line := effectText(e.Task, e.Kind, e.At.D(), e.With)
		if i < len(r.Effects) && effectHolds(e, r.Effects[i]) {
			got = append(got, line) // what is not asked for does not differ
		} else {
			same = false
			if i < len(r.Effects) {
				got = append(got, effectAs(e, r.Effects[i]))
			}
		}
		wanted = append(wanted, line)
	}
	for _, e := range r.Effects[min(len(want), len(r.Effects)):] {
		got = append(got, effectText(e.Task, e.Kind, e.At, nil))
	}
	if !same {
		add("effects", "workers began something else", wanted, got)
	}
}

func effectHolds(want *workflows.EffectExpected, got Effect) bool {
	return want.Task == got.Task && (want.Kind == "" || want.Kind == got.Kind) && (want.At == 0 || sameTime(want.At.D(), got.At)) && holds(want.With, got.With)
}

// effectAs shows of an effect what was asked for.
func effectAs(want *workflows.EffectExpected, got Effect) string {
	kind, at, with := "", time.Duration(0), map[string]any{}
	if want.Kind != "" {
		kind = got.Kind
	}
	if want.At > 0 {
		at = got.At
	}
	for name := range want.With {
		if v, ok := got.With[name]; ok {
			with[name] = v
		}
	}
	return effectText(got.Task, kind, at, with)
}

func effectText(task, kind string, at time.Duration, with map[string]any) string {
	s := task
	if kind != "" {
		s += " (" + kind + ")"
	}
	if at > 0 {
		s += " at " + workflows.ShortDuration(at)
	}
	for _, name := range sortedKeys(with) {
		s += fmt.Sprintf(" %s=%s", name, valueText(with[name]))
	}
	return s
}

// sameTime compares to the second, unless want is more exact.
func sameTime(want, got time.Duration) bool {
	if want%time.Second == 0 {
		got = got.Round(time.Second)
	}
	return want == got
}

// holds reports whether got is want, and perhaps more where want is a map.
func holds(want, got any) bool {
	want, got = plain(want), plain(got)
	w, isMap := want.(map[string]any)
	if !isMap {
		return reflect.DeepEqual(want, got)
	}
	g, isMap := got.(map[string]any)
	if !isMap && (len(w) > 0 || got != nil) {
		return false
	}
	for k, v := range w {
		if x, there := g[k]; !there || !holds(v, x) {
			return false
		}
	}
	return true
}

// plain gives whole numbers one type.
func plain(v any) any {
	if values, ok := v.(record.Values); ok {
		v = map[string]any(values)
	}
	return workflows.Normal(v)
}

func valueText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	p, err := json.Marshal(v)
	if err != nil || v == nil {
		return "nothing"
	}
	return strings.TrimSpace(string(p))
}

// join is "a: b", or the one that is there.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ": " + b
}
