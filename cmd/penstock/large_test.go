//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// repeated writes text for each of n, with %[1]d for its number, %[2]d for the
// next one and %[3]d for the one before.
func repeated(n int, text string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, text, i, i+1, max(i-1, 0))
	}
	return b.String()
}

const envelope = "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n"

// TestBadInputIsRefusedSoonAndInLittleMemory checks what would take for ever,
// or all memory, if nothing bounded it: a second and 256 MiB on a machine that
// does nothing else.
func TestBadInputIsRefusedSoonAndInLittleMemory(t *testing.T) {
	const seconds, mebibytes = 4 * slower, 256 * slower // of processor time, which a busy machine stretches
	for name, tt := range map[string]struct{ text, want string }{
		"10,000 states": {envelope + "  initial: s0\n  states:\n" + repeated(10_000, "    s%[1]d: {wait: {for: 1m}, next: s%[2]d}\n") + "    s10000: {final: succeeded}\n",
			"a workflow has 1000 states at most"},
		"states that read each other": {envelope + "  initial: s0\n  states:\n" +
			repeated(999, "    s%[1]d: {task: command, with: {run: [\"${{ string(s%[3]d.exitCode) }}\"]}, next: s%[2]d, onFail: s%[2]d}\n") + "    s999: {final: succeeded}\n",
			"may have no outputs here"},
		"a dense graph": {envelope + "  inputs: {n: {type: int}}\n  initial: s0\n  states:\n" + repeated(900, "    s%[1]d: {task: command, with: {run: [x]}, transitions: ["+
			strings.Repeat("{when: inputs.n > 3, to: s7}, {when: inputs.n > 4, to: s8}, ", 2)+"{to: s%[3]d}]}\n"),
			"more than 200 problems"},
		"very many transitions": {envelope + "  initial: s0\n  states:\n" + repeated(900, "    s%[1]d: {task: command, with: {run: [x]}, transitions: ["+strings.Repeat("{to: s7}, ", 20)+"{to: s%[3]d}]}\n"),
			"transitions and events at most"},
		"loops that are bounded elsewhere": {envelope + "  initial: s0\n  states:\n" + repeated(400, "    s%[1]d: {task: command, with: {run: [x]}, transitions: [{when: visits(\"s%[2]d\") < 3, to: s%[2]d}, {when: visits(\"s%[3]d\") < 3, to: s%[3]d}, {to: s%[3]d}]}\n") +
			"    s400: {final: succeeded}\n", "nothing bounds this circle"},
		"5,000 branches": {envelope + "  initial: a\n  states:\n    a:\n      parallel:\n" + repeated(5000, "        b%[1]d: {task: command, with: {rum: [x]}}\n") + "      next: b\n    b: {final: succeeded}\n",
			"more than 200 problems"},
		"workflows that start each other": {strings.Join(func() (all []string) {
			for i := range 1000 {
				all = append(all, fmt.Sprintf("apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w%d}\nspec:\n  initial: a\n  states: {a: {workflow: {name: w%d}, next: b, onFail: b}, b: {final: succeeded}}\n", i, (i+1)%1000))
			}
			return all
		}(), "---\n"), "this never ends: w0 starts w1 starts … starts w0"},
		"times that never come": {"apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: e}\nspec:\n  windows:\n    freeze:\n" +
			repeated(99, "      - {rrule: 'FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30', for: %[2]dh}\n"), "never come"},
		"an alias bomb": {"apiVersion: penstock/v1\nkind: Channel\nmetadata: {name: c, labels: &a0 {a: b}}\nspec: {templates: " + repeated(60, "{x: &a%[2]d [*a%[1]d, *a%[1]d, *a%[1]d], y: ") + "z" + strings.Repeat("}", 60) + "}\n",
			"more than 64 aliases"},
		"10 MB":        {strings.Repeat("# a comment that says nothing at all\n", 300_000), "larger than 1048576 bytes"},
		"deep nesting": {"apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: e}\nspec: {config: " + strings.Repeat("[", 200_000) + "}\n", "e.yaml:"},
		"an expression that costs a billion": {envelope + "  inputs: {l: {type: list(string)}}\n  initial: a\n  states:\n    a: {wait: {for: 1m}, transitions: [{when: 'inputs.l.all(a, inputs.l.all(b, inputs.l.all(c, a + b != c)))', to: b}, {to: b}]}\n    b: {final: succeeded}\n",
			"the expression may cost"},
		"a quorum of thousands": {envelope + "  initial: a\n  states:\n    a: {approval: {quorum: [" + repeated(100, "{role: r%[1]d, count: 100}, ") + "], exclude: [authors], expires: 1h}, next: b, onFail: b}\n    b: {final: succeeded}\n" +
			"---\napiVersion: penstock/v1\nkind: Roles\nmetadata: {name: r}\nspec:\n  roles:\n" + repeated(100, "    r%[1]d: {users: ["+repeated(110, "u%[1]d, ")+"]}\n"), "100 seats at most"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "e.yaml")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, "penstock", "check", "e.yaml")
			cmd.Dir = filepath.Dir(file)
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != exitUsage {
				t.Errorf("exit %d", cmd.ProcessState.ExitCode())
			}
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("nothing says %q:\n%.1000s", tt.want, out)
			}
			if used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); used > seconds*time.Second {
				t.Errorf("it took %s", used)
			}
			usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			if most := usage.Maxrss; runtime.GOOS == "linux" && most > mebibytes<<10 {
				t.Errorf("it took %d KiB", most)
			}
		})
	}
}
