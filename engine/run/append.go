package run

import (
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events/wire"
)

// AppendJSON appends the state as encoding/json writes it.
func (s *State) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	s.appendFirst(&o)
	s.appendRest(&o)
	return o.Close()
}

// appendFirst appends what every state has.
func (s *State) appendFirst(o *wire.Object) {
	o.Text("id", s.ID)
	o.Text("wf", s.Workflow)
	o.Text("def", s.Def)
	o.Text("start", s.Catalog)
	wire.AnyIf(o, "origin", s.Origin)
	o.Text("title", s.Title)
	wire.MapIf(o, "labels", s.Labels)
	if len(s.Inputs) > 0 {
		o.Put("inputs", s.Inputs)
	}
	o.Text("by", s.RequestedBy)
	wire.AnyIf(o, "cause", s.Cause)
	o.TextsIf("authors", s.Authors)
	o.TrueIf("authorsSet", s.AuthorsSet)
	o.TextIf("subject", s.Subject)
	if s.Source != (record.Source{}) {
		o.Any("source", s.Source)
	}
	wire.MapIf(o, "ran", s.Ran)
	o.Int("beat", s.Beat)
	o.Int("beatLimit", s.BeatLimit)
	o.Int("t0", s.StartedAt)
	o.IntIf("t1", s.EndedAt)
	o.Int("t", s.Now)
	o.Text("phase", s.Phase)
	o.TextIf("outcome", s.Outcome)
	wire.AnyIf(o, "error", s.Error)
	o.Text("at", s.At)
	o.Int("visit", int64(s.Visit))
	o.CountsIf("visits", s.Visits)
	wire.ItemsIf(o, "path", s.Path)
	if len(s.Values) > 0 {
		o.Put("values", s.Values)
	}
	wire.ListIf(o, "tasks", s.Tasks)
	wire.AnyIf(o, "open", s.Open)
	wire.SliceIf(o, "given", s.Given)
}

// appendRest appends the others.
func (s *State) appendRest(o *wire.Object) {
	o.IntIf("wakeAt", s.WakeAt)
	wire.MapIf(o, "grants", s.Grants)
	wire.MapIf(o, "taken", s.Taken)
	wire.MapIf(o, "kept", s.Kept)
	wire.MapIf(o, "put", s.Put)
	wire.MapIf(o, "there", s.There)
	wire.AnyIf(o, "held", s.Held)
	wire.AnyIf(o, "cancel", s.Cancel)
	wire.AnyIf(o, "paused", s.Paused)
	wire.AnyIf(o, "key", s.Key)
	wire.AnyIf(o, "parent", s.Parent)
	if len(s.Outputs) > 0 {
		o.Put("outputs", s.Outputs)
	}
	wire.AnyIf(o, "each", s.Each)
	wire.SliceIf(o, "effects", s.Effects)
	wire.AnyIf(o, "undoing", s.Undoing)
	o.IntIf("parts", int64(s.Parts))
	wire.AnyIf(o, "leaving", s.Leaving)
	wire.AnyIf(o, "over", s.Over)
	o.TextIf("winner", s.Winner)
	o.TextsIf("listen", s.Listen)
	wire.MapIf(o, "doors", s.Doors)
	wire.MapIf(o, "heard", s.Heard)
	wire.MapIf(o, "glass", s.Glass)
	wire.MapIf(o, "anew", s.Anew)
	wire.MapIf(o, "undone", s.Undone)
	wire.MapIf(o, "proofs", s.Proofs)
	wire.SliceIf(o, "attested", s.Attested)
	wire.SliceIf(o, "outbox", s.Outbox)
	o.IntIf("sent", s.Sent)
	wire.SliceIf(o, "seen", s.Seen)
	wire.ItemsIf(o, "ended", s.Ended)
	wire.SliceIf(o, "told", s.Told)
	o.IntIf("ends", int64(s.Ends))
	o.IntIf("notes", int64(s.Notes))
}

// AppendJSON appends the visit as encoding/json writes it.
func (v *Visited) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("s", v.State)
	o.Int("n", int64(v.Visit))
	o.Int("in", v.In)
	o.IntIf("out", v.Out)
	o.TextIf("o", v.Outcome)
	wire.AnyIf(&o, "e", v.Error)
	return o.Close()
}

// AppendJSON appends the task as encoding/json writes it.
func (t *Task) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("id", t.ID)
	o.Text("path", t.Path)
	o.Text("kind", t.Kind)
	o.Text("pool", t.Pool)
	o.Text("runs", t.Runs)
	o.Int("n", int64(t.Attempt))
	o.Text("s", t.Status)
	o.TrueIf("detached", t.Detached)
	o.TrueIf("closing", t.Closing)
	o.TextIf("env", t.Env)
	o.TextIf("before", t.Before)
	o.TrueIf("deploys", t.Deploys)
	o.TextIf("artifact", t.Artifact)
	o.TextIf("worker", t.Worker)
	o.IntIf("v", t.V)
	o.TextIf("lost", t.Lost)
	o.IntIf("asked", int64(t.Asked))
	o.IntIf("q", t.QueuedAt)
	o.IntIf("b", t.BeganAt)
	o.IntIf("e", t.EndedAt)
	o.IntIf("startBy", t.StartBy)
	o.IntIf("runBy", t.RunBy)
	o.IntIf("retryAt", t.RetryAt)
	o.IntIf("giveUpAt", t.GiveUpAt)
	o.TextIf("o", t.Outcome)
	wire.AnyIf(&o, "err", t.Error)
	if len(t.With) > 0 {
		o.Put("with", t.With)
	}
	o.TextIf("member", t.Member)
	o.TextIf("of", t.Of)
	o.TextIf("child", t.Child)
	wire.AnyIf(&o, "roll", t.Roll)
	o.IntIf("part", int64(t.Part))
	o.TextIf("resumes", t.Resumes)
	return o.Close()
}

// AppendJSON appends the attempt as encoding/json writes it.
func (e *Ended) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("id", e.Task)
	o.Text("w", e.Worker)
	o.Int("v", e.V)
	return o.Close()
}
