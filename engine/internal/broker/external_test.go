package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

func TestEmbeddedServerSyncsUnlessToldOtherwise(t *testing.T) {
	for sync, want := range map[string]bool{"": true, SyncAlways: true, SyncLazy: false} {
		dir := t.TempDir()
		b, err := Start(t.Context(), Options{Dir: dir, Sync: sync, Listen: ListenNot})
		if err != nil {
			t.Fatal(err)
		}
		c := b.server.JetStreamConfig()
		if c.SyncAlways != want || c.MaxStore != b.maxStore || !strings.HasPrefix(c.StoreDir, dir) {
			t.Errorf("sync %q: the server has %+v", sync, c)
		}
		if b.URL() != "" {
			t.Errorf("it listens at %s, though it must not", b.URL())
		}
		stop(t, b)
	}
	if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Sync: "never"}); err == nil {
		t.Error("an unknown way of syncing is taken")
	}
}

func TestExternalServerThatDoesNotFitIsRefusedInWords(t *testing.T) {
	s := confServer(t)
	good := map[string]Login{
		events.AccountEngine: {User: "engine", Password: "$PENSTOCK_ENGINE_PASSWORD"},
		events.AccountWork:   {User: "engine-work", Password: "$PENSTOCK_ENGINE_PASSWORD"},
		events.AccountNotify: {User: "engine-notify", Password: "$PENSTOCK_ENGINE_PASSWORD"},
		events.AccountExt:    {User: "engine-ext", Password: "$PENSTOCK_ENGINE_PASSWORD"},
	}
	with := func(account string, l Login) map[string]Login {
		m := maps.Clone(good)
		m[account] = l
		return m
	}
	missing := maps.Clone(good)
	delete(missing, events.AccountNotify)
	bare, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go bare.Start()
	t.Cleanup(func() { bare.Shutdown(); bare.WaitForShutdown() })
	if !bare.ReadyForConnections(readyTimeout) {
		t.Fatal("the server does not get ready")
	}
	for name, c := range map[string]struct {
		x    External
		want string
	}{
		"wrong password":      {External{URL: s.ClientURL(), Accounts: with(events.AccountExt, Login{User: "engine-ext", Password: "wrong"})}, `user "engine-ext" is not accepted`},
		"user of another":     {External{URL: s.ClientURL(), Accounts: with(events.AccountWork, Login{User: "engine", Password: "$PENSTOCK_ENGINE_PASSWORD"})}, "the user belongs to account ENGINE"},
		"account left out":    {External{URL: s.ClientURL(), Accounts: missing}, "no login is given for account NOTIFY"},
		"nothing given":       {External{URL: s.ClientURL(), Accounts: with(events.AccountWork, Login{})}, "no login is given for account WORK_default"},
		"nobody there":        {External{URL: "nats://127.0.0.1:1", Accounts: good}, "check that the server runs"},
		"no url":              {External{Accounts: good}, "no url"},
		"server without them": {External{URL: bare.ClientURL(), Accounts: good}, "the user belongs to account $G"},
	} {
		_, err := Start(t.Context(), Options{Dir: t.TempDir(), External: &c.x})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestVersionsAreCompared(t *testing.T) {
	for v, older := range map[string]bool{"2.14.0": false, "2.15.2": false, "3.0.0": false, "2.14.0-RC.1": false, "2.9.25": true, "2.13.9": true, "": true} {
		if got := olderThan(v, minVersion); got != older {
			t.Errorf("%q older than %s: %v", v, minVersion, got)
		}
	}
}

func TestLoginsAreFoundByConvention(t *testing.T) {
	for _, v := range []string{"NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "NATS_CA", "PENSTOCK_ENGINE_PASSWORD", "PENSTOCK_SYS_PASSWORD"} {
		t.Setenv(v, "")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	flat, nsc := t.TempDir(), t.TempDir()
	for _, n := range needed {
		mustWrite(t, filepath.Join(flat, n.account+".creds"))
		mustWrite(t, filepath.Join(nsc, n.account, "engine"+n.suffix+".creds"))
	}
	mustWrite(t, filepath.Join(flat, "SYS.creds"))
	mustWrite(t, filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context", "prod-sys.json"))
	lone := filepath.Join(flat, "ENGINE.creds")
	for name, c := range map[string]struct {
		nats, creds, context string
		env                  map[string]string
		url                  string
		work, sys            Login
		fails                string
	}{
		"nothing":                   {},
		"the environment alone":     {env: map[string]string{"NATS_URL": "nats://a:4222", "NATS_PASSWORD": "s"}},
		"url and password":          {nats: "a:4222,b:4222", env: map[string]string{"NATS_PASSWORD": "s$x"}, url: "nats://a:4222,nats://b:4222", work: Login{User: "engine-work", Password: "s$x"}},
		"url and user":              {nats: "tls://a:4222", env: map[string]string{"NATS_USER": "p1", "NATS_PASSWORD": "s", "PENSTOCK_SYS_PASSWORD": "y"}, url: "tls://a:4222", work: Login{User: "p1-work", Password: "s"}, sys: Login{User: "sys", Password: "y"}},
		"user in the url":           {nats: "nats://p1:s@a:4222,nats://b:4222", url: "nats://a:4222,nats://b:4222", work: Login{User: "p1-work", Password: "s"}},
		"folder of credentials":     {nats: "nats://a:4222", creds: flat, url: "nats://a:4222", work: Login{Creds: filepath.Join(flat, "WORK_default.creds")}, sys: Login{Creds: filepath.Join(flat, "SYS.creds")}},
		"folder of nsc":             {nats: "nats://a:4222", creds: nsc, url: "nats://a:4222", work: Login{Creds: filepath.Join(nsc, "WORK_default", "engine-work.creds")}},
		"folder in NATS_CREDS":      {nats: "nats://a:4222", env: map[string]string{"NATS_CREDS": flat}, url: "nats://a:4222", work: Login{Creds: filepath.Join(flat, "WORK_default.creds")}, sys: Login{Creds: filepath.Join(flat, "SYS.creds")}},
		"contexts":                  {context: "prod", work: Login{Context: "prod-work"}, sys: Login{Context: "prod-sys"}},
		"contexts, url in NATS_URL": {context: "dev", env: map[string]string{"NATS_URL": "nats://a:4222"}, url: "nats://a:4222", work: Login{Context: "dev-work"}},
		"context in NATS_CONTEXT":   {nats: "nats://a:4222", env: map[string]string{"NATS_CONTEXT": "dev"}, url: "nats://a:4222", work: Login{Context: "dev-work"}},
		"no login":                  {nats: "nats://a:4222", fails: "NATS_PASSWORD"},
		"one file":                  {nats: "nats://a:4222", creds: lone, fails: "a file is for one account"},
		"a folder without":          {nats: "nats://a:4222", creds: t.TempDir(), fails: "no credentials for account ENGINE"},
		"two ways":                  {nats: "nats://a:4222", creds: flat, context: "prod", fails: "give one of them"},
		"no url":                    {nats: "nats://", fails: "neither a file nor a URL"},
		"a file that is not there":  {nats: "gone.json", fails: "gone.json"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			x, err := FindExternal(c.nats, c.creds, c.context)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("got %v, want it to say %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.work == (Login{}) {
				if x != nil {
					t.Fatalf("got %+v, want the embedded server", x)
				}
				return
			}
			work, sys := x.Accounts[events.AccountWork], x.Accounts[events.AccountSystem]
			work.Password, sys.Password = expand(work.Password), expand(sys.Password)
			if x.URL != c.url || work != c.work || sys != c.sys {
				t.Errorf("got %s, %+v and %+v; want %s, %+v and %+v", x.URL, work, sys, c.url, c.work, c.sys)
			}
		})
	}
}

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestContextsOfTheNATSClientAreUsed(t *testing.T) {
	s := confServer(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, n := range needed {
		path := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context", "prod"+n.suffix+".json")
		mustWrite(t, path)
		p, err := json.Marshal(map[string]string{"url": s.ClientURL(), "user": "engine" + n.suffix, "password": os.Getenv("PENSTOCK_ENGINE_PASSWORD")})
		if err := errors.Join(err, os.WriteFile(path, p, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	x, err := FindExternal("", "", "prod")
	if err != nil {
		t.Fatal(err)
	}
	b := startIn(t, Options{Dir: t.TempDir(), External: x})
	if b.URL() == "" || b.Replicas() != 1 {
		t.Errorf("it is at %q with %d copies", b.URL(), b.Replicas())
	}
	if x, err = FindExternal("", "", "test"); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Options{Dir: t.TempDir(), External: x})
	if err == nil || !strings.Contains(err.Error(), `account ENGINE: cannot connect with the login of context "test"`) {
		t.Errorf("a context that is not there: got %v", err)
	}
}

func TestServersAreJudged(t *testing.T) {
	of := func(version string, level int, always bool) member {
		m := member{Name: "n", Version: version, JetStream: new(jetStreamOf)}
		text := fmt.Sprintf(`{"config":{"sync_always":%t},"stats":{"api":{"level":%d}}}`, always, level)
		if err := json.Unmarshal([]byte(text), m.JetStream); err != nil {
			t.Fatal(err)
		}
		return m
	}
	good := of("2.15.2", 5, true)
	for name, c := range map[string]struct {
		members       []member
		whole         bool
		replicas      int
		stored        int
		faults, doubt string
	}{
		"good":           {[]member{good, good, good}, true, 3, 0, "", ""},
		"too old":        {[]member{good, of("2.12.4", 5, true), good}, true, 3, 0, "version 2.12.4", ""},
		"level too low":  {[]member{good, good, of("2.14.0", 3, true)}, true, 3, 0, "api level 3", ""},
		"too few":        {[]member{good, good}, true, 3, 0, "2 servers are seen", ""},
		"one copy":       {[]member{good}, true, 1, 0, "", "a stream has 1 copies"},
		"lazy":           {[]member{good, good, of("2.15.2", 5, false)}, true, 3, 0, "", "not \"always\" on n"},
		"not seen":       {[]member{{Version: "2.15.2"}, {Version: "2.15.2"}, {Version: "2.15.2"}}, false, 3, 0, "", "cannot be seen"},
		"not seen, old":  {[]member{{Name: "x", Version: "2.10.1"}, {Version: "2.15.2"}, {Version: "2.15.2"}}, false, 3, 0, "server x has version 2.10.1", "cannot be seen"},
		"more than that": {[]member{good, good, good, good, good}, true, 3, 0, "", ""},
		"one is away":    {[]member{good, good}, true, 3, 3, "", ""},
		"more copies":    {[]member{good, good}, true, 3, 2, "2 servers are seen", ""},
	} {
		list := map[string]member{}
		for i, m := range c.members {
			list[fmt.Sprint(i)] = m
		}
		faults, doubts := judge(list, c.whole, c.replicas, c.stored)
		for what, got := range map[string][2]string{"faults": {strings.Join(faults, "; "), c.faults}, "doubts": {strings.Join(doubts, "; "), c.doubt}} {
			if (got[0] == "") != (got[1] == "") || !strings.Contains(got[0], got[1]) {
				t.Errorf("%s: %s are %q, want %q", name, what, got[0], got[1])
			}
		}
	}
}

func TestStrictRefusesWhatCouldLose(t *testing.T) {
	s := confServer(t)
	x, err := ReadExternal(filepath.FromSlash("../../../deployments/external.json"))
	if err != nil {
		t.Fatal(err)
	}
	x.URL = s.ClientURL()
	_, err = Start(t.Context(), Options{Dir: t.TempDir(), External: x, Strict: true})
	if err == nil || !strings.Contains(err.Error(), "a stream has 1 copies") || !strings.Contains(err.Error(), "cannot be seen without a login in account SYS") {
		t.Errorf("got %v", err)
	}
	x.Accounts[events.AccountSystem] = Login{User: "sys", Password: "$PENSTOCK_SYS_PASSWORD"}
	_, err = Start(t.Context(), Options{Dir: t.TempDir(), External: x, Strict: true})
	if err == nil || !strings.Contains(err.Error(), "a stream has 1 copies") || strings.Contains(err.Error(), "sync") {
		t.Errorf("with a login in SYS: got %v", err)
	}
}

func TestPrincipalsAreTheSameOnEveryEngine(t *testing.T) {
	s := confServer(t)
	x, err := ReadExternal(filepath.FromSlash("../../../deployments/external.json"))
	if err != nil {
		t.Fatal(err)
	}
	x.URL = s.ClientURL()
	start := func(dir string) *Broker {
		b := startIn(t, Options{Dir: dir, External: x})
		if err := b.EnsureStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
		return b
	}
	// The directory of an older version has principals of its own.
	dir := t.TempDir()
	old, err := openPrincipals(dir)
	if err != nil {
		t.Fatal(err)
	}
	moved, _, err := old.add(bus.KindUser, "moved", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	one, two := start(dir), start(t.TempDir())
	if p, ok := two.AuthenticateToken(moved); !ok || p.Name != "moved" {
		t.Errorf("what the directory had: the other engine says %v, %v", p, ok)
	}
	if _, err := os.Stat(filepath.Join(dir, "auth", "principals.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	c := mustAdd(t, one, bus.KindUser, "alice", "")
	eventually(t, "the other engine accepts the token", func() bool { _, ok := two.AuthenticateToken(c.Token); return ok })
	if _, err := two.AddPrincipal(bus.KindAdmin, "alice", ""); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("the same name on the other engine: got %v", err)
	}
	if err := two.RevokePrincipal(bus.KindUser, "alice"); err != nil {
		t.Fatal(err)
	}
	if _, ok := two.AuthenticateToken(c.Token); ok {
		t.Error("a revoked token is accepted where it was revoked")
	}
	eventually(t, "the other engine refuses the token", func() bool { _, ok := one.AuthenticateToken(c.Token); return !ok })
	mustAdd(t, one, bus.KindUser, "alice", "") // the name is free again
	eventually(t, "both have the same", func() bool { return reflect.DeepEqual(one.ListPrincipals(), two.ListPrincipals()) })
}

func TestExternalServersUsersAreNotOursButHTTPTokensAre(t *testing.T) {
	in := external(t)
	c := mustAdd(t, in.Broker, bus.KindUser, "alice", "")
	if c.URL != "" || c.User != "" || c.Token == "" {
		t.Errorf("a credential for HTTP only looks so: %+v", c)
	}
	if p, ok := in.AuthenticateToken(c.Token); !ok || p.Name != "alice" || p.Kind != bus.KindUser {
		t.Errorf("its token gives %+v, %v", p, ok)
	}
	if _, err := in.AddPrincipal(bus.KindWorker, "w", ""); err == nil || !strings.Contains(err.Error(), "deployments/nats.conf") {
		t.Errorf("a worker: got %v", err)
	}
	if err := in.RevokePrincipal(bus.KindUser, "bot"); err == nil || !strings.Contains(err.Error(), "its own configuration") {
		t.Errorf("revoking a user of the server: got %v", err)
	}
	if err := in.RevokePrincipal(bus.KindUser, "alice"); err != nil {
		t.Error(err)
	}
	if _, ok := in.AuthenticateToken(c.Token); ok {
		t.Error("a revoked token is accepted")
	}
}
