package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/penstock-cd/penstock/events"
)

// Groups of operations in the description.
const (
	tagRuns        = "runs"
	tagEvents      = "events"
	tagDefinitions = "definitions"
	tagServer      = "server"
)

// operations registers what huma serves, and describes the whole API.
func (s *server) operations() {
	config := huma.DefaultConfig("Penstock", s.o.Version)
	config.DocsPath, config.OpenAPIPath, config.SchemasPath = "", "", ""
	config.CreateHooks = nil // would put $schema into every answer
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{complete}
	config.Info.Description = about
	config.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	config.Servers = []*huma.Server{{URL: "/"}}
	config.Tags = []*huma.Tag{
		{Name: tagRuns, Description: "Start runs, watch them, decide on them, and prove afterwards what happened."},
		{Name: tagEvents, Description: "Events that come in, and events that go out."},
		{Name: tagDefinitions, Description: "Workflows, environments, channels and roles."},
		{Name: tagServer, Description: "The server itself: what it is, whether it works, and its numbers."},
	}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer",
		Description: "The penstock_token of a credential, as penstock auth user add makes it."}}
	config.Security = []map[string][]string{{"token": {}}}
	schemas := config.Components.Schemas
	schemas.RegisterTypeAlias(reflect.TypeFor[events.Event](), reflect.TypeFor[cloudEvent]())
	schemas.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[problem]())
	api := humago.New(s.mux, config)
	s.runOperations(api)
	s.otherOperations(api)
	for _, op := range rawOperations(schemas) {
		api.OpenAPI().AddOperation(op)
	}
	explain(schemas)
	illustrate(api.OpenAPI())
	document, err := json.Marshal(api.OpenAPI())
	if err != nil {
		panic("the description of the API: " + err.Error()) // unreachable: it holds nothing that does not encode
	}
	s.document = document
}

const about = `Penstock takes a change to production: workflows run, gates let it pass or hold it, people approve.

Send the token of a credential as "Authorization: Bearer TOKEN". What a token may do is decided by the roles of its
principal; tokens of publishers may post events, tokens of workers may do nothing here. Every error is a problem of
RFC 9457 whose member code is stable. A request that changes something takes an Idempotency-Key: a repeat with the
same key is the same request, so repeating after a broken connection is safe.`

// describe serves the description.
func (s *server) describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json")
	w.Write(s.document) // the client is gone if this fails
}

