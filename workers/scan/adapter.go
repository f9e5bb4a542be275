package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/proc"
)

// adapter is what there is to know of a tool: how to call it, where its
// report is, which exit codes say that it ran, and how it rates.
type adapter struct {
	name string
	// source and artifact are the arguments to scan a folder and a file, nil
	// when the tool cannot. A report that args do not put anywhere is on the
	// standard output.
	source, artifact func(c call) []string
	env              []string // beyond proc.Env
	offlineEnv       []string // when the worker has no network
	ran              []int    // exit codes of a scan that got to its end
	nothing          []int    // exit codes of "nothing here to scan", without a report
	fixed            severity // of every finding, for tools that do not rate
	messageIsTitle   bool     // the result's message says more than the rule's name
	unstable         []string // partial fingerprints that differ between equal scans
}

// call is one use of a tool.
type call struct {
	target   string // what to scan, absolute
	report   string // where to put the report, absolute
	database string // the OSV folder, absolute, or empty
	offline  bool
}

// anySARIF reads a report that was made elsewhere.
var anySARIF = adapter{name: "sarif"}

// adapters are the tools by name. They are asked for exit code 0 with
// findings where they have such a switch: the report says what was found.
var adapters = map[string]adapter{
	"gitleaks": {
		source: func(c call) []string {
			return []string{"gitleaks", "dir", "--no-banner", "--no-color", "--redact", "--exit-code", "0",
				"--report-format", "sarif", "--report-path", c.report, c.target}
		},
		ran: []int{0}, fixed: high, messageIsTitle: true,
		unstable: []string{"commitSha", "email", "author", "date", "commitMessage"},
	},
	"trivy": {
		source:   func(c call) []string { return trivy("fs", c) },
		artifact: func(c call) []string { return trivy("rootfs", c) },
		ran:      []int{0},
	},
	"grype": {
		source:     func(c call) []string { return grype("dir:", c) },
		artifact:   func(c call) []string { return grype("file:", c) },
		env:        []string{"GRYPE_CHECK_FOR_APP_UPDATE=false", "GRYPE_DB_CACHE_DIR"},
		offlineEnv: []string{"GRYPE_DB_AUTO_UPDATE=false", "GRYPE_DB_VALIDATE_AGE=false"},
		ran:        []int{0},
	},
	"osv-scanner": {
		source: func(c call) []string {
			args := []string{"osv-scanner", "scan", "--format", "sarif", "--recursive"}
			if c.offline {
				args = append(args, "--offline")
			}
			return append(args, c.target)
		},
		env: []string{"OSV_SCANNER_LOCAL_DB_CACHE_DIRECTORY"},
		ran: []int{0, 1}, nothing: []int{128}, messageIsTitle: true,
	},
	"govulncheck": {
		source:   func(c call) []string { return append(govulncheck(c), "-C", c.target, "./...") },
		artifact: func(c call) []string { return append(govulncheck(c), "-mode", "binary", c.target) },
		ran:      []int{0, 3}, messageIsTitle: true,
	},
}

func init() {
	for name, a := range adapters {
		a.name = name
		adapters[name] = a
	}
}

func trivy(mode string, c call) []string {
	args := []string{"trivy", mode, "--quiet", "--format", "sarif", "--output", c.report, "--scanners", "vuln,secret", "--exit-code", "0"}
	if c.offline {
		args = append(args, "--offline-scan", "--skip-db-update", "--skip-java-db-update")
	}
	return append(args, c.target)
}

func grype(scheme string, c call) []string {
	return []string{"grype", scheme + c.target, "--quiet", "--output", "sarif", "--file", c.report}
}

// govulncheck reads the OSV folder itself when it has the index of its protocol.
func govulncheck(c call) []string {
	args := []string{"govulncheck", "-format", "sarif"}
	if _, err := os.Stat(filepath.Join(c.database, "index", "db.json")); c.database != "" && err == nil {
		args = append(args, "-db", "file://"+filepath.ToSlash(c.database))
	}
	return args
}

// failed is why there are no findings to rely on.
func failed(code, text string) error {
	return &events.TaskError{Code: code, Message: text, Retryable: code == "tool_failed"}
}

// maxReport bounds a report, in bytes.
const maxReport = 256 << 20

// run calls the tool on c.target and reads its report.
func (a adapter) run(ctx context.Context, job *workers.Job, c call, isArtifact bool) ([]finding, error) {
	arguments, dir := a.source, c.target
	if isArtifact {
		arguments, dir = a.artifact, filepath.Dir(c.target)
	}
	c.report = filepath.Join(job.Dir, "report-"+a.name+".sarif")
	if err := os.Remove(c.report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	env := a.env
	if c.offline {
		env = append(slices.Clip(env), a.offlineEnv...)
	}
	args := arguments(c)
	fmt.Fprintf(job.Note, "scanning with %q\n", args)
	code, tail, err := a.call(ctx, job, proc.Command{Args: args, Dir: dir, Env: proc.Env(env...)}, c.report)
	if err != nil {
		return nil, err
	}
	if slices.Contains(a.nothing, code) {
		fmt.Fprintf(job.Note, "%s found nothing that it knows how to scan\n", a.name)
		return nil, nil
	}
	if !slices.Contains(a.ran, code) {
		return nil, failed("tool_failed", fmt.Sprintf("%s failed with exit code %d: %s", a.name, code, line(firstOf(tail, "it said nothing"))))
	}
	fs, err := readReportFile(c.report, a, rootOf(c.target, isArtifact))
	if err != nil {
		return nil, failed("report_unreadable", fmt.Sprintf("%s: %v", a.name, err))
	}
	return fs, nil
}

func rootOf(target string, isArtifact bool) string {
	if isArtifact {
		return filepath.Dir(target)
	}
	return target
}

// call runs the command. What it prints goes to the report when it is one
// that reports on its standard output, which shows by the report's path
// missing from its arguments.
func (a adapter) call(ctx context.Context, job *workers.Job, cmd proc.Command, report string) (code int, tail string, err error) {
	var end proc.Tail
	cmd.Stdout, cmd.Stderr = job.Stdout, io.MultiWriter(job.Stderr, &end)
	if !slices.Contains(cmd.Args, report) {
		f, err := os.Create(report)
		if err != nil {
			return 0, "", err
		}
		defer f.Close()
		cmd.Stdout = &capped{w: f, left: maxReport + 1}
	}
	err = proc.Run(ctx, cmd)
	exit, exited := errors.AsType[*proc.ExitError](err)
	start, notStarted := errors.AsType[*proc.StartError](err)
	switch {
	case exited && exit.Signal != "":
		return 0, "", failed("tool_failed", exit.Error())
	case exited:
		return exit.Code, end.Lines(3), nil
	case notStarted:
		return 0, "", failed("tool_missing", start.Error()+"; install it there or take it out of tools")
	}
	return 0, "", err
}

// capped takes everything and passes on the first bytes: one too many shows
// that a report is too large.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n, err := c.w.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err != nil {
		return n, err
	}
	return len(p), nil
}

func readReportFile(path string, a adapter, root string) ([]finding, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("there is no report")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxReport+1))
	if err != nil {
		return nil, err
	}
	if len(p) > maxReport {
		return nil, fmt.Errorf("the report is larger than %d MiB", maxReport>>20)
	}
	return readSARIF(p, a, root)
}
