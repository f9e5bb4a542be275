package main

import (
	"bytes"
	"os"
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
