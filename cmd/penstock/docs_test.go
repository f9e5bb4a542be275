package main

import (
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// each calls fn for every command that does something.
func each(c *cobra.Command, fn func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		if len(sub.Commands()) == 0 && sub.Name() != "help" && !sub.Hidden {
			fn(sub)
		}
		each(sub, fn)
	}
}

func TestEveryCommandIsInTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), `\|`, "|")
	each(newApp(nil, nil, nil).root(), func(c *cobra.Command) {
		path := c.CommandPath()
		if parent := c.Parent().CommandPath(); parent == "penstock completion" {
			path = parent // its sub-commands are named by the word SHELL
		} else if strings.HasPrefix(parent, "penstock auth ") {
			path = parent + " add|list|revoke"
		}
		if !strings.Contains(text, "`"+path+"`") && !strings.Contains(text, "`"+path+" ") {
			t.Errorf("docs/cli.md does not name %s", path)
		}
	})
}

// shown finds the command lines of penstock in documentation: in fenced blocks
// of shell, and between backticks.
var (
	shellBlock = regexp.MustCompile("(?ms)^```(?:sh|bash|console|shell)?(?: [^\n]*)?\n(.*?)^```$")
	fence      = regexp.MustCompile("(?ms)^```.*?^```$")
	backticks  = regexp.MustCompile("`((?:go run \\./cmd/)?penstock [^`]+)`")
	callOf     = regexp.MustCompile(`(?:^|[|;&(])\s*(?:\w+=\S*\s+)*(?:go run )?(?:\S*/)?penstock((?:\s+[^|;&()\n]+)?)`)
	quotedText = regexp.MustCompile(`'[^']*'|"[^"]*"`)
)

func shown(text string) (lines []string) {
	var blocks []string
	for _, m := range shellBlock.FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, strings.ReplaceAll(m[1], "\\\n", " "))
	}
	for _, m := range backticks.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		if m[1] != "penstock task group" { // what a signature of tasks begins with
			blocks = append(blocks, strings.NewReplacer("\n", " ", `\|`, ",").Replace(m[1]))
		}
	}
	for _, block := range blocks {
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(quotedText.ReplaceAllString(line, "TEXT"), " #")
			for _, m := range callOf.FindAllStringSubmatch(line, -1) {
				lines = append(lines, m[1])
			}
		}
	}
	return lines
}

// mistake says what is wrong with a command line as far as its words tell:
// there must be such a command, and it must have the flags.
func mistake(root *cobra.Command, line string) string {
	cmd := root
	value := false // the word is that of the flag before
	for word := range strings.FieldsSeq(line) {
		if value {
			value = false
			continue
		}
		switch {
		case word == "--":
			return ""
		case strings.HasPrefix(word, "-") && word != "-":
			name, _, given := strings.Cut(strings.TrimLeft(word, "-"), "=")
			cmd.InheritedFlags() // makes the flags of its parents known to it
			long := cmd.Flag(name)
			if len(name) == 1 {
				long = cmp.Or(cmd.Flags().ShorthandLookup(name), cmd.InheritedFlags().ShorthandLookup(name))
			}
			if long == nil && name != "help" && name != "h" {
				return cmd.CommandPath() + " has no flag " + word
			}
			value = long != nil && long.NoOptDefVal == "" && !given
		case len(cmd.Commands()) > 0 && strings.Contains(word, ","): // add|list|revoke in a table
			for name := range strings.SplitSeq(word, ",") {
				if why := mistake(cmd, name); why != "" {
					return why
				}
			}
			return ""
		case len(cmd.Commands()) > 0:
			sub, _, err := cmd.Find([]string{word})
			if err == nil && sub != cmd {
				cmd = sub
			} else if strings.ToUpper(word) != word {
				return cmd.CommandPath() + " has no command " + word
			}
		}
	}
	return ""
}

func TestEveryCommandLineInTheDocumentationExists(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	root := newApp(nil, nil, nil).root()
	root.InitDefaultCompletionCmd()
	for _, name := range append(pages, "../../README.md") {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := shown(string(page))
		for _, line := range lines {
			if why := mistake(root, line); why != "" {
				t.Errorf("%s: penstock%s: %s", name, line, why)
			}
		}
		if len(lines) == 0 && strings.Contains(string(page), "`penstock ") {
			t.Errorf("%s: no command line was found", name)
		}
	}
}

func TestACommandLineThatDoesNotExistIsFound(t *testing.T) {
	root := newApp(nil, nil, nil).root()
	for text, want := range map[string]string{
		"```sh\npenstock frobnicate\n```":                                  "penstock has no command frobnicate",
		"see `penstock auth user ad marta`":                                "penstock auth user has no command ad",
		"```sh nats\nx=1 ./penstock run release --inptu a=b # c\n```":      "penstock run has no flag --inptu",
		"```\ncat f | penstock events publish - && penstock run -z w\n```": "penstock run has no flag -z",
		"`penstock worker exec --kind NAME -- COMMAND --any-flag`":         "",
		"`penstock auth worker add\\|list\\|revoke`":                       "",
		"`penstock auth worker add\\|lost`":                                "penstock auth worker has no command lost",
	} {
		var got []string
		for _, line := range shown(text) {
			if why := mistake(root, line); why != "" {
				got = append(got, why)
			}
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestEveryCommandSaysWhatItDoesWithAnExample(t *testing.T) {
	each(newApp(nil, nil, nil).root(), func(c *cobra.Command) {
		if c.Parent().Name() == "completion" { // cobra's own
			return
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: the example does not show it: %q", c.CommandPath(), c.Example)
		}
	})
}

func TestColourIsOnlyForTerminalsThatWantIt(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, value := range []string{"1", "yes", "0"} {
		if t.Setenv("NO_COLOR", value); wantsColour() {
			t.Errorf("NO_COLOR=%s: colour is wanted", value)
		}
	}
	if t.Setenv("NO_COLOR", ""); !wantsColour() {
		t.Error("NO_COLOR is empty, and colour is not wanted")
	}
	if got := paint(&bytes.Buffer{}, "failed", "failed"); got != "failed" {
		t.Errorf("a pipe gets %q", got)
	}
}
