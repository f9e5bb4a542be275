package owner

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended is how long the machine was suspended since it was started: the
// boot clock goes on meanwhile, the monotonic one does not.
func suspended() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return max(0, time.Duration(boot.Nano()-mono.Nano()))
}
