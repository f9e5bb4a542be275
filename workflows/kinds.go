package workflows

import "github.com/penstock-cd/penstock/events"

// ShippedKinds are the task kinds whose workers come with Penstock.
func ShippedKinds() map[string]*TaskKind {
	kinds := map[string]*TaskKind{}
	for name, spec := range map[string]TaskKindSpec{
		"build": {Runs: events.RunsRepeatable,
			Inputs: map[string]string{"repository": "string", "commit": "string", "command": "list(string)?", "artifact": "string?", "since": "string?", "running": "list(string)?", "directory": "string?"},
			Outputs: map[string]string{"digest": "string", "size": "int", "durationMs": "int", "name": "string",
				"commit": "string", "sbom": "string", "sbomComponents": "int"}},
		"test": {Runs: events.RunsRepeatable,
			Inputs: map[string]string{"repository": "string", "commit": "string", "command": "list(string)?", "format": "string?",
				"report": "string?", "directory": "string?", "suite": "string?", "url": "string?"},
			Outputs: map[string]string{"passed": "int", "failed": "int", "skipped": "int", "coverage": "double",
				"failures": "list(string)", "durationMs": "int"}},
		"scan": {Runs: events.RunsRepeatable,
			Inputs: map[string]string{"artifact": "string?", "repository": "string?", "commit": "string?", "tools": "list(string)?",
				"database": "string?", "sarif": "string?", "licences": "list(string)?"},
			Outputs: map[string]string{"critical": "int", "high": "int", "medium": "int", "low": "int", "total": "int",
				"findings": "list(map(any))", "tools": "list(string)", "report": "string"}},
		"deploy": {Runs: events.RunsOnce, Status: true,
			Inputs: map[string]string{"artifact": "string", "strategy": "string", "args": "list(string)?", "env": "map(string)?",
				"health": "string?", "healthTimeout": "duration?", "drain": "duration?", "instances": "int?",
				"weight": "int?", "step": "int?", "undo": "string?"}, // given by the engine: a part of the traffic, the step of a canary, what is taken back
			Outputs: map[string]string{"url": "string", "artifact": "string", "previous": "string", "instances": "int", "durationMs": "int"}},
		"sample": {Runs: events.RunsRepeatable,
			Inputs:  map[string]string{"query": "map(string)", "metric": "string", "artifact": "string?"},
			Outputs: map[string]string{"value": "double", "baseline": "double?"}},
		"notify": {Runs: events.RunsRepeatable,
			Inputs:  map[string]string{"channel": "string", "url": "string?", "title": "string?", "text": "string"},
			Outputs: map[string]string{"sent": "bool", "service": "string?"}},
		"command": {Runs: events.RunsOnce,
			Inputs:  map[string]string{"run": "list(string)", "repository": "string?", "commit": "string?", "env": "map(string)?"},
			Outputs: map[string]string{"exitCode": "int", "output": "map(any)?"}},
	} {
		kinds[name] = &TaskKind{Metadata: Metadata{Name: name, Description: "shipped with Penstock"}, Spec: spec}
	}
	return kinds
}
