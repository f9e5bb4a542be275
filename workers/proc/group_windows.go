package proc

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
)

func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func terminate(group int) {
	windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(group))
}

func kill(group int) {
	exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(group)).Run()
}

// alive cannot be told of a group whose leader has ended.
func alive(int) bool { return false }

func signalName(*os.ProcessState) string { return "" }
