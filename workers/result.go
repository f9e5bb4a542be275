package workers

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/events"
)

// Limits of a result. Records hold results, and a record stays small.
const (
	maxOutputs = 48 << 10 // bytes of JSON of Result.Outputs
	maxFacts   = 16 << 10 // bytes of JSON of Result.Facts
	maxMessage = 4 << 10  // bytes of TaskError.Message; the rest is cut
)

// settle makes what a handler returned into a result that the engine takes.
// silent says that the work was ended because the engine did not answer.
func settle(task *events.Task, r events.Result, silent bool) events.Result {
	if silent && r.Outcome == events.Cancelled {
		r = disconnected()
	}
	if problem := wrong(r); problem != "" {
		return Fail("bad_result", "the worker of kind "+task.Kind+" gave a result that is none: "+problem, false)
	}
	for _, part := range []struct {
		name  string
		value map[string]any
		most  int
	}{{"outputs", r.Outputs, maxOutputs}, {"facts", r.Facts, maxFacts}} {
		size, err := sizeOf(part.value)
		if err != nil {
			return Fail("bad_result", fmt.Sprintf("the %s are not JSON: %v", part.name, err), false)
		}
		if size > part.most {
			return Fail("result_too_large", fmt.Sprintf("the %s are %d bytes of JSON, at most %d are taken; store large values as an artifact and give its digest",
				part.name, size, part.most), false)
		}
	}
	if r.Outcome == events.Succeeded {
		r.Error = nil
		return r
	}
	e := events.TaskError{Code: r.Outcome, Message: "the worker gave no reason"}
	if r.Error != nil {
		e = *r.Error
	}
	e.Message = shorten(e.Message)
	r.Error = &e
	return r
}

func wrong(r events.Result) string {
	switch r.Outcome {
	case events.Succeeded, events.Failed, events.TimedOut, events.Cancelled, events.Inconclusive:
	default:
		return fmt.Sprintf("outcome %q is not one of succeeded, failed, timedOut, cancelled, inconclusive", r.Outcome)
	}
	if r.Error != nil && r.Error.Code == "" && r.Outcome != events.Succeeded {
		return "its error has no code"
	}
	return ""
}

// disconnected is the result of a repeatable task that was ended because the
// engine did not answer. Nobody cancelled it, and it may be done again.
func disconnected() events.Result {
	return Fail(events.CodeWorkerLost, "the worker had no answer from the engine for half of the heartbeat timeout and ended the task", true)
}

func sizeOf(m map[string]any) (int, error) {
	if len(m) == 0 {
		return 0, nil
	}
	b, err := json.Marshal(m)
	if bad, ok := errors.AsType[*json.MarshalerError](err); ok {
		err = bad.Err
	}
	return len(b), err
}

// shorten gives valid UTF-8 of at most maxMessage bytes and a mark.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxMessage {
		return s
	}
	cut := maxMessage
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + " …"
}
