package api

// typeMeanings say what the types of package events are, by the name of their
// schema.
var typeMeanings = map[string]string{
	"Accepted":         "What came of publishing events.",
	"Applied":          "What came of applying definitions.",
	"ApplyBody":        "Definitions to put in force.",
	"CancelBody":       "A cancel of a run.",
	"Cause":            "The event that something goes back to.",
	"CloudEvent":       "A CloudEvents 1.0 event. Further members are extension attributes.",
	"DecisionBody":     "A decision on an approval.",
	"Definition":       "A document in force.",
	"DefinitionSource": "A folder or a Git repository that definitions come from.",
	"Definitions":      "What is in force.",
	"EnvironmentView":  "An environment.",
	"Environments":     "The environments that are defined or were used.",
	"ErrorDetail":      "One thing that is wrong with a request.",
	"Origin":           "Where a definition came from.",
	"HoldView":         "A hold that keeps everything out of an environment.",
	"Looked":           "What came of a webhook of a Git server.",
	"Outcome":          "What came of a command.",
	"Output":           "A piece of the output of a run.",
	"OutputChunk":      "Output that a task wrote at once.",
	"Problem":          "An error, as RFC 9457 has it.",
	"Records":          "The records of a run, oldest first.",
	"RunList":          "A page of runs.",
	"RunView":          "A run.",
	"ServerInfo":       "What the server is.",
	"SourceFile":       "A file of definitions.",
	"StartBody":        "What to start.",
	"Step":             "One visit of a state.",
	"StoredRecord":     "A record with its place in the store.",
	"TaskError":        "Why an attempt did not succeed.",
	"TaskView":         "A task of a run.",
	"Verification":     "What an audit of a run found.",
	"WaitReason":       "One thing that a run waits for.",
	"WhyView":          "What a run waits for, or how it came to its end.",
	"WorkerInfo":       "A live worker.",
}

const (
	inNotSet = "In answers about one run only. "
	digestOf = "Digest, as sha256:HEX. "
	inSource = "folder: and a path, or the address of a Git repository, that the server watches; apply: and a name, under which it was applied."
	inCommit = "The last commit that changed its file."
	inAuthor = "The address of that commit's author, or who applied it."
)

