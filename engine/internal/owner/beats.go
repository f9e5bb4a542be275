package owner

import (
	"sync"
	"time"
)

// beats remembers when the worker of each running attempt was last heard of.
// It is not recorded: after a start every worker has the whole limit again.
type beats struct {
	mu   sync.Mutex
	runs map[string]map[string]*beat // by run, by task
	task map[string]*beat
}

type beat struct {
	run, task, worker string
	limit             time.Duration
	seen              time.Time // with its monotonic reading
	line              string
}

func newBeats() *beats { return &beats{runs: map[string]map[string]*beat{}, task: map[string]*beat{}} }

// expect replaces the attempts of a run from which signs of life are expected.
func (b *beats) expect(run string, held map[string]string, limit time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.runs[run]
	for id := range old {
		if _, still := held[id]; !still {
			delete(b.task, id)
		}
	}
	if len(held) == 0 {
		delete(b.runs, run)
		return
	}
	now := make(map[string]*beat, len(held))
	for id, worker := range held {
		if x := old[id]; x != nil && x.worker == worker {
			now[id] = x
			continue
		}
		now[id] = &beat{run: run, task: id, worker: worker, limit: limit, seen: time.Now()}
		b.task[id] = now[id]
	}
	b.runs[run] = now
}

func (b *beats) seen(task, line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.task[task]; x != nil {
		x.seen = time.Now()
		if line != "" {
			x.line = line
		}
	}
}

func (b *beats) progress(task string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.task[task]; x != nil {
		return x.line
	}
	return ""
}

// lost gives the attempts that have been silent for longer than their limit,
// each once.
func (b *beats) lost() []beat {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []beat
	for id, x := range b.task {
		if time.Since(x.seen) > x.limit {
			out = append(out, *x)
			delete(b.task, id)
			delete(b.runs[x.run], id)
		}
	}
	return out
}

// again puts an attempt back whose loss could not be recorded; it is lost
// again a second later.
func (b *beats) again(x beat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x.seen = time.Now().Add(time.Second - x.limit)
	if b.runs[x.run] == nil {
		b.runs[x.run] = map[string]*beat{}
	}
	b.runs[x.run][x.task], b.task[x.task] = &x, &x
}
