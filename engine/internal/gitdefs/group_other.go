//go:build !unix

package gitdefs

import "os/exec"

// group leaves a command as it is: there are no process groups.
func group(*exec.Cmd) {}
