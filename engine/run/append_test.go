package run_test

import (
	"testing"

	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events/wire/wiretest"
)

func TestWhatIsAppendedIsPlainJSON(t *testing.T) {
	wiretest.Same[run.State](t)
	wiretest.Same[run.Visited](t)
	wiretest.Same[run.Task](t)
	wiretest.Same[run.Ended](t)
}
