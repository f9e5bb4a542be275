package run

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/workflows"
)

// artifactFor is the digest of what this run would deploy to an environment,
// as far as it is known; "" before it is built. In a state that deploys there
// it is what that state deploys, else what the first one in the file does: an
// approval that showed one artifact does not let another one in.
func (x *step) artifactFor(env string) string {
	if st := x.state(); st != nil {
		if artifact, deploys := x.artifactIn(st, env); deploys {
			return artifact
		}
	}
	for _, st := range x.d.Workflow.Ordered() {
		if artifact, deploys := x.artifactIn(st, env); deploys && artifact != "" {
			return artifact
		}
	}
	return ""
}

// artifactIn is what a state deploys to an environment, and whether it does.
func (x *step) artifactIn(st *workflows.State, env string) (artifact string, deploys bool) {
	bodies := []*workflows.Body{&st.Body}
	for _, b := range st.Branches() {
		bodies = append(bodies, &b.Body)
	}
	as := ""
	if e := st.ForEach; e != nil && (e.Environments == nil || slices.Contains(x.d.Now.Selected(e.Environments), env)) {
		bodies, as = append(bodies, st.ForEach.Do), st.ForEach.As
	}
	for _, b := range bodies {
		if b == nil || b.Deploy == nil || b.Deploy.Artifact == nil || workflows.MemberName(b.Deploy.Environment, as, env) != env {
			continue
		}
		extra := map[string]any{"env": x.envScope(env)}
		if as != "" {
			extra[as] = env
		}
		v, err := x.data("artifact", b.Deploy.Artifact, extra)
		if err != nil {
			return "", true
		}
		return strings.TrimSpace(record.Text(v)), true
	}
	return "", false
}

// shortText is a value as a line shows it: digests and long texts are cut.
func shortText(s string) string {
	if alg, hex, ok := strings.Cut(s, ":"); ok && alg == "sha256" && len(hex) > 12 {
		return alg + ":" + hex[:12]
	}
	if r := []rune(s); len(r) > 60 {
		return string(r[:59]) + "…"
	}
	return s
}

// chain is a path of names: "build.digest".
func chain(path string) []string { return strings.Split(path, ".") }

// changeable finds what a rule reads and people see: inputs and outputs.
func (x *step) changeable(name string) (any, bool) {
	if name == "inputs" {
		return map[string]any(x.s.Inputs), true
	}
	v, ok := x.s.Values[name]
	return v, ok
}

// maxBound is how many values an approval keeps to say what changed.
const maxBound = 60

// flatten writes values in short by their paths.
func flatten(into map[string]string, path string, v any) {
	if m, ok := v.(map[string]any); ok && len(m) > 0 {
		for _, name := range sortedKeys(m) {
			flatten(into, strings.TrimPrefix(path+"."+name, "."), m[name])
		}
		return
	}
	if path != "" && len(into) < maxBound {
		into[path] = shortText(record.Text(v))
	}
}

// changes tells in words what differs between two sets of values.
func changes(before, after map[string]string) []string {
	var out []string
	all := map[string]bool{}
	for path := range before {
		all[path] = true
	}
	for path := range after {
		all[path] = true
	}
	for _, path := range sortedKeys(all) {
		was, had := before[path]
		is, has := after[path]
		switch {
		case !had:
			out = append(out, fmt.Sprintf("%s is %s and was not there", path, is))
		case !has:
			out = append(out, fmt.Sprintf("%s was %s and is not there any more", path, was))
		case was != is:
			out = append(out, fmt.Sprintf("%s was %s and is %s", path, was, is))
		}
	}
	if len(out) == 0 {
		out = []string{"a value that it is bound to has changed"}
	}
	return out
}

func digestOf(v record.Values) string {
	p, _ := json.Marshal(v) // plain values always encode
	sum := sha256.Sum256(p)
	return "sha256:" + hex.EncodeToString(sum[:])
}
