package projection

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
)

// ears knows which runs listen for which types of events. It is derived from
// the records of runs: at a start it is built anew.
type ears struct {
	mu       sync.Mutex
	runs     map[string][]string        // patterns by run
	exact    map[string]map[string]bool // runs by type
	prefixes map[string]map[string]bool // runs by what stands before a final *
}

func newEars() *ears {
	return &ears{runs: map[string][]string{}, exact: map[string]map[string]bool{}, prefixes: map[string]map[string]bool{}}
}

// set replaces what a run listens for.
func (e *ears) set(run string, patterns []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.runs[run]
	if slices.Equal(before, patterns) {
		return
	}
	for _, p := range before {
		in, key := e.place(p)
		if delete(in[key], run); len(in[key]) == 0 {
			delete(in, key)
		}
	}
	delete(e.runs, run)
	if len(patterns) == 0 {
		return
	}
	e.runs[run] = patterns
	for _, p := range patterns {
		in, key := e.place(p)
		if in[key] == nil {
			in[key] = map[string]bool{}
		}
		in[key][run] = true
	}
}

// place is where a pattern is kept.
func (e *ears) place(pattern string) (map[string]map[string]bool, string) {
	if prefix, any := strings.CutSuffix(pattern, "*"); any {
		return e.prefixes, prefix
	}
	return e.exact, pattern
}

// hearing gives the runs that listen for an event, a CloudEvent in JSON, in
// order.
func (e *ears) hearing(event []byte) []string {
	var head struct {
		Type string `json:"type"`
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.runs) == 0 || json.Unmarshal(event, &head) != nil {
		return nil
	}
	found := maps.Clone(e.exact[head.Type])
	for prefix, runs := range e.prefixes {
		if !strings.HasPrefix(head.Type, prefix) {
			continue
		}
		if found == nil {
			found = map[string]bool{}
		}
		maps.Copy(found, runs)
	}
	return slices.Sorted(maps.Keys(found))
}
