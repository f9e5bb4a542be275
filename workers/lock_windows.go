package workers

import (
	"errors"
	"os"
)

// lockFile makes the file; there is no lock here, so directories of workers
// that were killed stay until somebody removes them.
func lockFile(path string, create bool) (*os.File, error) {
	if !create {
		return nil, errors.ErrUnsupported
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}
