package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthcheckExitsWithWhatTheServerSays(t *testing.T) {
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte("said " + r.URL.Path + "\n"))
	}))
	defer s.Close()
	ask := func(url string) (int, string, string) {
		var out, errs bytes.Buffer
		code := newApp(nil, &out, &errs).execute(t.Context(), []string{"healthcheck", "--url", url})
		return code, out.String(), errs.String()
	}
	if code, out, errs := ask(s.URL + "/readyz"); code != exitOK || out != "said /readyz\n" {
		t.Errorf("ready: exit %d, %q, %q", code, out, errs)
	}
	status = http.StatusServiceUnavailable
	if code, out, errs := ask(s.URL + "/readyz"); code != exitFailed || out != "" || !strings.Contains(errs, "503") {
		t.Errorf("not ready: exit %d, %q, %q", code, out, errs)
	}
	s.Close()
	if code, _, errs := ask(s.URL + "/readyz"); code != exitFailed || !strings.Contains(errs, "no answer") {
		t.Errorf("nobody there: exit %d, %q", code, errs)
	}
}
