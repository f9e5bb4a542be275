package scan

import (
	"fmt"
	"go/build"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	xmodule "golang.org/x/mod/module"
)

// notLetters is what may differ between two copies of a licence text.
var notLetters = regexp.MustCompile(`[^a-z0-9+]+`)

// licenceTexts are the licences by phrases of their texts, in lower case with
// every run of other characters made one space. A text has the licence when
// it holds all of one line's phrases and none of its exceptions. The titles
// of the GNU licences count with their date only: other licences name them.
var licenceTexts = []struct {
	id     string
	has    []string
	hasNot []string
}{
	{"AGPL-3.0", []string{"gnu affero general public license version 3 19 november 2007"}, nil},
	{"AGPL-3.0", []string{"gnu affero general public license as published by the free software foundation either version 3"}, nil},
	{"GPL-3.0", []string{"gnu general public license version 3 29 june 2007"}, nil},
	{"GPL-3.0", []string{"gnu general public license as published by the free software foundation either version 3"}, nil},
	{"GPL-2.0", []string{"gnu general public license version 2 june 1991"}, nil},
	{"GPL-2.0", []string{"gnu general public license as published by the free software foundation either version 2 of"}, nil},
	{"LGPL-3.0", []string{"gnu lesser general public license version 3 29 june 2007"}, nil},
	{"LGPL-3.0", []string{"gnu lesser general public license as published by the free software foundation either version 3"}, nil},
	{"LGPL-2.1", []string{"gnu lesser general public license version 2 1 february 1999"}, nil},
	{"LGPL-2.1", []string{"gnu lesser general public license as published by the free software foundation either version 2 1"}, nil},
	{"LGPL-2.0", []string{"gnu library general public license version 2 june 1991"}, nil},
	{"MPL-2.0", []string{"mozilla public license version 2 0", "covered software"}, nil},
	{"MPL-2.0", []string{"this source code form is subject to the terms of the mozilla public license v 2 0"}, nil},
	{"Apache-2.0", []string{"apache license version 2 0", "terms and conditions for use reproduction and distribution"}, nil},
	{"Apache-2.0", []string{"licensed under the apache license version 2 0"}, nil},
	{"MIT", []string{"permission is hereby granted free of charge to any person obtaining a copy",
		"this permission notice shall be included"}, nil},
	{"MIT-0", []string{"permission is hereby granted free of charge to any person obtaining a copy"},
		[]string{"this permission notice"}},
	{"ISC", []string{"distribute this software for any purpose with or without fee is hereby granted provided that the above copyright notice"}, nil},
	{"0BSD", []string{"distribute this software for any purpose with or without fee is hereby granted"}, []string{"provided that the above"}},
	{"BSD-4-Clause", []string{bsdGrant, "all advertising materials mentioning features"}, nil},
	{"BSD-3-Clause", []string{bsdGrant, "endorse or promote products derived from"}, []string{"all advertising materials mentioning features"}},
	{"BSD-2-Clause", []string{bsdGrant}, []string{"endorse or promote products derived from", "all advertising materials mentioning features"}},
	{"Unlicense", []string{"this is free and unencumbered software released into the public domain"}, nil},
}

const bsdGrant = "redistribution and use in source and binary forms with or without modification are permitted"

// recognise names the licences whose text or notice is in text, by their SPDX
// identifiers without "-only" and "-or-later", sorted; nil for none known.
func recognise(text string) []string {
	flat := notLetters.ReplaceAllString(strings.ToLower(text), " ")
	var ids []string
	for _, l := range licenceTexts {
		if slices.Contains(ids, l.id) {
			continue
		}
		missing := slices.ContainsFunc(l.has, func(p string) bool { return !strings.Contains(flat, p) })
		excluded := slices.ContainsFunc(l.hasNot, func(p string) bool { return strings.Contains(flat, p) })
		if !missing && !excluded {
			ids = append(ids, l.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// plainID is an SPDX identifier without what does not change the licence.
func plainID(id string) string {
	id = strings.ToLower(strings.TrimSpace(id))
	for _, suffix := range []string{"-only", "-or-later", "+"} {
		id = strings.TrimSuffix(id, suffix)
	}
	return id
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-._].*)?$`)

// maxLicence bounds a licence file, in bytes.
const maxLicence = 1 << 20

// licencesIn are the licences of the files for it in a folder. found is false
// when there is no such file or folder.
func licencesIn(folder string) (ids []string, found bool) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, false
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		f, err := os.Open(filepath.Join(folder, e.Name()))
		if err != nil {
			continue
		}
		p, err := io.ReadAll(io.LimitReader(f, maxLicence))
		f.Close()
		if err != nil {
			continue
		}
		found = true
		ids = append(ids, recognise(string(p))...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), found
}

// moduleCache is where the Go command keeps modules.
func moduleCache() string {
	if dir := os.Getenv("GOMODCACHE"); dir != "" {
		return dir
	}
	return filepath.Join(filepath.SplitList(build.Default.GOPATH + string(filepath.ListSeparator))[0], "pkg", "mod")
}

// licencesOf looks m up in the vendor folder of the checkout and in the cache.
func licencesOf(m module, checkout, cache string) ([]string, bool) {
	if checkout != "" {
		if ids, ok := licencesIn(filepath.Join(checkout, "vendor", filepath.FromSlash(m.Path))); ok {
			return ids, true
		}
		if m.local != "" && filepath.IsLocal(m.local) {
			return licencesIn(filepath.Join(checkout, m.local))
		}
	}
	path, err := xmodule.EscapePath(m.Path)
	if err != nil {
		return nil, false
	}
	version, err := xmodule.EscapeVersion(m.Version)
	if err != nil {
		return nil, false
	}
	return licencesIn(filepath.Join(cache, filepath.FromSlash(path)+"@"+version))
}

// checkLicences compares the licences of the modules with those that are
// denied. What could not be looked up is a finding too, of low severity:
// silence would say that it is fine.
func (inv *inventory) checkLicences(denied []string, checkout, cache string) []finding {
	var fs []finding
	var unseen []string
	for _, m := range inv.modules {
		f := finding{Tool: builtin, Location: inv.from, Package: m.Path, Version: m.Version}
		ids, found := licencesOf(m, checkout, cache)
		switch {
		case !found:
			unseen = append(unseen, m.Path)
		case len(ids) == 0:
			f.Rule, f.Severity, f.Title = "licence-unknown", low, fmt.Sprintf("the licence of %s is none that is recognised", m.Path)
			fs = append(fs, f)
		}
		for _, id := range ids {
			if slices.ContainsFunc(denied, func(d string) bool { return plainID(d) == plainID(id) }) {
				f.Rule, f.Severity, f.Title = "licence-denied/"+id, high, fmt.Sprintf("%s is under %s, which is denied", m.Path, id)
				fs = append(fs, f)
			}
		}
	}
	if len(unseen) > 0 {
		fs = append(fs, finding{Tool: builtin, Rule: "licence-unchecked", Severity: low, Location: inv.from,
			Title: line(fmt.Sprintf("the licences of %d modules are not known, because their source is not on this worker: %s", len(unseen), strings.Join(unseen, ", ")))})
	}
	return fs
}
