package sim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// entry is a message of LOG.
type entry struct {
	seq   uint64
	vp    int
	owner string // of an owner record: who has stored it
	rec   *record.Record
	hash  string
	data  []byte
	state any
	at    time.Time // by which it was stored
}

func (e *entry) String() string {
	if e.rec == nil {
		return fmt.Sprintf("sequence %d: owner record of %s for partition %d", e.seq, e.owner, e.vp)
	}
	return fmt.Sprintf("sequence %d: %s %s, version %d, %s %s by %s, written by %s", e.seq, e.rec.Aggregate, e.rec.ID, e.rec.V, e.rec.In.Kind,
		e.rec.In.ID, e.rec.In.By, e.rec.Engine)
}

// read reads a message of LOG.
func read(m fakejs.Stored) (*entry, error) {
	e := &entry{seq: m.Seq, data: m.Data, hash: record.Hash(m.Data)}
	if _, err := fmt.Sscanf(m.Subject, "penstock.own.%d", &e.vp); err == nil {
		e.owner, _, _ = strings.Cut(string(m.Data), " ")
		return e, nil
	}
	if _, err := fmt.Sscanf(m.Subject, "penstock.log.%d.", &e.vp); err != nil {
		return nil, fmt.Errorf("sequence %d: subject %s is nobody's", m.Seq, m.Subject)
	}
	r, err := record.Decode(m.Data)
	if err != nil {
		return nil, err
	}
	if events.LogSubject(r.Aggregate, r.ID) != m.Subject {
		return nil, fmt.Errorf("sequence %d: the record of %s %s lies at %s", m.Seq, r.Aggregate, r.ID, m.Subject)
	}
	e.rec = r
	switch r.Aggregate {
	case record.Run:
		e.state, err = run.Load(r.State)
	case record.Environment:
		e.state, err = env.LoadEnvironment(r.State)
	}
	return e, err
}

// acknowledged is what somebody was answered.
type acknowledged struct {
	agg, id string
	in      record.Input
	answer  events.Answer
}

// tale is what is known of LOG so far, and what the outside was told.
type tale struct {
	owners  map[int]*entry             // last owner record by partition
	lives   map[[2]string][]*entry     // records by aggregate
	inputs  map[string]int             // how often an input was applied
	held    map[string]map[string]bool // workers that were granted an attempt
	fired   map[string]int
	grants  map[string]map[int64]string // run by environment and grant
	tasks   map[string]*events.Task     // that were issued
	acks    []acknowledged
	asked   map[string]bool            // runs that people want
	events  map[string]bool            // events that were acknowledged, by the identity of their record
	claims  map[string]map[string]bool // by task: workers that were told that they have it
	target  *target
	cats    *catalogs
	hurt    map[int]bool      // partitions that have lost something that was acknowledged
	lost    []*entry          // records that a power cut has taken
	owed    map[int]string    // those that must not go on, and why: what was lost is known elsewhere
	adrift  map[string]bool   // runs of which a task was lost, for which they wait until somebody ends it
	stopped map[int]error     // partitions that are stopped, or would be by who looks after them, at the end
	now     time.Time         // of the last look
	lies    map[uint64]*entry // what lies in LOG now
	audited map[uint64]string // hash of what the audit log has, by sequence
	audit   *auditedAs        // what the audit log says of itself, at the end
}

// auditedAs is what a verification of the audit log has found.
type auditedAs struct {
	problems []string
	err      error
}

func newTale(g *target, c *catalogs) *tale {
	return &tale{owners: map[int]*entry{}, lives: map[[2]string][]*entry{}, inputs: map[string]int{}, held: map[string]map[string]bool{},
		fired: map[string]int{}, grants: map[string]map[int64]string{}, tasks: map[string]*events.Task{}, asked: map[string]bool{},
		events: map[string]bool{}, claims: map[string]map[string]bool{}, hurt: map[int]bool{}, owed: map[int]string{}, adrift: map[string]bool{}, lies: map[uint64]*entry{}, audited: map[uint64]string{}, target: g, cats: c}
}

func (t *tale) life(agg, id string) []*entry { return t.lives[[2]string{agg, id}] }

// before is the record of the same aggregate before e.
func (t *tale) before(e *entry) *entry {
	life := t.life(e.rec.Aggregate, e.rec.ID)
	if len(life) == 0 {
		return nil
	}
	return life[len(life)-1]
}

