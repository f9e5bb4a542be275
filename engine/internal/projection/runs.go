package projection

import (
	"cmp"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/compact"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// Line is what the index knows of a run. What else there is to show of it
// stands in its last record.
type Line struct {
	ID        string
	Workflow  string
	Status    string
	Outcome   string // of one that is done
	StartedAt time.Time
	Records   int64
}

// row is a run in 32 bytes, without pointers: the garbage collector does not
// look at it.
type row struct {
	started   uint32 // the low part of milliseconds, which have 48 bits
	startedHi uint16
	phase     uint16 // number of its status and outcome
	records   uint32
	workflow  uint32 // number of its name
	sibling   uint32 // row+1 of the child of the same parent that was seen before
	id        compact.ID
}

func (r *row) at() int64 { return int64(r.startedHi)<<32 | int64(r.started) }

// phase is a status and, of a run that is done, its outcome.
type phase struct{ status, outcome string }

// runs are all runs, in rows that never move.
type runs struct {
	ids       compact.IDs
	chunks    [][]row
	n         uint32
	byID      *compact.Table
	order     []uint32 // rows by start, oldest first, unless unsorted
	unsorted  bool
	waiting   int
	workflows numbers[string]
	phases    numbers[phase]
	children  map[compact.ID]uint32 // row+1 of the newest child, by parent
}

// rowsOfChunk keeps a small installation small.
const rowsOfChunk = 1024

func newRuns() *runs {
	x := &runs{children: map[compact.ID]uint32{}}
	x.byID = compact.NewTable(func(i uint32) compact.ID { return x.row(i).id })
	return x
}

func (x *runs) row(i uint32) *row { return &x.chunks[i/rowsOfChunk][i%rowsOfChunk] }

// numbers gives a number to each of a few values.
type numbers[T comparable] struct {
	of     map[T]int
	values []T
}

func (n *numbers[T]) number(v T) int {
	i, ok := n.of[v]
	if !ok {
		if n.of == nil {
			n.of = map[T]int{}
		}
		i = len(n.values)
		n.of[v], n.values = i, append(n.values, v)
	}
	return i
}

// observe takes a run as it is after a record; false when it is an older one.
func (x *runs) observe(e owner.Entry) bool {
	id := x.ids.Of(e.ID)
	i, known := x.byID.Get(id)
	if !known {
		i = x.add(id, e)
	}
	r := x.row(i)
	if uint32(e.V) < r.records {
		return false
	}
	x.count(r, -1)
	r.records, r.phase = uint32(e.V), uint16(x.phases.number(phase{e.Summary.Status, e.Summary.Outcome}))
	x.count(r, 1)
	return true
}

// count keeps the number of runs that wait for people.
func (x *runs) count(r *row, by int) {
	if x.phases.values[r.phase].status == run.StatusWaiting {
		x.waiting += by
	}
}

// add makes the row of a run that was not known.
func (x *runs) add(id compact.ID, e owner.Entry) uint32 {
	if x.n%rowsOfChunk == 0 {
		x.chunks = append(x.chunks, make([]row, rowsOfChunk))
	}
	i := x.n
	x.n++
	r := x.row(i)
	r.id, r.workflow, r.phase = id, uint32(x.workflows.number(e.Summary.Workflow)), uint16(x.phases.number(phase{}))
	r.started, r.startedHi = uint32(e.Summary.Started), uint16(e.Summary.Started>>32)
	x.byID.Add(i)
	if e.Summary.Parent != "" {
		parent := x.ids.Of(e.Summary.Parent)
		r.sibling, x.children[parent] = x.children[parent], i+1
	}
	x.insert(i)
	return i
}

// near is how far from the end a run is put in its place at once.
const near = 1024

// insert keeps order sorted by start; new runs nearly always go to the end.
func (x *runs) insert(i uint32) {
	from := max(0, len(x.order)-near)
	if x.unsorted || from > 0 && x.compare(i, x.order[from]) < 0 {
		x.unsorted, x.order = true, append(x.order, i)
		return
	}
	at, _ := slices.BinarySearchFunc(x.order[from:], i, x.compare)
	x.order = slices.Insert(x.order, from+at, i)
}

// compare orders rows by start, and by id where that is the same.
func (x *runs) compare(a, b uint32) int {
	if a == b {
		return 0
	}
	r, s := x.row(a), x.row(b)
	return cmp.Or(cmp.Compare(r.at(), s.at()), x.ids.Compare(r.id, s.id))
}

// sort puts order in order.
func (x *runs) sort() {
	type line struct {
		at  int64
		row uint32
	}
	lines := make([]line, len(x.order))
	for i, row := range x.order {
		lines[i] = line{x.row(row).at(), row}
	}
	slices.SortFunc(lines, func(a, b line) int {
		if a.at == b.at {
			return x.compare(a.row, b.row)
		}
		return cmp.Compare(a.at, b.at)
	})
	for i, l := range lines {
		x.order[i] = l.row
	}
	x.unsorted = false
}

func (x *runs) find(id string) (uint32, bool) {
	if known, ok := x.ids.Find(id); ok {
		return x.byID.Get(known)
	}
	return 0, false
}

func (x *runs) line(i uint32) Line {
	r := x.row(i)
	p := x.phases.values[r.phase]
	return Line{ID: x.ids.Text(r.id), Workflow: x.workflows.values[r.workflow], Status: p.status, Outcome: p.outcome,
		StartedAt: time.UnixMilli(r.at()).UTC(), Records: int64(r.records)}
}

// resolve gives how many runs begin with prefix, and one of them.
func (x *runs) resolve(prefix string) (id string, fits int) {
	if _, ok := x.find(prefix); ok {
		return prefix, 1
	}
	if first, last, ok := compact.Span(prefix); ok {
		for i := range x.byID.Between(first, last) {
			id = x.ids.Text(x.row(i).id)
			fits++
		}
	}
	for odd := range x.ids.Odd(prefix) {
		if _, ok := x.byID.Get(odd); ok { // and not only a parent that is not known
			id = x.ids.Text(odd)
			fits++
		}
	}
	return id, fits
}

// list gives a page; order is sorted.
func (x *runs) list(q events.ListRuns, may func(workflow string) bool) Page {
	limit := min(cmp.Or(max(q.Limit, 0), 50), 1000)
	var page Page
	allowed := make([]bool, len(x.workflows.values))
	for i, name := range x.workflows.values {
		allowed[i] = (q.Workflow == "" || q.Workflow == name) && may(name)
	}
	for i := x.before(q.Cursor) - 1; i >= 0; i-- {
		r := x.row(x.order[i])
		p := x.phases.values[r.phase]
		if !allowed[r.workflow] || q.Status != "" && p.status != q.Status && p.outcome != q.Status {
			continue
		}
		if len(page.Lines) == limit {
			page.Next = page.Lines[limit-1].ID
			break
		}
		page.Lines = append(page.Lines, x.line(x.order[i]))
	}
	return page
}

// before is the place in order behind which a page does not reach.
func (x *runs) before(cursor string) int {
	if cursor == "" {
		return len(x.order)
	}
	row, ok := x.find(cursor)
	if !ok {
		return 0
	}
	i, _ := slices.BinarySearchFunc(x.order, row, x.compare)
	return i
}

// of gives the runs that a run has started.
func (x *runs) of(parent string) []string {
	id, ok := x.ids.Find(parent)
	if !ok {
		return nil
	}
	var found []string
	for next := x.children[id]; next != 0; next = x.row(next - 1).sibling {
		found = append(found, x.ids.Text(x.row(next-1).id))
	}
	slices.Sort(found)
	return found
}
