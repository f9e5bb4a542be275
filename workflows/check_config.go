package workflows

import "strings"

// config checks what an expression reads of env.config in environments.
func (k *check) config(path string, of any, places []string) {
	for _, read := range k.reading.reads(of) {
		if read.Path[0] != "env" || len(read.Path) < 3 || read.Sure < 3 || read.Path[2] == "*" {
			continue
		}
		what, key := read.Path[1], read.Path[2]
		if what != "config" && what != "labels" || read.When.impossible(facts{absent: func(p []string) bool { return len(p) > 2 && p[0] == "env" && p[2] == key }}) {
			continue
		}
		for _, place := range places {
			e := k.c.Environments[place]
			if e == nil || has(e, what, key) {
				continue
			}
			known := names(e.Spec.Config)
			if what == "labels" {
				known = names(e.Metadata.Labels)
			}
			p := Problem{Path: path, Code: "unknown-config", Message: "the environment " + place + " has no " + what + "." + key, Hint: meant(key, known)}
			if strings.HasPrefix(p.Hint, "there are none") {
				p.Hint = "give it one, or read it as env." + what + ".?" + key
			}
			if read.Pos != nil {
				p.Pos, p.At = read.Pos(), true
			}
			k.add(p)
			break
		}
	}
}

func has(e *Environment, what, key string) bool {
	if what == "labels" {
		_, ok := e.Metadata.Labels[key]
		return ok
	}
	_, ok := e.Spec.Config[key]
	return ok
}

// ownRules checks what the rules of an environment read of it.
func (k *check) ownRules(e *Environment) {
	k.rulesFor(e.Spec.Require, []string{e.Metadata.Name})
}

// policyRules checks what the rules of a policy read of the environments that
// it matches.
func (k *check) policyRules(p *Policy) {
	var places []string
	for _, name := range names(k.c.Environments) {
		if (&Policy{Spec: PolicySpec{Environments: p.Spec.Environments, Labels: p.Spec.Labels}}).Matches(k.c.Environments[name], "") {
			places = append(places, name)
		}
	}
	k.rulesFor(p.Spec.Require, places)
}

func (k *check) rulesFor(rules []*Rule, places []string) {
	for i, r := range rules {
		at := index("spec.require", i)
		k.config(at+".expression", r.Expression, places)
		k.config(at+".message", r.Message, places)
		k.reachable(at+".expression", r.Expression, "")
	}
}
