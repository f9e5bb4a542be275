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
