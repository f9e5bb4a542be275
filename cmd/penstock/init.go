package main

import (
	"bufio"
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/penstock-cd/penstock/cmd/penstock/internal/schema"
	"github.com/penstock-cd/penstock/workflows/library"
	"github.com/spf13/cobra"
)

//go:embed init/*.tmpl
var initTemplates embed.FS

// initFolder is where init writes, below the directory it looks at.
const initFolder = "penstock"

// initFiles are what init writes, by the template each is made of.
var initFiles = []struct{ name, template string }{
	{"release.yaml", "release.yaml.tmpl"},
	{"environments.yaml", "environments.yaml.tmpl"},
	{"roles.yaml", "roles.yaml.tmpl"},
	{"release_test.yaml", "scenario.yaml.tmpl"},
}

// project is what init found, and what its templates are filled with.
type project struct {
	Sort       string // "go", "node", "docker" or "plain"
	Found      string // the file that says so
	About      string
	Folder     string // where the files go, as the user would write it
	Repository string // absolute path of the git repository
	Directory  string // of the project in its repository; empty for the top
	Port       string // that a container listens on
	User       string
	Identity   string
	Commits    bool // the repository has one
	Starts     bool // a Node package has a script "start"
}

func (a *app) initCommand() *cobra.Command {
	var from string
	var list bool
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a first workflow for what is in a directory",
		Long: `Looks at what is in DIR (default: here) and writes a workflow for it, two
environments, roles with you in them, and a test, into DIR/penstock. Knows Go
modules, Node packages and Dockerfiles; for anything else it writes a workflow
with commands to replace. Asks nothing and never overwrites a file.

With --from it writes a starter workflow instead, with all that it needs and
with scenarios that come through all of it: --from alone, or --list, lists them.`,
		Example: `  penstock init
  penstock init services/checkout
  penstock init --list
  penstock init --from service-canary`,
		Args: args("[DIR]"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, arg []string) error {
			dir := "."
			if len(arg) > 0 {
				dir = arg[0]
			}
			switch {
			case list && (from != "" || len(arg) > 0):
				return usagef("penstock init --list only lists; leave out the rest")
			case list || from == "list":
				return a.printStarters()
			case cmd.Flag("from").Changed:
				return a.initFrom(from, dir)
			}
			p, err := lookAt(dir)
			if err != nil {
				return err
			}
			wrote, left, err := writeInit(filepath.Join(dir, initFolder), p)
			if err != nil {
				return err
			}
			return a.printInit(p, wrote, left)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "write the starter workflow with this `NAME`")
	cmd.Flags().BoolVar(&list, "list", false, "list the starter workflows")
	_ = cmd.RegisterFlagCompletionFunc("from", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, s := range library.List() {
			names = append(names, s.Name+"\t"+s.About)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// initView is the output of init as JSON.
type initView struct {
	Found string   `json:"found"`
	Wrote []string `json:"wrote"`
	Left  []string `json:"left"`
	Next  []string `json:"next"`
}

func (a *app) printInit(p project, wrote, left []string) error {
	next := []string{
		"penstock server --workflows " + p.Folder,
		"penstock worker",
		"penstock run release --input commit=$(git rev-parse HEAD) --wait",
	}
	if p.Sort == "plain" {
		next[2] = "penstock run release --wait"
	}
	if a.output == "json" {
		return a.printJSON(initView{Found: p.Sort, Wrote: nonNil(wrote), Left: nonNil(left), Next: next})
	}
	fmt.Fprintf(a.stdout, "found %s\n", p.About)
	for _, name := range wrote {
		fmt.Fprintf(a.stdout, "  wrote %s\n", name)
	}
	for _, name := range left {
		fmt.Fprintf(a.stdout, "  left  %s as it is\n", name)
	}
	if p.Sort != "plain" && !p.Commits {
		a.note("note: %s has no commit in git yet; a build starts from a commit", p.Repository)
	}
	if p.Sort == "node" && !p.Starts {
		a.note("note: package.json has no script \"start\"; a deployment runs npm start")
	}
	fmt.Fprintf(a.stdout, "\nNext, each in a terminal of its own:\n")
	for _, line := range next {
		fmt.Fprintf(a.stdout, "  %s\n", line)
	}
	fmt.Fprintf(a.stdout, "\nThe run will wait for you: penstock approve RUN\n")
	return nil
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// lookAt finds out what is in dir and who is there.
func lookAt(dir string) (project, error) {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return project{}, usagef("%s: there is no such directory", dir)
	}
	p := project{Folder: filepath.ToSlash(filepath.Join(dir, initFolder))}
	p.sort(dir)
	if err := p.repository(dir); err != nil {
		return p, err
	}
	email := git(dir, "config", "user.email")
	p.User = userName(email)
	p.Identity = "git:" + email
	if email == "" {
		p.Identity = "git:" + p.User + "@example.com"
	}
	return p, nil
}

var exposed = regexp.MustCompile(`(?im)^\s*EXPOSE\s+([0-9]+)`)

func (p *project) sort(dir string) {
	read := func(name string) (string, bool) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		return string(b), err == nil
	}
	p.Sort, p.About = "plain", "no Go module, Node package or Dockerfile; put your own commands into the workflow"
	if text, ok := read("go.mod"); ok {
		module := ""
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, "module "); ok {
				module = strings.Trim(strings.TrimSpace(rest), `"`)
			}
		}
		if hasMain(dir) {
			p.Sort, p.Found, p.About = "go", "go.mod", "the Go module "+module
			return
		}
		p.About = "the Go module " + module + ", and no program to deploy in it; put your own commands into the workflow"
	}
	if text, ok := read("package.json"); ok {
		var pkg struct {
			Name    string
			Scripts map[string]string
		}
		_ = json.Unmarshal([]byte(text), &pkg) // what cannot be read is not known
		_, p.Starts = pkg.Scripts["start"]
		p.Sort, p.Found, p.About = "node", "package.json", join("the Node package", pkg.Name)
		return
	}
	if text, ok := read("Dockerfile"); ok {
		p.Sort, p.Found, p.About, p.Port = "docker", "Dockerfile", "a Dockerfile", "8080"
		if m := exposed.FindStringSubmatch(text); m != nil {
			p.Port = m[1]
		}
	}
}

