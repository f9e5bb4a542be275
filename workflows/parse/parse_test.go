package parse

import (
	"testing"
)

func good(t testing.TB) *Set {
	t.Helper()
	files, err := Dir("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	set, problems := Files(files)
	if len(problems) > 0 {
		t.Fatalf("problems in a good file:\n%s", Text(problems))
	}
	return set
}

func TestAGoodFileIsClean(t *testing.T) {
	set := good(t)
	if got := len(set.Documents); got != 6 {
		t.Errorf("%d documents, want 6", got)
	}
	c := set.Catalog()
	if w := c.Workflows["checkout-release"]; w == nil || w.Spec.States["verify"].Index != 1 || w.Spec.States["verify"].Name != "verify" {
		t.Errorf("the states do not know their names and places: %+v", w)
	}
	if len(c.Roles) != 1 || len(c.Scenarios) != 1 || c.Environments["production"] == nil || c.Channels["releases"] == nil {
		t.Errorf("catalog %+v", c)
	}
}
