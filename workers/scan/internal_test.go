package scan

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScoresAreThoseOfTheSpecification(t *testing.T) {
	for vector, want := range map[string]float64{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H":               9.8,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H":               10,
		"CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N":               6.1,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H":               7.5,
		"CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H":               7.8,
		"CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N":               6.4,
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:L/I:N/A:N/E:P":           3.7,
		"CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N":               1.6,
		"CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:C/C:H/I:H/A:H":               9.1,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N":               0,
		"CVSS:3.1/AV:A/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N/RL:O/RC:C/E:X": 6.5,
	} {
		if got, err := cvssScore(vector); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", vector, got, err, want)
		}
	}
	for _, vector := range []string{"", "AV:N/AC:L/Au:N/C:P/I:P/A:P", "CVSS:4.0/AV:N", "CVSS:3.1/AV:N", "CVSS:3.1/AV:N/AV:L/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
		"CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"} {
		if got, err := cvssScore(vector); err == nil {
			t.Errorf("%q has the score %v, want an error", vector, got)
		}
	}
}

func TestRangesAreReadByTheirVersionsNotTheirOrder(t *testing.T) {
	r := osvRange{Type: "SEMVER", Events: []osvEvent{{Introduced: "2.0.0"}, {Fixed: "1.5.0"}, {Fixed: "2.1.0-rc.2"}, {Introduced: "0"}}}
	for version, want := range map[string]struct {
		affected bool
		fixed    string
	}{
		"v0.0.1": {true, "v1.5.0"}, "v1.4.9": {true, "v1.5.0"}, "v1.5.0": {false, "v2.1.0-rc.2"}, "v1.9.9": {false, "v2.1.0-rc.2"},
		"v2.0.0-pre": {false, "v2.1.0-rc.2"}, "v2.0.0": {true, "v2.1.0-rc.2"}, "v2.1.0-rc.1": {true, "v2.1.0-rc.2"}, "v2.1.0": {false, ""},
		"v0.0.0-20200101000000-abcdefabcdef": {true, "v1.5.0"}, "v2.0.5+incompatible": {true, "v2.1.0-rc.2"},
		"(devel)": {false, ""}, "": {false, ""},
	} {
		if affected, fixed := r.contains(version); affected != want.affected || fixed != want.fixed {
			t.Errorf("%s: %v, %q; want %v, %q", version, affected, fixed, want.affected, want.fixed)
		}
	}
	r = osvRange{Type: "SEMVER", Events: []osvEvent{{Introduced: "1.0.0"}, {LastAffected: "1.2.0"}, {Limit: "1.1.5"}}}
	for version, want := range map[string]bool{"v1.1.0": true, "v1.1.5": false, "v1.2.0": false} {
		if affected, _ := r.contains(version); affected != want {
			t.Errorf("%s below a limit: %v, want %v", version, affected, want)
		}
	}
	if affected, _ := (osvRange{Type: "GIT", Events: []osvEvent{{Introduced: "0"}}}).contains("v1.0.0"); affected {
		t.Error("a range of commits matched a version")
	}
}

func TestGoVersionsBecomeVersionsOfTheStandardLibrary(t *testing.T) {
	for tag, want := range map[string]string{"go1.26.8": "v1.26.8", "go1.22rc1": "v1.22.0-rc.1", "go1.21": "v1.21.0", "go1.26.8 X:nodwarf5": "v1.26.8",
		"go1.24.1-acme": "v1.24.1", "devel go1.27-abc": "", "": ""} {
		if got := goVersion(tag); got != want {
			t.Errorf("%q: %q, want %q", tag, got, want)
		}
	}
}