func (s *server) runOperations(api huma.API) {
	ops := operations{api.OpenAPI().Components.Schemas, tagRuns}
	huma.Register(api, ops.new("start-run", "POST /v1/runs", "Start a run",
		"Starts a run of a workflow. The answer is the run as it stands; Location is where to look at it.", 201, 403, 404, 409, 507), s.start)
	huma.Register(api, ops.new("list-runs", "GET /v1/runs", "List runs",
		"Runs, newest first, a page at a time: next of one page is the cursor of the one after it.", 200), s.list)
	huma.Register(api, ops.new("get-run", "GET /v1/runs/{run}", "Get a run",
		"A run with its inputs, the states it went through, the tasks of the state it is in, and what it waits for.", 200, 404), s.run)
	huma.Register(api, ops.new("explain-run", "GET /v1/runs/{run}/why", "Why a run waits",
		"What a run waits for: which rule, what is there and what is missing, who can act; for an ended run, how it came to its end. With at, why a record of the run says what it says: each condition that was evaluated, on what it read then.", 200, 404), s.why)
	huma.Register(api, ops.new("evaluate-on-run", "GET /v1/runs/{run}/eval", "Try an expression",
		"The value of an expression on what a run knows now, and of each of its parts. It changes nothing.", 200, 404), s.eval)
	huma.Register(api, ops.new("approve-run", "POST /v1/runs/{run}/approve", "Approve",
		"Approves what a run waits for. The content says what was shown, so that nothing else is approved. A refusal, such as to the author of the change, is recorded and says why.", 200, 403, 404, 409, 507), s.approve)
	huma.Register(api, ops.new("reject-run", "POST /v1/runs/{run}/reject", "Reject",
		"Rejects what a run waits for, likewise.", 200, 403, 404, 409, 507), s.decide(events.Reject))
	huma.Register(api, ops.new("request-changes-of-run", "POST /v1/runs/{run}/request-changes", "Ask for changes",
		"Holds the approval up until the same person approves, or takes it back. It does not end it.", 200, 403, 404, 409, 507), s.decide(events.RequestChanges))
	huma.Register(api, ops.new("withdraw-decision", "POST /v1/runs/{run}/withdraw", "Take a decision back",
		"Takes back what the caller has said of the approval that is open.", 200, 403, 404, 409, 507), s.word(events.Withdraw))
	huma.Register(api, ops.new("delegate-decision", "POST /v1/runs/{run}/delegate", "Let somebody else decide",
		"Lets another person decide in this approval, with the roles of the caller, who decides no more unless that is taken back.", 200, 403, 404, 409, 507), s.delegate)
	huma.Register(api, ops.new("escalate-approval", "POST /v1/runs/{run}/escalate", "Escalate an approval",
		"Tells at once those whom the workflow wants to be told when an approval waits too long. Who may approve is not changed by it.", 200, 403, 404, 409, 507), s.word(events.Escalate))
	huma.Register(api, ops.new("break-glass", "POST /v1/runs/{run}/break-glass", "Break the glass",
		"Lets this run pass the rules, policies, windows and holds of an environment, never its lock or an approval of the workflow.", 200, 403, 404, 409, 507), s.breakGlass)
	huma.Register(api, ops.new("cancel-run", "POST /v1/runs/{run}/cancel", "Cancel a run",
		"Cancels a run: what is going on is stopped, and what its workflow says about undoing is done.", 200, 403, 404, 409, 507), s.cancel)
	huma.Register(api, ops.new("pause-run", "POST /v1/runs/{run}/pause", "Pause a run",
		"Keeps a run from beginning anything new. What runs finishes, and people may decide.", 200, 403, 404, 409, 507), s.pause(events.VerbPause))
	huma.Register(api, ops.new("resume-run", "POST /v1/runs/{run}/resume", "Resume a run",
		"Lets a paused run go on.", 200, 403, 404, 409, 507), s.pause(events.VerbResume))
	huma.Register(api, ops.new("retry-run", "POST /v1/runs/{run}/retry", "Retry a run",
		"Lets a run that has ended, or is held, begin again at a state, with the definition that it was started with.", 200, 403, 404, 409, 507), s.retry)
	huma.Register(api, ops.new("get-run-records", "GET /v1/runs/{run}/records", "The record of a run",
		"The records of a run as they are stored, oldest first, each with its hash; a long record comes in several answers.", 200, 404), s.records)
	huma.Register(api, ops.new("verify-run", "GET /v1/runs/{run}/verify", "Verify a run",
		"Folds the run again from its records, checks the chain of their hashes, and evaluates every rule again on its recorded inputs. 200 says that the audit was made; ok says what it found.", 200, 404), s.verify)
	huma.Register(api, ops.new("get-run-output", "GET /v1/runs/{run}/output", "Output of a run's tasks",
		"What the tasks of a run printed, a piece at a time. Ask again with after=next; with wait the answer comes as soon as there is something new.", 200, 404), s.output)
}

func (s *server) otherOperations(api huma.API) {
	ops := operations{api.OpenAPI().Components.Schemas, tagDefinitions}
	huma.Register(api, ops.new("list-definitions", "GET /v1/definitions", "List definitions",
		"The definitions in force, each with its digest.", 200), s.definitions)
	apply := ops.new("apply-definitions", "POST /v1/definitions", "Apply definitions",
		"Puts definitions in force, or says with dryRun what would change. When one has a problem the answer is 422 and applied says what came of each: those without a problem are in force.", 200, 403, 507)
	apply.MaxBodyBytes = maxDefinitions
	huma.Register(api, apply, s.apply)
	huma.Register(api, ops.new("list-environments", "GET /v1/environments", "List environments",
		"The environments, who holds each, who waits for it, and what is deployed there.", 200), s.environments)
	huma.Register(api, ops.new("hold-environment", "POST /v1/environments/{environment}/hold", "Hold an environment",
		"Keeps everything out of an environment, until a time or until the hold is taken away; what is in goes on.", 200, 403, 404, 409, 507), s.hold)
	huma.Register(api, ops.new("unhold-environment", "POST /v1/environments/{environment}/unhold", "Take holds away",
		"Takes one hold of an environment away, or all of them.", 200, 403, 404, 409, 507), s.unhold)
	ops.tag = tagServer
	huma.Register(api, ops.new("get-server", "GET /v1/server", "The server", "What the server is, and which workers are alive.", 200), s.info)
}

