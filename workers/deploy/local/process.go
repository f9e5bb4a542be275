package local

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/workers/deploy"
)

// markerVariable is in the environment of every instance: the directory of
// its supervisor.
const markerVariable = "PENSTOCK_SUPERVISOR"

// stopGrace is how long an instance may take to end after SIGTERM.
const stopGrace = 5 * time.Second

// inherited are the variables that an instance gets from the supervisor. The
// rest stays away, because a worker's environment may hold credentials.
var inherited = []string{"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// process is one started program.
type process struct {
	cmd     *exec.Cmd
	pid     int
	port    int
	log     string
	started time.Time
	done    chan struct{} // closed when it has ended and its output is complete
	exit    string        // how it ended; read after done
	work    string
}

var processes atomic.Int64 // numbers log files and working directories

// startProcess starts an instance of a release on a port of its own.
func (s *supervisor) startProcess(r deploy.Release, name string) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	name = fmt.Sprintf("%s-%s-%d", time.Now().UTC().Format("20060102T150405.000"), name, processes.Add(1))
	p := &process{port: port, log: filepath.Join(s.dir, logsDir, name+".log"), work: filepath.Join(s.dir, workDir, name), done: make(chan struct{})}
	if err := os.MkdirAll(p.work, 0o700); err != nil {
		return nil, err
	}
	out, err := openOutput(p.log)
	if err != nil {
		os.Remove(p.work)
		return nil, err
	}
	if err := s.spawn(p, r, out); err != nil {
		out.Close()
		os.RemoveAll(p.work)
		return nil, startFailure(r, err)
	}
	p.pid, p.started = p.cmd.Process.Pid, time.Now()
	go p.wait(out)
	return p, nil
}

// spawn starts the program. A file that was written a moment ago may still be
// open in a process that is just being forked somewhere else, which makes the
// kernel refuse to run it for a moment.
func (s *supervisor) spawn(p *process, r deploy.Release, out *output) error {
	for try := 0; ; try++ {
		cmd := exec.Command(artifactPath(s.dir, r.Artifact), r.Settings.Args...)
		cmd.Dir, cmd.Env = p.work, s.environ(r, p.port)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.WaitDelay = time.Second // a grandchild may keep the output open
		cmd.SysProcAttr = instanceAttr()
		err := s.spawner.start(cmd)
		if err == nil {
			p.cmd = cmd
			return nil
		}
		if !isTextBusy(err) || try == 50 {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func startFailure(r deploy.Release, err error) error {
	return &deploy.Failure{Code: "start_failed", Message: fmt.Sprintf("artifact %s cannot be started: %v; is it an executable for %s/%s?",
		r.Artifact, err, runtime.GOOS, runtime.GOARCH)}
}

// environ is the environment of an instance: what is inherited, what Penstock
// says, what the definition says, and what nobody may change.
func (s *supervisor) environ(r deploy.Release, port int) []string {
	env := map[string]string{}
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			env[name] = v
		}
	}
	maps.Copy(env, r.Environ)
	maps.Copy(env, r.Settings.Env)
	env["PORT"], env[markerVariable] = strconv.Itoa(port), s.dir
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

func (p *process) wait(out *output) {
	err := p.cmd.Wait()
	signalGroup(p.pid, true) // whatever it started goes with it
	out.Close()
	os.RemoveAll(p.work)
	p.exit = p.cmd.ProcessState.String()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		p.exit = exit.String()
	}
	close(p.done)
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process and all that it started: it is asked, then killed.
func (p *process) stop() {
	if p.ended() { // its id may be somebody else's by now
		return
	}
	signalGroup(p.pid, false)
	select {
	case <-p.done:
	case <-time.After(stopGrace):
		signalGroup(p.pid, true)
		<-p.done
	}
}

// spawner starts programs from one thread that lives as long as the process:
// on Linux the kernel kills an instance when the thread that started it ends,
// which must not be one that the runtime may end earlier.
type spawner chan func()

func newSpawner() spawner {
	s := make(spawner)
	go func() {
		runtime.LockOSThread()
		for f := range s {
			f()
		}
	}()
	return s
}

func (s spawner) start(cmd *exec.Cmd) error {
	result := make(chan error)
	s <- func() { result <- cmd.Start() }
	return <-result
}
