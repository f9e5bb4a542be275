package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// telling is what the story says of an event: what happened, and which
// command shows more. ok is false for what needs no words.
func telling(h happened) (what, more string, ok bool) {
	place := h.State
	switch h.event.Type {
	case events.EventMatched:
		return fmt.Sprintf("event       %s from %s starts run %s", h.Cause.Type, h.Cause.Source, strings.Join(h.Runs, ", ")), "penstock watch " + strings.Join(h.Runs, " "), true
	case events.TaskFinished:
		what, more = taskTelling(h)
	case events.GateEvaluated:
		what, more = "the gate lets it pass", "penstock audit show "+h.Run
		if h.Outcome != events.Succeeded {
			what = "the gate holds it: " + strings.Join(h.Reasons, "; ")
		}
	case events.ApprovalRequested:
		what, more = "waits for people: "+strings.Join(h.Missing, "; "), "penstock why "+h.Run
	case events.ApprovalDecided:
		what, more = h.By+" says: "+h.Decision, "penstock audit show "+h.Run
		if len(h.Missing) > 0 {
			what += "; missing: " + strings.Join(h.Missing, "; ")
		}
	case events.ApprovalRefused:
		what, more = h.By+" is refused: "+h.Reason, "penstock why "+h.Run
	case events.RunFinished:
		place, what, more = "run", fmt.Sprintf("%s in %s after %s", h.Outcome, h.State, seconds(h.DurationMs)), "penstock get "+h.Run
	}
	return fmt.Sprintf("%-11s %s", place, what), more, what != ""
}

func taskTelling(h happened) (what, more string) {
	more = "penstock logs " + h.Run + " " + h.State
	if h.Error != nil {
		return fmt.Sprintf("%s %s after %s: %s", h.Kind, h.Outcome, seconds(h.DurationMs), firstLine(h.Error.Message)), more
	}
	out := h.Outputs
	switch h.Kind {
	case "build":
		what = fmt.Sprintf("go build from a fresh clone: %.1f MB, %s", number(out["size"])/1e6, digest(out["digest"]))
	case "test":
		what = fmt.Sprintf("go test: %v passed, %v failed", out["passed"], out["failed"])
	case "scan":
		what = fmt.Sprintf("scan: %v critical, %v high", out["critical"], out["high"])
	case "deploy":
		what, more = fmt.Sprintf("%s runs at %v, healthy", digest(out["artifact"]), out["url"]), "penstock logs "+h.Run+" "+h.State
	case "notify":
		return "", ""
	}
	return what + ", in " + seconds(h.DurationMs), more
}

func number(v any) float64 {
	n, _ := v.(float64)
	return n
}

// digest shortens "sha256:<64 hex>" to what people compare.
func digest(v any) string {
	s, _ := v.(string)
	return s[:min(len(s), len("sha256:")+12)]
}

func seconds(ms int64) string {
	return fmt.Sprintf("%.1fs", (time.Duration(ms) * time.Millisecond).Seconds())
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
