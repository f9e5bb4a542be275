package run

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/workflows"
)

// most is the largest number of seats that people can fill, by trying it all.
func most(seats []string, people []Decision) int {
	if len(seats) == 0 {
		return 0
	}
	best := most(seats[1:], people) // the first seat stays empty
	for i, p := range people {
		if slices.Contains(p.Roles, seats[0]) {
			rest := slices.Delete(slices.Clone(people), i, i+1)
			best = max(best, 1+most(seats[1:], rest))
		}
	}
	return best
}

func TestAsManySeatsAreFilledAsCanBe(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	roles := []string{"a", "b", "c"}
	for range 3000 {
		var quorum []*workflows.Seat
		var seats []string
		for _, role := range roles[:1+rnd.IntN(3)] {
			n := 1 + rnd.IntN(2)
			quorum = append(quorum, &workflows.Seat{Role: role, Count: n})
			for range n {
				seats = append(seats, role)
			}
		}
		var people []Decision
		for i := range rnd.IntN(6) {
			p := Decision{User: fmt.Sprint("u", i)}
			for _, role := range roles {
				if rnd.IntN(2) == 0 {
					p.Roles = append(p.Roles, role)
				}
			}
			people = append(people, p)
		}
		empty := 0
		for _, n := range seated(quorum, people) {
			empty += n
		}
		if want := len(seats) - most(seats, people); empty != want {
			t.Fatalf("seed %d: %d seats stay empty of %v with %+v, want %d", seed, empty, seats, people, want)
		}
	}
}
