//go:build unix && !linux

package local

import (
	"bufio"
	"bytes"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// instanceAttr puts an instance into a process group of its own. When the
// supervisor dies it stays, until the next one sweeps.
func instanceAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// sweep kills what a supervisor of dir that died has left behind: the process
// groups of programs that lie in its artifacts. Nothing of this supervisor
// may be running yet. It returns how many groups it killed.
func sweep(dir string) (killed int) {
	out, err := exec.Command("ps", "-axo", "pgid=,command=").Output()
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		group, command, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		pgid, err := strconv.Atoi(group)
		if err == nil && pgid > 1 && strings.HasPrefix(strings.TrimSpace(command), filepath.Join(dir, artifactsDir)+"/") &&
			syscall.Kill(-pgid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// gone reports whether a process has ended.
func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }
