package events

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestAnEventSurvivesStructuredJSON(t *testing.T) {
	for _, e := range []Event{
		{ID: "1", Source: "/a", Type: "t"},
		{ID: "ü\n\"", Source: "https://x/y?z", Type: "t", Subject: "s", Time: time.Date(2026, 11, 23, 1, 2, 3, 4000, time.UTC),
			DataContentType: "application/json", Data: []byte(`{"a":[1,2.5,"x"]}`), Extensions: map[string]string{"traceparent": "00-a-b-01"}},
		{ID: "2", Source: "/a", Type: "t", DataContentType: "text/plain", Data: []byte("hello\x00")},
		{ID: "3", Source: "/a", Type: "t", DataContentType: "application/x", Data: []byte{0xff, 0}},
	} {
		p, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(nil, p)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		again, err := json.Marshal(got)
		if err != nil || string(again) != string(p) {
			t.Errorf("%s became %s (%v)", p, again, err)
		}
	}
}

func TestBinaryModeGivesTheSameEvent(t *testing.T) {
	e, err := Parse(map[string][]string{"Ce-Specversion": {"1.0"}, "ce-id": {"a%20b"}, "CE-Source": {"/s"}, "ce-type": {"t"},
		"ce-time": {"2026-11-23T01:02:03Z"}, "ce-traceparent": {"00"}, "Content-Type": {"application/json"}}, []byte(`{"x":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != "a b" || e.Source != "/s" || e.Type != "t" || e.Extensions["traceparent"] != "00" || e.Time.Year() != 2026 || string(e.Data) != `{"x":1}` {
		t.Errorf("%+v", e)
	}
}

func TestWhatIsNoCloudEventIsRefusedWithEveryReason(t *testing.T) {
	for body, want := range map[string]string{
		`nonsense`:                           "not a CloudEvent",
		`[]`:                                 "not a JSON object",
		`{"id":"1","source":"s","type":"t"}`: `"specversion" is ""`,
		`{"specversion":"1.0"}`:              `attribute "type" is required`,
		`{"specversion":"1.0","id":1,"source":"s","type":"t"}`:                                                      `"id" must be a string`,
		`{"specversion":"1.0","id":"1","source":"s","type":"t","time":"now"}`:                                       "RFC 3339",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","Bad-Name":"x"}`:                                     "lower-case",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":""}`:                          "exclude each other",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"e"}`:                                  "base64",
		`{"specversion":"1.0","id":"1","source":":%","type":"t"}`:                                                   "URI reference",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data":"` + strings.Repeat("x", MaxEventSize) + `"}`: "at most",
		`{"specversion":"1.0","id":"1","source":"s","type":"` + strings.Repeat("t", MaxType+1) + `"}`:               `"type" has 256 bytes, at most 255`,
		`{"specversion":"1.0","id":"` + strings.Repeat("i", MaxName+1) + `","source":"s","type":"t"}`:               `"id" has 1025 bytes`,
		`{"specversion":"1.0","id":"1","source":"` + strings.Repeat("s", MaxName+1) + `","type":"t"}`:               `"source" has 1025 bytes`,
	} {
		if _, err := Parse(nil, []byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q in it", body, err, want)
		}
	}
}

func FuzzParseNeverPanicsAndWhatItTakesIsStable(f *testing.F) {
	f.Add("application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1}}`))
	f.Add("text/plain", []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"aGk=","datacontenttype":"a/b"}`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		e, err := Parse(map[string][]string{"content-type": {contentType}}, body)
		if err != nil {
			return
		}
		p, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%q was taken and cannot be written: %v", body, err)
		}
		if len(p) > MaxEventSize {
			return
		}
		if _, err := Parse(nil, p); err != nil {
			t.Fatalf("%q was taken, written as %q, and refused: %v", body, p, err)
		}
	})
}

func FuzzTokenIsUndoneByUntokenOnly(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "=", "ü", "a b*>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok := Token(s)
		if strings.ContainsAny(tok, ". *>\x00\t\n") || tok == "" {
			t.Fatalf("%q gives the token %q", s, tok)
		}
		if back, err := Untoken(tok); err != nil || back != s {
			t.Fatalf("%q became %q (%v)", s, back, err)
		}
		if back, err := Untoken(s); err == nil && Token(back) != s {
			t.Fatalf("%q was taken as a token", s)
		}
	})
}
