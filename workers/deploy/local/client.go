package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// client talks to the supervisor of a directory.
type client struct{ http *http.Client }

// errNobody says that no supervisor answers.
var errNobody = errors.New("no supervisor is running")

// connect finds the supervisor of dir; dir is what realDir gives.
func connect(ctx context.Context, dir string) (*client, State, error) {
	var a address
	text, err := os.ReadFile(filepath.Join(dir, addressFile))
	if err != nil || json.Unmarshal(text, &a) != nil {
		return nil, State{}, errNobody
	}
	c := &client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.Socket)
		}}}}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var st State
	if err := c.call(ctx, http.MethodGet, "/v1/status", nil, &st); err != nil || st.Dir != dir {
		c.close()
		return nil, State{}, errNobody
	}
	return c, st, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusal is an answer that is not 200.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return "supervisor: " + r.text }

func (c *client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, &refusal{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return resp, nil
}

func (c *client) call(ctx context.Context, method, path string, body, result any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if result == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(result)
}

func (c *client) submit(ctx context.Context, r deploy.Request) (*events.Result, error) {
	var v verdict
	err := c.call(ctx, http.MethodPost, "/v1/deployments", r, &v)
	return v.Refused, err
}

func (c *client) knows(ctx context.Context, attempt string) (bool, error) {
	err := c.call(ctx, http.MethodGet, "/v1/deployments?attempt="+url.QueryEscape(attempt), nil, nil)
	if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// follow passes on what an attempt reports, from its beginning, until its result.
func (c *client) follow(ctx context.Context, attempt string, to deploy.Reporter) (*events.Result, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/deployments/follow?attempt="+url.QueryEscape(attempt), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for in := json.NewDecoder(resp.Body); ; {
		var m message
		if err := in.Decode(&m); err != nil {
			return nil, err
		}
		if m.Result != nil {
			return m.Result, nil
		}
		pass(m, to)
	}
}

func pass(m message, to deploy.Reporter) {
	switch m.Kind {
	case "progress":
		to.Progress(m.Text)
		to.Note(m.Text)
	case "note":
		to.Note(m.Text)
	case "output":
		to.Output(m.Text)
	}
}

// startTime is how long a supervisor may take to answer.
const startTime = 20 * time.Second

// ensure connects to the supervisor of dir, starting one when there is none.
// command starts it when "--dir" and dir are added.
func ensure(ctx context.Context, dir string, command []string) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var exited chan error
	for {
		if c, _, err := connect(ctx, dir); err == nil {
			return c, nil
		}
		if exited == nil && ctx.Err() == nil {
			var err error
			if exited, err = start(dir, command); err != nil {
				return nil, fmt.Errorf("supervisor of %s cannot be started: %w", dir, err)
			}
		}
		select {
		case err := <-exited:
			if code, ok := errors.AsType[*exec.ExitError](err); !ok || code.ExitCode() != exitLocked {
				return nil, fmt.Errorf("supervisor of %s ended at once (%v): %s", dir, err, lastLines(tail(filepath.Join(dir, logFile), 4<<10), 3))
			}
			exited = nil // another one is just starting, or ending
			pause(ctx, 100*time.Millisecond)
		case <-ctx.Done():
			return nil, fmt.Errorf("supervisor of %s does not answer; see %s: %w", dir, filepath.Join(dir, logFile), context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// start starts a supervisor that outlives this process. The channel gets how
// it ended, when it does while this process is still there.
func start(dir string, command []string) (chan error, error) {
	path := filepath.Join(dir, logFile)
	mode := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > outputCap {
		os.Rename(path, path+".1")
	}
	out, err := os.OpenFile(path, mode, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], "--dir", dir)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	return exited, nil
}

// Status tells what is live and what is going on in an environment, whose
// directory is dir. A supervisor that is not running is not started.
func Status(dir string) (State, error) {
	dir, err := existing(dir)
	if err != nil {
		return State{}, err
	}
	if c, st, err := connect(context.Background(), dir); err == nil {
		c.close()
		return st, nil
	}
	st, err := loadState(dir)
	return describe(dir, st), err
}

// Down stops everything in an environment, whose directory is dir, and its
// supervisor. Nothing is live there afterwards; the fence and the results of
// attempts stay known. It returns when no process is left. A supervisor that
// does not obey until ctx ends, at most a minute, is killed.
func Down(ctx context.Context, dir string) error {
	dir, err := existing(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var lost error
	supervisor := 0
	if c, st, err := connect(ctx, dir); err == nil {
		supervisor = st.Supervisor
		lost = c.call(ctx, http.MethodPost, "/v1/down", nil, nil)
		c.close()
		if lost != nil {
			if p, err := os.FindProcess(supervisor); err == nil {
				p.Kill()
			}
		}
	}
	lock, err := takeLock(dir)
	if err != nil {
		return fmt.Errorf("environment in %s: %w", dir, errors.Join(err, lost))
	}
	defer lock.Close()
	for supervisor != 0 && !gone(supervisor) && ctx.Err() == nil { // the lock ends a little earlier than the process
		pause(ctx, time.Millisecond)
	}
	sweep(dir)
	return forget(dir)
}

// takeLock takes the lock that a supervisor which is just ending still holds.
func takeLock(dir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for {
		lock, err := flock(filepath.Join(dir, lockFile))
		if !errors.Is(err, errLocked) || ctx.Err() != nil {
			return lock, err
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// forget says in the state that nothing is live. The caller holds the lock.
func forget(dir string) error {
	st, err := loadState(dir)
	if err != nil || st.Live == nil {
		return err
	}
	st.Live = nil
	return st.save(dir)
}

// existing gives the one absolute name of a directory that is there.
func existing(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}
