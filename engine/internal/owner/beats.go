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
	telling           bool // its loss is being recorded
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

// seen takes a sign of life from the worker that holds the attempt.
func (b *beats) seen(task, worker, line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.task[task]; x != nil && x.worker == worker {
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
// each once until again.
func (b *beats) lost() []beat {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []beat
	for _, x := range b.task {
		if !x.telling && time.Since(x.seen) > x.limit {
			x.telling = true
			out = append(out, *x)
		}
	}
	return out
}

// again makes an attempt whose loss could not be recorded count as lost once
// more, if its worker stays silent.
func (b *beats) again(lost beat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.task[lost.task]; x != nil {
		x.telling = false
	}
}

// forgive gives every worker that much more time.
func (b *beats) forgive(gap time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.task {
		x.seen = x.seen.Add(gap)
	}
}
