package events

import (
	"strings"
	"testing"
)

func TestASubjectIsShortWhateverAnEventSays(t *testing.T) {
	long := strings.Repeat("é.", 3000)
	a := IngressSubject("default", "git", long, long)
	if len(a) > 1024 {
		t.Errorf("%d bytes: the server ends a connection that sends it", len(a))
	}
	if b := IngressSubject("default", "git", long+"x", long); a == b {
		t.Error("two keys have one subject")
	}
	if got := IngressSubject("default", "git", "release/1", "t.v1"); got != "penstock.ev.default.git.release=2F1.t=2Ev1" {
		t.Errorf("a short one is %s", got)
	}
}

func TestSubjectsMatchFilters(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.b", "a", false}, {"a", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a.b.c", false}, {"*.b", "a.b", true},
		{"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a", true}, {"a.*.>", "a.b", false},
	} {
		if got := MatchSubject(c.filter, c.subject); got != c.want {
			t.Errorf("%s and %s: %t", c.filter, c.subject, got)
		}
	}
}

func TestPartitionIsReadFromTheSubjectOfARecord(t *testing.T) {
	for subject, want := range map[string]int{
		LogSubject("run", "one"): Partition("run", "one"),
		"penstock.log.7.run.x":   7,
		OwnSubject(7):            -1,
		"penstock.log.x.run.y":   -1,
	} {
		if got := LogPartition(subject); got != want {
			t.Errorf("%s: %d, want %d", subject, got, want)
		}
	}
}
