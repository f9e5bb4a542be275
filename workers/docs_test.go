package workers_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
)

const manual = "../docs/workers.md"

func readManual(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var fenced = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

// blocks are the fenced blocks whose first word is language, as pairs of the
// rest of their info string and their text.
func blocks(t testing.TB, language string) (found [][2]string) {
	t.Helper()
	for _, m := range fenced.FindAllStringSubmatch(readManual(t), -1) {
		if first, rest, _ := strings.Cut(m[1], " "); first == language {
			found = append(found, [2]string{rest, m[2]})
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no block of %s", manual, language)
	}
	return found
}

func decodeStrictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func documentedTypes() map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, v := range []any{events.Task{}, events.StartRequest{}, events.HeartbeatRequest{}, events.FinishRequest{},
		events.Result{}, events.Answer{}, events.Chunk{}, events.Hello{}, events.ServerInfo{}} {
		types["events."+reflect.TypeOf(v).Name()] = reflect.TypeOf(v)
	}
	return types
}

func TestEveryJSONExampleIsOfTheTypeThatItNames(t *testing.T) {
	types := documentedTypes()
	for _, b := range blocks(t, "json") {
		typ, ok := types[b[0]]
		if !ok {
			t.Errorf("a block names the type %q:\n%s", b[0], b[1])
			continue
		}
		v := reflect.New(typ)
		if err := decodeStrictly([]byte(b[1]), v.Interface()); err != nil {
			t.Errorf("%s: %v\n%s", b[0], err, b[1])
			continue
		}
		// What the type loses, for example by a member in the wrong place,
		// would be missing when it is written again.
		again, err := json.Marshal(v.Interface())
		if err != nil {
			t.Fatal(err)
		}
		var want, got map[string]any
		if err := errors.Join(json.Unmarshal([]byte(b[1]), &want), json.Unmarshal(again, &got)); err != nil {
			t.Fatal(err)
		}
		for member := range want {
			if d := cmp.Diff(want[member], got[member]); d != "" {
				t.Errorf("%s, member %s:\n%s", b[0], member, d)
			}
		}
	}
}

// The examples together show every member, but what only people's clients get.
func TestEveryMemberOfTheProtocolStandsInAnExample(t *testing.T) {
	shown := map[string]map[string]bool{}
	for _, b := range blocks(t, "json") {
		if shown[b[0]] == nil {
			shown[b[0]] = map[string]bool{}
		}
		var members map[string]any
		if err := json.Unmarshal([]byte(b[1]), &members); err != nil {
			t.Fatal(err)
		}
		for m := range members {
			shown[b[0]][m] = true
		}
	}
	elsewhere := map[string]bool{"events.Answer.result": true}
	for name, typ := range documentedTypes() {
		if name == "events.ServerInfo" {
			continue
		}
		for i := range typ.NumField() {
			member, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !shown[name][member] && !elsewhere[name+"."+member] {
				t.Errorf("no example shows %s.%s", name, member)
			}
		}
	}
}

func TestDocumentedSubjectsAreTheRealOnes(t *testing.T) {
	text := readManual(t)
	for _, want := range []string{
		events.TaskSubject("default", "migrate", events.Partition("run", "r-7f3k2")),
		events.TaskConsumer("default", "migrate"),
		events.OutputSubject("r-7f3k2", "staging.migrate", "b1946ac9"),
		events.WorkerSubject(events.DefaultDomain, "default", "ci worker", events.VerbAttemptStart),
		"_INBOX." + events.Token("ci worker") + ".1",
	} {
		if !strings.Contains(text, "`"+want+"`") {
			t.Errorf("%s does not show `%s`", manual, want)
		}
	}
	for _, word := range []string{events.StreamTasks, events.StreamOutput, events.BucketBlobs, events.HeaderSignature,
		events.VerbAttemptStart, events.VerbAttemptHeartbeat, events.VerbAttemptFinish, events.VerbWorkerHello,
		events.StatusApplied, events.StatusAlready, events.StatusRefused, events.StatusStale, events.StatusBusy, events.StatusError,
		events.GoOn, events.Cancel, events.Stale, events.ModeStatus, events.CodeWorkerLost, events.CodeBadOutputs} {
		if !strings.Contains(text, "`"+word+"`") {
			t.Errorf("%s does not speak of `%s`", manual, word)
		}
	}
}

func TestDocumentedSignatureVerifies(t *testing.T) {
	fields := map[string]string{}
	for line := range strings.Lines(blocks(t, "signature")[0][1]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = strings.TrimSpace(value)
	}
	key, err := base64.StdEncoding.DecodeString(fields["key"])
	if err != nil || len(key) != ed25519.PublicKeySize {
		t.Fatalf("key: %d bytes, %v", len(key), err)
	}
	if err := events.VerifySigned([]ed25519.PublicKey{key}, []byte(fields["body"]), fields["header"]); err != nil {
		t.Error(err)
	}
}

// documentedPermissions are the lists of the manual, with names for the
// placeholders: "publish" and "subscribe".
func documentedPermissions(t testing.TB, names map[string]string) map[string][]string {
	t.Helper()
	lists := map[string][]string{}
	for _, b := range blocks(t, "permissions") {
		for line := range strings.Lines(b[1]) {
			for placeholder, name := range names {
				line = strings.ReplaceAll(line, placeholder, name)
			}
			lists[b[0]] = append(lists[b[0]], strings.TrimSpace(line))
		}
	}
	return lists
}
