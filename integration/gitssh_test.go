package integration_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sshd is an ssh server of a test, on a loopback port, with keys of its own.
type sshd struct {
	address, user string
	key, hosts    string // files: the key that may log in, and the hosts that a client knows
	known         string // what hosts must hold
}

// command is what git runs for ssh.
func (s *sshd) command() string {
	return fmt.Sprintf("ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o UserKnownHostsFile=%s -o GlobalKnownHostsFile=/dev/null -i %s", s.hosts, s.key)
}

func startSSHD(t *testing.T) *sshd {
	t.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		program = "/usr/sbin/sshd"
	}
	if _, err := os.Stat(program); err != nil {
		missing(t, "sshd", "install the package openssh-server")
	}
	for _, name := range []string{"git", "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "sshd", "there is no "+name)
		}
	}
	if os.Getuid() == 0 { // where it keeps itself from privileges; its service makes this directory
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			missing(t, "sshd", err.Error())
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &sshd{address: freeAddress(t), user: me.Username, key: filepath.Join(dir, "key"), hosts: filepath.Join(dir, "known_hosts")}
	for _, name := range []string{"key", "host"} {
		output(t, dir, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
	}
	_, port, _ := net.SplitHostPort(s.address)
	config := filepath.Join(dir, "config")
	store(t, config, fmt.Sprintf("ListenAddress %s\nHostKey %s/host\nAuthorizedKeysFile %s/key.pub\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n", s.address, dir, dir))
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.known = fmt.Sprintf("[127.0.0.1]:%s %s", port, public)
	cmd := exec.Command(program, "-D", "-e", "-f", config)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Server listening") {
			go func() {
				for lines.Scan() { // it must not wait for somebody to read
				}
			}()
			return s
		}
	}
	missing(t, "sshd", "it does not start here: "+lines.Text())
	return nil
}

func store(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const sshWorkflow = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: %s}
spec:
  initial: done
  states:
    done: {final: succeeded}
`

// commitDefinition commits a workflow to a repository and gives the commit.
func commitDefinition(t *testing.T, dir, name string) string {
	t.Helper()
	store(t, filepath.Join(dir, "defs", name+".yaml"), fmt.Sprintf(sshWorkflow, name))
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ana", "GIT_AUTHOR_EMAIL=ana@acme.example", "GIT_COMMITTER_NAME=Ana", "GIT_COMMITTER_EMAIL=ana@acme.example"}
	output(t, dir, env, "git", "add", "--all")
	output(t, dir, env, "git", "commit", "--quiet", "-m", "a workflow")
	return strings.TrimSpace(output(t, dir, env, "git", "rev-parse", "HEAD"))
}

func TestDefinitionsComeFromARepositoryOverSSH(t *testing.T) {
	t.Parallel()
	ssh := startSSHD(t)
	work, data := t.TempDir(), t.TempDir()
	repository := filepath.Join(work, "release")
	output(t, work, nil, "git", "init", "--quiet", "--initial-branch=main", repository)
	one := commitDefinition(t, repository, "one")
	store(t, ssh.hosts, "")
	source := fmt.Sprintf("git+ssh://%s@%s%s#main:defs", ssh.user, ssh.address, repository)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	env := append(os.Environ(), "GIT_SSH_COMMAND="+ssh.command(), "PENSTOCK_DATA="+data, "PENSTOCK_CREDENTIAL="+filepath.Join(data, "admin.json"))
	server := exec.CommandContext(ctx, penstock(t), "server", "--data", data, "--listen", "127.0.0.1:0", "--http", "none", "--no-remember",
		"--workflows", source, "--workflows-poll", "1s")
	server.Env = env
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	listen(t, server, "ready")

	follow := exec.CommandContext(ctx, penstock(t), "events", "follow", "--all", "-o", "json", "--type", "definition.*")
	follow.Env = env
	told := listen(t, follow, "")
	type happening struct {
		Type string
		Data struct {
			Reason, Commit, Author string
			Definitions            []string
		}
	}
	next := func(typ string) (h happening) {
		t.Helper()
		for told.Scan() {
			if err := json.Unmarshal(told.Bytes(), &h); err != nil {
				t.Fatalf("%v: %s", err, told.Text())
			}
			if h.Type == "dev.penstock.definition."+typ+".v1" {
				return h
			}
		}
		t.Fatalf("nobody told definition.%s: %v", typ, told.Err())
		return h
	}
	if h := next("unreachable"); !strings.Contains(h.Data.Reason, "known_hosts of the server's user") {
		t.Errorf("a host that is not known: %+v", h)
	}
	store(t, ssh.hosts, ssh.known)
	if h := next("applied"); h.Data.Commit != one || h.Data.Author != "ana@acme.example" {
		t.Errorf("what was read: %+v", h)
	}
	two := commitDefinition(t, repository, "two")
	if h := next("applied"); h.Data.Commit != two || len(h.Data.Definitions) != 1 || !strings.HasPrefix(h.Data.Definitions[0], "Workflow/two ") {
		t.Errorf("what was read then: %+v", h)
	}
	list := output(t, work, env[len(env)-3:], penstock(t), "definitions")
	for _, part := range []string{source, one[:12], two[:12], "ana@acme.example", "defs/two.yaml"} {
		if !strings.Contains(list, part) {
			t.Errorf("penstock definitions does not show %q:\n%s", part, list)
		}
	}
}

// listen starts a program, waits for a line that holds a word, and gives what
// it prints after it.
func listen(t *testing.T, cmd *exec.Cmd, word string) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for word != "" && lines.Scan() {
		if strings.Contains(lines.Text(), word) {
			return lines
		}
	}
	if word != "" {
		t.Fatalf("%s does not say %q: %v", cmd.Path, word, lines.Err())
	}
	return lines
}
