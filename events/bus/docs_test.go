package bus_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

// The page shows the example as it is compiled and run here: everything from
// the comment of show to the end of click.
func TestThePageAboutBotsHasTheCodeThatIsRun(t *testing.T) {
	code, err := os.ReadFile("example_bot_test.go")
	if err != nil {
		t.Fatal(err)
	}
	text := string(code)
	begin, end := strings.Index(text, "// show puts"), strings.Index(text, "\n// A chat bot:")
	if begin < 0 || end < begin {
		t.Fatal("example_bot_test.go has not the two functions that the page shows")
	}
	page, err := os.ReadFile("../../docs/bots.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), text[begin:end]+"```\n") {
		t.Errorf("docs/bots.md does not show this code:\n%s", text[begin:end])
	}
}

func TestThePageAboutBotsShowsEveryFieldOfADecision(t *testing.T) {
	page, err := os.ReadFile("../../docs/bots.md")
	if err != nil {
		t.Fatal(err)
	}
	var decision events.Decide // what the examples show together
	for _, example := range strings.Split(string(page), "```json decide\n")[1:] {
		example, _, _ = strings.Cut(example, "```")
		d := json.NewDecoder(strings.NewReader(example))
		d.DisallowUnknownFields()
		if err := d.Decode(&decision); err != nil {
			t.Fatal(err)
		}
	}
	v := reflect.ValueOf(decision)
	for f := range v.Type().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if v.FieldByIndex(f.Index).IsZero() || !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("docs/bots.md does not show the field %s of a decision, or does not explain it", name)
		}
	}
}
