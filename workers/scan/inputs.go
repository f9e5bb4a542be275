package scan

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// inputs are those of the task.
type inputs struct {
	artifact, repository, commit, database, sarif string
	tools, licences                               []string
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func readInputs(with map[string]any) (in inputs, err error) {
	for name, dst := range map[string]*string{"artifact": &in.artifact, "repository": &in.repository, "commit": &in.commit,
		"database": &in.database, "sarif": &in.sarif} {
		v, ok := with[name]
		if !ok || v == nil {
			continue
		}
		if *dst, ok = v.(string); !ok {
			return in, fmt.Errorf("input %q is a %T, want a string", name, v)
		}
	}
	for name, dst := range map[string]*[]string{"tools": &in.tools, "licences": &in.licences} {
		if *dst, err = stringList(with[name]); err != nil {
			return in, fmt.Errorf("input %q: %w", name, err)
		}
	}
	return in, in.check()
}

func stringList(v any) (list []string, err error) {
	switch v := v.(type) {
	case nil:
	case []string:
		return v, nil
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("holds a %T, want strings", e)
			}
			list = append(list, s)
		}
	default:
		return nil, fmt.Errorf("is a %T, want a list of strings", v)
	}
	return list, nil
}

func (in inputs) check() error {
	if in.artifact == "" && in.repository == "" {
		return errors.New("there is nothing to scan: give an artifact, or a repository and a commit")
	}
	if in.repository != "" && in.commit == "" {
		return errors.New("input \"commit\" is missing: it names the commit of the repository to scan")
	}
	if in.artifact != "" && !digestForm.MatchString(in.artifact) {
		return fmt.Errorf("input \"artifact\" is %q, want a digest, sha256: and 64 hex digits", line(in.artifact))
	}
	if in.sarif != "" && in.repository == "" {
		return errors.New("input \"sarif\" is the path of a report in a checkout: give a repository and a commit as well")
	}
	for _, name := range in.tools {
		if _, ok := adapters[name]; !ok && name != builtin && name != "auto" {
			return fmt.Errorf("input \"tools\" names %q, which is none of auto, builtin, %s", line(name),
				strings.Join(slices.Sorted(maps.Keys(adapters)), ", "))
		}
	}
	return nil
}
