package run_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays each testdata/*.txtar: its script against its
// workflow.yaml, and compares what is told with its transcript. The name of a
// file is the promise that it shows.
func TestTranscripts(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, ar)
			want := file(ar, "transcript")
			if *update {
				set(ar, "transcript", got)
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("the transcript differs (-want +got); if that is right, run the test with -update:\n%s", d)
			}
		})
	}
}

func file(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func set(ar *txtar.Archive, name, text string) {
	for i := range ar.Files {
		if ar.Files[i].Name == name {
			ar.Files[i].Data = []byte(text)
			return
		}
	}
	ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(text)})
}

// player plays a script.
type player struct {
	*world
	ar    *txtar.Archive
	out   strings.Builder
	in    record.Input // the last one
	said  int
	doors int64    // how often an environment told of itself
	asks  []string // contents of the approvals that were asked for

	refuse string // the reason for which the next child run is refused
}

func play(t *testing.T, ar *txtar.Archive) string {
	cat := catalog(t, parse.File{Name: "workflow.yaml", Content: []byte(file(ar, "workflow.yaml"))})
	p := &player{world: newWorld(t, cat, "w"), ar: ar}
	for _, line := range strings.Split(strings.TrimSpace(file(ar, "script")), "\n") {
		fmt.Fprintf(&p.out, "> %s\n", line)
		p.command(words(line))
	}
	p.verify()
	return p.out.String()
}

// words splits a line at spaces; "…" is one word.
func words(line string) []string {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		word, rest, _ := strings.Cut(line, " ")
		if strings.HasPrefix(line, `"`) {
			word, rest, _ = strings.Cut(line[1:], `"`)
		}
		out, line = append(out, word), rest
	}
	return out
}

// alive are the live workers of workers=pool/kind:n.
func alive(named map[string]string) map[string]int {
	place, text, ok := strings.Cut(named["workers"], ":")
	n, err := strconv.Atoi(text)
	if !ok || err != nil {
		return nil
	}
	return map[string]int{place: n}
}

// args takes k=v words apart; the others are in order under "".
func args(list []string) (plain []string, named map[string]string) {
	named = map[string]string{}
	for _, a := range list {
		if k, v, ok := strings.Cut(a, "="); ok && !strings.Contains(k, " ") {
			named[k] = v
		} else {
			plain = append(plain, a)
		}
	}
	return plain, named
}

// values reads k=v words as JSON where they are, else as text.
func values(named map[string]string, but ...string) record.Values {
	out := record.Values{}
next:
	for k, text := range named {
		for _, b := range but {
			if k == b {
				continue next
			}
		}
		var v any
		if json.Unmarshal([]byte(text), &v) != nil {
			v = text
		}
		out[k] = v
	}
	return out
}

func (p *player) command(line []string) {
	plain, named := args(line[1:])
	arg := func(i int) string {
		if i < len(plain) {
			return plain[i]
		}
		return ""
	}
	by := named["by"]
	switch line[0] {
	case "start":
		start := &record.Start{Run: p.id, Workflow: "w", Inputs: values(named, "by", "parent")}
		if parent := named["parent"]; parent != "" {
			start.Parent = &record.Parent{Run: parent, Path: "child", Task: "t1", RequestedBy: by, Keys: []string{"shared"}}
			by = "run:" + parent
		}
		p.give(record.Input{ID: "start", Kind: record.InStart, By: by, Start: start})
	case "take":
		id, _ := p.task(arg(0))
		p.give(record.Input{Kind: record.InAttemptStart, By: "worker:" + arg(1), Attempt: &record.Attempt{Task: id, Worker: arg(1)}})
	case "finish", "fail":
		p.end(line[0], plain, named)
	case "lost":
		id, worker := p.task(arg(0))
		p.give(record.Input{Kind: record.InAttemptLost, By: "engine", Attempt: &record.Attempt{Task: id, Worker: worker}})
	case "at":
		d, err := time.ParseDuration(strings.TrimPrefix(arg(0), "+"))
		if err != nil {
			p.t.Fatal(err)
		}
		p.clock = epoch + d.Milliseconds()
		if arg(1) == "timer" {
			p.give(record.Input{Kind: record.InTimer, By: "engine", Workers: alive(named)})
		}
	case "approve", "reject", "changes", "delegate", "defer", "escalate", "withdraw":
		p.person(line[0], plain, named)
	case "timer":
		p.give(record.Input{Kind: record.InTimer, By: "engine", Workers: alive(named)})
	case "why":
		for _, r := range p.why() {
			p.reason(r)
		}
	case "explain":
		n, _ := strconv.Atoi(arg(0))
		p.explain(n)
	case "glass":
		p.give(record.Input{ID: p.fresh(), Kind: record.InBreakGlass, By: arg(0), Glass: &events.BreakGlass{Run: p.id, Environment: arg(1), Reason: arg(2)}})
	case "door":
		p.doors++
		e := &record.EnvState{N: p.doors, Environment: arg(0), Open: arg(1) == "open", Reason: arg(2), AtEnd: named["atEnd"]}
		if named["until"] != "" {
			e.Until = p.later(named["until"]).UnixMilli()
		}
		p.give(record.Input{ID: p.fresh(), Kind: record.InEnvState, By: "environment:" + arg(0), EnvState: e})
	case "proven":
		p.give(record.Input{ID: p.fresh(), Kind: record.InProven, By: "environment:" + arg(0),
			Proof: &record.Proof{Run: p.id, Environment: arg(0), Artifact: arg(1), Proven: arg(2) == "yes", By: named["by"]}})
	case "cancel":
		id := named["id"]
		if id == "" {
			id = p.fresh()
		}
		p.give(record.Input{ID: id, Kind: record.InCancel, By: arg(0), Cancel: &events.CancelRun{ID: id, Run: p.id, Reason: arg(1)}})
	case "grant", "freed":
		n, _ := strconv.ParseInt(arg(1), 10, 64)
		in := record.Input{Kind: record.InGranted, By: "environment:" + arg(0), Granted: &record.Granted{Environment: arg(0), Grant: n}}
		if run, artifact, ok := strings.Cut(named["deployed"], "/"); ok {
			in.Granted.Deployed = &record.Deployment{Run: run, Artifact: artifact}
		}
		if line[0] == "freed" {
			in.Kind, in.Freed, in.Granted = record.InFreed, in.Granted, nil
		}
		p.give(in)
	case "again":
		p.give(p.in)
	case "pause", "resume", "retry":
		p.order(line[0], plain, named)
	case "event":
		p.event(arg(0), named)
	case "child":
		p.child(arg(0), named)
	case "refuse":
		p.refuse = arg(0)
	case "key":
		n, _ := strconv.ParseInt(arg(1), 10, 64)
		p.give(record.Input{Kind: record.InKeyGranted, By: "key:" + arg(0), Key: &record.Claim{Key: arg(0), Run: p.id, Grant: n}})
	case "denied":
		p.give(record.Input{ID: p.fresh(), Kind: record.InKeyDenied, By: "key:" + arg(0), Key: &record.Claim{Key: arg(0), Run: p.id, Asked: p.state.Key.Asked, Reason: arg(1), Holder: arg(2)}})
	case "answers":
		p.answerAll()
	case "gone":
		cat := *p.now
		cat.Environments, cat.Digest = maps.Clone(cat.Environments), cat.Digest+"-"+arg(0)
		delete(cat.Environments, arg(0))
		p.apply(&cat)
	case "apply":
		p.apply(catalog(p.t, parse.File{Name: "workflow.yaml", Content: []byte(file(p.ar, "workflow.yaml"))},
			parse.File{Name: arg(0), Content: []byte(file(p.ar, arg(0)))}))
	default:
		p.t.Fatalf("unknown command %q", line[0])
	}
}

// order gives a person's command to the run.
func (p *player) order(what string, plain []string, named map[string]string) {
	id, reason := named["id"], ""
	if id == "" {
		id = p.fresh()
	}
	if len(plain) > 1 {
		reason = plain[1]
	}
	in := record.Input{ID: id, By: plain[0]}
	switch what {
	case "pause":
		in.Kind, in.Pause = record.InPause, &events.PauseRun{ID: id, Run: p.id, Reason: reason}
	case "resume":
		in.Kind, in.Pause = record.InResume, &events.PauseRun{ID: id, Run: p.id, Reason: reason}
	default:
		in.Kind, in.Retry = record.InRetry, &events.RetryRun{ID: id, Run: p.id, From: named["from"], Reason: reason}
	}
	p.give(in)
}

// event lets an event come that the run may listen for.
func (p *player) event(typ string, named map[string]string) {
	id := named["id"]
	if id == "" {
		id = p.fresh()
	}
	data, err := json.Marshal(values(named, "id"))
	if err != nil {
		p.t.Fatal(err)
	}
	ev := events.Event{ID: id, Source: "test", Type: typ, DataContentType: "application/json", Data: data}
	raw, err := json.Marshal(ev)
	if err != nil {
		p.t.Fatal(err)
	}
	p.give(record.Input{ID: "signal:" + id, Kind: record.InSignal, By: "event:test",
		Signal: &record.Signal{Cause: events.Cause{ID: id, Source: "test", Type: typ}, Event: raw}})
}

// child lets the child run at a path come to its end.
func (p *player) child(path string, named map[string]string) {
	for _, t := range p.state.Tasks {
		if t.Path != path || t.Child == "" {
			continue
		}
		end := &record.ChildEnded{Run: t.Child, Task: t.ID, Outcome: events.Succeeded, Outputs: values(named, "outcome")}
		if o := named["outcome"]; o != "" {
			end.Outcome, end.Outputs = o, nil
		}
		p.give(record.Input{ID: "ended:" + t.ID, Kind: record.InChildEnded, By: "run:" + t.Child, Child: end})
		return
	}
	p.t.Fatalf("no child run at %s", path)
}

func (p *player) fresh() string { p.said++; return fmt.Sprint("c", p.said) }

// task finds an attempt by its path, or the n-th that was published as path#n.
func (p *player) task(path string) (id, worker string) {
	name, n, old := strings.Cut(path, "#")
	published := p.tasks[name]
	i := len(published) - 1
	if old {
		k, _ := strconv.Atoi(n)
		i = k - 1
	}
	if i < 0 || i >= len(published) {
		return "no-such-task", ""
	}
	id = published[i].ID
	return id, p.state.Running()[id]
}

// end reports the end of an attempt.
func (p *player) end(what string, plain []string, named map[string]string) {
	id, worker := p.task(plain[0])
	if named["by"] != "" {
		worker = named["by"]
	}
	r := events.Result{Outcome: events.Succeeded, Facts: map[string]any{}}
	if o := named["outcome"]; o != "" {
		r.Outcome = o
	}
	if a := named["authors"]; a != "" {
		list := []any{}
		for _, e := range strings.Split(a, ",") {
			list = append(list, e)
		}
		r.Facts["authors"] = list
	}
	if a := named["attested"]; a != "" {
		list := []any{}
		for _, e := range strings.Split(a, ",") {
			list = append(list, map[string]any{"type": e, "verified": true})
		}
		r.Facts["attestations"] = list
	}
	if what == "fail" && named["outcome"] == "" {
		r.Outcome = events.Failed
	}
	for _, word := range plain[1:] {
		if word == "undone" {
			r.Facts["undone"] = true
		}
	}
	if r.Outcome != events.Succeeded {
		code := named["code"]
		if code == "" {
			code = "broken"
		}
		r.Error = &events.TaskError{Code: code, Message: "it broke", Retryable: strings.Contains(strings.Join(plain, " "), "retryable")}
	}
	r.Outputs = values(named, "by", "outcome", "authors", "attested", "code", "took", "pool")
	took, _ := strconv.ParseInt(named["took"], 10, 64)
	p.give(record.Input{Kind: record.InAttemptFinish, By: "worker:" + worker,
		Attempt: &record.Attempt{Task: id, Worker: worker, Pool: named["pool"], Result: &r, Took: took}})
}

func (p *player) person(what string, plain []string, named map[string]string) {
	d := &events.Decide{ID: named["id"], Run: p.id, State: named["state"], Content: named["content"], To: named["to"], Decision: map[string]string{
		"approve": events.Approve, "reject": events.Reject, "changes": events.RequestChanges, "delegate": events.Delegate, "defer": events.Defer,
		"escalate": events.Escalate, "withdraw": events.Withdraw}[what]}
	if d.ID == "" {
		d.ID = p.fresh()
	}
	if _, given := named["content"]; !given {
		d.Content = p.content()
	} else if n, err := strconv.Atoi(strings.TrimPrefix(d.Content, "#")); err == nil {
		d.Content = p.asks[n-1]
	}
	if len(plain) > 1 {
		d.Comment = plain[1]
	}
	if n := named["notAfter"]; n != "" {
		d.NotAfter = p.later(n)
	}
	if n := named["notBefore"]; n != "" {
		d.NotBefore = p.later(n)
	}
	p.give(record.Input{ID: d.ID, Kind: record.InDecide, By: plain[0], Decide: d})
}

// reason tells one thing that the run waits for in full.
func (p *player) reason(r events.WaitReason) {
	fmt.Fprintf(&p.out, "  %s (%s): %s\n", r.State, r.What, plainText(r.Summary))
	p.rules(r.Rules)
	for _, line := range r.Have {
		fmt.Fprintf(&p.out, "    have: %s\n", line)
	}
	if len(r.Can) > 0 {
		fmt.Fprintf(&p.out, "    can: %s\n", strings.Join(r.Can, ", "))
	}
	for _, line := range r.Cannot {
		fmt.Fprintf(&p.out, "    cannot: %s\n", line)
	}
}

func (p *player) rules(rules []events.RuleReason) {
	for _, r := range rules {
		gives := or(fmt.Sprint("gives ", r.Value), "gives no value: "+r.Error, r.Error != "")
		fmt.Fprintf(&p.out, "    %s of %s %s%s\n", r.Name, r.Of, gives, or("", ": "+r.Missing, r.Missing != ""))
		fmt.Fprintf(&p.out, "      %s\n", r.Source)
		for _, part := range r.Parts {
			if part.Depth > 0 {
				fmt.Fprintf(&p.out, "      %s%s = %s%s\n", strings.Repeat("  ", part.Depth), part.Source, record.Text(part.Value), or("", " ("+part.Error+")", part.Error != ""))
			}
		}
		if r.Residual != "" {
			fmt.Fprintf(&p.out, "      left: %s\n", r.Residual)
		}
	}
}

func or(a, b string, second bool) string {
	if second {
		return b
	}
	return a
}

// explain tells why a record says what it says.
func (p *player) explain(n int) {
	r, err := record.Decode(p.stored[n-1])
	if err != nil {
		p.t.Fatal(err)
	}
	d, err := p.lookup(p.state.Catalog, r.Catalog, p.state.Workflow)
	if err != nil {
		p.t.Fatal(err)
	}
	why := run.ExplainRecord(d, r)
	fmt.Fprintf(&p.out, "  %s%s\n", why.Cause, or("", "; "+why.Answer, why.Answer != ""))
	p.rules(why.Decisions)
	for _, line := range why.Happened {
		fmt.Fprintf(&p.out, "  - %s\n", plainText(line))
	}
}

// later is a time after the beginning, "+2h".
func (p *player) later(s string) time.Time {
	after, err := time.ParseDuration(strings.TrimPrefix(s, "+"))
	if err != nil {
		p.t.Fatal(err)
	}
	return time.UnixMilli(epoch).Add(after)
}

// openDoors answers the environments that the run looks at, unless the script
// does: they are open.
func (p *player) openDoors(looked []string) {
	if strings.Contains(file(p.ar, "script"), "\ndoor ") {
		return
	}
	for _, env := range looked {
		fmt.Fprintf(&p.out, "- %s says that it is open\n", env)
		p.doors++
		p.give(record.Input{ID: p.fresh(), Kind: record.InEnvState, By: "environment:" + env, EnvState: &record.EnvState{N: p.doors, Environment: env, Open: true}})
	}
}

// give gives the run an input and tells what came of it.
func (p *player) give(in record.Input) {
	p.in = in
	tr := p.do(in)
	for i, e := range tr.Events {
		switch last := len(tr.Events) - 1; {
		case i < 12 || i == last:
			fmt.Fprintf(&p.out, "  %s\n", told(e))
		case i == 12:
			fmt.Fprintf(&p.out, "  … %d more\n", last-12)
		}
		if e.Type == events.ApprovalRequested {
			p.asks = append(p.asks, e.Data.Content)
		}
	}
	for _, task := range tr.Tasks {
		if task.With["weight"] != nil || task.Kind == "sample" || strings.HasPrefix(task.State, "undo.") {
			fmt.Fprintf(&p.out, "  task %s with %s\n", task.State, record.Text(task.With))
		}
	}
	answer := strings.TrimSpace(tr.Answer.Status + " " + tr.Answer.Code)
	if tr.Answer.Reason != "" {
		answer += ": " + tr.Answer.Reason
	}
	if !tr.Record {
		answer += " (no record)"
	}
	fmt.Fprintf(&p.out, "  = %s\n", answer)
	if p.state == nil {
		return
	}
	var looked []string
	for _, m := range p.state.Outbox {
		switch {
		case m.Input.Kind == record.InEnvLook && m.Input.Request.Rules:
			fmt.Fprintf(&p.out, "  listens for new definitions of %s\n", m.ID)
		case m.Input.Kind == record.InEnvLook:
			fmt.Fprintf(&p.out, "  looks at %s\n", m.ID)
			looked = append(looked, m.ID)
		case m.Input.Proof != nil:
			fmt.Fprintf(&p.out, "  asks whether %s succeeded in %s\n", m.Input.Proof.Artifact, m.ID)
		case m.Input.Request != nil && m.Input.Request.Glass:
			fmt.Fprintf(&p.out, "  asks for %s, open or not\n", m.ID)
		case m.Input.Request != nil:
			fmt.Fprintf(&p.out, "  asks for %s\n", m.ID)
		case m.Input.Release != nil:
			fmt.Fprintf(&p.out, "  gives %s back, grant %d%s%s\n", m.ID, m.Input.Release.Grant, deployedText(m.Input.Release.Deployed),
				or("", "; taken back: "+strings.Join(m.Input.Release.Undone, ", "), len(m.Input.Release.Undone) > 0))
		default:
			fmt.Fprint(&p.out, sendText(m))
		}
	}
	p.answers()
	defer p.openDoors(looked)
	if p.state.Done() {
		fmt.Fprintf(&p.out, "  done: %s%s\n", p.state.Outcome, keptText(p.state.Kept))
		return
	}
	for _, r := range p.why() {
		fmt.Fprintf(&p.out, "  waits: %s: %s\n", r.State, plainText(r.Summary))
		for _, c := range r.Cannot {
			fmt.Fprintf(&p.out, "    cannot: %s\n", c)
		}
	}
}

// answers answers what was sent; a child run may be refused.
func (p *player) answers() {
	for _, m := range p.state.Outbox {
		if m.Input.Kind != record.InStart || p.refuse == "" {
			continue
		}
		in := record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: &record.Sent{ID: m.Input.ID, Status: events.StatusError, Reason: p.refuse}}
		p.refuse = ""
		p.give(in)
		return
	}
	p.answerAll()
}

// sendText tells of a message to another run or to a key.
func sendText(m record.Send) string {
	switch in := m.Input; in.Kind {
	case record.InStart:
		inputs, _ := json.Marshal(in.Start.Inputs) // plain values always encode
		return fmt.Sprintf("  starts a run of %s with %s, asked for by %s\n", in.Start.Workflow, inputs, in.Start.Parent.RequestedBy)
	case record.InCancel:
		return fmt.Sprintf("  cancels its child: %s\n", in.Cancel.Reason)
	case record.InChildEnded:
		outputs, _ := json.Marshal(in.Child.Outputs) // likewise
		return fmt.Sprintf("  tells run %s: %s %s\n", m.ID, in.Child.Outcome, outputs)
	case record.InKeyRequest:
		return fmt.Sprintf("  asks for key %s (%s)\n", m.ID, in.Key.Policy)
	case record.InKeyRelease:
		return fmt.Sprintf("  gives key %s back, grant %d\n", m.ID, in.Key.Grant)
	}
	return ""
}

func deployedText(d *record.Deployment) string {
	if d == nil {
		return ""
	}
	return ", where " + d.Artifact + " is deployed"
}

func keptText(kept map[string]string) (s string) {
	for _, env := range sortedKeys(kept) {
		s += fmt.Sprintf("; %s stays locked: %s", env, kept[env])
	}
	return s
}

// told is an event in a line.
func told(e record.Emitted) string {
	h, s := e.Data, events.ShortType(e.Type)
	add := func(format string, v any, there bool) {
		if there {
			s += fmt.Sprintf(format, v)
		}
	}
	add(" %s", h.State, h.State != "")
	add(", a %s task", h.Kind, e.Type == events.StateEntered && h.Kind != "")
	add(" visit %d", h.Visit, h.Visit > 1)
	add(" attempt %d", h.Attempt, h.Attempt > 1)
	add(" on %s", h.Environment, h.Environment != "")
	add(" grant %d", h.Grant, h.Grant > 0)
	add(" by %s", h.By, h.By != "")
	add(" to %v", h.Roles, len(h.Roles) > 0 && e.Type == events.ApprovalEscalated)
	add(" by %s", h.RequestedBy, h.RequestedBy != "")
	add(" %s", h.Decision, h.Decision != "")
	add(" of %v", h.Environments, len(h.Environments) > 0)
	add(" worker %s", h.Worker, h.Worker != "")
	add(" %s", h.Outcome, h.Outcome != "")
	add(" after %d ms", h.DurationMs, e.Type == events.TaskFinished && h.DurationMs%1000 != 0)
	add(" → %s", h.To, h.To != "")
	add(" key %s", h.Key, h.Key != "")
	if h.Cause != nil {
		s += fmt.Sprintf(" (%s %s)", h.Cause.Type, h.Cause.ID)
	}
	add(" roles %v", h.Roles, e.Type == events.RunPaged)
	add(" authors %v", h.Authors, len(h.Authors) > 0)
	add(", where %s is again", h.Artifact, e.Type == events.EffectUndone && h.Artifact != "")
	if h.Error != nil {
		s += fmt.Sprintf(" [%s: %s]", h.Error.Code, h.Error.Message)
	}
	if h.At != nil {
		s += " at " + clockText(h.At.UnixMilli())
	}
	if h.ReviewBy != nil {
		s += " review until " + clockText(h.ReviewBy.UnixMilli())
	}
	if h.Deadline != nil {
		s += " until " + clockText(h.Deadline.UnixMilli())
	}
	add(": %s", h.Reason, h.Reason != "")
	add(": %s", strings.Join(h.Reasons, "; "), len(h.Reasons) > 0)
	add(" warnings: %s", strings.Join(h.Warnings, "; "), len(h.Warnings) > 0)
	add(" missing: %s", strings.Join(h.Missing, "; "), len(h.Missing) > 0)
	add(" %q", h.Text, h.Text != "")
	add(" comment %q", h.Comment, h.Comment != "")
	return plainText(s)
}

// plainText has no line breaks in it.
func plainText(s string) string { return strings.ReplaceAll(s, "\n", " / ") }
