package definitions_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/definitions"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// from applies files as all there is in a source.
func from(t *testing.T, s *definitions.Store, source string, files ...parse.File) *events.Applied {
	t.Helper()
	applied, err := s.Apply(t.Context(), definitions.Change{Source: source, Files: files, Prune: true})
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

// became gives what a change made of each definition that it touched.
func became(a *events.Applied) string {
	var lines []string
	for _, d := range a.Definitions {
		if d.Change != "unchanged" {
			lines = append(lines, d.Name+" "+d.Change)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

func inForce(s *definitions.Store) string {
	var names []string
	for _, d := range s.List().Definitions {
		names = append(names, d.Name+" of "+d.Source)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func document(name, text string) parse.File {
	return parse.File{Name: name, Content: []byte("apiVersion: penstock/v1\n" + text)}
}

func TestASourceTakesAwayWhatCameFromItAndNothingElse(t *testing.T) {
	kv := bucket(t)
	s := open(t, kv)
	from(t, s, "folder:/a", workflow("one", "notify"), workflow("two", "notify"))
	pinned := s.Current()
	from(t, s, "folder:/b", workflow("three", "notify"))
	apply(t, s, workflow("four", "notify"))
	applied := from(t, s, "folder:/a", workflow("two", "notify"))
	want(t, "the change", became(applied), "one removed")
	all := "four of , three of folder:/b, two of folder:/a"
	want(t, "in force", inForce(s), all)
	want(t, "in force after a restart", inForce(open(t, kv)), all)
	if cat, err := open(t, kv).ByDigest(pinned.Digest); err != nil || cat.Workflows["one"] == nil {
		t.Errorf("a run that is pinned to it finds %v, %v", cat, err)
	}
}

func TestNothingIsRemovedWhileTheSourceCannotBeReadInWhole(t *testing.T) {
	s := open(t, bucket(t))
	from(t, s, "folder:/a", workflow("one", "notify"), workflow("two", "notify"))
	half := parse.File{Name: "one.yaml", Content: workflow("one", "notify").Content[:70]}
	for name, files := range map[string][]parse.File{
		"a file that is cut off": {half, workflow("two", "notify")},
		"a file that is no YAML": {{Name: "x.yaml", Content: []byte("\t}")}, workflow("two", "notify")},
		"a file too large":       {{Name: "x.yaml", Content: make([]byte, parse.MaxFile+1)}, workflow("two", "notify")},
		"nothing":                nil,
	} {
		if applied := from(t, s, "folder:/a", files...); applied.Text == "" || strings.Contains(became(applied), "removed") {
			t.Errorf("%s: %s told %q", name, became(applied), applied.Text)
		}
		want(t, name, inForce(s), "one of folder:/a, two of folder:/a")
	}
}

func TestWhatAnotherDefinitionNeedsIsNotRemoved(t *testing.T) {
	s := open(t, bucket(t))
	kind := document("kind.yaml", "kind: TaskKind\nmetadata: {name: noop}\nspec: {runs: once, inputs: {text: string, channel: string}}\n")
	from(t, s, "folder:/a", kind, workflow("one", "noop"))
	from(t, s, "folder:/b", workflow("two", "noop"))
	applied := from(t, s, "folder:/a", workflow("three", "notify"))
	want(t, "the change", became(applied), "one removed, three created")
	for _, part := range []string{"TaskKind noop is not in folder:/a any more and stays in force", "Workflow two (two.yaml:1:1)"} {
		if !strings.Contains(applied.Text, part) {
			t.Errorf("told %q, want %q in it", applied.Text, part)
		}
	}
	from(t, s, "folder:/b", workflow("two", "notify"))
	want(t, "once nothing needs it", became(from(t, s, "folder:/a", workflow("three", "notify"))), "noop removed")
}

func TestAChangeThatWouldMakeAnotherDefinitionBadIsRefused(t *testing.T) {
	s := open(t, bucket(t))
	roles := func(role string) parse.File {
		return document("roles.yaml", "kind: Roles\nmetadata: {name: acme}\nspec: {roles: {"+role+": {users: [marta]}}}\n")
	}
	asks := document("ask.yaml", `kind: Workflow
metadata: {name: ask}
spec:
  initial: a
  states:
    a: {approval: {quorum: [{role: manager, count: 1}], expires: 1h}, next: z, onFail: z}
    z: {final: succeeded}
`)
	from(t, s, "folder:/a", roles("manager"))
	from(t, s, "folder:/b", asks)
	applied := from(t, s, "folder:/a", roles("boss"), workflow("one", "notify"))
	want(t, "the change", became(applied), "acme refused, one created")
	if !strings.Contains(applied.Text, "Roles acme is not in force as it stands here, because Workflow ask (ask.yaml:1:1)") {
		t.Errorf("told %q", applied.Text)
	}
	if s.Current().Workflows["ask"] == nil || s.Current().Roles[0].Spec.Roles["manager"] == nil {
		t.Error("the good definition is lost")
	}
}

func TestOfTwoSourcesWithTheSameDocumentTheFirstWins(t *testing.T) {
	s := open(t, bucket(t))
	s.Hold("folder:/a", "folder:/b")
	from(t, s, "folder:/a", workflow("one", "notify"))
	applied := from(t, s, "folder:/b", workflow("one", "notify"), workflow("two", "notify"))
	want(t, "the change", became(applied), "one refused, two created")
	if !strings.Contains(applied.Text, "Workflow one is already defined at one.yaml:1:1 of folder:/a") {
		t.Errorf("told %q", applied.Text)
	}
	if applied := apply(t, s, workflow("one", "notify")); !strings.Contains(applied.Text, "of folder:/a") {
		t.Errorf("who applies it is told %q", applied.Text)
	}
	from(t, s, "folder:/a", workflow("other", "notify"))
	from(t, s, "folder:/b", workflow("one", "notify"), workflow("two", "notify"))
	want(t, "when the first gives it up", inForce(s), "one of folder:/b, other of folder:/a, two of folder:/b")
}

func TestASourceThatIsNotWatchedGivesWayAndTheNewOriginIsKept(t *testing.T) {
	kv := bucket(t)
	s := open(t, kv)
	from(t, s, "apply:release", workflow("one", "notify"))
	before := s.Current().Digest
	s.Hold("git+https://host/repository")
	one := workflow("one", "notify")
	one.Commit, one.Author = "c1", "ana@acme.example"
	from(t, s, "git+https://host/repository", one)
	one.Commit, one.Author = "c2", "li@acme.example" // the same document in a later commit
	from(t, s, "git+https://host/repository", one)
	for name, s := range map[string]*definitions.Store{"now": s, "after a restart": open(t, kv)} {
		d := s.List().Definitions[0]
		if d.Source != "git+https://host/repository" || d.Commit != "c1" || d.Author != "ana@acme.example" || s.Current().Digest != before {
			t.Errorf("%s: %+v", name, d)
		}
		if o := s.Current().Workflows["one"].Origin; o.Commit != "c1" || o.Source != d.Source {
			t.Errorf("%s: the workflow says %+v", name, o)
		}
	}
}

func TestWhatWasToldOfASourceIsRemembered(t *testing.T) {
	kv := bucket(t)
	m := definitions.Memory{Told: "x", Commit: "c1", Unreachable: true}
	if err := open(t, kv).Remember(t.Context(), "folder:/a b", m); err != nil {
		t.Fatal(err)
	}
	s := open(t, kv)
	if got, err := s.Recall(t.Context(), "folder:/a b"); err != nil || got != m {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := s.Recall(t.Context(), "folder:/b"); err != nil || got != (definitions.Memory{}) {
		t.Errorf("%+v, %v", got, err)
	}
}
