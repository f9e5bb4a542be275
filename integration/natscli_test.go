package integration_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// The pages say which commands a service, a person or a bot types. Here these
// very commands are run against an engine, with the real nats client:
//
//	go install github.com/nats-io/natscli/nats@v0.4.0

// block gives the text of the n-th fenced block of a page with this info string.
func block(t testing.TB, page, info string, n int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", page))
	require(t, err)
	found := regexp.MustCompile("(?ms)^```"+regexp.QuoteMeta(info)+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if n >= len(found) {
		t.Fatalf("docs/%s has %d blocks %q, block %d is wanted", page, len(found), info, n)
	}
	return found[n][1]
}

// natsClient finds the client, or skips with a word.
func natsClient(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv("PENSTOCK_NATS_CLI"), "nats"))
	if err != nil {
		missing(t, "nats", "the nats command line client is not on PATH, and $PENSTOCK_NATS_CLI does not name it")
	}
	path, err = filepath.Abs(path)
	require(t, err)
	return path
}

// desk is where somebody types the commands of the pages: a folder with
// penstock and nats on its PATH, and an engine that they reach.
type desk struct {
	t    testing.TB
	dir  string
	env  []string
	conn *bus.Conn // an administrator's
}

func newDesk(t testing.TB, definitions string) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir()}
	bin, data, folder := filepath.Join(d.dir, "bin"), filepath.Join(d.dir, "data"), filepath.Join(d.dir, "workflows")
	require(t, os.MkdirAll(bin, 0o755))
	require(t, os.MkdirAll(folder, 0o755))
	require(t, os.WriteFile(filepath.Join(folder, "checkout.yaml"), []byte(definitions), 0o644))
	require(t, os.Symlink(penstock(t), filepath.Join(bin, "penstock")))
	d.env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "PENSTOCK_DATA="+data,
		"HOME="+d.dir, "XDG_CONFIG_HOME="+d.dir, "NATS_CONTEXT=", "NATS_URL=")

	e, err := engine.New(engine.Options{Dir: data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", Workflows: []string{folder}})
	require(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the engine: %v", err)
		}
	})
	select {
	case <-e.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the engine: %v", err)
	}
	admin, err := bus.ReadCredential(filepath.Join(data, engine.AdminFile))
	require(t, err)
	d.conn, err = bus.Connect(t.Context(), admin)
	require(t, err)
	t.Cleanup(d.conn.Close)
	return d
}

// withNATS is newDesk with the nats client at hand.
func withNATS(t testing.TB, definitions string) *desk {
	t.Helper()
	client := natsClient(t)
	d := newDesk(t, definitions)
	require(t, os.Symlink(client, filepath.Join(d.dir, "bin", "nats")))
	return d
}

// command is a block of a page, to be typed at the desk. It gets a process
// group of its own, so that a pipe ends as a whole.
func (d *desk) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = d.dir, d.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// types runs a block to its end and gives all that it printed.
func (d *desk) types(script string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	out, err := d.command(ctx, script).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}

