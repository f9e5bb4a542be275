package scan

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// allowSecret on the line of a secret, or on the one before it, says that it
// is meant to be there.
const allowSecret = "penstock:allow-secret"

// secretPatterns are forms that hardly anything but a secret has.
var secretPatterns = []struct {
	rule, what string
	form       *regexp.Regexp
}{
	{"private-key", "a private key", regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----`)},
	{"aws-access-key", "an AWS access key id", regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z2-7]{16}\b`)},
	{"github-token", "a GitHub token", regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b`)},
	{"slack-token", "a Slack token", regexp.MustCompile(`\bxox[abeoprs]-(?:\d+-)?[A-Za-z0-9-]{20,}\b|\bxapp-\d-[A-Z0-9]+-\d+-[a-f0-9]{32,}\b`)},
	{"slack-webhook", "a Slack webhook", regexp.MustCompile(`hooks\.slack\.com/(?:services|workflows)/T[A-Z0-9]{8,}/[A-Z0-9]{8,}/[A-Za-z0-9]{20,}`)},
}

// keyBody is a line of a PEM block, to tell a key from a text about keys.
var keyBody = regexp.MustCompile(`[A-Za-z0-9+/]{40,}`)

// maxSource bounds a file in which secrets are looked for, in bytes.
const maxSource = 4 << 20

// findSecrets looks through the text files of a checkout. Symbolic links are
// not followed.
func findSecrets(root string) ([]finding, error) {
	var found []finding
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > maxSource {
			return err
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		found = append(found, secretsIn(p, filepath.ToSlash(rel))...)
		return nil
	})
	return found, err
}

// secretsIn are the secrets in the content of the file name.
func secretsIn(content []byte, name string) []finding {
	if bytes.IndexByte(content[:min(len(content), 8<<10)], 0) >= 0 {
		return nil // not text
	}
	var found []finding
	lines := strings.Split(string(content), "\n")
	for i, l := range lines {
		if strings.Contains(l, allowSecret) || i > 0 && strings.Contains(lines[i-1], allowSecret) {
			continue
		}
		for _, p := range secretPatterns {
			at := p.form.FindStringIndex(l)
			if at == nil || !genuine(p.rule, l[at[0]:at[1]], l[at[1]:], lines[i+1:]) {
				continue
			}
			found = append(found, finding{Tool: builtin, Rule: p.rule, Severity: high, Location: fmt.Sprintf("%s:%d", line(name), i+1),
				Title: fmt.Sprintf("%s is in the source: %s", p.what, masked(p.rule, l[at[0]:at[1]]))})
		}
	}
	return found
}

// genuine sorts out examples and texts about secrets.
func genuine(rule, value, rest string, following []string) bool {
	if rule != "private-key" {
		return !strings.Contains(strings.ToUpper(value), "EXAMPLE")
	}
	body := rest // a key in one line, with \n written out
	for _, l := range following[:min(len(following), 6)] {
		body += "\n" + l
	}
	return keyBody.MatchString(body)
}

// masked shows the beginning, enough to find it.
func masked(rule, value string) string {
	if rule == "private-key" {
		return strings.Trim(value, "-")
	}
	if rule == "slack-webhook" {
		return "hooks.slack.com/…"
	}
	return value[:4] + "…"
}
