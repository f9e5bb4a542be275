package local

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// exitLocked is the exit code of a supervisor that found another one there.
const exitLocked = 3

var errLocked = errors.New("another supervisor already serves this directory")

// idlePatience is how long a supervisor stays when it has nothing to do.
const idlePatience = 30 * time.Second

// Main is the hidden subcommand that a worker starts, "supervise --dir DIR":
// args are what follows "supervise". It returns the exit code when the
// supervisor has ended.
func Main(args []string) int {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the environment")
	if flags.Parse(args) != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := Supervise(ctx, *dir)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errLocked):
		fmt.Fprintln(os.Stderr, err)
		return exitLocked
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

// Supervise owns the environment in dir until ctx ends: it starts what was
// live, routes requests to it, and carries out the deployments that arrive
// over its control socket. When ctx ends it stops everything; the next
// supervisor of dir starts it again. It ends by itself after Down, when
// nothing has been live or asked for a while, and when dir is removed. There
// is one supervisor for a directory: a second one gets an error at once.
func Supervise(ctx context.Context, dir string) error {
	dir, err := realDir(dir)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	lock, err := flock(filepath.Join(dir, lockFile))
	if err != nil {
		return fmt.Errorf("supervise %s: %w", dir, err)
	}
	defer lock.Close()
	st, err := loadState(dir)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("dir", dir, "supervisor", os.Getpid())
	if n := sweep(dir); n > 0 {
		log.Warn("killed what the supervisor before this one left behind", "processes", n)
	}
	for _, d := range []string{artifactsDir, logsDir, workDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return fmt.Errorf("supervise: %w", err)
		}
	}
	l, err := listenControl(dir)
	if err != nil {
		return fmt.Errorf("supervise %s: control socket: %w", dir, err)
	}
	s := newSupervisor(dir, st, log)
	return s.serve(ctx, l, lock)
}

// serve works until there is a reason to end.
func (s *supervisor) serve(ctx context.Context, l net.Listener, lock *os.File) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	api := &http.Server{Handler: s.handler(end), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- api.Serve(l) }()
	s.restore()
	s.log.Info("serving")
	every := time.NewTicker(time.Second)
	defer every.Stop()
	var err error
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			waiting = false
		case err = <-served:
			waiting = false
		case <-every.C:
			waiting = present(lock) && !s.idle(idlePatience)
		}
	}
	err = errors.Join(err, s.close(false))
	short, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if api.Shutdown(short) != nil {
		api.Close()
	}
	s.log.Info("ended")
	return err
}

// present reports whether the lock file is still where it was: somebody who
// removes the directory does not want what runs there.
func present(lock *os.File) bool {
	held, err := lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(lock.Name())
	return err == nil && os.SameFile(held, there)
}

// realDir makes dir, and gives its one absolute name.
func realDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no directory given (--dir)")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// address is where a supervisor listens, as it says in its directory.
type address struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"`
}

// listenControl opens the control socket and says in dir where it is. The
// caller holds the lock.
func listenControl(dir string) (net.Listener, error) {
	path, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	os.Remove(path) // of one that died
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(path, 0o600), writeFile(filepath.Join(dir, addressFile), address{os.Getpid(), path})); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// socketMax is the longest path that a socket can have everywhere (104 bytes
// on macOS, 108 on Linux, with a zero at the end).
const socketMax = 103

// socketPath is in dir, or, where that is too long, in a directory that only
// this user can use.
func socketPath(dir string) (string, error) {
	if path := filepath.Join(dir, "control.sock"); len(path) <= socketMax {
		return path, nil
	}
	private := filepath.Join(cmp.Or(os.TempDir(), "/tmp"), "penstock-"+strconv.Itoa(os.Getuid()))
	if err := os.Mkdir(private, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(private)
	if err != nil {
		return "", err
	}
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !ownedByUs(info) {
		return "", fmt.Errorf("%s must be a directory that only this user can use (mode 0700)", private)
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(private, hex.EncodeToString(sum[:8])+".sock"), nil
}
