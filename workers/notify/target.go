package notify

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
)

// target is where a channel's url leads.
type target struct {
	service string // the scheme, as people know it: "slack", "webhook"
	url     string // as shoutrrr reads it; secret
	redact  *redactor
}

// parseTarget reads a url. Its errors hold no part of it but the scheme.
func parseTarget(secret string) (target, error) {
	u, err := url.Parse(secret)
	if err != nil || u.Scheme == "" {
		return target{}, errors.New("its url cannot be read; it looks like slack://… or https://…, or is env:NAME or file:PATH")
	}
	scheme, inner, _ := strings.Cut(strings.ToLower(u.Scheme), "+")
	t := target{service: scheme, url: secret, redact: newRedactor(secret)}
	switch scheme {
	case "http", "https":
		t.service, t.url = "webhook", webhook(u, scheme)
	case "webhook":
		if inner != "http" && inner != "https" {
			return target{}, errors.New("its url begins with \"webhook\"; a webhook is https://… or webhook+https://…")
		}
		t.url = webhook(u, inner)
	}
	known := (&router.ServiceRouter{}).ListServices()
	if t.service != "webhook" && !slices.Contains(known, scheme) {
		slices.Sort(known)
		return target{}, fmt.Errorf("its url begins with %q, which is none of the services webhook, %s", printable(scheme), strings.Join(known, ", "))
	}
	return t, nil
}

// webhook is the url of a plain webhook for shoutrrr's generic service. The
// body is JSON unless the url asks for something else.
func webhook(u *url.URL, scheme string) string {
	w := *u
	w.Scheme = "generic+" + scheme
	q := w.Query()
	if !q.Has("template") {
		q.Set("template", "json")
		w.RawQuery = q.Encode()
	}
	return w.String()
}
