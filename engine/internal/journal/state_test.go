package journal

import (
	"fmt"
	"testing"
)

// The server counts subjects before it lists some of them. A start of several
// engines at once waited for ever for some 2^64 records that there were not.
func TestOwnerRecordsThatComeWhileSubjectsAreCountedAreNoRecords(t *testing.T) {
	owners := map[string]uint64{}
	for vp := range 256 {
		owners[fmt.Sprint("penstock.own.", vp)] = 1
	}
	for all, want := range map[uint64]uint64{300: 44, 256: 0, 200: 0} {
		if got := (state{All: all, Subjects: owners}).records(); got != want {
			t.Errorf("of %d subjects %d have records, want %d", all, got, want)
		}
	}
}
