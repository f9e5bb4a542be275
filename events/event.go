// Package events is the vocabulary of Penstock: what travels on the bus and
// what it is called. It holds
//
//   - the envelope, a CloudEvents 1.0 event (Event),
//   - the kinds of events and the shape of their data (types.go),
//   - the task protocol between the engine and its workers (task.go),
//   - the requests that people, bots and programs send to the engine (api.go),
//   - the subjects all of these travel on (subject.go),
//   - how a task proves that the engine wrote it (sign.go).
//
// Beside its own package wire it imports the standard library only and does no input or output, so that
// any program may depend on it. Every JSON form here is a public contract:
// fields are added, never renamed or given another meaning.
package events

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events/wire"
)

// SpecVersion is the version of CloudEvents that Penstock writes and reads.
const SpecVersion = "1.0"

// ContentType is the media type of an event in structured JSON mode, which is
// the mode that Penstock always writes.
const ContentType = "application/cloudevents+json"

// MaxEventSize is the largest event that is accepted, in bytes of its JSON.
// The ingress stream refuses anything larger.
const MaxEventSize = 256 << 10

// What identifies an event stands in the record of everything that it starts,
// so it is short: MaxType bytes of a type, MaxName bytes of an id or a source.
const (
	MaxType = 255
	MaxName = 1024
)

// Event is a CloudEvents 1.0 event
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md).
// ID is unique for one Source: the pair identifies the event for ever, and a
// second event with the same pair is the same event.
type Event struct {
	ID              string
	Source          string // URI reference of who says it
	Type            string // reverse-DNS name, for example "dev.penstock.run.started.v1"
	Subject         string // what it is about, within Source
	Time            time.Time
	DataContentType string // media type of Data; empty means application/json
	DataSchema      string
	// Data holds the payload: JSON for JSON content types, else the raw bytes.
	Data []byte
	// Extensions are further attributes by name, lower-case letters and digits.
	Extensions map[string]string
}

// IsJSON reports whether Data is JSON by its content type.
func (e *Event) IsJSON() bool {
	return e.DataContentType == "" || isJSONType(e.DataContentType)
}

func isJSONType(mediaType string) bool {
	t, _, _ := strings.Cut(mediaType, ";")
	t = strings.TrimSpace(strings.ToLower(t))
	return t == "application/json" || t == "text/json" || strings.HasSuffix(t, "+json")
}

// Validate reports everything that keeps e from being a CloudEvents 1.0 event.
func (e *Event) Validate() error {
	var errs []error
	for _, a := range []struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}} {
		if strings.TrimSpace(a.value) == "" {
			errs = append(errs, fmt.Errorf("attribute %q is required and must not be empty", a.name))
		}
	}
	for _, a := range []struct {
		name, value string
		most        int
	}{{"id", e.ID, MaxName}, {"source", e.Source, MaxName}, {"type", e.Type, MaxType}} {
		if len(a.value) > a.most {
			errs = append(errs, fmt.Errorf("attribute %q has %d bytes, at most %d are accepted", a.name, len(a.value), a.most))
		}
	}
	if _, err := url.Parse(e.Source); err != nil && len(e.Source) <= MaxName {
		errs = append(errs, fmt.Errorf("attribute \"source\" %q is not a URI reference", e.Source))
	}
	for name := range e.Extensions {
		if !isAttributeName(name) {
			errs = append(errs, fmt.Errorf("extension %q: a name has only lower-case letters and digits", name))
		}
	}
	if len(e.Data) > 0 && e.IsJSON() && !json.Valid(e.Data) {
		errs = append(errs, fmt.Errorf("data is not JSON, though its content type says %q", e.DataContentType))
	}
	return errors.Join(errs...)
}