// leaves runs a block that does not end by itself, until the test ends, and
// gives the lines that it prints.
func (d *desk) leaves(script string) <-chan string {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := d.command(ctx, script)
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	out, err := cmd.StdoutPipe()
	require(d.t, err)
	require(d.t, cmd.Start())
	lines := make(chan string, 1000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	d.t.Cleanup(func() {
		cancel()
		<-read
		_ = cmd.Wait() // it was killed
		if d.t.Failed() {
			d.t.Logf("%s\n%s", script, trouble.String())
		}
	})
	return lines
}

// event writes the page's event into event.json, as another one each time.
func (d *desk) event(n int) {
	d.t.Helper()
	text := block(d.t, "events.md", "json event", 0)
	if n > 0 {
		text = strings.ReplaceAll(text, "merge-1042", fmt.Sprintf("merge-1042-%d", n))
	}
	require(d.t, os.WriteFile(filepath.Join(d.dir, "event.json"), []byte(text), 0o644))
}

// publishUntil publishes the page's event by the page's command, again and
// again, until a line of a listener is wanted: nobody knows from outside when
// a listener has begun to listen.
func (d *desk) publishUntil(lines <-chan string, wanted func(line string) bool) {
	d.t.Helper()
	publish := block(d.t, "events.md", "sh nats", 1)
	deadline := time.After(time.Minute)
	for n := 0; ; n++ {
		d.event(n)
		if out := d.types(publish); !strings.Contains(out, "Stored in Stream: PENSTOCK_INGRESS_default") {
			d.t.Fatalf("%s says %s", publish, out)
		}
		again := time.After(2 * time.Second)
		for waiting := true; waiting; {
			select {
			case line, ok := <-lines:
				if !ok {
					d.t.Fatal("the listener has ended")
				}
				if wanted(line) {
					return
				}
			case <-again:
				waiting = false
			case <-deadline:
				d.t.Fatal("nothing of what was wanted was heard")
			}
		}
	}
}

func TestTheNATSClientPublishesATriggerAndHearsTheNotification(t *testing.T) {
	t.Parallel()
	d := withNATS(t, block(t, "events.md", "yaml", 0))
	d.types(block(t, "events.md", "sh nats", 0)) // the publisher's credential
	heard := d.leaves(block(t, "events.md", "sh nats", 2))
	var notice *events.Happening
	d.publishUntil(heard, func(line string) bool {
		if !strings.HasPrefix(line, "{") {
			return false
		}
		e, err := events.Parse(nil, []byte(line))
		require(t, err)
		if e.Type != events.Notification {
			t.Fatalf("heard %s, asked for notifications", e.Type)
		}
		notice, err = events.DecodeHappening(e)
		require(t, err)
		return true
	})
	if notice.Workflow != "checkout" || notice.State != "approve" || notice.Title != "checkout 1f2e3d4" || notice.Content == "" {
		t.Errorf("the notification is about something else: %+v", notice)
	}
	d.everythingEmittedIsDocumented()
}

func TestTheShellBotOfThePageApprovesAndItsRefusalsSayWhy(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil {
		missing(t, "jq", "jq is not on PATH")
	}
	d := withNATS(t, block(t, "events.md", "yaml", 0))
	d.types(block(t, "events.md", "sh nats", 0))
	d.types("penstock auth user add releases-bot --out bot.json; penstock auth user add marta --out marta.json; penstock auth user add ana --out ana.json")
	var said []string
	d.publishUntil(d.leaves(block(t, "bots.md", "sh bot", 0)), func(line string) bool {
		said = append(said, line)
		return strings.HasSuffix(line, "succeeded in state done")
	})
	if !slices.Contains(said, "applied") {
		t.Errorf("the bot says %q", said)
	}

	// What the page says of refusals is what the engine says.
	var list events.RunList
	_, err := d.conn.Request(t.Context(), events.VerbList, events.ListRuns{Status: "done"}, &list)
	require(t, err)
	request := fmt.Sprintf(`{"id":"late","run":%q,"decision":"approved","content":"sha256:00"}`, list.Runs[0].ID)
	out := d.types("nats --context ./ana.json request --raw penstock.api.u.ana.run.decide '" + request + "'")
	if !strings.Contains(out, "the run has ended: succeeded") || !strings.Contains(out, `"code":"conflict"`) {
		t.Errorf("a decision on a finished run: %s", out)
	}
	d.everythingEmittedIsDocumented()
}

func TestThePublisherOfThePageMayDoNothingElse(t *testing.T) {
	t.Parallel()
	d := withNATS(t, block(t, "events.md", "yaml", 0))
	d.types(block(t, "events.md", "sh nats", 0))
	d.event(0)
	for name, script := range map[string]string{
		"another's source":    "nats --context ./git.json publish --force-stdin penstock.ev.default.other.x < event.json",
		"what is emitted":     "nats --context ./git.json --timeout 2s subscribe --count 1 'penstock.live.>'",
		"a person's decision": "nats --context ./git.json publish penstock.api.u.marta.run.decide '{}'",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := d.command(ctx, script).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(strings.ToLower(string(out)), "permissions violation") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

// everythingEmittedIsDocumented compares all events that were sent with the
// page: each type has a section, and each field of the data is named in it or
// in what is said of all types.
func (d *desk) everythingEmittedIsDocumented() {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "events.md"))
	require(d.t, err)
	_, emits, _ := strings.Cut(string(text), "## What Penstock emits")
	sections := strings.Split(emits, "\n### ")
	var page events.EventPage
	_, err = d.conn.Request(d.t.Context(), events.VerbEvents, events.ReadEvents{Limit: 500}, &page)
	require(d.t, err)
	if len(page.Events) == 0 {
		d.t.Fatal("there are no events")
	}
	for _, e := range page.Events {
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, "`"+e.Type+"`") })
		if i < 0 {
			d.t.Errorf("docs/events.md has no section about %s", e.Type)
			continue
		}
		fields := map[string]any{}
		require(d.t, json.Unmarshal(e.Data, &fields))
		for name := range fields {
			if !strings.Contains(sections[0]+sections[i], "`"+name+"`") {
				d.t.Errorf("%s has a field %s that docs/events.md does not name: %s", e.Type, name, e.Data)
			}
		}
	}
}
