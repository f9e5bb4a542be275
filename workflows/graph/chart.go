// Package graph draws a workflow: its states, where they lead and on which
// outcome, as Mermaid, DOT or SVG. It is pure: a definition goes in, text
// comes out, the same text for the same definition.
//
// A definition may be drawn that no check has seen. Names and expressions are
// written so that no format takes them for its own syntax, and an arm that
// leads nowhere is left out.
package graph

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Trace is the way that a run has taken. The zero value is no run.
type Trace struct {
	Run     string   // its id
	Path    []string // the states that it entered, in order
	Current string   // where it is; empty when it has ended
}

// chart is a workflow as something to draw.
type chart struct {
	title string
	run   string
	nodes []*node
	edges []*edge
	first int // node that a run begins in; -1 when there is none
	abort int // node that a cancelled run goes to; -1 when there is none
}

type node struct {
	name    string
	kind    string   // State.Kind
	detail  []string // what it does
	final   string   // outcome of a final state
	visited bool
	current bool
}

// edge is all that leads from one state to another.
type edge struct {
	from, to int // indexes of nodes
	label    string
	mood     mood
	taken    bool
}

// mood is what kind of way it is.
type mood int

const (
	onward mood = iota // the state has succeeded
	aside              // it has not
	called             // an event came
)

func newChart(w *workflows.Workflow, t Trace) *chart {
	c := &chart{title: w.Metadata.Name, run: t.Run, first: -1, abort: -1}
	index := map[string]int{}
	for i, s := range w.Ordered() {
		index[s.Name] = i
		n := &node{name: s.Name, kind: s.Kind(), detail: detail(s), final: s.Final, current: s.Name == t.Current, visited: slices.Contains(t.Path, s.Name)}
		c.nodes = append(c.nodes, n)
	}
	for i, s := range w.Ordered() {
		c.arms(i, s, index)
	}
	if i, ok := index[w.Spec.Initial]; ok {
		c.first = i
	}
	if i, ok := index[w.Spec.OnCancel]; ok {
		c.abort = i
	}
	for i := 1; i < len(t.Path); i++ {
		for _, e := range c.edges {
			if c.nodes[e.from].name == t.Path[i-1] && c.nodes[e.to].name == t.Path[i] {
				e.taken = true
			}
		}
	}
	return c
}

// detail is what a state does, in lines that are not too long. A task that is
// called like its kind needs no line.
func detail(s *workflows.State) (lines []string) {
	for _, line := range s.Words() {
		if line != s.Name {
			lines = append(lines, wrap(shorten(line, 4*detailWidth))...)
		}
	}
	return lines
}

// wrap breaks a text between words.
func wrap(text string) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > detailWidth {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// arms adds the edges of a state: one to each state that it can lead to, with
// all that leads there as its label.
func (c *chart) arms(from int, s *workflows.State, index map[string]int) {
	type way struct {
		words []string
		mood  mood
	}
	type key struct {
		to     int
		called bool
	}
	ways := map[key]*way{}
	var order []key
	add := func(to, word string, m mood) {
		i, ok := index[to]
		if !ok {
			return
		}
		k := key{i, m == called}
		w := ways[k]
		if w == nil {
			w = &way{mood: m}
			ways[k] = w
			order = append(order, k)
		}
		w.words = append(w.words, word)
		w.mood = min(w.mood, m)
	}
	open, asked := s.Outcomes(), false
	for _, arm := range s.Arms() {
		word, takes := armWords(s, arm, open)
		if arm.When == nil && len(takes) == 0 {
			continue // the ones before it take everything
		}
		m := aside
		if slices.Contains(takes, events.Succeeded) {
			m = onward
		}
		if arm.When == nil && arm.Key == "" && asked { // what the conditions before it have left over
			word, m = "otherwise", aside
		}
		asked = asked || arm.When != nil
		add(arm.To, word, m)
		if arm.When == nil || arm.OutcomesOf() != nil {
			open = slices.DeleteFunc(slices.Clone(open), func(o string) bool { return slices.Contains(takes, o) })
		}
	}
	for _, e := range s.Events {
		add(e.To, "on "+e.Event, called)
	}
	for _, k := range order {
		w := ways[k]
		label := strings.Join(slices.Compact(w.words), ", ")
		switch label {
		case events.Succeeded:
			label = "" // the usual way needs no word
		case events.Succeeded + ", otherwise", events.Succeeded + ", failed":
			label = "always"
		}
		c.edges = append(c.edges, &edge{from: from, to: k.to, label: label, mood: w.mood})
	}
}

// theOutcome is how a condition asks for an outcome; a label needs only its name.
var theOutcome = regexp.MustCompile(`\boutcome == ["']([A-Za-z]+)["']`)

// armWords says when an arm is taken, and which of the open outcomes it takes.
func armWords(s *workflows.State, arm *workflows.Transition, open []string) (words string, takes []string) {
	for _, o := range open {
		if arm.Takes(o) && o != "cancelled" && o != "superseded" {
			takes = append(takes, o)
		}
	}
	if arm.When != nil {
		if only := arm.OutcomesOf(); only != nil {
			words := make([]string, len(only))
			for i, o := range only {
				words[i] = spoken(o)
			}
			return strings.Join(words, ", "), only
		}
		return theOutcome.ReplaceAllString(strings.Join(strings.Fields(arm.When.Source), " "), "$1"), takes
	}
	switch {
	case len(arm.Outcomes) == 1:
		return spoken(arm.Outcomes[0]), takes
	case len(takes) == 1:
		return spoken(takes[0]), takes
	case s.Kind() == "approval" && len(takes) == 2:
		return spoken(takes[0]) + ", " + spoken(takes[1]), takes
	case len(takes) == len(s.Outcomes()) || len(takes) == len(s.Outcomes())-1 && len(takes) > 0 && takes[0] == events.Succeeded:
		return "always", takes
	}
	return "otherwise", takes
}

// spoken is an outcome as people say it.
func spoken(outcome string) string {
	if outcome == "timedOut" {
		return "timed out"
	}
	return outcome
}

// shorten gives a text on one line, without what a terminal or a browser would
// obey instead of show, cut to so many characters.
func shorten(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		return strings.TrimRight(string(r[:most-1]), " ") + "…"
	}
	return s
}
