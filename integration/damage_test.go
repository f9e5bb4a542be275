package integration_test

import (
	"cmp"
	little "encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// damage is what befalls a file of the store while no server runs.
type damage struct {
	name   string
	stream string
	do     func(t testing.TB, random *rand.Rand, messages string)
	stops  bool // for certain it touches something that cannot go on
}

var damages = []damage{
	{"a bit of the record", events.StreamLog, flip, false},
	{"a bit of the last record of a run", events.StreamLog, flipLast, true},
	{"a bit of a sequence", events.StreamLog, flipSequence, true},
	{"the end of the record", events.StreamLog, shorten, true},
	{"a bit of the index", events.StreamLog, func(t testing.TB, random *rand.Rand, messages string) {
		flip(t, random, indexOf(messages))
	}, false},
	{"the end of the index", events.StreamLog, func(t testing.TB, random *rand.Rand, messages string) {
		shorten(t, random, indexOf(messages))
	}, false},
	{"the index", events.StreamLog, func(t testing.TB, _ *rand.Rand, messages string) {
		require(t, os.Remove(indexOf(messages)))
	}, false},
	{"a bit of the checkpoints", events.StreamCkpt, flip, false},
	{"the end of the checkpoints", events.StreamCkpt, shorten, false},
}

// TestDamagedFilesStopWhatTheyTouchAndNothingElse changes bits of the store's
// files, and cuts off their ends, while no server runs. Afterwards everything
// that was acknowledged is there, or its partition is stopped and says so; the
// others go on; and once somebody has confirmed what is lost, so does that one.
func TestDamagedFilesStopWhatTheyTouchAndNothingElse(t *testing.T) {
	t.Parallel()
	random, rounds := drawn(t, 1)
	b := build(t, serverPlan{Heartbeat: 300 * time.Millisecond, HeartbeatLimit: 3 * time.Second})
	b.server.untilAudited()
	require(t, b.server.proc.stop(t))
	for round := range rounds {
		for _, d := range damages {
			t.Run(fmt.Sprintf("%s/%d", d.name, round), func(t *testing.T) {
				x := b.copied(t)
				d.do(t, random, x.s.messages(d.stream))
				x.s.start()
				stopped := x.whole(slices.Concat(b.driven, b.cancelled, b.waiting))
				if d.stops && len(stopped) == 0 {
					t.Error("no partition is stopped")
				}
				x.goesOn(stopped)
			})
		}
	}
}

// TestATailThatIsLostWithLazySyncStopsWhatItTouches cuts off the end of the
// record of a server that syncs now and then and was killed at its work.
// Whatever the audit log has of it is not forgotten silently.
func TestATailThatIsLostWithLazySyncStopsWhatItTouches(t *testing.T) {
	t.Parallel()
	random, rounds := drawn(t, 2)
	b := build(t, serverPlan{Sync: "lazy", Heartbeat: 300 * time.Millisecond, HeartbeatLimit: 3 * time.Second})
	b.server.untilAudited()
	known := messagesIn(t, b.server.messages(events.StreamLog))
	before := slices.Concat(b.driven, b.cancelled, b.waiting)
	leave := b.crowd(4)
	for range 30 {
		b.waiting = append(b.waiting, b.client.waiting(fmt.Sprint("late-", len(b.waiting))))
	}
	leave()
	b.server.proc.kill()
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			x := b.copied(t)
			path := x.s.messages(events.StreamLog)
			info, err := os.Stat(path)
			require(t, err)
			first := known[len(known)*2/3].at
			keep := int64(first) + random.Int64N(info.Size()-int64(first))
			t.Logf("of %d bytes %d are left; the audit log has what lay before %d", info.Size(), keep, known[len(known)-1].at)
			require(t, os.Truncate(path, keep))
			x.s.start()
			stopped := x.whole(before)
			for _, r := range known {
				if vp := events.LogPartition(r.subject); int64(r.at+r.size) > keep && strings.HasPrefix(r.subject, "penstock.log.") && stopped[vp] == "" {
					t.Errorf("%s has lost the record with sequence %d, and partition %d is not stopped", r.subject, r.seq, vp)
				}
			}
			x.goesOn(stopped)
		})
	}
}

// built is a store with runs that have ended, and runs that wait.
type built struct {
	*client
	server  *server
	waiting []string
	people  map[string]*bus.Credential
}

