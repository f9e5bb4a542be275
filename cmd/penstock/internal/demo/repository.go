package demo

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// files are the definitions, and the service: files/shop/N is what commit N
// changes. Their names end in .txt so that the go command does not take them
// for packages of this module.
//
//go:embed files
var files embed.FS

// commit is a change of the service.
type commit struct {
	sha, subject string
	version      string // what the service calls itself
}

// subjects of the commits, oldest first.
var subjects = []string{
	"sell things",
	"ten cents less",
	"a discount from ten things on",
	"fix the discount, prices in the currency of the place",
	"EUR where no currency is configured",
}

// writeDefinitions puts the workflow files where the server reads them.
func writeDefinitions(dir string) error {
	return copyFiles("files/workflows", dir)
}

// workflowText is the workflow file as it is printed.
func workflowText() (string, error) {
	p, err := files.ReadFile("files/workflows/release.yaml")
	return string(p), err
}

// copyFiles copies a folder of files, without the ending .txt.
func copyFiles(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := fs.ReadDir(files, from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p, err := files.ReadFile(path.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, strings.TrimSuffix(e.Name(), ".txt")), p, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRepository makes the git repository of the service, all commits written
// by ana.
func makeRepository(ctx context.Context, dir string) ([]commit, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := git(ctx, dir, "init", "--quiet"); err != nil {
		return nil, err
	}
	var list []commit
	for i, subject := range subjects {
		c := commit{subject: subject, version: fmt.Sprintf("v%d", i+1)}
		if err := copyFiles(fmt.Sprintf("files/shop/%d", i+1), dir); err != nil {
			return nil, err
		}
		if _, err := git(ctx, dir, "add", "--all"); err != nil {
			return nil, err
		}
		if _, err := git(ctx, dir, "commit", "--quiet", "--message", subject); err != nil {
			return nil, err
		}
		out, err := git(ctx, dir, "rev-parse", "HEAD")
		if err != nil {
			return nil, err
		}
		c.sha = strings.TrimSpace(out)
		list = append(list, c)
	}
	return list, nil
}

// git runs git in dir as ana, without what this machine's user has configured.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(scrubbed(os.Environ()), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ana", "GIT_AUTHOR_EMAIL=ana@shop.example", "GIT_COMMITTER_NAME=Ana", "GIT_COMMITTER_EMAIL=ana@shop.example")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
