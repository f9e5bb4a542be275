package scan

import (
	"cmp"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// module is a module whose code is in a binary, or would be.
type module struct {
	Path, Version string
	local         string // folder that replaces it
}

// inventory is what is known of how a thing is made.
type inventory struct {
	from    string // for people and as the location of findings
	modules []module
	main    string // path of the main module
	goTag   string // "go1.26.8"
	facts   []finding
}

// inspectBinary reads what the Go toolchain wrote into the binary at path.
// Commit is the one that it should be built from, empty when that is not known.
func inspectBinary(path, commit string) (inventory, error) {
	bi, err := buildinfo.ReadFile(path)
	if err != nil {
		return inventory{}, fmt.Errorf("the artifact is not a Go binary with build information (%w): "+
			"the builtin check cannot look inside; name another tool in tools", err)
	}
	inv := inventory{from: artifactLocation, main: bi.Main.Path, goTag: bi.GoVersion}
	for _, d := range bi.Deps {
		inv.modules = append(inv.modules, moduleOf(d))
	}
	settings := map[string]string{}
	for _, s := range bi.Settings {
		settings[s.Key] = s.Value
	}
	inv.checkOrigin(settings, commit)
	inv.checkModules()
	return inv, nil
}

func moduleOf(d *debug.Module) module {
	m := module{Path: d.Path, Version: d.Version}
	if r := d.Replace; r != nil {
		if r.Version == "" {
			return module{Path: d.Path, local: r.Path}
		}
		m = module{Path: r.Path, Version: r.Version}
	}
	return m
}

// inspectSource reads the requirements in the go.mod of a checkout.
func inspectSource(root string) (inventory, error) {
	p, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return inventory{}, err
	}
	f, err := modfile.ParseLax("go.mod", p, nil)
	if err != nil {
		return inventory{}, err
	}
	inv := inventory{from: "go.mod"}
	if f.Module != nil {
		inv.main = f.Module.Mod.Path
	}
	if f.Toolchain != nil {
		inv.goTag = f.Toolchain.Name
	}
	full, err := modfile.Parse("go.mod", p, nil) // ParseLax leaves replacements out
	for _, r := range f.Require {
		m := module{Path: r.Mod.Path, Version: r.Mod.Version}
		if err == nil {
			m = replaced(m, full.Replace)
		}
		inv.modules = append(inv.modules, m)
	}
	inv.checkModules()
	return inv, nil
}

func replaced(m module, rules []*modfile.Replace) module {
	for _, r := range rules {
		if r.Old.Path != m.Path || r.Old.Version != "" && r.Old.Version != m.Version {
			continue
		}
		if r.New.Version == "" {
			return module{Path: m.Path, local: r.New.Path}
		}
		return module{Path: r.New.Path, Version: r.New.Version}
	}
	return m
}

// checkOrigin compares what the binary says of its source with what it
// should be.
func (inv *inventory) checkOrigin(settings map[string]string, commit string) {
	revision := settings["vcs.revision"]
	if commit != "" && revision != "" && !strings.HasPrefix(revision, commit) {
		inv.fact("other-commit", high, fmt.Sprintf("built from commit %s, not from %s", revision, commit))
	}
	if settings["vcs.modified"] == "true" {
		inv.fact("uncommitted-changes", medium, "built from a checkout with changes that are in no commit")
	}
}

// checkModules reports modules that no advisory can be matched with.
func (inv *inventory) checkModules() {
	slices.SortFunc(inv.modules, func(a, b module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), semver.Compare(a.Version, b.Version))
	})
	for _, m := range inv.modules {
		if m.local != "" {
			inv.fact("local-module", low, fmt.Sprintf("%s is replaced by the folder %s: its version is not known, so its vulnerabilities are not either", m.Path, m.local))
		} else if !semver.IsValid(m.Version) {
			inv.fact("unversioned-module", low, fmt.Sprintf("%s has no version (%s): its vulnerabilities are not known", m.Path, m.Version))
		}
	}
}

func (inv *inventory) fact(rule string, s severity, title string) {
	inv.facts = append(inv.facts, finding{Tool: builtin, Rule: rule, Severity: s, Title: line(title), Location: inv.from})
}

var goTag = regexp.MustCompile(`^go(\d+)\.(\d+)(?:\.(\d+))?(?:(rc|beta)(\d+))?(?:[-+ ].*)?$`)

// goVersion is the version of the standard library for a Go version such as
// "go1.22rc1" or "go1.26.8 X:nodwarf5"; empty for builds between releases.
func goVersion(tag string) string {
	m := goTag.FindStringSubmatch(tag)
	if m == nil {
		return ""
	}
	v := fmt.Sprintf("v%s.%s.%s", m[1], m[2], cmp.Or(m[3], "0"))
	if m[4] != "" {
		v += "-" + m[4] + "." + m[5]
	}
	return v
}

// match are the findings of db for the modules and the standard library of inv.
func (inv *inventory) match(db database) []finding {
	var fs []finding
	for _, m := range inv.modules {
		fs = append(fs, db.match(m.Path, m.Version, inv.from)...)
	}
	if v := goVersion(inv.goTag); v != "" {
		fs = append(fs, db.match("stdlib", v, inv.from)...)
	} else if inv.goTag != "" {
		fs = append(fs, finding{Tool: builtin, Rule: "unversioned-module", Severity: low, Location: inv.from,
			Title: line(inv.goTag + " is no released version of Go: the vulnerabilities of its standard library are not known")})
	}
	return fs
}

// match joins the advisories that are about the same vulnerability: databases
// that collect from others hold it once for each.
func (db database) match(path, version, location string) []finding {
	type group struct {
		ids []string
		all []*advisory
		fix string
	}
	var groups []*group
	for _, a := range db[path] {
		affected, fix := a.affects(path, version)
		if !affected {
			continue
		}
		g := &group{}
		names := append([]string{a.ID}, a.Aliases...)
		groups = slices.DeleteFunc(groups, func(o *group) bool { // a may join groups that were apart
			same := slices.ContainsFunc(names, func(n string) bool { return slices.Contains(o.ids, n) })
			if same {
				g.ids, g.all, g.fix = append(g.ids, o.ids...), append(g.all, o.all...), lower(g.fix, o.fix)
			}
			return same
		})
		g.ids, g.all, g.fix = append(g.ids, names...), append(g.all, a), lower(g.fix, fix)
		groups = append(groups, g)
	}
	var fs []finding
	for _, g := range groups {
		slices.SortFunc(g.all, func(a, b *advisory) int { return cmp.Or(rank(a.ID)-rank(b.ID), cmp.Compare(a.ID, b.ID)) })
		first := g.all[0]
		worst := severity(0)
		for _, a := range g.all {
			worst = max(worst, a.severity(path))
		}
		title := firstOf(first.Summary, first.Details, first.ID)
		if worst == 0 { // unknown must not pass as harmless
			worst, title = high, title+" (no severity is known; counted as high)"
		}
		fs = append(fs, finding{Tool: builtin, Rule: line(first.ID), Severity: worst, Title: line(title), Location: location,
			Package: path, Version: version, Fixed: g.fix, URL: first.Database.URL})
	}
	return fs
}

// rank prefers the Go team's own advisories.
func rank(id string) int {
	if strings.HasPrefix(id, "GO-") {
		return 0
	}
	return 1
}

// lower is the lower of two versions, either of which may be empty.
func lower(a, b string) string {
	if a == "" || b != "" && semver.Compare(b, a) < 0 {
		return b
	}
	return a
}
