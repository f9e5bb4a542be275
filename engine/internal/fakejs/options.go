package fakejs

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"time"
	"unsafe"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The options of nats.go are functions that write into structs which it does
// not export. They are called here with such structs made by reflection, and
// the fields are read by their names. A name that is gone panics at once.

// filled calls options with the struct that they write into.
func filled(opts ...any) (reflect.Value, error) {
	if len(opts) == 0 {
		return reflect.Value{}, nil
	}
	o := reflect.New(reflect.TypeOf(opts[0]).In(0).Elem())
	for _, opt := range opts {
		if err, _ := reflect.ValueOf(opt).Call([]reflect.Value{o})[0].Interface().(error); err != nil {
			return o, err
		}
	}
	return o.Elem(), nil
}

func list[T any](opts []T) []any {
	var out []any
	for _, o := range opts {
		out = append(out, o)
	}
	return out
}

// field reads a field, exported or not.
func field[T any](o reflect.Value, name string) (v T) {
	if !o.IsValid() {
		return v
	}
	f := o.FieldByName(name)
	v, _ = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Interface().(T)
	return v
}

// optionsJSON reads options that fill the JSON of a request.
func optionsJSON[T any](opts []T, into any) error {
	o, err := filled(list(opts)...)
	if err != nil || !o.IsValid() {
		return err
	}
	p, err := json.Marshal(o.Interface())
	if err != nil {
		return err
	}
	return json.Unmarshal(p, into)
}

type fetchOption struct {
	expires time.Duration
	noWait  bool
	ctx     context.Context
}

func fetchOptions(opts []jetstream.FetchOpt) (fetchOption, error) {
	o, err := filled(list(opts)...)
	f := fetchOption{expires: field[time.Duration](o, "Expires"), noWait: field[bool](o, "NoWait"), ctx: field[context.Context](o, "ctx")}
	if f.expires == 0 {
		f.expires = jetstream.DefaultExpires
	}
	return f, err
}

// publishOptions puts options into the headers of a message.
func publishOptions(h nats.Header, opts []jetstream.PublishOpt) error {
	o, err := filled(list(opts)...)
	if err != nil || !o.IsValid() {
		return err
	}
	if field[time.Duration](o, "ttl") != 0 || field[string](o, "schedule") != "" {
		return errors.New("the fake JetStream has neither expiry of single messages nor schedules")
	}
	set := func(name, v string) {
		if v != "" {
			h.Set(name, v)
		}
	}
	seq := func(name string) string {
		if n := field[*uint64](o, name); n != nil {
			return strconv.FormatUint(*n, 10)
		}
		return ""
	}
	set(jetstream.MsgIDHeader, field[string](o, "id"))
	set(jetstream.ExpectedStreamHeader, field[string](o, "stream"))
	set(jetstream.ExpectedLastSeqHeader, seq("lastSeq"))
	set(jetstream.ExpectedLastSubjSeqHeader, seq("lastSubjectSeq"))
	set("Nats-Expected-Last-Subject-Sequence-Subject", field[string](o, "lastSubject"))
	return nil
}

type watchOption struct{ updatesOnly, history bool }

func watchOptions(opts []jetstream.WatchOpt) watchOption {
	o, _ := filled(list(opts)...) // they give no errors but for values that a bucket has not
	return watchOption{updatesOnly: field[bool](o, "updatesOnly"), history: field[bool](o, "includeHistory")}
}

// deleteRevision is the revision that a removal expects.
func deleteRevision(opts []jetstream.KVDeleteOpt) uint64 {
	o, _ := filled(list(opts)...) // as above
	return field[uint64](o, "revision")
}