// operations makes operations with the errors that each can answer with.
type operations struct {
	schemas huma.Registry
	tag     string
}

// meanings of the statuses of errors, for the description.
var meanings = map[int]string{
	400: "The request makes no sense: not JSON, not a CloudEvent, or no such parameter.",
	401: "There is no token, or one that is not known here. WWW-Authenticate says so too.",
	403: "The principal may not do this, or the request comes from a page of another origin.",
	404: "There is no such run, workflow or state.",
	409: "It conflicts with what is: the run has ended, it was decided before, or it has changed since it was shown.",
	413: "The body is larger than is accepted.",
	415: "The body has a media type that is not understood here.",
	422: "The request is well formed and not valid; errors lists what is wrong.",
	500: "The engine made a mistake; its log has the reason under the request's id.",
	503: "The engine is busy or not connected; nothing was recorded. Repeat after Retry-After with the same key.",
	507: "The store takes no more; nothing was recorded, and reading goes on. Repeat when there is space.",
}

// new makes an operation from "METHOD /path". Further statuses are its errors
// beside those that every operation has.
func (o operations) new(id, route, summary, description string, ok int, errs ...int) huma.Operation {
	method, path, _ := strings.Cut(route, " ")
	op := huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Description: description, Tags: []string{o.tag},
		DefaultStatus: ok, BodyReadTimeout: readTimeout, Responses: map[string]*huma.Response{}}
	all := slices.Concat([]int{401, 403, 422, 500, 503}, errs)
	if method == http.MethodPost {
		all = append(all, 400, 413, 415)
	}
	for _, status := range all {
		op.Responses[strconv.Itoa(status)] = o.failure(status)
	}
	return op
}

func (o operations) failure(status int) *huma.Response {
	r := &huma.Response{Description: meanings[status], Content: map[string]*huma.MediaType{
		problemType: {Schema: o.schemas.Schema(reflect.TypeFor[problem](), true, "Problem")}}}
	switch status {
	case http.StatusServiceUnavailable, http.StatusInsufficientStorage:
		r.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds after which to try again.", Schema: &huma.Schema{Type: "integer"}}}
	case http.StatusUnauthorized:
		r.Headers = map[string]*huma.Param{"WWW-Authenticate": {Description: "The scheme that is asked for.", Schema: &huma.Schema{Type: "string"}}}
	}
	return r
}

// illustrate adds examples to the operations.
func illustrate(doc *huma.OpenAPI) {
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post} {
			if op == nil {
				continue
			}
			ex := examples[op.OperationID]
			if op.RequestBody != nil {
				for _, m := range op.RequestBody.Content {
					if m.Example == nil {
						m.Example = ex.request
					}
				}
			}
			for status, resp := range op.Responses {
				if status >= "300" {
					continue
				}
				if n, _ := strconv.Atoi(status); resp.Description == http.StatusText(n) {
					resp.Description = "Done."
				}
				for _, m := range resp.Content {
					if m.Example == nil {
						m.Example = ex.response
					}
				}
			}
		}
	}
}

// explain describes the fields of types that cannot say it themselves, because
// package events knows nothing of this description. What is answered may get
// further members; what is asked may have no others.
func explain(schemas huma.Registry) {
	for name, schema := range schemas.Map() {
		if !strings.HasSuffix(name, "Body") && name != "SourceFile" {
			schema.AdditionalProperties = nil
		}
		if schema.Description == "" {
			schema.Description = typeMeanings[name]
		}
		for field, property := range schema.Properties {
			if property.Description == "" {
				property.Description = fieldMeanings[name][field]
			}
		}
	}
}

