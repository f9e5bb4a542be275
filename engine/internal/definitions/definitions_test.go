package definitions_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/definitions"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// bucket gives an empty key-value bucket on a server in this process.
func bucket(t *testing.T) jetstream.KeyValue {
	t.Helper()
	s, err := server.NewServer(&server.Options{JetStream: true, StoreDir: t.TempDir(), DontListen: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: events.BucketDefs})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func open(t *testing.T, kv jetstream.KeyValue) *definitions.Store {
	t.Helper()
	s, err := definitions.Open(t.Context(), kv, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func workflow(name, kind string) parse.File {
	return parse.File{Name: name + ".yaml", Content: []byte("apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: " + name +
		"}\nspec:\n  initial: a\n  states:\n    a: {task: " + kind + ", with: {text: hello, channel: c}, next: z, onFail: z}\n    z: {final: succeeded}\n")}
}

// addStored puts one more document into the current catalog, as an older
// version would have that took it, and gives the catalog's digest.
func addStored(t *testing.T, kv jetstream.KeyValue, kind, name, source string) string {
	t.Helper()
	current, err := kv.Get(t.Context(), "current")
	if err != nil {
		t.Fatal(err)
	}
	list, err := kv.Get(t.Context(), "catalog."+strings.TrimPrefix(string(current.Value()), "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	more := strings.TrimSuffix(string(list.Value()), "]") + `,{"kind":"` + kind + `","name":"` + name + `","digest":"sha256:0ld","origin":{}}]`
	for key, value := range map[string]string{"doc.0ld": source, "catalog.01d0": more, "current": "sha256:01d0"} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	return "sha256:01d0"
}

func TestADocumentThatIsRefusedNowTakesNoOtherWithIt(t *testing.T) {
	kv := bucket(t)
	apply(t, open(t, kv), workflow("release", "notify"))
	old := addStored(t, kv, "Workflow", "late", string(workflow("late", "nosuchkind").Content))
	s := open(t, kv)
	now := s.Current()
	if now.Workflows["release"] == nil || now.Workflows["late"] != nil {
		t.Fatalf("in force are %v", now.Workflows)
	}
	if cat, err := s.ByDigest(old); err != nil || cat.Digest != old || cat.Workflows["release"] == nil {
		t.Errorf("a run that was started before finds %v, %v", cat, err)
	}
	// a run that is started now finds its definitions after the next start too
	later := open(t, kv)
	apply(t, later, workflow("another", "notify"))
	for _, s := range []*definitions.Store{later, open(t, kv)} {
		if cat, err := s.ByDigest(now.Digest); err != nil || cat.Workflows["release"] == nil {
			t.Errorf("a run that was started meanwhile finds %v, %v", cat, err)
		}
	}
}

func TestADocumentThatIsNotWhatWasStoredIsFound(t *testing.T) {
	kv := bucket(t)
	s := open(t, kv)
	apply(t, s, workflow("release", "notify"))
	old := addStored(t, kv, "Workflow", "late", string(workflow("late", "notify").Content))
	if _, err := s.ByDigest(old); err == nil || !strings.Contains(err.Error(), "Workflow/late is not what was") {
		t.Errorf("got %v", err)
	}
	if _, err := definitions.Open(t.Context(), kv, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it is in force")
	}
}

func apply(t *testing.T, s *definitions.Store, files ...parse.File) *events.Applied {
	t.Helper()
	applied, err := s.Apply(t.Context(), definitions.Change{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

func TestAppliedDefinitionsAreInForceAndSurviveARestart(t *testing.T) {
	kv := bucket(t)
	s := open(t, kv)
	empty := s.Current().Digest
	if applied := apply(t, s, workflow("one", "notify")); applied.Definitions[0].Change != "created" {
		t.Errorf("%+v %s", applied.Definitions, applied.Text)
	}
	first := s.Current().Digest
	apply(t, s, workflow("two", "notify"))
	again := open(t, kv)
	if again.Current().Digest != s.Current().Digest || again.Current().Workflows["one"] == nil || again.Current().Workflows["two"] == nil {
		t.Errorf("after a restart: %+v", again.List())
	}
	for _, digest := range []string{empty, first} { // runs are pinned to them
		if cat, err := again.ByDigest(digest); err != nil || cat.Digest != digest {
			t.Errorf("catalog %s: %v", digest, err)
		}
	}
	if _, err := again.ByDigest("sha256:00"); err == nil {
		t.Error("there are definitions that nobody stored")
	}
}

func TestABadDocumentIsToldAndTheOneThatStoodStays(t *testing.T) {
	s := open(t, bucket(t))
	apply(t, s, workflow("one", "notify"))
	stood := s.Current().Workflows["one"].Origin.Digest
	applied := apply(t, s, workflow("one", "nothing"), workflow("two", "notify"))
	if !strings.Contains(applied.Text, "one.yaml:") || !strings.Contains(applied.Text, "nothing") {
		t.Errorf("told: %s", applied.Text)
	}
	if got := s.Current().Workflows["one"]; got == nil || got.Origin.Digest != stood {
		t.Error("the bad document has replaced the good one")
	}
	if s.Current().Workflows["two"] == nil {
		t.Error("the bad document has stopped a good one")
	}
}

func TestADryRunTellsAndChangesNothing(t *testing.T) {
	s := open(t, bucket(t))
	before := s.Current().Digest
	applied, err := s.Apply(t.Context(), definitions.Change{Files: []parse.File{workflow("one", "notify")}, DryRun: true})
	if err != nil || len(applied.Definitions) != 1 {
		t.Fatalf("%+v %v", applied, err)
	}
	if s.Current().Digest != before {
		t.Error("something is in force")
	}
}

func TestApplyingTheSameAgainChangesNothing(t *testing.T) {
	s := open(t, bucket(t))
	apply(t, s, workflow("one", "notify"))
	before := s.Current().Digest
	if applied := apply(t, s, workflow("one", "notify")); applied.Definitions[0].Change != "unchanged" || s.Current().Digest != before {
		t.Errorf("%+v", applied.Definitions)
	}
}

func TestDefinitionsAreReadAsTheyWereWritten(t *testing.T) {
	s := open(t, bucket(t))
	apply(t, s, workflow("one", "notify"))
	first := s.Current().Workflows["one"].Origin.Digest
	old := workflow("one", "notify")
	apply(t, s, parse.File{Name: "again.yaml", Content: append([]byte("# newer\n"), old.Content...), Commit: "1f2e3d4", Author: "ana"}, workflow("two", "notify"))
	catalog := s.Current().Digest
	var read []events.DefinitionText
	for q := (events.ReadDefinitions{}); ; {
		page, err := s.Read(t.Context(), q, 1) // a byte: one document to a page
		if err != nil || len(page.Documents) != 1 {
			t.Fatalf("%+v, %v", page, err)
		}
		read = append(read, page.Documents...)
		if len(read) == 1 {
			apply(t, s, workflow("three", "notify")) // does not get between the pages
		}
		if page.Next == 0 {
			break
		}
		q = events.ReadDefinitions{Catalog: page.Catalog, After: page.Next}
	}
	if len(read) != 2 || catalog == s.Current().Digest {
		t.Fatalf("%d documents: %+v", len(read), read)
	}
	for _, d := range read {
		if d.Name == "one" && (!strings.HasPrefix(d.Text, "# newer\n") || d.Commit != "1f2e3d4" || d.Author != "ana" || d.File != "again.yaml") {
			t.Errorf("%+v", d)
		}
	}
	page, err := s.Read(t.Context(), events.ReadDefinitions{Digest: first}, 1<<20)
	if err != nil || len(page.Documents) != 1 || page.Documents[0].Text != string(old.Content) {
		t.Errorf("the one that is no longer in force: %+v, %v", page, err)
	}
	if _, err := s.Read(t.Context(), events.ReadDefinitions{Digest: "sha256:00"}, 1<<20); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("one that never was: %v", err)
	}
}

func TestWarningsAreOfWhatIsGivenAndOfWhatItMakesDoubtful(t *testing.T) {
	s := open(t, bucket(t))
	loose := document("loose.yaml", "kind: Workflow\nmetadata: {name: loose}\nspec:\n  initial: a\n  states:\n"+
		"    a: {approval: {quorum: [{role: lead, count: 2}], exclude: [starter], expires: 1h}, next: z}\n    z: {final: succeeded}\n")
	people := func(names string) parse.File {
		return document("roles.yaml", "kind: Roles\nmetadata: {name: people}\nspec:\n  users: {ana: {}, li: {}, marta: {}}\n"+
			"  roles: {lead: {users: ["+names+"]}}\n  permissions: [{roles: [lead], allow: ['*']}]\n")
	}
	told := func(what string, files []parse.File, want ...string) {
		t.Helper()
		text := apply(t, s, files...).Text
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q is not told: %s", what, part, text)
			}
		}
		if len(want) == 0 && text != "" {
			t.Errorf("%s: told %s", what, text)
		}
	}
	told("what is new", []parse.File{loose, people("ana, li, marta")}, "loose.yaml:7:5: warning: the state a may have no arm")
	told("something else", []parse.File{workflow("one", "notify")})
	told("the same again", []parse.File{loose}, "loose.yaml:7:5: warning: the state a may have no arm")
	told("what makes another doubtful", []parse.File{people("ana, li")}, "loose.yaml:7", "warning", "lead")
}
