//go:build unix

package demo

import (
	"os"
	"syscall"
)

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may have ended

func terminate(p *os.Process) { _ = p.Signal(syscall.SIGTERM) }
