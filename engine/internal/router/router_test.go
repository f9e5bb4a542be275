package router_test

import (
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/router"
)

const event = `{"specversion":"1.0","id":"1","source":"git","type":"t"}`

func TestTheSameEventOfTheSamePublisherIsTheSameCommand(t *testing.T) {
	a, id := router.Input("git", nil, []byte(event), "1@1")
	b, again := router.Input("git", nil, []byte(event), "2@2")
	if id != again || a.ID != b.ID || a.Bad != "" {
		t.Errorf("%s and %s, bad %q", id, again, a.Bad)
	}
	if _, other := router.Input("user:ana", nil, []byte(event), "1@1"); other == id {
		t.Error("another publisher's event has the same identity: it could keep ours from counting")
	}
	if a.By != "event:git" {
		t.Errorf("by %q", a.By)
	}
	if p, _ := router.Input("user:ana", nil, []byte(event), "1@1"); p.By != "ana" || p.Bad != "" {
		t.Errorf("ana's event is by %q, bad %q: its runs would not be hers", p.By, p.Bad)
	}
}

func TestWhatIsNoEventOrOfAnotherSourceIsRecordedWithTheReason(t *testing.T) {
	for name, c := range map[string]struct{ publisher, body, want string }{
		"no JSON":       {"git", `hello`, "not a CloudEvent"},
		"no id":         {"git", `{"specversion":"1.0","source":"git","type":"t"}`, `"id"`},
		"other source":  {"git", `{"specversion":"1.0","id":"1","source":"registry","type":"t"}`, `may not speak as source "registry"`},
		"other version": {"git", `{"specversion":"0.3","id":"1","source":"git","type":"t"}`, "specversion"},
	} {
		in, id := router.Input(c.publisher, nil, []byte(c.body), "7@1")
		if !strings.Contains(in.Bad, c.want) || id == "" {
			t.Errorf("%s: %q, want %q in it", name, in.Bad, c.want)
		}
		if _, second := router.Input(c.publisher, nil, []byte(c.body), "8@1"); second == id {
			t.Errorf("%s: two bad messages have one identity", name)
		}
	}
}

func TestAPublisherMaySpeakForWhatIsBelowItsName(t *testing.T) {
	in, _ := router.Input("git", nil, []byte(strings.Replace(event, `"git"`, `"git/acme/shop"`, 1)), "1@1")
	if in.Bad != "" {
		t.Error(in.Bad)
	}
}