func TestLicencesAreRecognised(t *testing.T) {
	bsd := "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided that"
	for text, want := range map[string][]string{
		"Permission is hereby granted, free of charge, to any person obtaining a copy\nof this software. The above copyright notice and\n  this permission notice shall be included in all": {"MIT"},
		"Permission is hereby granted, free of charge, to any person obtaining a copy of it, without restriction.":                                                                          {"MIT-0"},
		"Apache License\n   Version 2.0, January 2004\n  TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION":                                                                      {"Apache-2.0"},
		`Licensed under the Apache License, Version 2.0 (the "License")`:                                                                                                                    {"Apache-2.0"},
		bsd: {"BSD-2-Clause"},
		bsd + " Neither the name may be used to endorse or promote products derived from this":                                                                             {"BSD-3-Clause"},
		bsd + " All advertising materials mentioning features":                                                                                                             {"BSD-4-Clause"},
		"Mozilla Public License Version 2.0\n 1.4. \"Covered Software\" \"Secondary License\" the GNU Affero General Public License, Version 3.0":                          {"MPL-2.0"},
		"GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007\n ... Use with the GNU Affero General Public License":                                                       {"GPL-3.0"},
		"GNU GENERAL PUBLIC LICENSE\n  Version 2, June 1991":                                                                                                               {"GPL-2.0"},
		"GNU LESSER GENERAL PUBLIC LICENSE\n  Version 2.1, February 1999":                                                                                                  {"LGPL-2.1"},
		"GNU LESSER GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007 incorporates the terms of version 3 of the GNU General Public License":                               {"LGPL-3.0"},
		"GNU AFFERO GENERAL PUBLIC LICENSE\n  Version 3, 19 November 2007\n the GNU General Public License":                                                                {"AGPL-3.0"},
		"under the terms of the GNU Affero General Public License as published by the Free Software Foundation, either version 3 of the License":                           {"AGPL-3.0"},
		"Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice": {"ISC"},
		"Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted.":                                          {"0BSD"},
		"This is free and unencumbered software released into the public domain.":                                                                                          {"Unlicense"},
		"All rights reserved.": nil,
		"":                     nil,
	} {
		if got := recognise(text); !slices.Equal(got, want) {
			t.Errorf("%.70q: %q, want %q", text, got, want)
		}
	}
}

func TestReportsOfAFolderNameFilesWithinIt(t *testing.T) {
	for uri, want := range map[string]string{"file:///work/a%20b/c.go": "a b/c.go", "./x.go": "x.go", "x.go": "x.go", "/work/y.go": "y.go",
		"/elsewhere/z.go": "/elsewhere/z.go", "https://x.example/y": "https://x.example/y"} {
		if got := relative(uri, "/work"); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}

func FuzzReadSARIF(f *testing.F) {
	paths, err := filepath.Glob("testdata/reports/*.sarif")
	if err != nil || len(paths) == 0 {
		f.Fatal("no recorded reports", err)
	}
	for _, path := range paths {
		p, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, report []byte) {
		for _, a := range []adapter{anySARIF, adapters["gitleaks"], adapters["trivy"]} {
			fs, err := readSARIF(report, a, "/src")
			if err != nil {
				continue
			}
			again, _ := readSARIF(report, a, "/src")
			fs = settle(fs)
			if diff := cmp.Diff(settle(again), fs, cmp.AllowUnexported(finding{})); diff != "" {
				t.Fatalf("two readings differ:\n%s", diff)
			}
			for _, x := range fs {
				if x.Severity < low || x.Severity > critical || x.Rule == "" {
					t.Fatalf("a finding without severity or rule: %+v", x)
				}
			}
			if _, err := mergedReport(nil, fs); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzReadAdvisory(f *testing.F) {
	f.Add([]byte(`{"id":"X","affected":[{"package":{"ecosystem":"Go","name":"m"},"versions":["1.0.0"],"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.1.0"}]}]}]}`), "v1.0.0")
	f.Add([]byte(`{"id":"X","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N"}],"database_specific":{"severity":7},"affected":[{"package":{"ecosystem":"Go"}}]}`), "")
	f.Fuzz(func(t *testing.T, p []byte, version string) {
		a, err := readAdvisory(p)
		if err != nil || a == nil {
			return
		}
		db := database{}
		db.add(a)
		for name := range db {
			for _, x := range db.match(name, version, "here") {
				if x.Severity < low || x.Severity > critical {
					t.Fatalf("severity %d", x.Severity)
				}
			}
		}
	})
}

func FuzzRecognise(f *testing.F) {
	f.Add("Permission is hereby granted, free of charge, to any person obtaining a copy")
	f.Add("GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007")
	f.Fuzz(func(t *testing.T, text string) {
		ids := recognise(text)
		if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
			t.Fatalf("%q is not a sorted set", ids)
		}
		for _, id := range ids {
			if !slices.Contains(recognise(" "+text+"\n"), id) {
				t.Fatalf("space around the text changes %q", ids)
			}
		}
	})
}
