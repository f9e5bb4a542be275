package record_test

import (
	"testing"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events/wire/wiretest"
)

func TestWhatIsAppendedIsPlainJSON(t *testing.T) {
	wiretest.Same[record.Record](t)
	wiretest.Same[record.Answer](t)
	wiretest.Same[record.Emitted](t)
	wiretest.Same[record.Input](t)
	wiretest.Same[record.Attempt](t)
	wiretest.Same[record.Summary](t)
}
