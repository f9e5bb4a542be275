package scan

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

// advisory is an entry in the OSV format, as far as Go modules need it
// (https://ossf.github.io/osv-schema/).
type advisory struct {
	ID        string        `json:"id"`
	Withdrawn string        `json:"withdrawn"`
	Aliases   []string      `json:"aliases"`
	Summary   string        `json:"summary"`
	Details   string        `json:"details"`
	Severity  []osvSeverity `json:"severity"`
	Affected  []osvAffected `json:"affected"`
	Database  osvSpecific   `json:"database_specific"`
}

type osvSeverity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

type osvAffected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity []osvSeverity `json:"severity"`
	Ranges   []osvRange    `json:"ranges"`
	Versions []string      `json:"versions"`
	Database osvSpecific   `json:"database_specific"`
}

type osvRange struct {
	Type   string     `json:"type"`
	Events []osvEvent `json:"events"`
}

type osvEvent struct {
	Introduced   string `json:"introduced"`
	Fixed        string `json:"fixed"`
	LastAffected string `json:"last_affected"`
	Limit        string `json:"limit"`
}

// osvSpecific is what a database adds; severity may be anything there.
type osvSpecific struct {
	Severity any    `json:"severity"`
	URL      string `json:"url"`
}

// database are the advisories about Go modules, by module path.
type database map[string][]*advisory

// maxAdvisory bounds one file of a database, in bytes.
const maxAdvisory = 16 << 20

// openDatabase reads every .json file below folder. A file that cannot be
// read is an error: a scan must not pass because of a half-read database. The
// folder index of the Go vulnerability database's own layout is left out, as
// are other ecosystems.
func openDatabase(folder string) (database, error) {
	db, files := database{}, 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "index" && path != folder:
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".json":
			return nil
		}
		if info, err := os.Stat(path); err != nil || info.Size() > maxAdvisory {
			return cmp.Or(err, fmt.Errorf("%s is larger than %d MiB", path, maxAdvisory>>20))
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a, err := readAdvisory(p)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		files++
		db.add(a)
		return nil
	})
	if err == nil && files == 0 {
		err = errors.New("there is no .json file in it")
	}
	if err != nil {
		return nil, fmt.Errorf("the vulnerability database %s: %w", folder, err)
	}
	return db, nil
}

// readAdvisory reads one entry; nil when it is withdrawn or not about Go.
func readAdvisory(p []byte) (*advisory, error) {
	p = bytes.TrimPrefix(p, []byte("\ufeff"))
	var head struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(p, &head); err != nil {
		return nil, fmt.Errorf("not in the OSV format: %w", err)
	}
	if head.ID == "" {
		return nil, errors.New("not in the OSV format: it has no id")
	}
	if !bytes.Contains(p, []byte(`"Go"`)) {
		return nil, nil
	}
	a := &advisory{}
	if err := json.Unmarshal(p, a); err != nil {
		return nil, fmt.Errorf("not in the OSV format: %w", err)
	}
	if a.Withdrawn != "" {
		return nil, nil
	}
	return a, nil
}

func (db database) add(a *advisory) {
	if a == nil {
		return
	}
	for _, af := range a.Affected {
		name := af.Package.Name
		if af.Package.Ecosystem == "Go" && !slices.Contains(db[name], a) {
			db[name] = append(db[name], a)
		}
	}
}

// affects reports whether a is about this version of the module, and the
// lowest version above it that fixes it, if there is one. Versions are those
// of Go, "v1.2.3"; the format has them without the v.
func (a *advisory) affects(module, version string) (affected bool, fixed string) {
	for _, af := range a.Affected {
		if af.Package.Ecosystem != "Go" || af.Package.Name != module {
			continue
		}
		for _, v := range af.Versions {
			affected = affected || v == version || "v"+v == version
		}
		for _, r := range af.Ranges {
			hit, fix := r.contains(version)
			affected = affected || hit
			if fix != "" && (fixed == "" || semver.Compare(fix, fixed) < 0) {
				fixed = fix
			}
		}
	}
	return affected, fixed
}

// contains goes through the events in the order of their versions; the last
// one that is not above version decides.
func (r osvRange) contains(version string) (affected bool, fixed string) {
	if r.Type != "SEMVER" && r.Type != "ECOSYSTEM" || !semver.IsValid(version) {
		return false, ""
	}
	type point struct {
		version string
		opens   bool
		after   bool // counts only above its version
	}
	var points []point
	limits, below := 0, false
	for _, e := range r.Events {
		switch {
		case e.Introduced == "0":
			points = append(points, point{opens: true})
		case e.Introduced != "":
			points = append(points, point{version: canonical(e.Introduced), opens: true})
		case e.Fixed != "":
			points = append(points, point{version: canonical(e.Fixed)})
			if f := canonical(e.Fixed); semver.Compare(f, version) > 0 && (fixed == "" || semver.Compare(f, fixed) < 0) {
				fixed = f
			}
		case e.LastAffected != "":
			points = append(points, point{version: canonical(e.LastAffected), after: true})
		case e.Limit != "":
			limits++
			below = below || e.Limit == "*" || semver.Compare(version, canonical(e.Limit)) < 0
		}
	}
	if limits > 0 && !below {
		return false, fixed
	}
	slices.SortStableFunc(points, func(a, b point) int { return semver.Compare(a.version, b.version) })
	for _, p := range points {
		if c := semver.Compare(version, p.version); c > 0 || c == 0 && !p.after {
			affected = p.opens
		}
	}
	return affected, fixed
}

func canonical(v string) string { return "v" + strings.TrimPrefix(v, "v") }

// severity is the worst rating that a gives for module; 0 when it gives none.
func (a *advisory) severity(module string) severity {
	worst := rating(a.Severity, a.Database)
	for _, af := range a.Affected {
		if af.Package.Name == module {
			worst = max(worst, rating(af.Severity, af.Database))
		}
	}
	return worst
}

// rating prefers the word of the database to nothing, and a CVSS 3 score to
// the word. Vectors of other versions have no score here: entries with one
// carry the word as well.
func rating(list []osvSeverity, specific osvSpecific) severity {
	worst := severity(0)
	for _, s := range list {
		if score, err := cvssScore(s.Score); err == nil {
			worst = max(worst, severityOfScore(score))
		}
	}
	if word, ok := specific.Severity.(string); ok && worst == 0 {
		worst = severityOf(word)
	}
	return worst
}