// build makes one: every run of it is known to the audit log and the
// checkpoints once the server has had a second, or was stopped.
func build(t *testing.T, plan serverPlan) *built {
	t.Helper()
	s := newServer(t, plan, people+kinds+road)
	s.start()
	b := &built{server: s, people: map[string]*bus.Credential{}, client: &client{t: t, s: s, source: "git", admin: s.connect(s.credential(engine.AdminFile))}}
	for _, name := range []string{"marta", "li"} {
		b.people[name] = b.principal(events.AddPrincipal{Kind: bus.KindUser, Name: name})
	}
	b.marta, b.li, b.git = s.connect(b.people["marta"]), s.connect(b.people["li"]), b.login(bus.KindPublisher, "git")
	wp := workerPlan{Credential: s.workerCredential(), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
	w := spawn(t, "worker", wp)
	b.drive("one")
	leave := b.crowd(4)
	b.drive("two")
	leave()
	for i := range 12 {
		b.waiting = append(b.waiting, b.client.waiting(fmt.Sprint("w", i)))
	}
	b.reckon(wp.Ledger)
	w.kill()
	return b
}

// copied gives a copy of the store, whose server is not started.
func (b *built) copied(t *testing.T) *damagedStore {
	t.Helper()
	x := &server{t: t, plan: b.server.plan}
	x.plan.Dir = filepath.Join(t.TempDir(), "data")
	output(t, ".", nil, "cp", "-a", b.server.plan.Dir, x.plan.Dir)
	return &damagedStore{client: &client{t: t, s: x, promised: maps.Clone(b.promised)}, people: b.people}
}

// damagedStore is a copy of a store with damage.
type damagedStore struct {
	*client
	people map[string]*bus.Credential
}

// whole connects and checks that everything that was acknowledged of runs is
// there, or its partition is stopped, or whoever asks is told. It gives the
// stopped partitions and why they are.
func (x *damagedStore) whole(runs []string) map[int]string {
	x.t.Helper()
	x.admin, x.marta, x.li = x.s.connect(x.s.credential(engine.AdminFile)), x.s.connect(x.people["marta"]), x.s.connect(x.people["li"])
	stopped := map[int]string{}
	var list events.Epochs
	x.must(x.admin, events.VerbNewEpoch, events.NewEpoch{}, &list)
	for _, e := range list.Epochs {
		stopped[e.Partition] = e.Stopped
		if len(stopped) <= 3 {
			x.t.Logf("%s; lost: %v", e.Stopped, e.Lost)
		}
		if e.Stopped == "" {
			x.t.Errorf("partition %d does not say why it is stopped", e.Partition)
		}
	}
	lost := 0
	for _, run := range runs {
		vp := events.Partition(record.Run, run)
		var v events.RunView
		_, err := x.ask(x.admin, events.VerbGet, events.GetRun{Run: run}, &v)
		var refusal *bus.Refusal
		switch {
		case stopped[vp] != "":
			if lost++; !errors.As(err, &refusal) || refusal.Code != events.CodeStopped {
				x.t.Errorf("run %s of the stopped partition %d is answered %+v, %v", run, vp, v.Status, err)
			}
			continue
		case err != nil:
			x.t.Errorf("run %s, in partition %d, which is not stopped: %v", run, vp, err)
			continue
		}
		var verified events.Verification
		x.must(x.admin, events.VerbVerify, events.GetRun{Run: run}, &verified)
		if !verified.OK { // a record that nothing needs any more: the history says that it is missing
			x.t.Logf("run %s: %v", run, verified.Problems)
			continue
		}
		x.audit(run)
	}
	x.t.Logf("%d partitions are stopped with %d runs; of the others: %s", len(stopped), lost, x.sum)
	return stopped
}

// goesOn checks that the other partitions go on, and then, after a new epoch,
// the stopped ones too, also after a restart.
func (x *damagedStore) goesOn(stopped map[int]string) {
	x.t.Helper()
	x.goodRun("beside")
	for _, vp := range slices.Sorted(maps.Keys(stopped)) {
		// It may take longer than a request waits; then it is asked again, and
		// there is nothing to confirm any more.
		_, asked := x.ask(x.admin, events.VerbNewEpoch, events.NewEpoch{Partition: &vp, Reason: "the disk was replaced", Confirm: true}, nil)
		eventually(x.t, fmt.Sprintf("partition %d goes on", vp), func() (bool, error) {
			var still events.Epochs
			_, err := x.ask(x.admin, events.VerbNewEpoch, events.NewEpoch{}, &still)
			return err == nil && !slices.ContainsFunc(still.Epochs, func(e events.Epoch) bool { return e.Partition == vp }), cmp.Or(err, asked)
		})
	}
	// One that is killed has to look at all of a file at its next start, and
	// cuts off what comes behind the damage: that would be another loss.
	require(x.t, x.s.proc.stop(x.t))
	x.s.start()
	var again events.Epochs
	eventually(x.t, "the server answers again", func() (bool, error) {
		_, err := x.ask(x.admin, events.VerbNewEpoch, events.NewEpoch{}, &again)
		return err == nil, err
	})
	for _, e := range again.Epochs {
		x.t.Errorf("partition %d is stopped again: %s", e.Partition, e.Stopped)
	}
	noted := map[int]bool{}
	var page events.AuditPage
	x.must(x.admin, events.VerbAuditLog, events.ReadAudit{}, &page)
	for _, e := range page.Entries {
		if e.Kind == "epoch" && e.Partition != nil && strings.Contains(e.Reason, "the disk was replaced") {
			noted[*e.Partition] = true
		}
	}
	for vp := range stopped {
		if !noted[vp] {
			x.t.Errorf("the audit log does not tell that partition %d goes on", vp)
		}
	}
	x.goodRun("afterwards")
}

// goodRun takes a run to its end, in a partition that is not stopped.
func (x *damagedStore) goodRun(name string) {
	x.t.Helper()
	var v events.RunView
	for i := 0; ; i++ {
		_, err := x.ask(x.marta, events.VerbStart, events.StartRun{ID: fmt.Sprint(name, "-", i), Workflow: "hold"}, &v)
		var refusal *bus.Refusal
		if errors.As(err, &refusal) && refusal.Code == events.CodeStopped {
			continue
		}
		require(x.t, err)
		break
	}
	content := x.asked(v.ID)
	x.must(x.li, events.VerbDecide, events.Decide{ID: name, Run: v.ID, Decision: events.Approve, Content: content}, nil)
	if v := x.untilDone(v.ID); v.Outcome != events.Succeeded {
		x.t.Errorf("the run %s ended %s", name, v.Outcome)
	}
}

// flip changes one bit of a file.
func flip(t testing.TB, random *rand.Rand, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require(t, err)
	flipIn(t, random, path, 0, int(info.Size()))
}

// flipIn changes one bit of some bytes of a file.
func flipIn(t testing.TB, random *rand.Rand, path string, at, size int) {
	t.Helper()
	p, err := os.ReadFile(path)
	require(t, err)
	bit := random.IntN(8 * size)
	p[at+bit/8] ^= 1 << (bit % 8)
	require(t, os.WriteFile(path, p, 0o600))
	t.Logf("flipped bit %d of byte %d of %d", bit%8, at+bit/8, len(p))
}

// flipLast changes a bit of the last record of a run, which is not the newest
// of its partition where there is such a one.
func flipLast(t testing.TB, random *rand.Rand, path string) {
	t.Helper()
	last, newest := map[string]stored{}, map[int]stored{}
	for _, m := range messagesIn(t, path) {
		if strings.HasPrefix(m.subject, "penstock.log.") {
			last[m.subject], newest[events.LogPartition(m.subject)] = m, m
		}
	}
	var choice, rest []stored
	for _, subject := range slices.Sorted(maps.Keys(last)) {
		if m := last[subject]; m.seq < newest[events.LogPartition(subject)].seq {
			choice = append(choice, m)
		} else {
			rest = append(rest, m)
		}
	}
	if len(choice) == 0 {
		choice = rest
	}
	m := choice[random.IntN(len(choice))]
	t.Logf("the last record of %s, with sequence %d", m.subject, m.seq)
	flipIn(t, random, path, m.at+22+len(m.subject), m.size-22-len(m.subject))
}

// flipSequence changes a high bit of the sequence of a record.
func flipSequence(t testing.TB, random *rand.Rand, path string) {
	t.Helper()
	all := messagesIn(t, path)
	flipIn(t, random, path, all[len(all)/3+random.IntN(len(all)/3)].at+4+4, 3)
}

// shorten cuts off a part of the end of a file.
func shorten(t testing.TB, random *rand.Rand, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require(t, err)
	keep := info.Size()/3 + random.Int64N(info.Size()/3)
	require(t, os.Truncate(path, keep))
	t.Logf("kept %d bytes of %d", keep, info.Size())
}

func indexOf(messages string) string { return filepath.Join(filepath.Dir(messages), "index.db") }

// stored is a message in a file of the store.
type stored struct {
	at, size int
	seq      uint64
	subject  string
}

// messagesIn reads what lies in a file that is neither compressed nor encrypted.
func messagesIn(t testing.TB, path string) (all []stored) {
	t.Helper()
	p, err := os.ReadFile(path)
	require(t, err)
	for at := 0; at+22 <= len(p); {
		size := int(little.LittleEndian.Uint32(p[at:]) &^ (1 << 31))
		subject := int(little.LittleEndian.Uint16(p[at+20:]))
		all = append(all, stored{at, size, little.LittleEndian.Uint64(p[at+4:]), string(p[at+22 : at+22+subject])})
		at += size
	}
	return all
}

// messages is the file of a stream's messages.
func (s *server) messages(stream string) string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.plan.Dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	require(s.t, err)
	if len(found) == 0 {
		s.t.Fatalf("stream %s has no files", stream)
	}
	return slices.MaxFunc(found, func(a, b string) int { return len(a) - len(b) })
}

// untilAudited waits until the audit log has all of the record. What is younger
// than that, and than the checkpoints, is known to nobody but the record itself.
func (s *server) untilAudited() {
	s.t.Helper()
	eventually(s.t, "the audit log has everything", func() (bool, error) {
		all := messagesIn(s.t, s.messages(events.StreamLog))
		p, err := os.ReadFile(s.messages(events.StreamAudit))
		return strings.Contains(string(p), fmt.Sprintf(`"pos":%d,`, all[len(all)-1].seq)), err
	})
}