func (t *tale) runs() []string {
	var ids []string
	for k := range t.lives {
		if k[0] == record.Run && !t.hurt[events.Partition(k[0], k[1])] {
			ids = append(ids, k[1])
		}
	}
	slices.Sort(ids)
	return ids
}

func (t *tale) run(id string) *run.State {
	life := t.life(record.Run, id)
	if len(life) == 0 {
		return nil
	}
	s, _ := life[len(life)-1].state.(*run.State)
	return s
}

// add looks at the next message of LOG with all checks.
func (t *tale) add(e *entry) error {
	if t.hurt[e.vp] {
		t.keep(e)
		return nil
	}
	for _, c := range checks {
		if c.see == nil {
			continue
		}
		if err := c.see(t, e); err != nil {
			return fmt.Errorf("%s, %s: %w (%v)", c.id, c.what, err, e)
		}
	}
	t.keep(e)
	return nil
}

// keep adds a message to the tale.
func (t *tale) keep(e *entry) {
	t.lies[e.seq] = e
	if e.rec == nil {
		t.owners[e.vp] = e
		return
	}
	k := [2]string{e.rec.Aggregate, e.rec.ID}
	t.lives[k] = append(t.lives[k], e)
	for _, task := range e.rec.Tasks {
		t.tasks[task.ID] = task
	}
}

// remove looks at a message that is not in LOG any more.
func (t *tale) remove(e *entry) error {
	delete(t.lies, e.seq)
	if t.hurt[e.vp] {
		return nil
	}
	for _, c := range checks {
		if c.gone == nil {
			continue
		}
		if err := c.gone(t, e); err != nil {
			return fmt.Errorf("%s, %s: %w (%v)", c.id, c.what, err, e)
		}
	}
	return nil
}

// told looks at what was answered lately.
func (t *tale) told() error {
	for _, a := range t.acks {
		if t.hurt[events.Partition(a.agg, a.id)] {
			continue
		}
		for _, c := range checks {
			if c.told == nil {
				continue
			}
			if err := c.told(t, a); err != nil {
				return fmt.Errorf("%s, %s: %w", c.id, c.what, err)
			}
		}
	}
	t.acks = t.acks[:0]
	return nil
}

// end looks at everything, when nothing moves any more.
func (t *tale) end() error {
	for _, c := range checks {
		if c.end == nil {
			continue
		}
		if err := c.end(t); err != nil {
			return fmt.Errorf("%s, %s: %w", c.id, c.what, err)
		}
	}
	return nil
}

// book keeps the tale of a world.
type book struct {
	w         *world
	next      uint64
	nextAudit uint64
	removed   int             // messages of LOG
	all       []fakejs.Stored // that were ever in LOG

	mu    sync.Mutex
	tale  *tale
	wrong error
	now   []acknowledged
	seen  int // records
}

func newBook(w *world) *book {
	return &book{w: w, next: 1, nextAudit: 1, tale: newTale(w.target, w.cats)}
}

func (b *book) fail(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = cmp.Or(b.wrong, fmt.Errorf(format, args...))
}

