package record

import "github.com/penstock-cd/penstock/events/wire"

// AppendJSON appends the record as encoding/json writes it.
func (r *Record) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Int("f", int64(r.Format))
	o.Text("agg", r.Aggregate)
	o.Text("id", r.ID)
	o.Int("v", r.V)
	o.TextIf("prev", r.Prev)
	o.Int("t", r.T)
	wire.PutIf(&o, "h", r.Summary)
	o.TextIf("cat", r.Catalog)
	o.TextIf("eng", r.Engine)
	o.IntIf("core", int64(r.Core))
	o.Put("in", &r.In)
	o.Put("ans", &r.Answer)
	wire.SliceIf(&o, "dec", r.Decisions)
	wire.ItemsIf(&o, "ev", r.Events)
	wire.ListIf(&o, "tasks", r.Tasks)
	if r.State == nil {
		o.Raw("state", []byte("null"))
	} else {
		o.Raw("state", r.State) // JSON already, as AppendJSON or json.Marshal gives it
	}
	return o.Close()
}

// AppendJSON appends the answer as encoding/json writes it.
func (a *Answer) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("status", a.Status)
	o.TextIf("code", a.Code)
	o.TextIf("reason", a.Reason)
	return o.Close()
}

// AppendJSON appends the event as encoding/json writes it.
func (e *Emitted) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("type", e.Type)
	o.Put("data", &e.Data)
	return o.Close()
}

// AppendJSON appends the input as encoding/json writes it.
func (in *Input) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("id", in.ID)
	o.Text("kind", in.Kind)
	o.TextIf("by", in.By)
	o.TextsIf("groups", in.Groups)
	o.TrueIf("admin", in.Admin)
	o.TextIf("via", in.Via)
	wire.AnyIf(&o, "start", in.Start)
	wire.PutIf(&o, "attempt", in.Attempt)
	wire.AnyIf(&o, "decide", in.Decide)
	wire.AnyIf(&o, "cancel", in.Cancel)
	wire.AnyIf(&o, "granted", in.Granted)
	wire.AnyIf(&o, "freed", in.Freed)
	wire.AnyIf(&o, "sent", in.Sent)
	wire.AnyIf(&o, "request", in.Request)
	wire.AnyIf(&o, "release", in.Release)
	wire.AnyIf(&o, "pause", in.Pause)
	wire.AnyIf(&o, "retry", in.Retry)
	wire.AnyIf(&o, "glass", in.Glass)
	wire.AnyIf(&o, "signal", in.Signal)
	wire.AnyIf(&o, "child", in.Child)
	wire.AnyIf(&o, "envState", in.EnvState)
	wire.AnyIf(&o, "hold", in.Hold)
	wire.AnyIf(&o, "proof", in.Proof)
	wire.AnyIf(&o, "key", in.Key)
	o.TextsIf("listening", in.Listening)
	wire.SliceIf(&o, "event", in.Event)
	o.TextIf("bad", in.Bad)
	wire.MapIf(&o, "workers", in.Workers)
	return o.Close()
}

// AppendJSON appends the report as encoding/json writes it.
func (a *Attempt) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("task", a.Task)
	o.TextIf("worker", a.Worker)
	o.TextIf("pool", a.Pool)
	o.TextsIf("kinds", a.Kinds)
	wire.PutIf(&o, "result", a.Result)
	o.IntIf("took", a.Took)
	return o.Close()
}

// AppendJSON appends the summary as encoding/json writes it.
func (s *Summary) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.IntIf("due", s.Due)
	o.TrueIf("busy", s.Busy)
	o.TextIf("wf", s.Workflow)
	o.TextIf("s", s.Status)
	o.TextIf("o", s.Outcome)
	o.IntIf("t0", s.Started)
	o.TextIf("up", s.Parent)
	o.TextsIf("l", s.Listen)
	return o.Close()
}