func isAttributeName(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// attributes are the names that CloudEvents gives a meaning; all others are extensions.
var attributes = []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64"}

// MarshalJSON writes e in structured JSON mode, attributes in a fixed order
// and extensions sorted by name.
func (e Event) MarshalJSON() ([]byte, error) {
	return e.AppendJSON(make([]byte, 0, 384+len(e.Data)))
}

// AppendJSON appends what MarshalJSON gives.
func (e Event) AppendJSON(b []byte) ([]byte, error) {
	o := wire.Open(b)
	o.Text("specversion", SpecVersion)
	o.TextIf("id", e.ID)
	o.TextIf("source", e.Source)
	o.TextIf("type", e.Type)
	o.TextIf("subject", e.Subject)
	if !e.Time.IsZero() {
		o.Text("time", e.Time.UTC().Format(time.RFC3339Nano))
	}
	o.TextIf("datacontenttype", e.DataContentType)
	o.TextIf("dataschema", e.DataSchema)
	for _, name := range wire.Keys(e.Extensions) {
		o.MemberIf(name, e.Extensions[name])
	}
	switch {
	case len(e.Data) == 0:
	case e.IsJSON():
		o.Raw("data", e.Data)
	default:
		o.Text("data_base64", base64.StdEncoding.EncodeToString(e.Data))
	}
	return o.Close()
}

// UnmarshalJSON reads structured JSON mode. It does not validate; see Parse.
func (e *Event) UnmarshalJSON(p []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(p, &raw); err != nil {
		return fmt.Errorf("not a JSON object: %w", err)
	}
	*e = Event{}
	text := func(name string) (s string, err error) {
		v, ok := raw[name]
		if !ok || string(v) == "null" {
			return "", nil
		}
		if err := json.Unmarshal(v, &s); err != nil {
			return "", fmt.Errorf("attribute %q must be a string", name)
		}
		return s, nil
	}
	spec, err := text("specversion")
	if err != nil {
		return err
	}
	if spec != SpecVersion {
		return fmt.Errorf("attribute \"specversion\" is %q, want %q", spec, SpecVersion)
	}
	var at string
	for name, dst := range map[string]*string{"id": &e.ID, "source": &e.Source, "type": &e.Type, "subject": &e.Subject,
		"time": &at, "datacontenttype": &e.DataContentType, "dataschema": &e.DataSchema} {
		if *dst, err = text(name); err != nil {
			return err
		}
	}
	if at != "" {
		if e.Time, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return fmt.Errorf("attribute \"time\" %q is not an RFC 3339 time", at)
		}
	}
	if err := e.readData(raw); err != nil {
		return err
	}
	for name, v := range raw {
		if slices.Contains(attributes, name) {
			continue
		}
		if e.Extensions == nil {
			e.Extensions = map[string]string{}
		}
		e.Extensions[name] = scalarText(v)
	}
	return nil
}

func (e *Event) readData(raw map[string]json.RawMessage) error {
	data, hasData := raw["data"]
	b64, has64 := raw["data_base64"]
	switch {
	case hasData && has64:
		return errors.New("\"data\" and \"data_base64\" exclude each other")
	case has64:
		if err := json.Unmarshal(b64, &e.Data); err != nil {
			return errors.New("\"data_base64\" is not base64 text")
		}
	case hasData && string(data) != "null":
		e.Data = data
		if !e.IsJSON() { // a string under "data" is the text itself
			var s string
			if err := json.Unmarshal(data, &s); err != nil {
				return fmt.Errorf("\"data\" must be a string for content type %q", e.DataContentType)
			}
			e.Data = []byte(s)
		}
	}
	return nil
}

// scalarText is the text of a JSON string, number or boolean.
func scalarText(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}

// Parse reads one event from a message with these headers (of NATS or HTTP,
// names in any case): binary mode when there is a ce-specversion header and
// the content type is not ContentType, else structured mode. The event is
// complete and valid, or the error says all that is wrong.
func Parse(headers map[string][]string, body []byte) (*Event, error) {
	if len(body) > MaxEventSize {
		return nil, fmt.Errorf("event of %d bytes, at most %d are accepted", len(body), MaxEventSize)
	}
	lower := make(map[string]string, len(headers))
	for name, values := range headers {
		if len(values) > 0 {
			lower[strings.ToLower(name)] = values[0]
		}
	}
	e := &Event{}
	_, binary := lower["ce-specversion"]
	media, _, _ := strings.Cut(lower["content-type"], ";")
	if binary && strings.TrimSpace(media) != ContentType {
		if err := e.fromHeaders(lower, body); err != nil {
			return nil, err
		}
	} else if err := json.Unmarshal(body, e); err != nil {
		return nil, fmt.Errorf("not a CloudEvent in structured JSON: %w", err)
	}
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("not a CloudEvent: %w", err)
	}
	return e, nil
}

// fromHeaders reads binary mode: attributes in ce- headers, percent-encoded.
func (e *Event) fromHeaders(headers map[string]string, body []byte) error {
	e.Data, e.DataContentType = body, headers["content-type"]
	fields := map[string]*string{"id": &e.ID, "source": &e.Source, "type": &e.Type, "subject": &e.Subject,
		"dataschema": &e.DataSchema, "datacontenttype": &e.DataContentType}
	for name, text := range headers {
		attr, ok := strings.CutPrefix(name, "ce-")
		if !ok {
			continue
		}
		value, err := url.PathUnescape(text)
		if err != nil {
			return fmt.Errorf("header %s: %q is not percent-encoded text", name, text)
		}
		switch {
		case attr == "specversion":
			if value != SpecVersion {
				return fmt.Errorf("header ce-specversion is %q, want %q", value, SpecVersion)
			}
		case attr == "time":
			if e.Time, err = time.Parse(time.RFC3339Nano, value); err != nil {
				return fmt.Errorf("header ce-time %q is not an RFC 3339 time", value)
			}
		case fields[attr] != nil:
			*fields[attr] = value
		default:
			if e.Extensions == nil {
				e.Extensions = map[string]string{}
			}
			e.Extensions[attr] = value
		}
	}
	return nil
}
