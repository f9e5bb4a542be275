package generate_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/internal/generate"
	"github.com/penstock-cd/penstock/workflows/parse"
)

func TestACheckFindsNothingWrongWithWhatIsMade(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := generate.Workflow(t)
		set, problems := parse.Files([]parse.File{{Name: "w.yaml", Content: []byte(text)}})
		if parse.Failed(problems) || set.Catalog().Workflows["w"] == nil {
			t.Fatalf("%s\n%s", parse.Text(problems), text)
		}
	})
}
