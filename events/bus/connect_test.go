package bus

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConnectSaysWhatIsWrong(t *testing.T) {
	in := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for name, c := range map[string]struct {
		cred Credential
		want []string
	}{
		"wrong password":  {Credential{URL: in.bot.URL, User: "bot", Password: "wrong", Name: "bot"}, []string{`does not accept user "bot"`, "password", in.bot.URL}},
		"nobody there":    {Credential{URL: "nats://bot:hidden@" + closed, Name: "bot"}, []string{closed, "cannot be reached", "check"}},
		"http only":       {Credential{HTTP: "http://x", Name: "bot"}, []string{"good for HTTP only"}},
		"no CA file":      {Credential{URL: in.bot.URL, Name: "bot", CA: "/nowhere.pem"}, []string{"/nowhere.pem"}},
		"damaged key":     {Credential{URL: in.bot.URL, Name: "bot", TaskKeys: []string{"?"}}, []string{"not a base64 ed25519 public key"}},
		"unknown host":    {Credential{URL: "nats://no.such.host.invalid:4222", Name: "bot"}, []string{"no.such.host.invalid", "cannot be reached"}},
		"no creds file":   {Credential{URL: in.bot.URL, Name: "bot", Creds: "/nowhere.creds"}, []string{"/nowhere.creds"}},
		"not a NATS port": {Credential{URL: "nats://127.0.0.1:0", Name: "bot"}, []string{"127.0.0.1"}},
	} {
		_, err := Connect(soon(t), &c.cred)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want it to say %q", name, err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: the password is shown: %v", name, err)
		}
	}
}

func TestConnectWaitsForTheServer(t *testing.T) {
	in := start(t)
	in.down()
	done := make(chan error, 1)
	go func() {
		conn, err := Connect(soon(t), in.bot, Wait())
		if err == nil {
			conn.Close()
		}
		done <- err
	}()
	if err := in.up(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, &Credential{URL: "nats://127.0.0.1:1", Name: "x"}, Wait()); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v, want that it cannot be reached", err)
	}
}

func TestConnectInProcess(t *testing.T) {
	in := start(t)
	c := *in.bot
	c.URL = ""
	if conn := dial(t, &c, InProcess(in.server), WithRole("demo")); !conn.Connected() {
		t.Error("is not connected")
	}
}

func TestEnvironmentOverridesTheCredential(t *testing.T) {
	for _, v := range []string{"NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CA"} {
		t.Setenv(v, "")
	}
	if c := FromEnvironment(nil); c != nil {
		t.Errorf("got %+v out of nothing", c)
	}
	file := Credential{URL: "nats://file", User: "alice", Password: "secret", Kind: KindAdmin, Name: "alice", InboxPrefix: "_INBOX.alice", Token: "t"}
	if d := cmp.Diff(&file, FromEnvironment(&file)); d != "" {
		t.Errorf("changed without a reason:\n%s", d)
	}
	t.Setenv("NATS_URL", "nats://env")
	t.Setenv("NATS_USER", "bob")
	t.Setenv("NATS_PASSWORD", "other")
	want := &Credential{URL: "nats://env", User: "bob", Password: "other", Kind: KindAdmin, Name: "bob"}
	if d := cmp.Diff(want, FromEnvironment(&file)); d != "" {
		t.Errorf("another user (-want +got):\n%s", d)
	}
	want.Kind = KindUser
	if d := cmp.Diff(want, FromEnvironment(nil)); d != "" {
		t.Errorf("environment alone (-want +got):\n%s", d)
	}
}

func TestCredentialFileIsPrivateAndWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bot.json")
	want := &Credential{URL: "nats://x", User: "bot", Password: "p", Kind: KindUser, Name: "bot", TaskKeys: []string{"k"}}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadCredential(path)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", st.Mode())
	}
}
