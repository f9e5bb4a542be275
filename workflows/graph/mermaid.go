package graph

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// Widths of texts, in characters.
const (
	nameWidth   = 48
	detailWidth = 44
	labelWidth  = 48
)

// Mermaid gives the workflow as a flowchart, which pages on many forges show
// as a picture.
func Mermaid(w *workflows.Workflow, t Trace) string {
	c := newChart(w, t)
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	for i, n := range c.nodes {
		open, shut := mermaidShape(n.kind)
		fmt.Fprintf(&b, "  %s%s\"%s\"%s\n", mermaidID(n.name, i), open, mermaidLabel(n), shut)
	}
	var taken []string
	links := 0
	link := func(from, arrow, label, to string) {
		if label != "" {
			arrow += "|\"" + mermaidText(label, labelWidth) + "\"|"
		}
		fmt.Fprintf(&b, "  %s %s %s\n", from, arrow, to)
		links++
	}
	id := func(i int) string { return mermaidID(c.nodes[i].name, i) }
	if c.first >= 0 {
		b.WriteString("  _start((\" \"))\n")
		link("_start", "-->", "", id(c.first))
	}
	for _, e := range c.edges {
		if e.taken {
			taken = append(taken, fmt.Sprint(links))
		}
		arrow := "-->"
		if e.mood != onward {
			arrow = "-.->"
		}
		link(id(e.from), arrow, e.label, id(e.to))
	}
	if c.abort >= 0 {
		b.WriteString("  _cancel([\"cancel\"])\n")
		link("_cancel", "-.->", "", id(c.abort))
	}
	c.mermaidClasses(&b, id)
	if len(taken) > 0 {
		fmt.Fprintf(&b, "  linkStyle %s stroke:#1f6feb,stroke-width:3px\n", strings.Join(taken, ","))
	}
	return b.String()
}

// mermaidColours are readable on light and on dark pages.
var mermaidColours = []struct{ class, style string }{
	{"approval", "fill:#fff3cd,stroke:#b58900,color:#3d2f00"},
	{"good", "fill:#d9f2e0,stroke:#2e8b57,color:#0d3b20"},
	{"bad", "fill:#fbe0de,stroke:#c0392b,color:#4d120d"},
	{"visited", "stroke:#1f6feb,stroke-width:3px"},
	{"current", "fill:#1f6feb,stroke:#0b3d91,color:#ffffff,stroke-width:3px"},
}

func (c *chart) mermaidClasses(b *strings.Builder, id func(int) string) {
	members := map[string][]string{}
	add := func(class string, i int) { members[class] = append(members[class], id(i)) }
	for i, n := range c.nodes {
		switch {
		case n.current:
			add("current", i)
			continue
		case n.kind == "approval":
			add("approval", i)
		case n.final == "succeeded":
			add("good", i)
		case n.final != "":
			add("bad", i)
		}
		if n.visited {
			add("visited", i)
		}
	}
	for _, k := range mermaidColours {
		if ids := members[k.class]; len(ids) > 0 {
			fmt.Fprintf(b, "  classDef %s %s\n  class %s %s\n", k.class, k.style, strings.Join(ids, ","), k.class)
		}
	}
}

// mermaidShape gives the brackets that make the shape of a kind.
func mermaidShape(kind string) (open, shut string) {
	switch kind {
	case "approval":
		return "{{", "}}"
	case "final":
		return "([", "])"
	case "parallel", "forEach", "workflow":
		return "[[", "]]"
	case "wait":
		return "(", ")"
	}
	return "[", "]"
}

func mermaidLabel(n *node) string {
	lines := []string{"<b>" + mermaidText(n.name, nameWidth) + "</b>"}
	for _, d := range n.detail {
		if n.kind != "final" || d != n.final || d != n.name {
			lines = append(lines, mermaidText(d, detailWidth))
		}
	}
	if n.current {
		lines = append(lines, "the run is here")
	}
	return strings.Join(lines, "<br>")
}

var wordID = regexp.MustCompile(`^[a-z][A-Za-z0-9]*$`)

// mermaidWords mean something to Mermaid where a node may stand.
var mermaidWords = []string{"end", "graph", "flowchart", "subgraph", "style", "linkstyle", "class", "classdef", "click", "direction",
	"default", "call", "href", "interpolate", "visited", "current", "good", "bad", "approval"}

// mermaidID gives a node its name in the text: that of the state where Mermaid
// takes it for nothing else.
func mermaidID(name string, i int) string {
	if wordID.MatchString(name) && !slices.Contains(mermaidWords, strings.ToLower(name)) {
		return name
	}
	return fmt.Sprintf("_%d", i)
}

// mermaidText writes a text between double quotes. Whatever could be markup,
// a directive or the end of the text becomes a character code.
func mermaidText(s string, most int) string {
	var b strings.Builder
	for _, r := range shorten(s, most) {
		if strings.ContainsRune("\"#;<>&%`\\|{}[]*_~^", r) {
			fmt.Fprintf(&b, "#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
