package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/workflows"
)

// seated fills the seats of a quorum with distinct people, as many as can be,
// and tells how many seats of each line stay empty. A person fills one seat,
// of any line whose role they held when they decided.
func seated(quorum []*workflows.Seat, people []Decision) []int {
	type seat struct{ line, holder int }
	var seats []seat
	for i, q := range quorum {
		for range q.Count {
			seats = append(seats, seat{i, -1})
		}
	}
	var place func(person int, tried []bool) bool
	place = func(person int, tried []bool) bool {
		for i := range seats {
			if tried[i] || !slices.Contains(people[person].Roles, quorum[seats[i].line].Role) {
				continue
			}
			tried[i] = true
			// whoever sits here may be able to sit elsewhere
			if seats[i].holder < 0 || place(seats[i].holder, tried) {
				seats[i].holder = person
				return true
			}
		}
		return false
	}
	for p := range people {
		place(p, make([]bool, len(seats)))
	}
	empty := make([]int, len(quorum))
	for _, s := range seats {
		if s.holder < 0 {
			empty[s.line]++
		}
	}
	return empty
}

// quorumText writes a quorum in words.
func quorumText(quorum []*workflows.Seat) string {
	var parts []string
	for _, q := range quorum {
		parts = append(parts, fmt.Sprintf("%d × %s", q.Count, q.Role))
	}
	return joinWords(parts)
}
