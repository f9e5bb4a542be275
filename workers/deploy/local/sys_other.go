//go:build !unix

package local

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// The local target needs process groups and file locks as Unix has them.
func flock(string) (*os.File, error) {
	return nil, errors.New("the local target needs Linux or another Unix")
}
func detach(*exec.Cmd)                   {}
func signalGroup(int, bool)              {}
func ownedByUs(os.FileInfo) bool         { return false }
func isTextBusy(error) bool              { return false }
func instanceAttr() *syscall.SysProcAttr { return nil }
func sweep(string) int                   { return 0 }
func gone(int) bool                      { return true }
