package sim

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// What the simulated installation runs: tasks that may run twice and tasks that
// must not, retries, an approval by another person, a lock that several runs
// want, concurrency keys, timers, children, events that start runs and events
// that runs wait for.
const definitions = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: job}
spec:
  initial: work
  states:
    work: {task: make, timeout: 2m, retry: {attempts: 3, backoff: 1s, max: 4s}, next: check, onFail: stopped}
    check:
      parallel:
        a: {task: make, timeout: 2m}
        b: {task: move, timeout: 2m}
      next: sure
      onFail: ask
    sure: {task: move, timeout: 2m, next: done, onInconclusive: ask, onFail: stopped}
    ask:
      approval: {quorum: [{role: people, count: 1}], expires: 1h}
      next: done
      onFail: stopped
    done: {final: succeeded}
    stopped: {final: failed}
  finally:
    - {task: make}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: release}
spec:
  triggers:
    - {event: com.acme.pushed}
  concurrency: {key: release, policy: queue}
  initial: pause
  states:
    pause: {wait: {for: 3s}, next: approve}
    approve:
      approval: {environments: [prod], quorum: [{role: people, count: 1}], expires: 20m}
      next: migrate
      onFail: stopped
    migrate: {task: move, environment: prod, timeout: 2m, next: smoke, onInconclusive: sure, onFail: stopped}
    smoke: {task: make, environment: prod, timeout: 2m, next: done, onFail: stopped}
    sure:
      approval: {quorum: [{role: people, count: 1}], expires: 1h}
      next: smoke
      onFail: stopped
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: tenant}
spec:
  initial: first
  states:
    first: {task: make, environment: prod, timeout: 2m, next: second, onFail: stopped}
    second: {task: make, environment: test, timeout: 2m, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: parent}
spec:
  initial: child
  states:
    child: {workflow: {name: tenant}, next: hear, onFail: stopped}
    hear: {wait: {event: com.acme.signal, timeout: 5m}, next: done, onTimeout: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: make}
spec: {runs: repeatable, outputs: {n: int}}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: move}
spec: {runs: once, outputs: {n: int}}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: prod}
spec:
  target: {local: {}}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: test}
spec: {target: {local: {}}}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: acme}
spec:
  roles:
    people: {users: [ana, marta, li]}
  permissions:
    - {roles: [people], allow: [run.start, run.read, run.approve, run.cancel, run.pause, run.retry]}
`

// catalogs are the definitions of all engines: one set is in force, and the
// others are those of before.
type catalogs struct {
	all []*workflows.Catalog
	at  atomic.Int64
}

// theCatalogs are the definitions, and others that come in their place.
func theCatalogs(t *testing.T) *catalogs {
	others := strings.NewReplacer("wait: {for: 3s}", "wait: {for: 5s}", "retry: {attempts: 3,", "retry: {attempts: 2,",
		"next: done, onInconclusive: ask", "next: done, onInconclusive: stopped").Replace(definitions)
	return &catalogs{all: []*workflows.Catalog{compile(t, definitions), compile(t, others)}}
}

// anew are the same as at the beginning.
func (c *catalogs) anew() *catalogs { return &catalogs{all: c.all} }

// change puts others in force.
func (c *catalogs) change() { c.at.Add(1) }

func (c *catalogs) Current() *workflows.Catalog { return c.all[c.at.Load()%int64(len(c.all))] }

func (c *catalogs) ByDigest(digest string) (*workflows.Catalog, error) {
	for _, cat := range c.all {
		if cat.Digest == digest {
			return cat, nil
		}
	}
	return nil, fmt.Errorf("there are no definitions %s", digest)
}

func compile(t *testing.T, text string) *workflows.Catalog {
	t.Helper()
	set, problems := parse.Files([]parse.File{{Name: "defs.yaml", Content: []byte(text)}})
	if parse.Failed(problems) {
		t.Fatal(parse.Text(problems))
	}
	return set.Catalog()
}
