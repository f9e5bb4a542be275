package scan

import (
	"regexp"
	"strings"
)

// SARIF has no place for the package that a vulnerability is in. Every tool
// puts it into its texts, in its own way; these are the ways of the tools
// that have an adapter. The first that matches counts.
var packagePatterns = []*regexp.Regexp{
	// trivy: a line each
	regexp.MustCompile(`(?s)Package: (?P<package>\S+)\s+Installed Version: (?P<version>\S+)(?:.*?Fixed Version: (?P<fixed>[^\s,]+))?`),
	// grype: one sentence
	regexp.MustCompile(`vulnerability in \S+ package: (?P<package>[^\s,]+), version (?P<version>\S+)`),
	// osv-scanner
	regexp.MustCompile(`Package '(?P<package>[^'\s]+)@(?P<version>[^'@\s]+)' is vulnerable`),
	// govulncheck, which names packages and, for what is only required, modules
	regexp.MustCompile(`(?:vulnerable functions in|vulnerable code in|depends on|requires|imports|calls) .*?\((?P<package>[^\s(),]+)`),
}

// fixedPatterns find the fixing version where it stands apart.
var fixedPatterns = []*regexp.Regexp{
	regexp.MustCompile(`Fix Version: (\S+)`),
	regexp.MustCompile(`(?s)Fixed Versions?:? ?\n?\W*(v?\d[^\s,|]*)`),
}

// packageOf finds the package, its version and the version that fixes it in
// the message of a result and the help of its rule; empty for what is not there.
func packageOf(message, help string) (pkg, version, fixed string) {
	for _, p := range packagePatterns {
		m := p.FindStringSubmatch(message)
		if m == nil {
			continue
		}
		get := func(name string) string {
			if i := p.SubexpIndex(name); i >= 0 {
				return strings.TrimRight(m[i], ".,")
			}
			return ""
		}
		pkg, version, fixed = line(get("package")), line(get("version")), line(get("fixed"))
		break
	}
	if pkg == "" || fixed != "" {
		return pkg, version, fixed
	}
	for _, p := range fixedPatterns {
		if m := p.FindStringSubmatch(help); m != nil {
			return pkg, version, line(strings.TrimRight(m[1], ".,"))
		}
	}
	return pkg, version, ""
}
