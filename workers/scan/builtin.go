package scan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock-cd/penstock/workers"
)

// builtin is the name of the check that needs nothing installed.
const builtin = "builtin"

// artifactLocation is where findings in the artifact are: its digest is in
// the task, and would make every build's findings new ones.
const artifactLocation = "artifact"

// checkBuiltin looks at the modules of the artifact, or of the checkout when
// there is no artifact, and at the secrets in the checkout.
func (h *handler) checkBuiltin(job *workers.Job, in inputs, s subject) ([]finding, error) {
	inv, err := s.inventory()
	if err != nil {
		return nil, err
	}
	var fs []finding
	if inv != nil {
		fmt.Fprintf(job.Stdout, "%s: module %s, %s, %d modules\n", inv.from, inv.main, firstOf(inv.goTag, "Go version not stated"), len(inv.modules))
		fs = append(fs, inv.facts...)
		vulnerable, err := h.checkVulnerable(job, inv, s)
		if err != nil {
			return nil, err
		}
		fs = append(fs, vulnerable...)
		if len(in.licences) > 0 {
			fs = append(fs, inv.checkLicences(in.licences, s.checkout, h.opts.ModuleCache)...)
		}
	}
	if s.checkout != "" {
		secrets, err := findSecrets(s.checkout)
		if err != nil {
			return nil, failed("source_unreadable", fmt.Sprintf("the checkout cannot be read: %v", err))
		}
		fs = append(fs, secrets...)
	}
	return fs, nil
}

// checkVulnerable matches inv with the database. To have none is a finding:
// a count of zero would say that there are no vulnerabilities.
func (h *handler) checkVulnerable(job *workers.Job, inv *inventory, s subject) ([]finding, error) {
	if s.database == "" {
		fmt.Fprintf(job.Note, "no vulnerability database: vulnerabilities are not checked; name a folder of OSV files in the input database\n")
		return []finding{{Tool: builtin, Rule: "no-database", Severity: low, Location: inv.from,
			Title: "the known vulnerabilities of its modules were not checked: no database was given"}}, nil
	}
	db, err := openDatabase(s.database)
	if err != nil {
		return nil, failed("database_unreadable", err.Error())
	}
	fmt.Fprintf(job.Stdout, "%s: advisories about %d modules\n", s.database, len(db))
	return inv.match(db), nil
}

// inventory is that of the artifact or the checkout; nil when a checkout is
// not of a Go module.
func (s subject) inventory() (*inventory, error) {
	if s.artifact != "" {
		inv, err := inspectBinary(s.artifact, s.commit)
		if err != nil {
			return nil, failed("artifact_unreadable", err.Error())
		}
		return &inv, nil
	}
	if s.checkout == "" {
		return nil, nil
	}
	inv, err := inspectSource(s.checkout)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("source_unreadable", fmt.Sprintf("go.mod of the checkout: %v", err))
	}
	return &inv, nil
}

// within is the absolute path of name below root; links that lead out count
// as outside.
func within(root, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%q leads out of the checkout", name)
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, name))
	if err != nil {
		return "", fmt.Errorf("%q is not in the checkout", name)
	}
	base, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", err
	}
	if real != base && !strings.HasPrefix(real, base+string(filepath.Separator)) {
		return "", fmt.Errorf("%q leads out of the checkout", name)
	}
	return real, nil
}
