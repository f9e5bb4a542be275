package gitsrc

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func badSource(format string, args ...any) *Error {
	return &Error{Code: CodeBadSource, Message: fmt.Sprintf(format, args...)}
}

var (
	helperForm = regexp.MustCompile(`^[A-Za-z0-9+.-]+::`)                  // transport::address runs a helper program
	scpForm    = regexp.MustCompile(`^[^-/:@][^/:@]*@[^-/:@][^/:@]*:[^-]`) // user@host:path
)

// checkRepository accepts the forms that the package comment lists.
func checkRepository(repository string) error {
	shown := redact(repository)
	switch {
	case repository == "":
		return badSource("repository is empty: give a path or a URL")
	case strings.ContainsFunc(repository, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return badSource("repository %q has control characters", shown)
	case filepath.IsAbs(repository):
		if _, err := os.Stat(repository); err != nil {
			return &Error{Code: CodeCloneFailed, Message: fmt.Sprintf("no repository at %s on this worker: %v", shown, err)}
		}
		return nil
	case helperForm.MatchString(repository):
		return badSource("repository %q names a transport helper, and none is used: give a path, or a file, https or ssh URL", shown)
	case strings.Contains(repository, "://"):
		return checkURL(repository, shown)
	case scpForm.MatchString(repository):
		return nil
	}
	return badSource("repository %q is neither an absolute path nor a URL: write /path/to/it, https://…, ssh://… or user@host:path", shown)
}

func checkURL(repository, shown string) error {
	u, err := url.Parse(repository)
	if err != nil {
		return badSource("repository %q is not a URL", shown)
	}
	if strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") {
		return badSource("repository %q: host and user must not begin with -", shown)
	}
	switch strings.ToLower(u.Scheme) {
	case "file":
		return nil
	case "https", "ssh":
		if u.Host == "" {
			return badSource("repository %q has no host", shown)
		}
		return nil
	case "http":
		if addr, err := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || err == nil && addr.IsLoopback() {
			return nil
		}
		return badSource("repository %q: http proves nothing about who answers; use https", shown)
	}
	return badSource("repository %q: %s is not supported; use a path, or a file, https or ssh URL", shown, u.Scheme)
}

// checkName accepts what may be the name of a commit, tag or branch.
func checkName(name string) error {
	switch {
	case strings.HasPrefix(name, "-"):
		return badSource("commit %q begins with -, no commit, tag or branch does", name)
	case strings.ContainsAny(name, " ~^:?*[\\") || strings.Contains(name, "..") || strings.Contains(name, "@{") ||
		strings.HasSuffix(name, ".") || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".lock") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return badSource("commit %q is not the name of a commit, tag or branch", name)
	}
	return nil
}

// Directory is the path of a directory of the checkout, the checkout itself
// for an empty name. Code CodeBadSource says that there is none, or that it
// leads out of the checkout.
func (c *Checkout) Directory(name string) (string, error) {
	if name == "" {
		return c.Dir, nil
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return "", badSource("the checkout cannot be opened: %v", err)
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(name)) // follows no link that leads out
	if err != nil || !info.IsDir() {
		return "", badSource("directory %q: commit %s has no such directory", name, short(c.Commit))
	}
	return filepath.Join(c.Dir, filepath.FromSlash(name)), nil
}

func isFullName(s string) bool { return (len(s) == 40 || len(s) == 64) && isHex(s) }

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

var passwordForm = regexp.MustCompile(`^([A-Za-z0-9+.-]+://)[^/@]*(:[^/]*)?@`)

// redact hides the user information of a URL: a token may stand in either
// part of it. The user of an ssh address is not a secret.
func redact(repository string) string {
	if strings.HasPrefix(repository, "ssh://") && !strings.Contains(strings.TrimPrefix(strings.SplitN(repository, "@", 2)[0], "ssh://"), ":") {
		return repository
	}
	return passwordForm.ReplaceAllString(repository, "${1}***@")
}

// redactAll hides the user information of the repository in what git said.
func (g *git) redactAll(text string) string {
	text = strings.ReplaceAll(text, g.repository, redact(g.repository))
	if u, err := url.Parse(g.repository); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok && password != "" {
			text = strings.ReplaceAll(text, password, "***")
		}
		if u.Scheme != "ssh" && u.User.Username() != "" {
			text = strings.ReplaceAll(text, u.User.String(), "***")
			text = strings.ReplaceAll(text, u.User.Username()+"@", "***@")
			text = strings.ReplaceAll(text, u.User.Username()+":", "***:")
		}
	}
	return text
}
