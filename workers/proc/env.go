package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// passed are the variables of the worker that a command may see. Everything
// else stays with the worker, so that its credentials never reach the code
// that it builds and tests.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME",
	// reaching the network
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	// the Go toolchain
	"GOROOT", "GOPATH", "GOBIN", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY", "GONOPROXY", "GOPRIVATE",
	"GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOTOOLCHAIN", "GOMAXPROCS", "CGO_ENABLED",
	// Windows does not start programs without these
	"SYSTEMROOT", "SystemRoot", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
}

// Env is the environment for a command: of the worker's own variables PATH,
// HOME, USER, LOGNAME, LANG, LC_ALL, TZ, TMPDIR, XDG_CACHE_HOME, the proxy
// settings in both cases, SSL_CERT_FILE, SSL_CERT_DIR, those of the Go
// toolchain (GOROOT, GOPATH, GOBIN, GOCACHE, GOMODCACHE, GOFLAGS, GOPROXY,
// GONOPROXY, GOPRIVATE, GOSUMDB, GONOSUMDB, GOINSECURE, GOTOOLCHAIN,
// GOMAXPROCS, CGO_ENABLED), on Windows what programs need to start; then
// extra, "NAME=value", which wins. An entry of extra without "=" is the name
// of one more variable to pass when the worker has it.
func Env(extra ...string) []string {
	var env []string
	names := passed
	for _, e := range extra {
		if !strings.Contains(e, "=") {
			names = append(slices.Clip(names), e)
		}
	}
	for _, name := range names {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for _, e := range extra {
		if strings.Contains(e, "=") {
			env = append(env, e)
		}
	}
	return env
}

// EnvIn is Env for a command of a task with the directory dir: CI=true says
// that no person is there, temporary files go to a directory of its own in
// dir, and so does HOME where the worker has none. extra wins.
func EnvIn(dir string, extra ...string) ([]string, error) {
	tmp, home := filepath.Join(dir, "tmp"), filepath.Join(dir, "home")
	own := []string{"CI=true", "TMPDIR=" + tmp, "TMP=" + tmp, "TEMP=" + tmp}
	if os.Getenv("HOME") == "" {
		own = append(own, "HOME="+home)
	}
	for _, d := range []string{tmp, home} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("no directory for the command: %w", err)
		}
	}
	return Env(append(own, extra...)...), nil
}
