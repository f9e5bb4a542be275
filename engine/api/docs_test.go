package api

import (
	"context"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
)

func readDocs(t *testing.T) string {
	t.Helper()
	p, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// words splits a line of shell into words; it knows quotes and one variable.
func words(t *testing.T, line string) (out []string) {
	t.Helper()
	line = strings.NewReplacer("$PENSTOCK_TOKEN", "t-user", "$PENSTOCK_HTTP", "http://127.0.0.1:8420").Replace(line)
	var word strings.Builder
	quote, inside := rune(0), false
	for _, r := range line {
		switch {
		case quote == 0 && (r == '\'' || r == '"'):
			quote, inside = r, true
		case r == quote:
			quote = 0
		case quote == 0 && r == ' ':
			if inside {
				out = append(out, word.String())
			}
			word.Reset()
			inside = false
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if quote != 0 {
		t.Fatalf("a quote is not closed: %s", line)
	}
	if inside {
		out = append(out, word.String())
	}
	return out
}

// curl is one curl command of the documentation.
type curl struct {
	route, body string
	headers     []string
}

func curls(t *testing.T, doc string) (out []curl) {
	t.Helper()
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(doc, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", "")) {
			if !strings.HasPrefix(line, "curl ") {
				continue
			}
			c, method, url := curl{}, "GET", ""
			args := words(t, strings.TrimSpace(line))[1:]
			for i := 0; i < len(args); i++ {
				switch args[i] {
				case "-N":
				case "-X", "-H", "--json", "--data-binary":
					i++
					switch value := args[i]; args[i-1] {
					case "-X":
						method = value
					case "-H":
						name, value, _ := strings.Cut(value, ": ")
						c.headers = append(c.headers, name, value)
					case "--json":
						c.headers = append(c.headers, "Content-Type", "application/json")
						fallthrough
					default:
						method, c.body = "POST", value
					}
				default:
					if strings.HasPrefix(args[i], "-") || url != "" {
						t.Fatalf("the test does not know %q of %s", args[i], line)
					}
					url = args[i]
				}
			}
			if c.body == "@apply.json" {
				c.body = `{"files":[{"name":"release.yaml","content":"kind: Workflow\n"}]}`
			}
			c.route = method + " " + strings.TrimPrefix(url, "http://127.0.0.1:8420")
			out = append(out, c)
		}
	}
	return out
}

func TestEveryCurlOfTheDocumentationWorks(t *testing.T) {
	list := curls(t, readDocs(t))
	if len(list) < 15 {
		t.Fatalf("only %d commands were found", len(list))
	}
	for _, c := range list {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		f := &fake{answers: func(_ context.Context, verb string, _ []byte) events.Answer {
			return events.Answer{Status: events.StatusApplied, Result: []byte(`{}`)}
		}}
		method, path, _ := strings.Cut(c.route, " ")
		r := httptest.NewRequestWithContext(ctx, method, "http://127.0.0.1:8420"+path, strings.NewReader(c.body))
		for i := 0; i+1 < len(c.headers); i += 2 {
			r.Header.Set(c.headers[i], c.headers[i+1])
		}
		r.RemoteAddr = "127.0.0.1:5000"
		w := httptest.NewRecorder()
		if strings.HasPrefix(c.route, "GET /v1/events") {
			f.answers = func(_ context.Context, _ string, _ []byte) events.Answer {
				if f.count() > 1 {
					cancel() // it has begun, and does not end by itself
				}
				return events.Answer{Status: events.StatusApplied, Result: []byte(`{}`)}
			}
		}
		New(options(f)).ServeHTTP(w, r)
		cancel()
		if w.Code >= 300 {
			t.Errorf("%s: %d %s", c.route, w.Code, w.Body)
		}
		if strings.HasPrefix(path, "/v1/") && f.count() == 0 {
			t.Errorf("%s: the service was not asked", c.route)
		}
	}
}

func TestTheDocumentationNamesEveryRoute(t *testing.T) {
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:GET|POST) [^`]+)` \\|").FindAllStringSubmatch(readDocs(t), -1) {
		documented[m[1]] = true
	}
	described := map[string]bool{}
	for path, item := range describedPaths(t) {
		for method := range item {
			described[strings.ToUpper(method)+" "+path] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(described)), slices.Sorted(maps.Keys(documented))); diff != "" {
		t.Errorf("docs/http.md (+) does not have the routes of the API (-):\n%s", diff)
	}
}

// The service of the engine is one that this API can offer.
var _ Service = (*service.Service)(nil)
