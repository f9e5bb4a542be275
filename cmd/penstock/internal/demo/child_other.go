//go:build !unix

package demo

import (
	"os"
	"syscall"
)

// The demonstration needs a Unix and says so; see ready.
func childAttr() *syscall.SysProcAttr { return nil }
func killGroup(int)                   {}
func terminate(p *os.Process)         { _ = p.Kill() }