// fieldMeanings say what their fields are, by schema and field.
var fieldMeanings = map[string]map[string]string{
	"Applied": {
		"definitions": "Each document, and what came of it.",
		"problems":    "What is wrong, each with file, line, column and a hint; warnings keep nothing from counting.",
		"text":        "The problems for people.",
	},
	"Cause": {"id": "Id of the event.", "source": "Source of the event.", "type": "Type of the event."},
	"Definition": {
		"kind":   "Workflow, Environment, Channel, Roles, …",
		"name":   "Its name, unique for its kind.",
		"digest": digestOf + "It changes with the content.",
		"change": "What applying it did: created, changed, unchanged, removed or refused.",
		"file":   "The file that it stands in.",
		"source": inSource,
		"commit": inCommit,
		"author": inAuthor,
	},
	"DefinitionSource": {
		"source":   inSource,
		"commit":   "The newest commit that was read.",
		"author":   "The address of its author.",
		"readAt":   "When something new was read last.",
		"problems": "How many problems keep something of it out of force.",
		"error":    "Why it cannot be read now; what came from it stays in force.",
		"since":    "Since when that is so.",
	},
	"Origin": {
		"source": inSource,
		"file":   "The file that it stands in.",
		"commit": inCommit,
		"author": inAuthor,
	},
	"Definitions": {"catalog": digestOf + "It stands for all definitions together.", "definitions": "Each document."},
	"EnvironmentView": {
		"name":     "Its name.",
		"holder":   "Id of the run that has its lock.",
		"grant":    "Number of that grant; targets refuse the work of an older one.",
		"since":    "When the lock was granted.",
		"queue":    "Ids of the runs that wait for the lock, first in, first out.",
		"artifact": "What is deployed there.",
		"run":      "Id of the run that deployed it.",
		"url":      "Where it answers.",
		"at":       "When it was deployed.",
		"open":     "Whether it lets in who gets the lock.",
		"closed":   "Why it does not: its windows, a freeze or a hold, in words.",
		"until":    "When it opens or closes, as far as that is known.",
		"holds":    "What keeps everything out, oldest first.",
	},
	"HoldView": {
		"id":     "Its id.",
		"by":     "Who holds it.",
		"reason": "Why, in words.",
		"at":     "Since when.",
		"until":  "Until when; for good where it is missing.",
	},
	"Environments": {"environments": "Each environment, by name."},
	"Output": {
		"chunks": "The output, oldest first.",
		"next":   "Cursor: the after of the next request.",
		"done":   "The run has ended and no more will come.",
	},
	"OutputChunk": {
		"state":     "Path of the state, verify.test for a branch.",
		"task":      "Id of the task.",
		"seq":       "Its number within the attempt, from 1.",
		"at":        "When it was written.",
		"stream":    "stdout, stderr, or worker for what the worker itself says.",
		"text":      "The text.",
		"truncated": "The output was cut here at its limit.",
		"end":       "The attempt writes no more.",
	},
	"Records": {"records": "Each record.", "next": "Set when there are more: the after of the next request."},
	"RunList": {"runs": "The runs, newest first.", "next": "Cursor of the next page; none at the end."},
	"RunView": {
		"id":          "Id of the run.",
		"workflow":    "Name of its workflow.",
		"definition":  digestOf + "It is of the workflow as it was when the run started.",
		"origin":      "Where that came from.",
		"title":       "One line for people.",
		"status":      "running, waiting (for people) or done.",
		"outcome":     "Of a run that is done: succeeded, failed, cancelled, …",
		"state":       "The state it is in, or ended in.",
		"requestedBy": "Who started it: a user, or event:SOURCE.",
		"authors":     "Who wrote the change, as far as known.",
		"startedAt":   "When it started.",
		"endedAt":     "When it ended.",
		"records":     "How many records it has.",
		"cause":       "The event that started it.",
		"inputs":      inNotSet + "Inputs by name.",
		"path":        inNotSet + "The states it went through.",
		"tasks":       inNotSet + "The tasks of the state it is in.",
		"waiting":     inNotSet + "What it waits for.",
	},
	"ServerInfo": {
		"version":   "Version of Penstock.",
		"instance":  "Name of this engine.",
		"startedAt": "When it started.",
		"http":      "Where the HTTP API is.",
		"nats":      "Where the bus is.",
		"data":      "Its data directory, on its host.",
		"runs":      "How many runs it knows.",
		"waiting":   "How many of them wait for people.",
		"workers":   "The live workers.",
		"taskKeys":  "Public keys that sign tasks, base64 ed25519.",
		"sources":   "Where definitions come from that the server watches.",
	},
	"SourceFile": {"name": "Name of the file, for messages.", "content": "What is in it: YAML, one or more documents."},
	"Step": {
		"state":     "The state.",
		"visit":     "Which visit of it this is, from 1.",
		"outcome":   "How it ended.",
		"enteredAt": "When it was entered.",
		"leftAt":    "When it was left.",
		"outputs":   "What came of it, by name.",
		"error":     "Why it did not succeed.",
	},
	"StoredRecord": {"seq": "Sequence in the store.", "hash": "Hash of the record; the next one of the run holds it.", "record": "The record as it is stored."},
	"TaskError":    {"code": "Stable name, in snake_case.", "message": "For people, one or a few lines.", "retryable": "Another attempt may succeed."},
	"TaskView": {
		"id":        "Id of the task.",
		"state":     "Path of its state.",
		"kind":      "What a worker must be able to do: build, test, …",
		"attempt":   "Which attempt this is, from 1.",
		"status":    "locked, queued, running, backoff, cancelling or done.",
		"outcome":   "How it ended.",
		"worker":    "Who does it.",
		"startedAt": "When the worker began.",
		"progress":  "What the worker says of it.",
		"error":     "Why the last attempt did not succeed.",
	},
	"Verification": {
		"run":       "Id of the run.",
		"records":   "How many records were checked.",
		"decisions": "How many rules were evaluated again.",
		"head":      "Hash of the last record.",
		"ok":        "Nothing is wrong.",
		"problems":  "What is wrong.",
	},
	"WaitReason": {
		"state":       "Path of the state that waits.",
		"what":        "approval, task, worker, lock, timer or held.",
		"summary":     "One sentence.",
		"rule":        "The expression, or the quorum in words.",
		"missing":     "What is still needed.",
		"have":        "What is there already.",
		"can":         "Who could act.",
		"cannot":      "Who could not, and why.",
		"since":       "Since when it waits.",
		"until":       "When it stops waiting.",
		"content":     digestOf + "Send it with the decision: it is what is being approved.",
		"environment": "Whose lock it waits for.",
		"kind":        "Which kind of worker it waits for.",
		"pool":        "Of which pool.",
		"next":        "Commands that would help.",
	},
	"WhyView": {"run": "The run.", "short": "One line.", "waiting": "What it waits for.", "ended": "For a run that is done: how it came to its end, in words."},
	"WorkerInfo": {
		"worker":  "Its name.",
		"kinds":   "The kinds of tasks that it takes.",
		"host":    "Where it runs.",
		"version": "Its version.",
		"busy":    "How many tasks it does now.",
		"slots":   "How many it can do at a time.",
		"bye":     "It is leaving.",
		"pool":    "Its pool.",
		"seenAt":  "When it was last heard of.",
	},
}

