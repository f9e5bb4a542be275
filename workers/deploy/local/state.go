package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// The files of an environment's directory.
const (
	stateFile    = "state.json"      // what must survive the supervisor
	lockFile     = "lock"            // held by the supervisor while it lives
	addressFile  = "supervisor.json" // where it listens
	logFile      = "supervisor.log"
	artifactsDir = "artifacts" // executables by digest
	logsDir      = "logs"      // what instances printed
	workDir      = "work"      // their working directories
)

// keepResults is how many attempts are remembered. A repeat comes within
// minutes of the attempt; this is months of deployments.
const keepResults = 1000

// state is what must survive the supervisor.
type state struct {
	Environment string       `json:"environment,omitempty"`
	Port        int          `json:"port,omitempty"`   // of the router
	Chosen      bool         `json:"chosen,omitempty"` // Port was not asked for by the configuration
	Fence       events.Fence `json:"fence"`            // the highest seen
	Live        *liveRelease `json:"live,omitempty"`
	Pending     []pending    `json:"pending,omitempty"` // accepted and not finished
	Results     []settled    `json:"results,omitempty"` // the oldest first
}

// liveRelease is what gets the traffic.
type liveRelease struct {
	Release  deploy.Release `json:"release"`
	Previous string         `json:"previous,omitempty"` // digest that was live before
	Since    time.Time      `json:"since"`
}

// pending is a deployment that was accepted.
type pending struct {
	Attempt  string    `json:"attempt"`
	Accepted time.Time `json:"accepted"`
	Removes  bool      `json:"removes,omitempty"` // it leaves nothing live
}

// settled is the result of an attempt.
type settled struct {
	Attempt string        `json:"attempt"`
	At      time.Time     `json:"at"`
	Result  events.Result `json:"result"`
}

func (s *state) result(attempt string) (events.Result, bool) {
	for _, r := range s.Results {
		if r.Attempt == attempt {
			return r.Result, true
		}
	}
	return events.Result{}, false
}

// settle records the result of an attempt. The slices are replaced, never
// changed, so that a copy of the state stays what it was.
func (s *state) settle(attempt string, r events.Result) {
	s.Pending = slices.DeleteFunc(slices.Clone(s.Pending), func(p pending) bool { return p.Attempt == attempt })
	s.Results = append(slices.Clone(s.Results), settled{attempt, time.Now().UTC(), r})
	if n := len(s.Results) - keepResults; n > 0 {
		s.Results = s.Results[n:]
	}
}

// loadState reads the state of dir; a directory without one has an empty state.
func loadState(dir string) (state, error) {
	var s state
	text, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s: cannot be read, and without it an older deployment could overwrite a newer one; restore it, or remove the whole directory after a look: %w",
			filepath.Join(dir, stateFile), err)
	}
	return s, nil
}

func (s *state) save(dir string) error { return writeFile(filepath.Join(dir, stateFile), s) }

// writeFile puts v as JSON in place of path, all of it or nothing, on disk.
func writeFile(path string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
