package notify

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// untitled are the services that have no title of their own: it becomes the
// first line of the text.
var untitled = map[string]bool{"pagerduty": true, "notifiarr": true, "logger": true, "googlechat": true, "hangouts": true,
	"signal": true, "rocketchat": true, "wecom": true, "mqtt": true, "mqtts": true}

// ownDialer are the services that connect before, or without, the HTTP client
// that they are given: their host is looked at first.
var ownDialer = map[string]bool{"matrix": true, "mqtt": true, "mqtts": true}

// sendShoutrrr sends m through the library. Some of its services ignore the
// context, so it runs beside and is left behind when the context ends; its
// HTTP client has ended with the context then and reaches nobody any more.
func (t target) sendShoutrrr(ctx context.Context, g *guard, m message) *failure {
	if ownDialer[t.service] {
		if f := t.checkHost(ctx, g); f != nil {
			return f
		}
	}
	trip := &trip{ctx: ctx, guard: g}
	done := make(chan error, 1)
	go func() { done <- t.call(ctx, trip, m) }()
	select {
	case err := <-done:
		return t.judge(trip, err)
	case <-ctx.Done():
		return &failure{code: codeUnreachable, text: fmt.Sprintf("%s: %v", t.service, context.Cause(ctx)), again: true}
	}
}

func (t target) checkHost(ctx context.Context, g *guard) *failure {
	u, err := url.Parse(t.url)
	if err != nil {
		return &failure{code: codeURL, text: "its url cannot be read"}
	}
	host := u.Hostname()
	if host == "" {
		host = "localhost"
	}
	err = g.check(ctx, host)
	if text, no := denied(err); no {
		return &failure{code: codeDenied, text: t.service + ": " + text}
	}
	if err != nil {
		return &failure{code: codeUnreachable, text: fmt.Sprintf("%s: cannot find the host %s", t.service, host), again: true}
	}
	return nil
}

// call is one use of the library, with no logger: it would log the url.
func (t target) call(ctx context.Context, trip *trip, m message) (err error) {
	defer func() {
		if r := recover(); r != nil { // a strange url must not end the worker
			err = fmt.Errorf("the service's client failed: %v", r)
		}
	}()
	r, err := router.NewWithOptions(nil, types.SenderOptions{HTTPClient: trip.client()})
	if err != nil {
		return err
	}
	service, err := r.Locate(t.url)
	if err != nil {
		return err
	}
	trip.ready.Store(true)
	text, params := m.text, &types.Params{}
	switch {
	case m.title == "":
	case untitled[t.service]:
		text = strings.TrimSpace(m.title + "\n\n" + text)
	default:
		params.SetTitle(m.title)
	}
	if strings.TrimSpace(text) == "" {
		text = m.title
	}
	if s, ok := service.(types.ContextSender); ok {
		return s.SendContext(ctx, text, params)
	}
	return service.Send(text, params)
}

// judge says what an error of the library means, from what its HTTP client
// saw; its text is the last resort, and is redacted.
func (t target) judge(trip *trip, err error) *failure {
	if err == nil {
		return nil
	}
	seen := trip.last()
	switch {
	case seen.denied != "":
		return &failure{code: codeDenied, text: t.service + ": " + seen.denied}
	case seen.err != nil:
		return &failure{code: codeUnreachable, text: fmt.Sprintf("cannot reach %s: %s", seen.host, t.redact.clean(seen.err.Error())), again: true}
	case seen.status >= 400:
		f := &failure{code: codeRefused, text: fmt.Sprintf("%s answered %s", seen.host, seen.statusText())}
		if passing(seen.status) {
			f.code, f.again, f.after = codeUnreachable, true, seen.after
		}
		return f
	case seen.status > 0:
		return &failure{code: codeRefused, text: fmt.Sprintf("%s answered %s, but: %s", seen.host, seen.statusText(), t.redact.clean(err.Error()))}
	case !trip.ready.Load() && !ownDialer[t.service]:
		return &failure{code: codeURL, text: fmt.Sprintf("its url is not one of the service %s: %s", t.service, t.redact.clean(err.Error()))}
	case ownDialer[t.service]:
		return &failure{code: codeUnreachable, text: t.service + ": " + t.redact.clean(err.Error()), again: true}
	}
	return &failure{code: codeRefused, text: t.service + ": " + t.redact.clean(err.Error())}
}
