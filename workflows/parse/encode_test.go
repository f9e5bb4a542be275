package parse

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/penstock-cd/penstock/workflows"
)

func TestAScenarioThatIsWrittenReadsBackAsTheSame(t *testing.T) {
	const text = `apiVersion: penstock/v1
kind: Scenario
metadata: {name: 'all: of it'}
spec:
  workflow: flow
  start: '2026-01-05T09:00:00Z'
  inputs: {flag: false, level: 0, list: [1, two, null], name: 'no', ratio: 0.5, text: ''}
  facts: {authors: [ana], requestedBy: 'event:git', attestations: [{type: x, verified: true}]}
  tasks:
    one: {outputs: {digest: 'sha256:aa'}}
    two: [{after: 1h30m, times: 2, fails: {code: broken, retryable: true}}, {}]
  environments: {production: {deployed: x, lockedFor: 1m30s, held: [{from: 1s, to: 48h, reason: r}]}}
  people: [{at: 0s, user: ana, approves: ask}, {at: 2h, user: li, cancels: true, expect: refused}]
  events: [{at: 1h, type: a.b, data: {x: {y: [1]}}}]
  expect: {path: [one, two], ends: 2h, effects: []}
`
	decoded := func(text string) *workflows.Scenario {
		u := read(newSource("s.yaml", 1, []byte(text)), File{})
		if len(u.dec.problems) > 0 {
			t.Fatal(Text(u.dec.problems))
		}
		return u.value.(*workflows.Scenario)
	}
	first := decoded(text)
	written, err := EncodeScenario(first)
	if err != nil {
		t.Fatal(err)
	}
	again := decoded(string(written))
	ignore := cmp.Options{cmpopts.IgnoreFields(workflows.Scenario{}, "Origin"), cmpopts.EquateEmpty()}
	if d := cmp.Diff(first, again, ignore); d != "" {
		t.Errorf("it reads back as another one:\n%s\n%s", d, written)
	}
	if twice, _ := EncodeScenario(again); string(twice) != string(written) {
		t.Errorf("written twice it differs:\n%s\n%s", written, twice)
	}
	if !strings.Contains(string(written), "after: 1h30m") {
		t.Errorf("durations are not short:\n%s", written)
	}
}
