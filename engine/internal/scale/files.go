package scale

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// everybody stands beside the workflows and scenarios of Workflows and Scenarios.
const everybody = `apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec:
  roles:
    release-manager: {users: [ana, ben, eva]}
  permissions:
    - {roles: [release-manager], allow: [run.start, run.approve, run.cancel], workflows: ['*']}
`

// workflow is one of middle size, by its name.
const workflow = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: %s}
spec:
  title: 'release ${{ inputs.commit.substring(0, 7) }}'
  inputs: {repository: {type: string}, commit: {type: string}}
  concurrency: {key: '%[1]s', policy: queue}
  initial: build
  states:
    build:
      task: build
      with: {repository: '${{ inputs.repository }}', commit: '${{ inputs.commit }}'}
      timeout: 20m
      retry: {attempts: 3, backoff: 10s}
      next: verify
      onFail: stopped
    verify:
      parallel:
        test: {task: test, with: {repository: '${{ inputs.repository }}', commit: '${{ inputs.commit }}'}}
        scan: {task: scan, with: {artifact: '${{ build.digest }}'}}
      gate:
        - {name: tests, require: test.failed == 0, message: a test has failed}
        - {name: findings, require: scan.critical == 0, message: the scan has found something critical}
      next: approve
      onFail: stopped
    approve:
      approval:
        quorum: [{role: release-manager, count: 2}]
        exclude: [authors]
        binds: [build.digest]
        expires: 24h
        message: '${{ run.title }} has passed its tests'
      next: announce
      onFail: stopped
    announce:
      task: command
      with: {run: [announce, '${{ build.digest }}']}
      next: released
      onFail: stopped
    released: {final: succeeded}
    stopped: {final: failed}
`

const scenario = `apiVersion: penstock/v1
kind: Scenario
metadata: {name: 'release %d of %s'}
spec:
  workflow: %[2]s
  inputs: {repository: acme/checkout, commit: 1f2e3d4c5b6a79880123456789abcdef01234567}
  facts: {authors: [eva], requestedBy: eva}
  tasks:
    build: [{fails: {code: clone_failed, message: no route, retryable: true}}, {after: 90s, outputs: {digest: 'sha256:aa', size: 5}}]
    verify.test: {outputs: {passed: 212, failed: 0}}
    verify.scan: {outputs: {critical: 0, high: 1}}
    announce: {outputs: {exitCode: 0}}
  people:
    - {at: 1h, user: ana, approves: approve}
    - {at: 2h, user: ben, approves: approve}
  expect:
    path: [build, verify, approve, announce, released]
    outcome: succeeded
`

func write(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
}

// Workflows writes n files, each with a workflow.
func Workflows(dir string, n int) error {
	for i := range n {
		if err := write(dir, fmt.Sprintf("workflow%04d.yaml", i), fmt.Sprintf(workflow, fmt.Sprintf("release-%d", i))); err != nil {
			return err
		}
	}
	return write(dir, "people.yaml", everybody)
}

// Scenarios writes n files, each with a test, and twenty workflows for them.
func Scenarios(dir string, n int) error {
	const workflows = 20
	for i := range n {
		if err := write(dir, fmt.Sprintf("scenario%04d.yaml", i), fmt.Sprintf(scenario, i, fmt.Sprintf("release-%d", i%workflows))); err != nil {
			return err
		}
	}
	return Workflows(dir, workflows)
}

// Digest reads the files of a folder and hashes them: nothing that looks at
// them all can be faster.
func Digest(dir string) (took time.Duration, err error) {
	began := time.Now()
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	h := sha256.New()
	for _, file := range files {
		f, err := os.Open(filepath.Join(dir, file.Name()))
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return 0, err
		}
	}
	h.Sum(nil)
	return time.Since(began), nil
}