// hasMain reports whether the Go module has a main package at its top, or
// just one below cmd: what the build worker takes by itself.
func hasMain(dir string) bool {
	if isMain(dir) {
		return true
	}
	n := 0
	_ = filepath.WalkDir(filepath.Join(dir, "cmd"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && isMain(name) {
			n++
		}
		return nil // without cmd there is none
	})
	return n == 1
}

var mainClause = regexp.MustCompile(`(?m)^package main\b`)

func isMain(dir string) bool {
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	return slices.ContainsFunc(names, func(name string) bool {
		if strings.HasSuffix(name, "_test.go") {
			return false
		}
		f, err := os.Open(name)
		if err != nil {
			return false
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "package ") {
				return mainClause.Match(lines.Bytes())
			}
		}
		return false
	})
}

// repository finds the git repository that dir is in; without one it is dir.
func (p *project) repository(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	p.Repository = abs
	if top := git(dir, "rev-parse", "--show-toplevel"); top != "" {
		p.Repository = filepath.FromSlash(top)
		p.Directory = strings.TrimSuffix(git(dir, "rev-parse", "--show-prefix"), "/")
	}
	p.Commits = git(dir, "rev-parse", "--verify", "--quiet", "HEAD") != ""
	return nil
}

// git gives what a git command prints, or nothing.
func git(dir string, args ...string) string {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

var noName = regexp.MustCompile(`[^a-z0-9]+`)

// userName makes the name of a user of an e-mail address, or of who is
// logged in.
func userName(email string) string {
	local, _, _ := strings.Cut(email, "@")
	for _, s := range []string{local, os.Getenv("USER"), os.Getenv("LOGNAME"), os.Getenv("USERNAME")} {
		s = strings.Trim(noName.ReplaceAllString(strings.ToLower(s), "-"), "-")
		reserved := []string{"admin", "true", "false", "null"} // the last three are no names in YAML
		if s != "" && s[0] >= 'a' && !slices.Contains(reserved, s) {
			return s
		}
	}
	return "me"
}

// writeInit writes the files that are not there yet into dir.
func writeInit(dir string, p project) (wrote, left []string, err error) {
	tmpl, err := template.New("").Funcs(template.FuncMap{
		"quote": quote,
		"join":  path.Join,
		"cd": func(dir string) string {
			if dir == "" {
				return ""
			}
			return "cd '" + strings.ReplaceAll(dir, "'", `'\''`) + "' && "
		},
	}).ParseFS(initTemplates, "init/*.tmpl")
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	put := func(name string, content []byte) error {
		file := filepath.Join(dir, name)
		created, err := writeNew(file, content)
		if created {
			wrote = append(wrote, filepath.ToSlash(file))
		} else if err == nil {
			left = append(left, filepath.ToSlash(file))
		}
		return err
	}
	for _, f := range initFiles {
		var b bytes.Buffer
		if err := tmpl.ExecuteTemplate(&b, f.template, p); err != nil {
			return wrote, left, err
		}
		if err := put(f.name, b.Bytes()); err != nil {
			return wrote, left, err
		}
	}
	return wrote, left, put(schemaFile, schema.JSON)
}

// writeNew writes a file unless there is one.
func writeNew(name string, content []byte) (created bool, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.Write(content)
	return true, errors.Join(err, f.Close())
}

// quote writes a text as a YAML string.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
