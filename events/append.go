package events

import "github.com/penstock-cd/penstock/events/wire"

// AppendJSON appends the task as encoding/json writes it.
func (t *Task) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("id", t.ID)
	o.Text("run", t.Run)
	o.Text("workflow", t.Workflow)
	o.Text("state", t.State)
	o.Int("attempt", int64(t.Attempt))
	o.Text("pool", t.Pool)
	o.Text("kind", t.Kind)
	o.TextIf("mode", t.Mode)
	o.Text("runs", t.Runs)
	o.TrueIf("atOnce", t.AtOnce)
	wire.MapIf(&o, "with", t.With)
	wire.AnyIf(&o, "environment", t.Environment)
	o.Put("fence", &t.Fence)
	o.IntIf("timeoutMs", t.Timeout)
	o.Int("heartbeatMs", t.Heartbeat)
	o.Int("heartbeatTimeoutMs", t.HeartbeatTimeout)
	o.Time("issued", t.Issued)
	o.TextIf("traceparent", t.Trace)
	return o.Close()
}

// AppendJSON appends the token as encoding/json writes it.
func (f *Fence) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Int("grant", f.Grant)
	o.Int("version", f.Version)
	return o.Close()
}

// AppendJSON appends the request as encoding/json writes it.
func (r *FinishRequest) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("task", r.Task)
	o.Text("run", r.Run)
	o.Text("worker", r.Worker)
	o.Put("result", &r.Result)
	o.IntIf("tookMs", r.Took)
	return o.Close()
}

// AppendJSON appends the result as encoding/json writes it.
func (r *Result) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("outcome", r.Outcome)
	wire.MapIf(&o, "outputs", r.Outputs)
	wire.AnyIf(&o, "error", r.Error)
	wire.MapIf(&o, "facts", r.Facts)
	return o.Close()
}

// AppendJSON appends the answer as encoding/json writes it.
func (a *Answer) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("status", a.Status)
	o.IntIf("record", a.Record)
	o.TextIf("code", a.Code)
	o.TextIf("reason", a.Reason)
	o.TextIf("verdict", a.Verdict)
	o.IntIf("retryAfterMs", a.RetryAfter)
	wire.SliceIf(&o, "result", a.Result)
	return o.Close()
}

// AppendJSON appends the data of an event as encoding/json writes it.
func (h *Happening) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.TextIf("run", h.Run)
	o.TextIf("workflow", h.Workflow)
	o.TextIf("title", h.Title)
	o.IntIf("record", h.Record)
	o.TextIf("state", h.State)
	o.IntIf("visit", int64(h.Visit))
	o.TextIf("to", h.To)
	o.TextIf("outcome", h.Outcome)
	o.TextIf("kind", h.Kind)
	o.IntIf("attempt", int64(h.Attempt))
	o.TextIf("worker", h.Worker)
	wire.MapIf(&o, "inputs", h.Inputs)
	wire.MapIf(&o, "outputs", h.Outputs)
	wire.AnyIf(&o, "error", h.Error)
	o.IntIf("durationMs", h.DurationMs)
	wire.AnyIf(&o, "at", h.At)
	o.TextIf("requestedBy", h.RequestedBy)
	o.TextsIf("authors", h.Authors)
	o.TextIf("by", h.By)
	o.TextsIf("roles", h.Roles)
	o.TextIf("decision", h.Decision)
	o.TextIf("comment", h.Comment)
	o.TextIf("reason", h.Reason)
	o.TextsIf("reasons", h.Reasons)
	o.TextsIf("warnings", h.Warnings)
	o.TextsIf("missing", h.Missing)
	o.TextIf("content", h.Content)
	wire.AnyIf(&o, "deadline", h.Deadline)
	wire.AnyIf(&o, "reviewBy", h.ReviewBy)
	o.TextIf("environment", h.Environment)
	o.TextsIf("environments", h.Environments)
	o.IntIf("grant", h.Grant)
	o.TextIf("artifact", h.Artifact)
	o.TextIf("url", h.URL)
	o.TextIf("key", h.Key)
	o.TextIf("child", h.Child)
	wire.AnyIf(&o, "cause", h.Cause)
	o.TextsIf("runs", h.Runs)
	o.TextsIf("definitions", h.Definitions)
	o.TextIf("commit", h.Commit)
	o.TextIf("author", h.Author)
	o.TextIf("channel", h.Channel)
	o.TextIf("text", h.Text)
	wire.SliceIf(&o, "why", h.Why)
	return o.Close()
}