// example is what a request and its answer look like.
type example struct{ request, response any }

type object = map[string]any

const (
	exampleID     = "01976b3e9d1c4f6a51f0a9c2"
	exampleDigest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
)

var (
	exampleRun = object{"id": exampleID, "workflow": "release", "definition": exampleDigest, "title": "shop 9b2f1c", "status": "waiting",
		"state": "approve", "requestedBy": "marta", "startedAt": "2026-05-04T09:30:00Z", "records": 14}
	exampleWait = object{"state": "approve", "what": "approval", "summary": "waits for 1 more approval of role release-manager",
		"missing": []any{"1 approval of role release-manager"}, "have": []any{"marta (release-manager)"}, "content": exampleDigest}
	exampleEvent = object{"specversion": "1.0", "id": "4711", "source": "ci.example.com/shop", "type": "com.example.commit",
		"subject": "shop", "time": "2026-05-04T09:30:00Z", "data": object{"commit": "9b2f1c"}}
	exampleOutcome = object{"status": "applied", "record": 15}
	exampleApplied = object{"kind": "Workflow", "name": "release", "digest": exampleDigest}
)

// examples of each operation.
var examples = map[string]example{
	"start-run":       {object{"workflow": "release", "inputs": object{"commit": "9b2f1c"}}, exampleRun},
	"list-runs":       {nil, object{"runs": []any{exampleRun}, "next": exampleID}},
	"get-run":         {nil, exampleRun},
	"explain-run":     {nil, object{"run": exampleRun, "short": "waits for 1 more approval", "waiting": []any{exampleWait}}},
	"approve-run":     {object{"state": "approve", "comment": "tested by hand", "content": exampleDigest}, exampleOutcome},
	"reject-run":      {object{"state": "approve", "comment": "the migration is missing", "content": exampleDigest}, exampleOutcome},
	"cancel-run":      {object{"reason": "wrong commit"}, exampleOutcome},
	"get-run-records": {nil, object{"records": []any{object{"seq": 1042, "hash": exampleDigest, "record": object{"version": 14}}}}},
	"verify-run":      {nil, object{"run": exampleID, "records": 14, "decisions": 5, "head": exampleDigest, "ok": true}},
	"get-run-output": {nil, object{"chunks": []any{object{"state": "build", "task": "t-1", "seq": 1, "at": "2026-05-04T09:30:01Z",
		"stream": "stdout", "text": "building\n"}}, "next": 17}},
	"list-definitions":  {nil, object{"catalog": exampleDigest, "definitions": []any{exampleApplied}}},
	"apply-definitions": {object{"files": []any{object{"name": "release.yaml", "content": "kind: Workflow\n…"}}, "dryRun": true}, object{"definitions": []any{exampleApplied}}},
	"list-environments": {nil, object{"environments": []any{object{"name": "production", "artifact": exampleDigest, "run": exampleID}}}},
	"get-server":        {nil, object{"version": "v0.1.0", "instance": "host-4711", "startedAt": "2026-05-04T09:00:00Z", "runs": 12, "waiting": 1}},
	"follow-events":     {nil, "retry: 2000\n\nid: 1042\ndata: {\"specversion\":\"1.0\",\"id\":\"…\",\"source\":\"/penstock/runs\",\"type\":\"dev.penstock.run.started.v1\"}\n\n"},
	"publish-events":    {exampleEvent, object{"accepted": 1}},
}
