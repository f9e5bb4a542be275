//go:build unix && !linux

package proc

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}

// running believes the signal that reached the group.
func running(int) bool { return true }
