package gitdefs

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// Address says where definitions are in a Git repository.
type Address struct {
	Repository string // a URL, as git takes it; it may hold a password
	Scheme     string // file, https, http or ssh
	Branch     string // or a full ref; empty: the repository's own choice
	Path       string // of a folder or file in it; empty: everything
}

// prefix tells an address from the path of a folder.
const prefix = "git+"

// Is reports whether text is an address of a repository and no path.
func Is(text string) bool { return strings.HasPrefix(text, prefix) }

const forms = "write git+https://host/repository#branch:path, git+ssh://user@host/repository#branch:path or git+file:///path/to/repository#branch:path"

// Parse reads an address, git+URL#branch:path. Branch and path may be missing.
func Parse(text string) (Address, error) {
	a, err := readURL(strings.TrimPrefix(text, prefix))
	if err != nil {
		return Address{}, fmt.Errorf("%s%s: %w; %s", prefix, redact(strings.TrimPrefix(text, prefix)), err, forms)
	}
	return a, nil
}

// NoAddress is the error of a URL that is written without what makes it an address.
func NoAddress(text string) error {
	return fmt.Errorf("%s: a URL is no folder, and a repository begins with %s; %s", redact(text), prefix, forms)
}

func readURL(text string) (a Address, err error) {
	text, where, _ := strings.Cut(text, "#")
	a.Repository = text
	a.Branch, a.Path, _ = strings.Cut(where, ":")
	if strings.ContainsFunc(text+where, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return a, errors.New("it has spaces or control characters")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return a, errors.New("it holds no URL")
	}
	if strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") {
		return a, errors.New("host and user must not begin with -")
	}
	a.Scheme = strings.ToLower(u.Scheme)
	switch a.Scheme {
	case "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return a, errors.New("a file has an absolute path and no host")
		}
	case "https", "ssh":
		if u.Host == "" {
			return a, errors.New("it has no host")
		}
	case "http":
		if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
			return a, errors.New("http proves nothing about who answers, so it reaches this host only: use https")
		}
	default:
		return a, fmt.Errorf("%s is not a way to reach a repository", a.Scheme)
	}
	return a, a.checkWhere()
}

// checkWhere accepts what may be the name of a branch and a path in a tree.
func (a *Address) checkWhere() error {
	if b := a.Branch; strings.HasPrefix(b, "-") || strings.HasPrefix(b, "/") || strings.ContainsAny(b, "~^?*[\\") || strings.Contains(b, "..") ||
		strings.Contains(b, "@{") || strings.Contains(b, "//") || strings.HasSuffix(b, ".") || strings.HasSuffix(b, "/") || strings.HasSuffix(b, ".lock") {
		return fmt.Errorf("%q is not the name of a branch", b)
	}
	if a.Path == "" {
		return nil
	}
	clean := path.Clean(a.Path)
	switch {
	case strings.HasPrefix(a.Path, "/"):
		return fmt.Errorf("the path %q begins with /; it counts from the top of the repository", a.Path)
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return fmt.Errorf("the path %q leads out of the repository", a.Path)
	case clean == ".git" || strings.HasPrefix(clean, ".git/") || strings.HasPrefix(clean, "-") || strings.Contains(clean, ":"):
		return fmt.Errorf("%q is not a path in a repository", a.Path)
	}
	if a.Path = clean; clean == "." {
		a.Path = ""
	}
	return nil
}

// ref is what is asked of the repository.
func (a Address) ref() string {
	switch {
	case a.Branch == "":
		return "HEAD"
	case strings.HasPrefix(a.Branch, "refs/"):
		return a.Branch
	}
	return "refs/heads/" + a.Branch
}

// String is the address without what is secret in it.
func (a Address) String() string {
	text := prefix + redact(a.Repository)
	if a.Branch == "" && a.Path == "" {
		return text
	}
	text += "#" + a.Branch
	if a.Path != "" {
		text += ":" + a.Path
	}
	return text
}

// redact hides the user information of a URL: a token may stand in either part
// of it. The user of an ssh address is not a secret.
func redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	host, where, _ := strings.Cut(rest, "/")
	at := strings.LastIndex(host, "@")
	if !ok || at < 0 || scheme == "ssh" && !strings.Contains(host[:at], ":") {
		return text
	}
	if strings.Contains(rest, "/") {
		where = "/" + where
	}
	return scheme + "://***" + host[at:] + where
}

// quiet takes what is secret in the address out of what git said.
func (a Address) quiet(said string) string {
	said = strings.ReplaceAll(said, a.Repository, redact(a.Repository))
	u, err := url.Parse(a.Repository)
	if err != nil || u.User == nil || a.Scheme == "ssh" && !strings.Contains(u.User.String(), ":") {
		return said
	}
	password, _ := u.User.Password()
	_, escaped, _ := strings.Cut(u.User.String(), ":")
	for _, secret := range []string{u.User.String() + "@", password, escaped} {
		if secret != "" {
			said = strings.ReplaceAll(said, secret, "***")
		}
	}
	if a.Scheme != "ssh" && u.User.Username() != "" { // git says who could not log in
		said = strings.ReplaceAll(said, u.User.Username()+"@", "***@")
	}
	return said
}
