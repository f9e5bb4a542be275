package env

import (
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
)

const (
	maxSucceeded = 200  // artifacts that are remembered to have succeeded here
	maxAsked     = 1000 // questions that wait for an artifact to succeed here
)

// Success is an artifact that was deployed here and not taken back.
type Success struct {
	Artifact string `json:"artifact"`
	Run      string `json:"run"`
	At       int64  `json:"t"`
}

// prove answers a run that wants to know whether an artifact succeeded here.
// Where it did not, the run is told as soon as it does. False when the same
// question waits already.
func (e *Environment) prove(p *record.Proof) bool {
	q := record.Proof{Run: p.Run, Environment: e.Name, Artifact: p.Artifact}
	if slices.Contains(e.Asked, q) {
		return false
	}
	a := q
	a.By, a.Proven = e.succeeded(p.Artifact)
	if !a.Proven {
		if e.Asked = append(e.Asked, q); len(e.Asked) > maxAsked {
			e.Asked = e.Asked[1:]
		}
	}
	e.tell(p.Run, record.Input{Kind: record.InProven, Proof: &a})
	return true
}

// succeeded tells which run brought an artifact here.
func (e *Environment) succeeded(artifact string) (run string, ok bool) {
	for _, s := range e.Succeeded {
		if s.Artifact == artifact {
			return s.Run, true
		}
	}
	return "", false
}

// succeed remembers an artifact, and answers those who asked for it.
func (e *Environment) succeed(d *record.Deployment) {
	if d.Artifact == "" {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(e.Succeeded), func(s Success) bool { return s.Artifact == d.Artifact })
	e.Succeeded = append([]Success{{Artifact: d.Artifact, Run: d.Run, At: e.Now}}, kept...)
	if len(e.Succeeded) > maxSucceeded {
		e.Succeeded = e.Succeeded[:maxSucceeded]
	}
	e.Asked = slices.DeleteFunc(e.Asked, func(q record.Proof) bool {
		if q.Artifact != d.Artifact {
			return false
		}
		q.Proven, q.By = true, d.Run
		e.tell(q.Run, record.Input{Kind: record.InProven, Proof: &q})
		return true
	})
}

// takeBack forgets that artifacts of a run have succeeded here.
func (e *Environment) takeBack(run string, artifacts []string) {
	e.Succeeded = slices.DeleteFunc(slices.Clone(e.Succeeded), func(s Success) bool {
		return s.Run == run && slices.Contains(artifacts, s.Artifact)
	})
}
