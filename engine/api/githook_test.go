package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

const pushSecret = "0123456789abcdef"

func signed(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestAPushIsTakenWithASignatureOnly(t *testing.T) {
	looks := 0
	o := options(&fake{})
	o.PushSecret, o.Pushed = pushSecret, func() int { looks++; return 2 }
	h := New(o)
	const body = `{"ref":"refs/heads/main"}`
	good := signed(pushSecret, body)
	for _, headers := range [][]string{
		{"X-Hub-Signature-256", "sha256=" + good}, {"X-Gitea-Signature", good}, {"X-Hub-Signature", "sha256=" + good}, {"X-Gitlab-Token", pushSecret},
	} {
		if w := call(t, h, "", gitRoute, body, headers...); w.Code != 202 || strings.TrimSpace(w.Body.String()) != `{"sources":2}` {
			t.Errorf("%v: %d %s", headers, w.Code, w.Body)
		}
	}
	if looks != 4 {
		t.Errorf("%d looks for 4 pushes", looks)
	}
	for _, headers := range [][]string{
		nil, {"X-Hub-Signature-256", "sha256=" + signed("another", body)}, {"X-Hub-Signature-256", "sha256=" + signed(pushSecret, body+" ")},
		{"X-Hub-Signature-256", "sha1=" + good[:40]}, {"X-Hub-Signature-256", good[:10]}, {"X-Hub-Signature-256", "sha256="}, {"X-Gitlab-Token", "another"},
		{"X-Gitlab-Token", pushSecret[:8]}, {"X-Hub-Signature-256", "x", "X-Gitea-Signature", good}, {"Authorization", "Bearer t-admin"},
	} {
		wantProblem(t, call(t, h, "", gitRoute, body, headers...), 401, codeUnauthenticated)
	}
	large := strings.Repeat("x", maxPush+1)
	wantProblem(t, call(t, h, "", gitRoute, large, "X-Hub-Signature-256", "sha256="+signed(pushSecret, large)), 413, "invalid")
	if looks != 4 {
		t.Errorf("a push that is not proven makes the server look")
	}
}

func TestWithoutASecretNoPushIsTaken(t *testing.T) {
	o := options(&fake{})
	o.Pushed = func() int { t.Error("it looks"); return 0 }
	wantProblem(t, call(t, New(o), "", gitRoute, "{}", "X-Hub-Signature-256", "sha256="+signed("", "{}")), 404, "not_found")
}
