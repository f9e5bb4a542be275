package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) publishCommand() *cobra.Command {
	var e events.Event
	var pairs []string
	var body string
	cmd := &cobra.Command{
		Use:   "publish [FILE|-]",
		Short: "Publish an event, such as one that triggers workflows",
		Long: `Publishes a CloudEvent: the one in FILE (structured JSON, - is stdin), or one
made of flags. When it returns, the event is stored; publishing it again with
the same id and source is the same event.

--data gives a field of the event's data as text; a dot goes one level down
(--data repository.id=acme/shop). --data-json gives all of the data, as JSON
or as @FILE; --data goes over it. Here --data is not a server's directory: name
the server with --credential, $PENSTOCK_CREDENTIAL or $PENSTOCK_DATA.`,
		Example: `  penstock events publish event.json
  penstock events publish --type com.acme.change.merged --source git --data commit=$(git rev-parse HEAD)
  penstock events publish --type com.acme.alert --source pager --data-json '{"severity":"page"}'`,
		Args: args("[FILE]"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			event := &e
			var err error
			if len(arg) > 0 {
				event, err = a.readEvent(cmd, arg[0])
			} else {
				err = a.makeEvent(&e, body, pairs)
			}
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error { return s.publish(cmd, event) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.Type, "type", "", "`TYPE`, a reverse-DNS name")
	f.StringVar(&e.Source, "source", "", "`URI` of who says it (default the name of the credential)")
	f.StringVar(&e.Subject, "subject", "", "`TEXT` what it is about")
	f.StringVar(&e.ID, "id", "", "`ID`, unique for the source (default: a new one)")
	f.StringArrayVar(&pairs, "data", nil, "a field of the data as `NAME=VALUE`; may be repeated")
	f.StringVar(&body, "data-json", "", "the data as `JSON` or @FILE")
	return cmd
}

// eventFlags make an event and do not go together with a file.
var eventFlags = []string{"type", "source", "subject", "id", "data", "data-json"}

func (a *app) readEvent(cmd *cobra.Command, name string) (*events.Event, error) {
	for _, flag := range eventFlags {
		if cmd.Flag(flag).Changed {
			return nil, usagef("%s: the event is in the file; --%s makes one of flags", name, flag)
		}
	}
	p, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	e, err := events.Parse(map[string][]string{"Content-Type": {events.ContentType}}, p)
	if err != nil {
		hint := `the least that an event needs: {"specversion":"1.0","id":"1","source":"git","type":"com.acme.change.merged"}`
		if len(p) > events.MaxEventSize {
			hint = "put what is large elsewhere and name the place in the event"
		}
		return nil, usagef("%s: %s", name, strings.ReplaceAll(err.Error(), "\n", "; ")).withHint("%s", hint)
	}
	return e, nil
}

func (a *app) makeEvent(e *events.Event, body string, pairs []string) error {
	if e.Type == "" {
		return usagef("penstock events publish needs FILE, or --type").
			withHint("penstock events publish --type com.acme.change.merged --source git --data commit=…")
	}
	if e.ID == "" {
		e.ID = commandID()
	}
	e.Time = a.now().UTC()
	if name, ok := strings.CutPrefix(body, "@"); ok {
		p, err := a.readFile(name)
		if err != nil {
			return err
		}
		body = string(p)
	}
	if body == "" && len(pairs) == 0 {
		return nil
	}
	var data any
	if body != "" {
		if err := json.Unmarshal([]byte(body), &data); err != nil {
			return usagef("--data-json: not JSON: %s", err)
		}
	}
	e.DataContentType, e.Data = "application/json", []byte(body)
	if len(pairs) == 0 {
		return nil
	}
	object, ok := data.(map[string]any)
	if !ok && data != nil {
		return usagef("--data sets a field, and --data-json is no object")
	}
	if object == nil {
		object = map[string]any{}
	}
	for _, pair := range pairs {
		if err := setField(object, pair); err != nil {
			return err
		}
	}
	var err error
	e.Data, err = json.Marshal(object)
	return err
}

// setField puts "a.b=text" into object.
func setField(object map[string]any, pair string) error {
	path, text, ok := strings.Cut(pair, "=")
	if !ok || path == "" {
		return usagef("--data %q: want NAME=VALUE", pair).withHint("to name a server's data directory here: --credential DIR/%s", adminFile)
	}
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		next, ok := object[name].(map[string]any)
		if !ok {
			if object[name] != nil {
				return usagef("--data %q: %s is no object", pair, name)
			}
			next = map[string]any{}
			object[name] = next
		}
		object = next
	}
	object[names[len(names)-1]] = text
	return nil
}

func (s *session) publish(cmd *cobra.Command, e *events.Event) error {
	if e.Source == "" {
		e.Source = s.cred.Name
	}
	if err := e.Validate(); err != nil {
		return usagef("event: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if err := s.publishWithin(cmd, e); err != nil {
		return err
	}
	if s.app.output == "json" {
		return s.app.printJSON(e)
	}
	fmt.Fprintln(s.app.stdout, e.ID)
	s.app.note("hint: what it started, or why it started nothing: penstock events follow --type 'event.*' --all")
	return nil
}

func (s *session) publishWithin(cmd *cobra.Command, e *events.Event) error {
	ctx, cancel := s.app.within(cmd.Context())
	defer cancel()
	err := s.conn.Publish(ctx, e)
	if err == nil {
		return nil
	}
	f := asFailure(cmd.Context(), err)
	if errors.Is(err, errNoAnswer) && f.exit == exitTimeout {
		return f.withHint("it may be stored; publishing it again with --id %s is harmless\n%s", e.ID, f.hint)
	}
	return f
}
