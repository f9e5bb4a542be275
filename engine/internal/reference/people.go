package reference

import (
	"maps"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/workflows"
)

// hear takes a person's word, unless it does not count.
func (w *work) hear(in Input) {
	if !w.asks || w.due > 0 && w.due <= w.t.now || !w.counts(in.By) {
		return
	}
	yes := in.Kind == "approve"
	for i, s := range w.said {
		if s.user == in.By {
			if s.yes == yes {
				return // a person counts once
			}
			w.said = slices.Delete(w.said, i, i+1)
			break
		}
	}
	w.said = append(w.said, word{in.By, yes, w.t.now})
}

// counts reports whether a person may decide.
func (w *work) counts(user string) bool {
	a := w.st.Approval
	roles := w.t.c.RolesOf(user)
	switch {
	case !w.t.may(user, workflows.ActRunApprove), slices.Contains(a.Exclude, user), slices.Contains(a.Exclude, "starter") && user == w.t.by:
		return false
	case len(a.Quorum) == 0 || a.Rule != nil:
		return true
	}
	return slices.ContainsFunc(a.Quorum, func(s *workflows.Seat) bool { return slices.Contains(roles, s.Role) })
}

// approval tells whether people have decided.
func (w *work) approval() (string, string, bool) {
	a := w.st.Approval
	if w.due > 0 && w.due <= w.t.now {
		return "expired", "expired", true
	}
	scope := map[string]any{"approvals": w.words(true), "rejections": w.words(false)}
	if len(w.words(false)) > 0 {
		if a.Reject == nil {
			return "rejected", "rejected", true
		}
		switch over, err := w.t.holds(a.Reject, scope); {
		case err != nil:
			return "", "", false
		case over:
			return "rejected", "rejected", true
		}
	}
	if a.Auto != nil {
		if auto, err := w.t.holds(a.Auto, scope); err == nil && auto {
			return "succeeded", "", true
		}
	}
	if a.Rule != nil {
		if ok, err := w.t.holds(a.Rule, scope); err != nil || !ok {
			return "", "", false
		}
	}
	var seats []string
	for _, s := range a.Quorum {
		for range s.Count {
			seats = append(seats, s.Role)
		}
	}
	people := map[string][]string{}
	for _, s := range w.said {
		if s.yes {
			people[s.user] = w.t.c.RolesOf(s.user)
		}
	}
	return "succeeded", "", seated(seats, people)
}

// words are the decisions of one sort, as rules see them.
func (w *work) words(yes bool) []any {
	list := []any{}
	for _, s := range w.said {
		if s.yes == yes {
			roles := []any{}
			for _, r := range w.t.c.RolesOf(s.user) {
				roles = append(roles, r)
			}
			list = append(list, map[string]any{"user": s.user, "roles": roles, "comment": "", "at": at(s.at), "via": ""})
		}
	}
	return list
}

// seated tries every way to give seats to distinct people.
func seated(seats []string, people map[string][]string) bool {
	if len(seats) == 0 {
		return true
	}
	for who, roles := range people {
		if slices.Contains(roles, seats[0]) {
			rest := maps.Clone(people)
			delete(rest, who)
			if seated(seats[1:], rest) {
				return true
			}
		}
	}
	return false
}

// millis is a timestamp in milliseconds.
func millis(v any) int64 {
	if t, ok := v.(time.Time); ok {
		return t.UnixMilli()
	}
	return 0
}
