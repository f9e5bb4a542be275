package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// gitRoute is the one request that proves with a signature who sends it.
const gitRoute = "POST /v1/webhooks/git"

// maxPush is the largest body of a webhook of a Git server, in bytes.
const maxPush = 4 << 20

// looked says that repositories are being asked for something new.
type looked struct {
	Sources int `json:"sources" doc:"How many repositories are being looked at." example:"1"`
}

// gitHook takes the webhook of a Git server: whatever it says, repositories of
// definitions are looked at at once. Nothing in it is believed but its
// signature, and it brings nothing in: what counts is what the repository has.
func (s *server) gitHook(w http.ResponseWriter, r *http.Request) {
	if err := s.verifyPush(w, r); err != nil {
		fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(looked{s.o.Pushed()}) // the client is gone if this fails
}

func (s *server) verifyPush(w http.ResponseWriter, r *http.Request) error {
	if s.o.PushSecret == "" || s.o.Pushed == nil {
		return newProblem(http.StatusNotFound, events.CodeNotFound, "this server takes no webhook of Git servers: it was started without --webhook-secret")
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)) // not every writer can; then the server's timeouts hold
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPush))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return newProblem(http.StatusRequestEntityTooLarge, events.CodeInvalid, fmt.Sprintf("the body has more than %d bytes", maxPush)).with("Connection", "close")
	}
	if err != nil {
		return invalid("the body was not read to its end: %v", err)
	}
	if why := wrongPush(r.Header, body, s.o.PushSecret); why != "" {
		return newProblem(http.StatusUnauthorized, codeUnauthenticated, why).with("WWW-Authenticate", "Signature")
	}
	return nil
}

// pushHeaders are where Git servers put the HMAC-SHA256 of the body, in
// hexadecimal digits and with or without "sha256=" before them.
var pushHeaders = []string{"X-Hub-Signature-256", "X-Gitea-Signature", "X-Gogs-Signature", "X-Hub-Signature"}

// wrongPush says what is wrong with the signature of a body; "" for a good one.
func wrongPush(header http.Header, body []byte, secret string) string {
	if token := header.Get("X-Gitlab-Token"); token != "" {
		if hmac.Equal([]byte(token), []byte(secret)) {
			return ""
		}
		return "X-Gitlab-Token is not the secret of this server"
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	want := mac.Sum(nil)
	for _, name := range pushHeaders {
		given := header.Get(name)
		if given == "" {
			continue
		}
		if got, err := hex.DecodeString(strings.TrimPrefix(given, "sha256=")); err == nil && hmac.Equal(got, want) {
			return ""
		}
		return name + " is not the HMAC-SHA256 of the body with the secret of this server"
	}
	return "the request is not signed: give the secret of this server to the webhook, which sends X-Hub-Signature-256 or X-Gitlab-Token with it"
}
