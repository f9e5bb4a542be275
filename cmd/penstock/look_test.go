package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

// standing is what a server has in force in these tests.
const standing = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: checkout-release}
spec:
  initial: build
  states:
    build: {task: build, with: {repository: r, commit: c}, next: verify, onFail: stopped}
    verify: {task: scan, next: approve, onFail: stopped}
    approve: {approval: {environments: [production], quorum: [{role: lead, count: 2}], expires: 4h}, next: production, onFail: stopped}
    production: {deploy: {environment: production, strategy: canary, artifact: '${{ build.digest }}'}, next: released, onFail: stopped}
    released: {final: succeeded}
    stopped: {final: failed}
`

const standingEnvironment = `apiVersion: penstock/v1
kind: Environment
metadata: {name: production, labels: {tier: prod}}
spec:
  require: [{name: four eyes, expression: approvals.size() > 1}]
`

// inForce answers for the definitions of a server, one to a page.
func (f *fake) inForce() {
	docs := []events.DefinitionText{
		{Definition: events.Definition{Kind: "Workflow", Name: "checkout-release", Digest: "sha256:" + strings.Repeat("ab", 32), File: "release.yaml",
			Source: "https://git.acme.example/defs.git", Commit: "1f2e3d4c5b6a79880123456789abcdef01234567", Author: "ana@acme.example"}, Line: 3, Text: standing},
		{Definition: events.Definition{Kind: "Environment", Name: "production", Digest: "sha256:" + strings.Repeat("12", 32), File: "environments.yaml"}, Line: 1, Text: standingEnvironment},
	}
	f.handle(events.VerbTexts, func(p json.RawMessage) events.Answer {
		var q events.ReadDefinitions
		if err := json.Unmarshal(p, &q); err != nil {
			f.t.Error(err)
		}
		page := events.DefinitionPage{Catalog: "sha256:cc"}
		switch {
		case q.Digest == docs[0].Digest:
			page.Documents = docs[:1]
		case q.Digest != "":
			return events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: "there are no definitions " + q.Digest}
		default:
			page.Documents = docs[q.After : q.After+1]
			if q.After == 0 {
				page.Next = 1
			} else if q.Catalog != page.Catalog {
				f.t.Errorf("the next page is asked for of %q", q.Catalog)
			}
		}
		return applied(f.t, page)
	})
}

func TestAWorkflowInForceIsDrawnWithTheWayOfARun(t *testing.T) {
	f := newFake(t)
	f.inForce()
	f.gives(events.VerbGet, waitingRun())
	for name, args := range map[string][]string{
		"graph":     {"graph", "checkout-release", "--format", "dot"},
		"graph-run": {"graph", "--run", "k3f9"},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, args, penstock(t, args...)) })
	}
	done := doneRun("succeeded")
	done.Path = append(done.Path, events.Step{State: "production"})
	f.gives(events.VerbGet, done)
	if got := penstock(t, "graph", "--run", "k3f9"); strings.Contains(got.out, "is here") || !strings.Contains(got.out, "class build,verify,approve,production,released visited") {
		t.Errorf("a run that has ended: %s%s", got.out, got.stderr)
	}
	if got := penstock(t, "graph", "other", "--run", "k3f9"); got.code != exitUsage || !strings.Contains(got.stderr, "is one of checkout-release, not of other") {
		t.Errorf("the run of another workflow: %+v", got)
	}
	if got := penstock(t, "graph", "chekout-release"); got.code != exitNotFound || !strings.Contains(got.stderr, "did you mean checkout-release?") {
		t.Errorf("a workflow that is not there: %+v", got)
	}
}

func TestFilesAreComparedWithWhatIsInForce(t *testing.T) {
	f := newFake(t)
	f.inForce()
	changed := strings.NewReplacer("count: 2", "count: 1", "strategy: canary", "strategy: rolling").Replace(standing)
	args := []string{"diff", "-f", "-"}
	golden(t, "diff-in-force", args, penstockIn(t, changed, args...))
	if got := penstockIn(t, "# as it stands\n"+standing, args...); got.code != exitOK || got.out != "" {
		t.Errorf("nothing is other than what stands: %+v", got)
	}
}

func TestAWorkflowInForceIsShownWithWhereItCameFrom(t *testing.T) {
	f := newFake(t)
	f.inForce()
	for name, args := range map[string][]string{
		"show":          {"show", "checkout-release"},
		"show-expanded": {"show", "checkout-release", "--expanded"},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, args, penstock(t, args...)) })
	}
}
