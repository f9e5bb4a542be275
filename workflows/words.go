package workflows

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Words says what the state does, in a few lines: what it runs, whom it asks,
// how long it waits. The kind of the state is not among them.
func (s *State) Words() []string {
	switch s.Kind() {
	case "parallel":
		return s.parallelWords()
	case "forEach":
		return s.ForEach.Words()
	case "approval":
		return s.Approval.Words()
	case "wait":
		return []string{s.Wait.Words()}
	case "compensate":
		return []string{"undo " + strings.Join(s.Compensate, ", ")}
	case "final":
		if s.Page != "" {
			return []string{s.Final, "call " + s.Page}
		}
		return []string{s.Final}
	}
	return s.Body.Words()
}

func (s *State) parallelWords() []string {
	var lines []string
	for _, b := range s.Branches() {
		line := strings.Join(b.Body.Words(), ", ")
		if line != b.Name {
			line = b.Name + ": " + line
		}
		lines = append(lines, line)
	}
	switch s.Join {
	case "any":
		lines = append(lines, "one success is enough")
	case "race":
		lines = append(lines, "the first to end decides")
	}
	var gate []string
	for _, r := range s.Gate {
		gate = append(gate, r.Name)
	}
	if len(gate) > 0 {
		lines = append(lines, "gate: "+strings.Join(gate, ", "))
	}
	return lines
}

// Words says what the body does.
func (b *Body) Words() []string {
	var lines []string
	switch {
	case b.Deploy != nil:
		lines = b.Deploy.Words()
	case b.Workflow != nil:
		lines = []string{"run " + b.Workflow.Name}
	case b.Environment != "":
		lines = []string{b.Task + " in " + b.Environment}
	default:
		lines = []string{b.Task}
	}
	if b.Undo != nil {
		lines = append(lines, "undone by "+b.Undo.Task)
	}
	return lines
}

// Words says where a deployment goes and by which steps.
func (d *Deploy) Words() []string {
	if d.Resume != "" {
		return []string{"go on with " + d.Resume}
	}
	first := "deploy to " + d.Environment
	if d.Strategy != "" {
		first += ", " + d.Strategy
	}
	if len(d.Steps) == 0 {
		return []string{first}
	}
	var steps []string
	for _, s := range d.Steps {
		steps = append(steps, s.Words())
	}
	return []string{first, strings.Join(steps, " → ")}
}

// Words is the step in short: "25%", "pause 5m", "analyze 10m".
func (s *Step) Words() string {
	switch {
	case s.Pause > 0:
		return "pause " + s.Pause.String()
	case s.Analyze > 0:
		return "analyze " + s.Analyze.String()
	}
	return strconv.Itoa(s.Weight) + "%"
}

// Words says whom the approval asks and for how long.
func (a *Approval) Words() []string {
	var lines []string
	if quorum := a.QuorumWords(); quorum != "" {
		lines = append(lines, quorum)
	}
	if a.Rule != nil {
		lines = append(lines, "by a rule")
	}
	if len(a.Environments) > 0 {
		lines = append(lines, "as "+strings.Join(a.Environments, " and ")+" requires")
	}
	if a.Auto != nil {
		lines = append(lines, "or by itself")
	}
	if a.Expires > 0 {
		lines = append(lines, "within "+a.Expires.String())
	}
	return lines
}

// QuorumWords says who must approve: "2 × release-manager and 1 × dba, no
// author". Each person fills one seat. It is empty without a quorum.
func (a *Approval) QuorumWords() string {
	if len(a.Quorum) == 0 {
		return ""
	}
	var seats []string
	for _, s := range a.Quorum {
		seats = append(seats, fmt.Sprintf("%d × %s", s.Count, s.Role))
	}
	text := strings.Join(seats, " and ")
	for _, name := range a.Exclude {
		switch name {
		case "authors":
			text += ", no author"
		case "starter":
			text += ", not who started it"
		default:
			text += ", not " + name
		}
	}
	return text
}

// Words says what is waited for.
func (w *Wait) Words() string {
	switch {
	case w.Until != nil:
		return "until " + w.Until.Source
	case w.Event != "" && w.Timeout > 0:
		return "for " + w.Event + ", " + w.Timeout.String() + " at most"
	case w.Event != "":
		return "for " + w.Event
	}
	return w.For.String()
}

// Words says over what the state goes, what it does there, and in which waves.
func (f *ForEach) Words() []string {
	over := ""
	switch {
	case f.Environments != nil:
		over = "environments with " + labelWords(f.Environments.Labels)
	case f.In != nil:
		over = f.In.Source
	}
	lines := []string{f.As + " in " + over}
	if f.Do != nil {
		lines = append(lines, f.Do.Words()...)
	}
	if len(f.Waves) > 0 {
		waves := make([]string, len(f.Waves))
		for i, w := range f.Waves {
			waves[i] = fmt.Sprint(w)
		}
		line := "waves of " + strings.Join(waves, ", ")
		if f.Between != nil {
			line += ", " + f.Between.Wait.String() + " between"
		}
		lines = append(lines, line)
	}
	if f.MaxParallel > 0 {
		lines = append(lines, fmt.Sprintf("%d at a time", f.MaxParallel))
	}
	return lines
}

func labelWords(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ", ")
}
