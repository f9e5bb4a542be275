package events_test

import (
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/wire/wiretest"
)

func TestWhatIsAppendedIsPlainJSON(t *testing.T) {
	wiretest.Same[events.Task](t)
	wiretest.Same[events.Fence](t)
	wiretest.Same[events.FinishRequest](t)
	wiretest.Same[events.Result](t)
	wiretest.Same[events.Answer](t)
	wiretest.Same[events.Happening](t)
}
