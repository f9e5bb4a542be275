package integration_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// topLevel is all that may lie at the top of the repository.
var topLevel = []string{".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "cmd", "deployments",
	"docker-compose.yml", "docs", "engine", "events", "go.mod", "go.sum", "integration", "workers", "workflows"}

const largestFile = 1 << 20

// foreign is what no file may name: hosts of registries, which are a matter of
// who builds, and paths of the machine that somebody worked on.
var foreign = []struct {
	what string
	at   *regexp.Regexp
}{
	// Written so that this file does not name them itself.
	{"the host of a registry", regexp.MustCompile(`\b(registry-1[.]docker[.]io|docker[.]io|gcr[.]io|ghcr[.]io|quay[.]io|proxy[.]golang[.]org|registry[.]npmjs[.]org|pypi[.]org)\b`)},
	{"a path of somebody's machine", regexp.MustCompile(`(^|[\s"'=(` + "`" + `:])(/roo[t]/|/User[s]/|/hom[e]/[a-z]+/|/workspac[e]/|/work/mai[n]|/tmp/bas[h]_)`)},
}

// tracked lists the files of the repository, those not committed yet included.
func tracked(t *testing.T) []string {
	t.Helper()
	dir := repository(t)
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		t.Skip("not a git checkout: there is no list of its files")
	}
	var files []string
	for name := range strings.SplitSeq(output(t, dir, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00") {
		if name != "" {
			files = append(files, name)
		}
	}
	return files
}

func TestRepositoryHoldsOnlyWhatBelongsThere(t *testing.T) {
	for _, name := range tracked(t) {
		path := filepath.Join(repository(t), filepath.FromSlash(name))
		info, err := os.Lstat(path)
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if top, _, _ := strings.Cut(name, "/"); !slices.Contains(topLevel, top) {
			t.Errorf("%s: %s is none of the names at the top: %s", name, top, strings.Join(topLevel, ", "))
		}
		if info.Size() > largestFile {
			t.Errorf("%s: %d bytes, at most %d belong into a repository", name, info.Size(), largestFile)
		}
		if !info.Mode().IsRegular() {
			t.Errorf("%s is no regular file: %s", name, info.Mode())
			continue
		}
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range bytes.Split(p, []byte("\n")) {
			for _, f := range foreign {
				if found := f.at.Find(line); found != nil {
					t.Errorf("%s:%d names %s: %s", name, n+1, f.what, bytes.TrimSpace(found))
				}
			}
		}
	}
}

func TestForeignNamesAreFound(t *testing.T) {
	for _, bad := range []string{"FROM quay" + ".io/x", "see https://ghcr" + ".io/a", "cd /root" + "/x", `"/home` + `/ana/src"`} {
		if !slices.ContainsFunc(foreign, func(f struct {
			what string
			at   *regexp.Regexp
		}) bool {
			return f.at.MatchString(bad)
		}) {
			t.Errorf("%q is not found", bad)
		}
	}
}

// A command in a page: at the beginning of a line of a block, or in backquotes.
var shown = regexp.MustCompile("(?m)(?:^[ $]*|`)(?:go run ./cmd/penstock|penstock) ([a-z][^`\n#|]*)")

var commandWord, flagWord = regexp.MustCompile(`^[a-z][a-z-]*$`), regexp.MustCompile(`^--[a-z][a-z-]*`)

// notCommands begin like a command and are none.
var notCommands = []string{"task group"} // the beginning of what signs tasks

// TestPagesShowCommandsThatExist asks the binary for the help of every command
// that a page shows, and looks for every flag in it.
func TestPagesShowCommandsThatExist(t *testing.T) {
	pages := []string{"README.md"}
	docs, err := filepath.Glob(filepath.Join(repository(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		pages = append(pages, "docs/"+filepath.Base(d))
	}
	pages = append(pages, "docker-compose.yml", "deployments/nats.conf", "deployments/compose/workflows/change.yaml")
	help, commands := helpOf(t), 0
	for _, page := range pages {
		p, err := os.ReadFile(filepath.Join(repository(t), filepath.FromSlash(page)))
		if err != nil {
			t.Error(err)
			continue
		}
		text := strings.ReplaceAll(strings.ReplaceAll(string(p), `\|`, "|"), "\n# ", "\n")
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			if slices.ContainsFunc(notCommands, func(n string) bool { return strings.HasPrefix(m[1], n) }) {
				continue
			}
			commands++
			if problem := unknownIn(m[1], help); problem != "" {
				t.Errorf("%s shows `penstock %s`: %s", page, strings.TrimSpace(m[1]), problem)
			}
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands were found in %d pages", commands, len(pages))
	}
}

// helpOf gives the help of a command, asked for once, and the path of the
// command that the words led to.
func helpOf(t *testing.T) func(words []string) (path, text string) {
	t.Helper()
	bin, known := penstock(t), map[string]string{}
	return func(words []string) (string, string) {
		key := strings.Join(words, " ")
		if _, ok := known[key]; !ok {
			out, err := exec.Command(bin, append(slices.Clone(words), "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("penstock %s --help: %v\n%s", key, err, out)
			}
			known[key] = string(out)
		}
		_, usage, _ := strings.Cut(known[key], "Usage:\n")
		line, _, _ := strings.Cut(strings.TrimSpace(usage), "\n")
		var path []string
		for _, w := range strings.Fields(line) {
			if !commandWord.MatchString(w) {
				break
			}
			path = append(path, w)
		}
		return strings.Join(path, " "), known[key]
	}
}

// unknownIn says which word of a command line there is not.
func unknownIn(line string, help func([]string) (string, string)) string {
	line, _, _ = strings.Cut(line, "&&")
	var words, flags []string
	for i, w := range strings.Fields(line) {
		if w == "--" || w == "|" || w == ">" {
			break
		}
		w, _, _ = strings.Cut(w, "|") // add|list|revoke
		if flag := flagWord.FindString(w); flag != "" {
			flags = append(flags, flag)
		} else if commandWord.MatchString(w) && len(words) == i {
			words = append(words, w)
		}
	}
	path, text := help(words)
	depth := strings.Count(path, " ") // words of the command without its name
	if depth == 0 || depth < len(words) && strings.Contains(text, "Available Commands") {
		return "there is no such command"
	}
	for _, f := range flags {
		if !strings.Contains(text, f) {
			return "it has no flag " + f
		}
	}
	return ""
}
