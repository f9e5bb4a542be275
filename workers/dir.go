package workers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// dirPattern names the directory of one worker process.
const dirPattern = "penstock-worker-*"

// workDir is the directory of this process. Its lock says that the process
// lives; one that was killed leaves its directory, and the next worker on the
// same machine removes it.
type workDir struct {
	path string
	lock *os.File
}

func openDir(parent string) (*workDir, error) {
	if parent == "" {
		parent = os.TempDir()
	} else if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	removeAbandoned(parent)
	for range 10 {
		path, err := os.MkdirTemp(parent, dirPattern)
		if err != nil {
			return nil, err
		}
		lock, err := lockFile(lockPath(path), true)
		if err != nil {
			return nil, fmt.Errorf("directory %s: %w", path, err)
		}
		if _, err := os.Stat(lockPath(path)); err == nil {
			return &workDir{path, lock}, nil
		}
		lock.Close() // another worker took it for abandoned just before the lock
	}
	return nil, fmt.Errorf("directory %s: no place in it could be locked", parent)
}

func (d *workDir) close() {
	removeAll(d.path)
	d.lock.Close()
}

func lockPath(dir string) string { return filepath.Join(dir, ".lock") }

func removeAbandoned(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, dirPattern))
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue
		}
		if lock, err := lockFile(lockPath(dir), false); err == nil {
			removeAll(dir)
			lock.Close()
		}
	}
}

func makeJobDir(parent string) (string, error) { return os.MkdirTemp(parent, "task-*") }

// removeAll removes also directories that were made read-only, as the caches
// of build tools are.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