// cloudEvent stands for events.Event in the description, which has a JSON form
// of its own.
type cloudEvent struct {
	SpecVersion     string `json:"specversion" enum:"1.0" doc:"Version of CloudEvents."`
	ID              string `json:"id" minLength:"1" doc:"Unique for one source; the pair is the event for ever." example:"4711"`
	Source          string `json:"source" minLength:"1" format:"uri-reference" doc:"Who says it. A publisher's is its name, or begins with it and a slash." example:"ci.example.com/shop"`
	Type            string `json:"type" minLength:"1" doc:"What happened." example:"dev.cdevents.change.merged.0.2.0"`
	Subject         string `json:"subject,omitempty" doc:"What it is about; the run, for events of Penstock." example:"shop"`
	Time            string `json:"time,omitempty" format:"date-time" doc:"When it happened." example:"2026-05-04T09:30:00Z"`
	DataContentType string `json:"datacontenttype,omitempty" doc:"Media type of the data; JSON when there is none." example:"application/json"`
	DataSchema      string `json:"dataschema,omitempty" format:"uri" doc:"What the data adheres to."`
	Data            any    `json:"data,omitempty" doc:"The payload; a Happening (docs/events.md) for events of Penstock."`
	DataBase64      string `json:"data_base64,omitempty" doc:"The payload, when it is not JSON."`
}

// rawOperations describe what huma does not serve.
func rawOperations(schemas huma.Registry) []*huma.Operation {
	ops := operations{schemas, tagEvents}
	event := schemas.Schema(reflect.TypeFor[cloudEvent](), true, "CloudEvent")
	follow := ops.new("follow-events", "GET /v1/events", "Follow events",
		"Events as they happen, as server-sent events that do not end. The data of a message is one CloudEvent in structured JSON; its id is the cursor to go on from. A page of events shares one id, on its last event: after a broken connection some may come twice, and source with id tells them. An idle stream gets a comment every 15 seconds.", 200, 400, 404)
	query := func(name, description string, s *huma.Schema, example any) *huma.Param {
		return &huma.Param{Name: name, In: "query", Description: description, Schema: s, Example: example}
	}
	zero := 0.0
	follow.Parameters = []*huma.Param{
		query("run", "Only events of this run; its id or the beginning of it.", &huma.Schema{Type: "string"}, "01976b3e9d1c"),
		query("types", "Only events of these types, full or short, separated by commas; a final * matches any rest.", &huma.Schema{Type: "string"}, "run.*,approval.requested"),
		query("after", "Cursor to go on from; 0 is the oldest event that is stored. Without one the stream begins with what happens from now on.", &huma.Schema{Type: "integer", Minimum: &zero}, 0),
		{Name: "Last-Event-ID", In: "header", Description: "The id of the last message, as clients send it when they come back; it goes before after.", Schema: &huma.Schema{Type: "string"}, Example: "1042"},
	}
	follow.Responses["200"] = &huma.Response{Description: "The stream.", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: "string"}}}}

	publish := ops.new("publish-events", "POST /v1/events", "Publish events",
		"Takes one CloudEvent in structured or binary mode, or a batch. 202 says that all are stored. An event with a source and id that were there before is the same event, so a repeat is harmless.", 202, 507)
	publish.RequestBody = &huma.RequestBody{Required: true, Description: "At most 256 KiB for each event, 1 MiB and 500 events for a batch.", Content: map[string]*huma.MediaType{
		events.ContentType:         {Schema: event, Example: exampleEvent},
		batchType:                  {Schema: &huma.Schema{Type: "array", Items: event}, Example: []any{exampleEvent}},
		"application/octet-stream": {Schema: &huma.Schema{Description: "Binary mode: the data of any media type, with the attributes in ce- headers."}, Example: `{"commit":"9b2f1c"}`},
	}}
	publish.Responses["202"] = &huma.Response{Description: "Stored.", Content: map[string]*huma.MediaType{
		"application/json": {Schema: schemas.Schema(reflect.TypeFor[accepted](), true, "Accepted")}}}
	delete(publish.Responses, "415")
	return slices.Concat([]*huma.Operation{&follow, &publish, pushOperation(schemas), backupOperation(schemas)}, probeOperations(ops))
}

