package scale_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/scale"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/workflows/parse"
)

func TestRunsThatWaitAreStoredAsAnEngineStoresThem(t *testing.T) {
	const n, size = 300, 1024
	j := journal.NewMemory(nil).Open()
	filled, err := scale.Fill(t.Context(), j, n, size)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	err = j.LastPerSubject(t.Context(), []string{"penstock.log.>"}, func(e journal.Entry) error {
		got, err := owner.EntryOf(e)
		if err != nil {
			return err
		}
		if ids[got.ID] = true; got.Summary.Status != run.StatusWaiting || got.Summary.Due == 0 || got.Summary.Busy || got.V != 1 {
			t.Errorf("%+v", got)
		}
		return nil
	})
	if err != nil || len(ids) != n {
		t.Fatalf("%d runs are there, %v", len(ids), err)
	}
	if filled.Runs != n || filled.State != size || filled.Bytes < n*size {
		t.Errorf("%+v", filled)
	}
	if c, err := j.LoadCheckpoints(t.Context()); err != nil || len(c) == 0 {
		t.Errorf("%d checkpoints, %v", len(c), err)
	}
}

func TestFilesThatAreWrittenAreGood(t *testing.T) {
	for name, write := range map[string]func(string, int) error{"workflows": scale.Workflows, "scenarios": scale.Scenarios} {
		dir := t.TempDir()
		if err := write(dir, 25); err != nil {
			t.Fatal(err)
		}
		paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(paths) < 26 {
			t.Fatalf("%s: %d files, %v", name, len(paths), err)
		}
		var files []parse.File
		for _, path := range paths {
			p, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, parse.File{Name: path, Content: p})
		}
		if _, problems := parse.Files(files); len(problems) > 0 {
			t.Errorf("%s:\n%s", name, parse.Text(problems))
		}
		if took, err := scale.Digest(dir); err != nil || took <= 0 {
			t.Errorf("%s: %v, %v", name, took, err)
		}
	}
}

func TestAProcessThatSaysNothingIsNotWaitedForForEver(t *testing.T) {
	silent, err := exec.LookPath("cat") // which says what it is told, and it is told nothing
	if err != nil {
		t.Skip(err)
	}
	p, err := scale.Start(exec.Command(silent))
	if err != nil {
		t.Fatal(err)
	}
	var said any
	if err := p.Hear(time.Millisecond, &said); err == nil || !strings.Contains(err.Error(), "said nothing for 1ms") {
		t.Errorf("%v, %v", said, err)
	}
	p.Kill()
}
