package service

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestADeskDoesEverythingOnceAndLittleAtATime(t *testing.T) {
	var work sync.WaitGroup
	d := newDesk(&work)
	var at, done, most atomic.Int64
	for range 1000 {
		d.take(func() {
			if n := at.Add(1); n > most.Load() {
				most.Store(n)
			}
			runtime.Gosched()
			at.Add(-1)
			done.Add(1)
		})
	}
	d.close()
	work.Wait()
	if done.Load() != 1000 || most.Load() > int64(runtime.GOMAXPROCS(0)) {
		t.Errorf("%d of 1000 were done, up to %d at a time", done.Load(), most.Load())
	}
}

func TestReportsAreKnownByTheirSubject(t *testing.T) {
	for subject, want := range map[string]bool{
		"penstock.api.w.default.default.worker.attempt.finish":    true,
		"penstock.api.w.default.default.worker.attempt.start":     true,
		"penstock.api.w.default.default.worker.attempt.heartbeat": false,
		"penstock.api.u.marta.attempt.finish":                     false,
		"penstock.api.w.default.default.worker.worker.hello":      false,
	} {
		if reportsOnly(subject) != want {
			t.Errorf("%s: %v", subject, !want)
		}
	}
}
