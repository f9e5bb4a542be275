package notify_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/workers/notify"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// canary is the secret of every url here; no run of three of its letters and
// digits in a row, as it stands or in another case, may come out.
const canary = "c4n4rY9Zq7"

func TestNoPartOfASecretUrlComesOut(t *testing.T) {
	t.Setenv("TEST_CANARY_URL", "slack://hook:"+canary+"@nowhere")
	h := newHook(t, 403)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	mail := newMailServer(t, "535 5.7.8 no such account "+canary)
	for _, url := range []string{
		h.URL + "/services/" + canary + "?token=" + canary,
		"generic+" + h.URL + "/" + canary + "?@Authorization=" + canary + "&$extra=" + canary,
		"generic+" + closed.URL + "/" + canary,
		"webhook+http://" + canary + ":" + canary + "@" + strings.TrimPrefix(closed.URL, "http://"),
		"ntfy://user:" + canary + "@" + strings.TrimPrefix(h.URL, "http://") + "/" + canary + "?scheme=http",
		"mattermost://" + strings.TrimPrefix(h.URL, "http://") + "/" + canary + "?disabletls=yes",
		"slack://hook:" + canary + "@webhook",
		"slack://xoxb:123456789012-1234567890123-" + canary + "@channel",
		"discord://" + canary + "@bad id%",
		"telegram://" + canary + "@telegram?chats=x",
		"teams://" + canary + "@" + canary + "/" + canary + "/" + canary + "?host=x",
		"matrix://user:" + canary + "@" + strings.TrimPrefix(closed.URL, "http://") + "/?disabletls=yes&rooms=" + canary,
		"pushover://shoutrrr:" + canary + "@" + canary + "/?priority=" + canary,
		"smtp://user:" + canary + "@" + mail.addr + "/?from=a@x.example&to=b@x.example&encryption=none&auth=plain",
		"smtp://user:" + canary + "@127.0.0.1:1/?to=" + canary,
		canary + canary,
		"://" + canary,
		"https://%zz" + canary,
		"env:TEST_CANARY_URL",
	} {
		// Only hosts of this machine may be called: the guard stops the rest.
		opts := inside
		opts.AllowPrivate, opts.AllowHosts, opts.Attempts = false, []string{"127.0.0.1"}, 2
		r, job := do(t, opts, map[string]any{"channel": "c", "url": url, "title": "t", "text": "x"})
		if r.Error == nil {
			t.Errorf("%s: the test needs a failure to look at, got %+v", url, r)
			continue
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.ToLower(string(out) + workertest.Text(job.Note) + workertest.Text(job.Stdout) + workertest.Text(job.Stderr))
		for i := range len(canary) - 2 {
			if piece := strings.ToLower(canary[i : i+3]); strings.Contains(all, piece) {
				t.Errorf("%s: %q comes out:\n%s", url, piece, all)
				break
			}
		}
		t.Log(r.Error)
	}
}

func TestOnlyPublicAddressesAreCalled(t *testing.T) {
	h := newHook(t, 200)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(h.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	closedGuard := notify.Options{Backoff: inside.Backoff, Timeout: inside.Timeout}
	for _, url := range []string{
		h.URL,
		"https://127.0.0.1/",
		"https://localhost/", // the address counts, not the name
		"https://[::1]/",
		"https://[::ffff:127.0.0.1]/",
		"https://[::ffff:10.0.0.1]/",
		"https://10.1.2.3/",
		"https://100.64.0.1/",
		"https://[fd00::1]/",
		"https://[64:ff9b::7f00:1]/",
		"https://[2002:7f00:1::]/",
		"https://0.0.0.0/",
		"https://169.254.169.254/latest/meta-data",
		"smtp://127.0.0.1:25/?from=a@x.example&to=b@x.example",
		"smtp://127.0.0.1:" + port + "/?from=a@x.example&to=b@x.example",
		"mqtt://127.0.0.1:" + port + "/topic",
		"matrix://user:pass@127.0.0.1:" + port + "/?disabletls=yes&rooms=a",
		"ntfy://127.0.0.1:" + port + "/topic?scheme=http",
	} {
		r, _ := do(t, closedGuard, map[string]any{"channel": "c", "url": url, "text": "x"})
		if r.Error == nil || r.Error.Code != "channel_denied" || r.Error.Retryable {
			t.Errorf("%s: result %+v, error %v; want channel_denied", url, r, r.Error)
		}
	}
	for _, url := range []string{"https://2130706433/", "https://0177.0.0.1/", "https://0x7f.1/"} {
		// Whether these are names or addresses is for the resolver to say.
		if r, _ := do(t, notify.Options{Backoff: inside.Backoff, Attempts: 1}, map[string]any{"channel": "c", "url": url, "text": "x"}); r.Error == nil {
			t.Errorf("%s was called", url)
		}
	}
	if n := len(h.got()); n != 0 {
		t.Errorf("%d requests arrived, want none", n)
	}
}

func TestMetadataAddressesAreNeverCalled(t *testing.T) {
	for _, url := range []string{"http://169.254.169.254/", "http://[fe80::1%25lo]/", "http://[::ffff:169.254.1.1]/",
		"http://[fd00:ec2::254]/", "http://100.100.100.200/", "mqtt://169.254.169.254/topic"} {
		r, _ := do(t, inside, map[string]any{"channel": "c", "url": url, "text": "x"})
		wantFailure(t, r, "channel_denied", false)
	}
}

func TestAllowedHostsAndTheEnvironmentWidenTheGuard(t *testing.T) {
	h := newHook(t, 200)
	with := map[string]any{"channel": "c", "url": h.URL, "text": "x"}
	if r, _ := do(t, notify.Options{AllowHosts: []string{"127.0.0.1"}}, with); r.Outcome != "succeeded" {
		t.Errorf("allowed host: %v", r.Error)
	}
	t.Run("by environment", func(t *testing.T) {
		t.Setenv("PENSTOCK_NOTIFY_ALLOW_PRIVATE", "1")
		if r, _ := do(t, notify.Options{}, with); r.Outcome != "succeeded" {
			t.Errorf("%v", r.Error)
		}
	})
	t.Run("by host in the environment", func(t *testing.T) {
		t.Setenv("PENSTOCK_NOTIFY_ALLOW_HOSTS", "other.example, 127.0.0.1")
		if r, _ := do(t, notify.Options{}, with); r.Outcome != "succeeded" {
			t.Errorf("%v", r.Error)
		}
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	h := newHook(t, 302)
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": h.URL, "text": "x"})
	wantFailure(t, r, "channel_denied", false)
	if len(h.got()) != 1 || !strings.Contains(r.Error.Message, "redirect") {
		t.Errorf("%d requests, message %q", len(h.got()), r.Error.Message)
	}
}

func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	proxy, h := newHook(t, 200), newHook(t, 200)
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("ALL_PROXY", proxy.URL)
	if r, _ := do(t, inside, map[string]any{"channel": "c", "url": h.URL, "text": "x"}); r.Error != nil {
		t.Fatal(r.Error)
	}
	if len(proxy.got()) != 0 || len(h.got()) != 1 {
		t.Errorf("the proxy got %d requests, the hook %d; want 0 and 1", len(proxy.got()), len(h.got()))
	}
}
