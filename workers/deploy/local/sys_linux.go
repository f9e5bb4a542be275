package local

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// instanceAttr puts an instance into a process group of its own, and has the
// kernel kill it when the supervisor dies. The kernel means the thread that
// started it; see spawner.
func instanceAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// sweep kills what a supervisor of dir that died has left behind: instances
// and everything they started, known by the variable that they all inherit.
// Nothing of this supervisor may be running yet. It returns how many it killed.
func sweep(dir string) (killed int) {
	mark := []byte(markerVariable + "=" + dir)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			continue
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if bytes.Equal(v, mark) && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
	}
	return killed
}

// gone reports whether a process has ended; whether it was reaped does not matter.
func gone(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	after := text[bytes.LastIndexByte(text, ')')+1:] // the name before may hold anything
	return bytes.HasPrefix(after, []byte(" Z")) || bytes.HasPrefix(after, []byte(" X"))
}
