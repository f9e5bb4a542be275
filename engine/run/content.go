package run

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/workflows"
)

// artifactsFor are the digests of what this run would deploy to an
// environment, sorted; one that is not known is "", and before anything is
// known there is none. In a state that deploys there it is what that state
// deploys, else what the first one in the file does: an approval that showed
// one artifact does not let another one in.
func (x *step) artifactsFor(env string) []string {
	if st := x.state(); st != nil {
		if artifacts := x.artifactsIn(st, env); len(artifacts) > 0 {
			return artifacts
		}
	}
	for _, st := range x.d.Workflow.Ordered() {
		if artifacts := x.artifactsIn(st, env); len(artifacts) > 0 && artifacts[0] != "" {
			return artifacts
		}
	}
	return nil
}

// artifactsIn is what a state deploys to an environment, by all its branches
// or members.
func (x *step) artifactsIn(st *workflows.State, env string) []string {
	var artifacts []string
	see := func(b *workflows.Body, as, member string) {
		if b == nil || b.Deploy == nil || b.Deploy.Artifact == nil || workflows.MemberName(b.Deploy.Environment, as, member) != env {
			return
		}
		extra := map[string]any{"env": x.envScope(env)}
		if as != "" {
			extra[as] = member
		}
		text := ""
		if v, err := x.data("artifact", b.Deploy.Artifact, extra); err == nil {
			text = strings.TrimSpace(record.Text(v))
		}
		artifacts = append(artifacts, text)
	}
	see(&st.Body, "", "")
	for _, b := range st.Branches() {
		see(&b.Body, "", "")
	}
	if f := st.ForEach; f != nil && f.Do != nil && f.Do.Deploy != nil {
		for _, member := range x.membersOf(st) {
			see(f.Do, f.As, member)
		}
	}
	slices.Sort(artifacts)
	return slices.Compact(artifacts)
}

// membersOf are the members of a forEach state, as far as they are known.
func (x *step) membersOf(st *workflows.State) []string {
	f := st.ForEach
	if x.s.Each != nil && x.s.At == st.Name {
		return x.s.Each.Members
	}
	if f.In == nil {
		return x.d.Now.Selected(f.Environments)
	}
	defer func(mute bool) { x.mute = mute }(x.mute)
	x.mute = true
	members, err := x.members(f.In)
	if err != nil {
		return nil
	}
	return members
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

// artifactsText is what goes to an environment as a line shows it.
func artifactsText(artifacts []string) string {
	if len(artifacts) == 0 {
		return "nothing yet"
	}
	var short []string
	for _, a := range artifacts[:min(len(artifacts), maxShown)] {
		short = append(short, cmp.Or(shortText(a), "something that is not known yet"))
	}
	if more := len(artifacts) - maxShown; more > 0 {
		short = append(short, fmt.Sprintf("%d more", more))
	}
	return joinWords(short)
}

// maxShown is how many artifacts a line shows.
const maxShown = 5

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