// pushOperation describes the webhook of Git servers.
func pushOperation(schemas huma.Registry) *huma.Operation {
	ops := operations{schemas, tagDefinitions}
	push := ops.new("git-pushed", gitRoute, "Something was pushed",
		"The webhook of a Git server: makes repositories of definitions be looked at at once. It takes no token but the signature of GitHub, Gitea, Forgejo or Bitbucket (HMAC-SHA256 of the body), or the token of GitLab, with the secret of --webhook-secret. What the body says does not matter.", 202, 404)
	push.Security = []map[string][]string{{}}
	push.Parameters = []*huma.Param{
		{Name: "X-Hub-Signature-256", In: "header", Description: "sha256= and the HMAC-SHA256 of the body in hexadecimal digits.", Schema: &huma.Schema{Type: "string"}, Example: "sha256=2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"},
		{Name: "X-Gitlab-Token", In: "header", Description: "The secret itself, as GitLab sends it.", Schema: &huma.Schema{Type: "string"}, Example: "a secret of 16 characters or more"},
	}
	push.RequestBody = &huma.RequestBody{Required: true, Description: "At most 4 MiB.", Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{Description: "Anything."}, Example: map[string]any{"ref": "refs/heads/main"}}}}
	push.Responses["202"] = &huma.Response{Description: "The repositories are being looked at.", Content: map[string]*huma.MediaType{
		"application/json": {Schema: schemas.Schema(reflect.TypeFor[looked](), true, "Looked"), Example: looked{1}}}}
	for _, status := range []string{"403", "415", "422", "503"} {
		delete(push.Responses, status)
	}
	push.Responses["403"] = ops.failure(403) // a page of another origin
	return &push
}

// backupOperation describes the copy of the installation.
func backupOperation(schemas huma.Registry) *huma.Operation {
	ops := operations{schemas, tagServer}
	op := ops.new("get-backup", backupRoute, "Back the installation up",
		"A tar file with a copy of all streams and buckets, made while everything goes on. Its last entry, manifest.json, says what it holds; a file without one is not whole. For administrators. penstock admin restore reads it.", 200, 404)
	op.Responses["200"] = &huma.Response{Description: "The copy.", Content: map[string]*huma.MediaType{
		backupType: {Schema: &huma.Schema{Type: "string", Format: "binary"}, Example: "manifest.json …"}}}
	return &op
}

func probeOperations(ops operations) []*huma.Operation {
	plain := func(id, path, mediaType, summary, description string, example any, errs ...int) *huma.Operation {
		op := &huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Description: description, Tags: []string{tagServer},
			Security: []map[string][]string{{}}, Responses: map[string]*huma.Response{"200": {Description: "It is.",
				Content: map[string]*huma.MediaType{mediaType: {Schema: &huma.Schema{Type: "string"}, Example: example}}}}}
		for _, status := range errs {
			op.Responses[strconv.Itoa(status)] = ops.failure(status)
		}
		return op
	}
	live := plain("live", "/livez", "text/plain", "Is the process alive", "Says that the process answers, and nothing more.", "ok\n")
	ready := plain("ready", "/readyz", "text/plain", "Does the engine work", "Says whether the engine does its work.", "ready\n")
	ready.Parameters = []*huma.Param{{Name: "verbose", In: "query", Description: "Also say why not, and some numbers; for programs on the same host and for those with a token.",
		Schema: &huma.Schema{Type: "string"}, AllowEmptyValue: true, Example: "1"}}
	ready.Responses["503"] = &huma.Response{Description: "It is not.", Headers: ops.failure(503).Headers, Content: maps.Clone(ready.Responses["200"].Content)}
	document := plain("describe", "/openapi.json", "application/openapi+json", "This description", "The OpenAPI 3.1 description of this API.", nil)
	document.Responses["200"].Content["application/openapi+json"] = &huma.MediaType{Schema: &huma.Schema{Type: "object"}, Example: map[string]any{"openapi": "3.1.0"}}
	metrics := plain("metrics", "/metrics", "text/plain", "Metrics", "Numbers for Prometheus. Programs on the same host, over the loopback interface and without a proxy, need no token.",
		"penstock_runs_waiting 2\n", 401, 403)
	metrics.Security = []map[string][]string{{"token": {}}, {}}
	return []*huma.Operation{live, ready, document, metrics}
}
