package workflows

import "slices"

// Reading is what expressions of a document read and say, for the checks that
// follow compilation. Package parse makes it; expressions that could not be
// compiled are not in it.
type Reading struct {
	Reads map[any][]Read // by *Expr or *Data
	Conds map[*Expr]*Cond
}

// Read is a place in an expression that reads something.
type Read struct {
	Path []string // as Refs gives it
	Sure int      // so many of its names must be there, or the expression errs: 2 of build.digest, 1 of build.?digest
	When *When    // it is read only where this may hold
	Pos  func() Pos
}

// When is a list of conditions that all hold where something is read; nil is
// the empty list.
type When struct {
	Cond *Cond
	Not  bool // Cond does not hold
	And  *When
}

// Cond is what is understood of a condition.
type Cond struct {
	Op     string // "and", "or", "not", "if", "true", "false", "outcome" (is one of Words), "visits" (of State, compared), "has" (Path), or "" for anything else
	Of     []*Cond
	Words  []string
	State  string
	Grown  bool // of visits: what the comparison gives when the state was visited very often
	Path   []string
	Weight int // how many conditions it is made of, itself included
}

// facts are what is known when a condition is decided.
type facts struct {
	outcome string                   // "" where it is not known
	grown   string                   // a state that was visited very often
	absent  func(path []string) bool // what is not there
}

// truth is true, false, or not known.
type truth int8

const (
	unknown truth = iota
	yes
	no
)

func (t truth) not() truth {
	switch t {
	case yes:
		return no
	case no:
		return yes
	}
	return unknown
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// maxWeight is the size of conditions that are looked into; larger ones may be
// true or false.
const maxWeight = 2000

// decide tells what a condition gives, as far as the facts decide it.
func (c *Cond) decide(f facts) truth {
	if c == nil || c.Weight > maxWeight {
		return unknown
	}
	switch c.Op {
	case "true", "false":
		return truthOf(c.Op == "true")
	case "not":
		return c.Of[0].decide(f).not()
	case "and", "or":
		ends := truthOf(c.Op == "or")
		all := ends.not()
		for _, part := range c.Of {
			switch part.decide(f) {
			case ends:
				return ends
			case unknown:
				all = unknown
			}
		}
		return all
	case "if":
		switch c.Of[0].decide(f) {
		case yes:
			return c.Of[1].decide(f)
		case no:
			return c.Of[2].decide(f)
		}
		if a, b := c.Of[1].decide(f), c.Of[2].decide(f); a == b {
			return a
		}
	case "outcome":
		if f.outcome != "" {
			return truthOf(slices.Contains(c.Words, f.outcome))
		}
	case "visits":
		if f.grown != "" && f.grown == c.State {
			return truthOf(c.Grown)
		}
	case "has":
		if f.absent != nil && f.absent(c.Path) {
			return no
		}
	}
	return unknown
}

// counted lists the states whose visits a condition compares with something.
func (c *Cond) counted() (states []string) {
	if c == nil || c.Weight > maxWeight {
		return nil
	}
	if c.Op == "visits" {
		return []string{c.State}
	}
	for _, part := range c.Of {
		states = append(states, part.counted()...)
	}
	return states
}

// impossible reports whether what is read under these conditions is not read
// at all when the facts hold.
func (w *When) impossible(f facts) bool {
	for ; w != nil; w = w.And {
		if t := w.Cond.decide(f); w.Not && t == yes || !w.Not && t == no {
			return true
		}
	}
	return false
}

// reads gives what an *Expr or *Data reads.
func (r *Reading) reads(of any) []Read {
	if r == nil {
		return nil
	}
	return r.Reads[of]
}

// cond gives what is understood of a condition, nil where nothing is.
func (r *Reading) cond(e *Expr) *Cond {
	if r == nil || e == nil {
		return nil
	}
	return r.Conds[e]
}
