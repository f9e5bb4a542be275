package workflows

// Need is a document that another one cannot do without.
type Need struct {
	Kind, Name string
	Path       string // where it is named
}

// Needs lists the documents that a document cannot do without: those that it
// names, and the policies of the environments that it enters, without which it
// would get in where it must not. Shipped task kinds are not documents.
func Needs(c *Catalog, doc any) []Need {
	n := &needs{c: c}
	switch d := doc.(type) {
	case *Scenario:
		n.add(KindWorkflow, d.Spec.Workflow, "spec.workflow")
	case *Environment:
		n.add(KindEnvironment, d.Spec.PromotesFrom, "spec.promotesFrom")
	case *Workflow:
		n.workflow = d.Metadata.Name
		n.of(d)
	}
	return n.found
}

type needs struct {
	c        *Catalog
	workflow string
	found    []Need
}

func (n *needs) add(kind, name, path string) {
	if name != "" {
		n.found = append(n.found, Need{Kind: kind, Name: name, Path: path})
	}
}

func (n *needs) of(w *Workflow) {
	for _, s := range w.Ordered() {
		path := Join("spec.states", s.Name)
		n.body(path, &s.Body, nil)
		for _, b := range s.Branches() {
			n.body(Join(path+".parallel", b.Name), &b.Body, nil)
		}
		if f := s.ForEach; f != nil && f.Do != nil {
			n.body(path+".forEach.do", f.Do, f)
		}
		if a := s.Approval; a != nil {
			for i, name := range a.Environments {
				n.environment(name, index(path+".approval.environments", i))
			}
			for i, seat := range a.Quorum {
				n.role(seat.Role, index(path+".approval.quorum", i)+".role")
			}
		}
	}
	for i, f := range w.Spec.Finally {
		n.body(index("spec.finally", i), &Body{Activity: f.Activity}, nil)
	}
	for i, rule := range w.Spec.Notify {
		n.add(KindChannel, rule.Channel, index("spec.notify", i)+".channel")
	}
}

func (n *needs) body(path string, b *Body, each *ForEach) {
	n.add(KindTaskKind, b.Task, path+".task")
	if b.Undo != nil {
		n.add(KindTaskKind, b.Undo.Task, path+".undo.task")
	}
	if b.Workflow != nil {
		n.add(KindWorkflow, b.Workflow.Name, path+".workflow.name")
	}
	at := path + ".environment"
	if b.Deploy != nil {
		at = path + ".deploy.environment"
	}
	places, _ := n.c.environments(b, each)
	for _, place := range places {
		n.environment(place, at)
	}
}

func (n *needs) environment(name, path string) {
	n.add(KindEnvironment, name, path)
	e := n.c.Environments[name]
	if e == nil {
		return
	}
	for _, policy := range names(n.c.Policies) {
		if n.c.Policies[policy].Matches(e, n.workflow) {
			n.add(KindPolicy, policy, path)
		}
	}
}

// role adds the documents that say who holds a role.
func (n *needs) role(name, path string) {
	for _, doc := range n.c.Roles {
		if doc.Spec.Roles[name] != nil {
			n.add(KindRoles, doc.Metadata.Name, path)
		}
	}
}