// answered is told of every answer that an engine gives.
func (b *book) answered(agg, id string, in record.Input, a events.Answer) {
	if in.Kind == heartbeat {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = append(b.now, acknowledged{agg, id, in, a})
}

// told is told of every answer that a person gets.
func (b *book) told(agg, id string, in record.Input, a events.Answer) { b.answered(agg, id, in, a) }

// granted is told by a worker what it was answered.
func (b *book) granted(task *events.Task, worker string, a events.Answer) {
	if a.Status != events.StatusApplied && a.Status != events.StatusAlready {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tale.claims[task.ID] == nil {
		b.tale.claims[task.ID] = map[string]bool{}
	}
	b.tale.claims[task.ID][worker] = true
}

func (b *book) expects(run string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tale.asked[run] = false
}

func (b *book) publishes(string) {}

// published is told when an event was acknowledged to its publisher.
func (b *book) published(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tale.events[record.Derive("event", "acme", "acme", id)] = true
}

// look reads what is new in LOG and checks it.
func (b *book) look() error {
	news := b.w.server.Messages(events.StreamLog, b.next)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tale.now = time.Now()
	for _, m := range news {
		e, err := read(m)
		if err == nil {
			e.at = time.Now()
			b.remark(e)
			err = b.tale.add(e)
			b.all = append(b.all, m)
		}
		if err != nil {
			return err
		}
		b.next = m.Seq + 1
		b.seen++
	}
	if err := b.tidied(); err != nil {
		return err
	}
	b.tale.acks = append(b.tale.acks, b.now...)
	b.now = nil
	return cmp.Or(b.wrong, b.tale.told())
}

// tidied looks at what was removed from LOG lately.
func (b *book) tidied() error {
	removed := b.w.server.Removed(events.StreamLog)
	if removed == b.removed {
		return nil
	}
	b.removed = removed
	if err := b.readAudit(); err != nil {
		return err
	}
	lies := map[uint64]bool{}
	for _, m := range b.w.server.Messages(events.StreamLog, 0) {
		lies[m.Seq] = true
	}
	for _, seq := range sortedKeys(b.tale.lies) {
		if lies[seq] {
			continue
		}
		if err := b.tale.remove(b.tale.lies[seq]); err != nil {
			return err
		}
	}
	return nil
}

// readAudit reads what is new in the audit log.
func (b *book) readAudit() error {
	for _, m := range b.w.server.Messages(events.StreamAudit, b.nextAudit) {
		line, body, _ := bytes.Cut(m.Data, []byte("\n"))
		var h audit.Header
		if err := json.Unmarshal(line, &h); err != nil {
			return err
		}
		if h.Loss != nil {
			maps.DeleteFunc(b.tale.audited, func(seq uint64, _ string) bool { return seq >= h.Loss.From })
		}
		for _, r := range h.Records {
			b.tale.audited[r.Seq] = record.Hash(body[:r.Size])
			body = body[r.Size+1:]
		}
		b.nextAudit = m.Seq + 1
	}
	return nil
}

// lost takes note of what a power cut has taken; before is what lay in the
// streams. What hangs on it is not as it should be any more.
func (b *book) lost(before map[string][]fakejs.Stored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, s := b.tale, b.w.server
	gone := func(name string) []fakejs.Stored {
		last := s.Last(name)
		return slices.DeleteFunc(before[name], func(m fakejs.Stored) bool { return m.Seq <= last })
	}
	for _, m := range gone(events.StreamIngress) {
		var e events.Event
		if err := json.Unmarshal(m.Data, &e); err == nil {
			delete(t.events, record.Derive("event", "acme", e.Source, e.ID))
		}
	}
	for _, m := range gone(events.StreamTasks) {
		var task events.Task
		if err := json.Unmarshal(m.Data, &task); err == nil {
			t.adrift[task.Run] = true
		}
	}
	b.nextAudit = 1
	clear(t.audited)
	b.wrong = cmp.Or(b.wrong, b.readAudit())
	for _, m := range gone(events.StreamLog) {
		e := t.lies[m.Seq]
		if delete(t.lies, m.Seq); e == nil {
			continue // it was not looked at yet, so nobody was told of it
		}
		if t.hurt[e.vp] = true; e.rec != nil {
			t.lost = append(t.lost, e)
			k := [2]string{e.rec.Aggregate, e.rec.ID}
			t.lives[k] = slices.DeleteFunc(t.lives[k], func(x *entry) bool { return x == e })
		}
		b.w.saw("lost messages of LOG")
	}
	for _, m := range s.Messages(events.StreamLog, 0) { // what had been removed may be there again
		if e, err := read(m); err == nil && t.lies[m.Seq] == nil && m.Seq < b.next {
			e.at = m.At
			t.lies[m.Seq] = e
		}
	}
	b.owe()
	b.next, b.removed = s.Last(events.StreamLog)+1, s.Removed(events.StreamLog)
}

// owe notes the partitions of which somebody still knows what they have lost,
// after this power cut or one before.
func (b *book) owe() {
	t := b.tale
	known := map[int]owner.Checkpoint{}
	for _, m := range b.w.server.Messages(events.StreamCkpt, 0) {
		var vp int
		var c owner.Checkpoint
		if _, err := fmt.Sscanf(m.Subject, "penstock.ckpt.%d", &vp); err == nil && json.Unmarshal(m.Data, &c) == nil {
			known[vp] = c
		}
	}
	clear(t.owed)
	for _, e := range t.lost {
		if there := t.lies[e.seq]; there != nil && there.hash == e.hash {
			continue
		}
		switch {
		case known[e.vp].Last == e.seq && known[e.vp].Hash == e.hash:
			t.owed[e.vp] = fmt.Sprintf("its checkpoint knows what is lost: %v", e)
		case t.audited[e.seq] == e.hash:
			t.owed[e.vp] = fmt.Sprintf("the audit log has what is lost: %v", e)
		}
	}
}

// remark counts what has happened that not every run sees.
func (b *book) remark(e *entry) {
	if e.rec == nil || e.rec.Answer.Status != events.StatusApplied {
		return
	}
	switch {
	case e.rec.Aggregate == record.Run && e.rec.In.Kind == record.InSignal:
		b.w.saw("event heard by a waiting run")
	case e.rec.Aggregate == record.Event && len(e.rec.In.Listening) > 0:
		b.w.saw("event with listeners")
	}
}

// pick gives a run that is not over, if there is one.
func (b *book) pick(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, id := range b.tale.runs() {
		if !b.tale.run(id).Done() {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return ids[n%len(ids)]
}

// open gives a run that asks people.
func (b *book) open(n int) (string, *run.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, id := range b.tale.runs() {
		if b.tale.run(id).Open != nil {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return "", nil
	}
	id := ids[n%len(ids)]
	return id, b.tale.run(id)
}

// settled says what is not yet as it must be in the end.
func (b *book) settled() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tale.alive()
}

// last looks at everything at the end.
func (b *book) last() error {
	found, stopped := b.w.audited(), b.w.stopped()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tale.audit, b.tale.stopped = found, stopped
	return cmp.Or(b.wrong, b.readAudit(), b.tale.end())
}

// alive says which run neither goes on nor waits for people, and what was
// acknowledged and not done.
func (t *tale) alive() error {
	for _, id := range t.runs() {
		s := t.run(id)
		if s.Done() || t.adrift[id] {
			continue
		}
		d, err := t.definitions(s.Catalog, t.cats.Current().Digest, s.Workflow)
		if err != nil {
			return err
		}
		why := run.Why(d, s, s.Now)
		if !slices.ContainsFunc(why, func(r events.WaitReason) bool { return forPeople(t, r) }) {
			return fmt.Errorf("run %s neither ends nor waits for people: %s", id, reasons(why))
		}
	}
	for id := range t.events {
		if len(t.life(record.Event, id)) == 0 && !t.hurt[events.Partition(record.Event, id)] {
			return fmt.Errorf("an event that was acknowledged has no record: %s", id)
		}
	}
	return nil
}

// left says what is in LOG though it has ended long ago. The very last message
// stays: it says where LOG ends. So does what has lost something.
func (b *book) left() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := b.w.server.Last(events.StreamLog)
	for _, seq := range sortedKeys(b.tale.lies) {
		e := b.tale.lies[seq]
		if e.rec == nil || e.rec.Aggregate != record.Run || seq == last || b.tale.hurt[e.vp] {
			continue
		}
		s := b.tale.run(e.rec.ID)
		life := b.tale.life(record.Run, e.rec.ID)
		if s.Done() && s.Idle() && time.Since(life[len(life)-1].at) > keepLast {
			return fmt.Errorf("I16, what is over is removed: it is still there: %v", e)
		}
	}
	return nil
}

// forPeople says whether people have to do something; a run that waits for one
// of those waits for them too.
func forPeople(t *tale, r events.WaitReason) bool {
	switch r.What {
	case "approval", "held", "paused", "lock", "key", "child":
		return true
	}
	return false
}

func reasons(why []events.WaitReason) string {
	var all []string
	for _, r := range why {
		all = append(all, r.What+": "+r.Summary)
	}
	return strings.Join(all, "; ")
}

func (t *tale) definitions(started, inForce, workflow string) (run.Definitions, error) {
	pinned, err := t.cats.ByDigest(started)
	if err != nil {
		return run.Definitions{}, err
	}
	now, err := t.cats.ByDigest(inForce)
	if err != nil {
		return run.Definitions{}, err
	}
	if pinned.Workflows[workflow] == nil {
		return run.Definitions{}, errors.New("there is no workflow " + workflow)
	}
	return run.Definitions{Workflow: pinned.Workflows[workflow], Kinds: pinned.Kinds, Now: now}, nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
