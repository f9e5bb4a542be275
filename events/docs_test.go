package events

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	sections  = regexp.MustCompile("(?m)^### `(dev\\.penstock\\.[^`]+)`$")
	dataBlock = regexp.MustCompile("(?s)```json data\n(.*?)```")
	jsonBlock = regexp.MustCompile("(?s)```json(?: event)?\n(.*?)```")
)

func page(t *testing.T) string {
	t.Helper()
	p, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestEveryTypeOfEventIsDocumentedAndNoOther(t *testing.T) {
	var documented []string
	for _, m := range sections.FindAllStringSubmatch(page(t), -1) {
		documented = append(documented, m[1])
	}
	emitted := slices.Sorted(slices.Values(Types()))
	if diff := cmp.Diff(emitted, slices.Sorted(slices.Values(documented))); diff != "" {
		t.Errorf("types: code -, docs/events.md +:\n%s", diff)
	}
}

// common is the text that explains fields for all types.
func common(text string) string {
	_, text, _ = strings.Cut(text, "## What Penstock emits")
	text, _, _ = strings.Cut(text, "\n### ")
	return text
}

func TestExamplesOfDataHaveOnlyFieldsThatExistAndAreExplained(t *testing.T) {
	text := page(t)
	used := map[string]bool{}
	at := sections.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		typ, end := text[m[2]:m[3]], len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		section := text[m[1]:end]
		blocks := dataBlock.FindAllStringSubmatch(section, -1)
		if len(blocks) != 1 {
			t.Errorf("%s has %d examples, want 1", typ, len(blocks))
			continue
		}
		d := json.NewDecoder(strings.NewReader(blocks[0][1]))
		d.DisallowUnknownFields()
		var h Happening
		if err := d.Decode(&h); err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(blocks[0][1]), &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			used[name] = true
			if !strings.Contains(common(text)+section, "`"+name+"`") {
				t.Errorf("%s: the example has %s, and the text does not say what it is", typ, name)
			}
		}
	}
	var all []string
	for f := range reflect.TypeFor[Happening]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		all = append(all, name)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(all)), slices.Sorted(maps.Keys(used))); diff != "" {
		t.Errorf("fields of data: code -, examples +:\n%s", diff)
	}
}

func TestExamplesOfEventsAreCloudEventsAndComeOutAsTheyWentIn(t *testing.T) {
	found := jsonBlock.FindAllStringSubmatch(page(t), -1)
	if len(found) != 2 {
		t.Fatalf("%d examples of whole events, want 2", len(found))
	}
	for _, m := range found {
		e, err := Parse(map[string][]string{"Content-Type": {ContentType}}, []byte(m[1]))
		if err != nil {
			t.Errorf("%v in %s", err, m[1])
			continue
		}
		if len(e.Extensions) > 0 {
			t.Errorf("unknown attributes %v", e.Extensions)
		}
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got, want bytes.Buffer
		if err := json.Compact(&want, []byte(m[1])); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&got, out); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Errorf("page -, written again +:\n%s", diff)
		}
	}
}
