package build

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
	packageurl "github.com/package-url/packageurl-go"
	"golang.org/x/mod/modfile"
)

// product is an artifact and where it came from.
type product struct {
	name, digest, commit string
	file                 io.ReaderAt
	source               string // directory with its go.mod or package-lock.json
}

// billOfMaterials writes what p consists of: as its Go binary tells, else as
// go.mod or package-lock.json beside its source tell, else p alone. The
// property penstock:source of the document says which it was.
func billOfMaterials(p product) (document io.Reader, components int, err error) {
	main := cdx.Component{BOMRef: p.digest, Type: cdx.ComponentTypeApplication, Name: p.name, Version: p.commit,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: strings.TrimPrefix(p.digest, "sha256:")}}}
	parts, source := []cdx.Component{}, "none"
	if info, err := buildinfo.Read(p.file); err == nil {
		parts, source = fromBinary(info), "binary"
		if info.Main.Path != "" {
			main.Name, main.PackageURL = info.Main.Path, purl(packageurl.TypeGolang, info.Main.Path, p.commit)
		}
	} else if b, err := os.ReadFile(filepath.Join(p.source, "go.mod")); err == nil {
		parts, source = fromGoMod(b), "go.mod"
	} else if b, err := os.ReadFile(filepath.Join(p.source, "package-lock.json")); err == nil {
		parts, source = fromPackageLock(b), "package-lock.json"
	}
	slices.SortFunc(parts, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	parts = slices.CompactFunc(parts, func(a, b cdx.Component) bool { return a.BOMRef == b.BOMRef })

	bom := cdx.NewBOM()
	// Derived rather than drawn, and without a time: the same build has the
	// same bill, so that it is stored once.
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceOID, []byte(p.digest+p.commit)).URN()
	bom.Metadata = &cdx.Metadata{Component: &main, Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{
		{Type: cdx.ComponentTypeApplication, Name: "penstock"}}}}
	bom.Components = &parts
	bom.Properties = &[]cdx.Property{{Name: "penstock:source", Value: source}, {Name: "penstock:commit", Value: p.commit}}
	var b bytes.Buffer
	if err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, 0, fmt.Errorf("the bill of materials cannot be written: %w", err)
	}
	return &b, len(parts), nil
}

// library is one component, with the properties whose value is not empty.
func library(kind, name, version string, properties ...cdx.Property) cdx.Component {
	id := purl(kind, name, version)
	c := cdx.Component{BOMRef: id, Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: id}
	properties = slices.DeleteFunc(properties, func(p cdx.Property) bool { return p.Value == "" })
	if len(properties) > 0 {
		c.Properties = &properties
	}
	return c
}

func purl(kind, name, version string) string {
	namespace, base := path.Split(name)
	return packageurl.NewPackageURL(kind, strings.TrimSuffix(namespace, "/"), base, version, nil, "").ToString()
}

// fromBinary lists the modules that are linked into a Go binary, and the
// standard library under the name that vulnerability databases know.
func fromBinary(info *debug.BuildInfo) []cdx.Component {
	var parts []cdx.Component
	if v, ok := strings.CutPrefix(info.GoVersion, "go"); ok {
		version, _, _ := strings.Cut(v, " ") // what follows are experiments
		parts = append(parts, library(packageurl.TypeGolang, "stdlib", version))
	}
	for _, m := range info.Deps {
		if m.Replace != nil && !modfile.IsDirectoryPath(m.Replace.Path) {
			parts = append(parts, library(packageurl.TypeGolang, m.Replace.Path, m.Replace.Version,
				cdx.Property{Name: "penstock:go:sum", Value: m.Replace.Sum}, cdx.Property{Name: "penstock:go:replaces", Value: m.Path + "@" + m.Version}))
			continue
		}
		property := cdx.Property{Name: "penstock:go:sum", Value: m.Sum}
		if m.Replace != nil {
			property = cdx.Property{Name: "penstock:go:replacedBy", Value: m.Replace.Path}
		}
		parts = append(parts, library(packageurl.TypeGolang, m.Path, m.Version, property))
	}
	return parts
}

// fromGoMod lists what a module requires, after its replacements. A file
// that cannot be read has built nothing, so it lists nothing.
func fromGoMod(b []byte) []cdx.Component {
	parts := []cdx.Component{}
	file, err := modfile.Parse("go.mod", b, nil)
	if err != nil {
		return parts
	}
	for _, r := range file.Require {
		name, version, property := r.Mod.Path, r.Mod.Version, cdx.Property{}
		for _, re := range file.Replace {
			if re.Old.Path != r.Mod.Path || re.Old.Version != "" && re.Old.Version != r.Mod.Version {
				continue
			}
			if re.New.Version == "" {
				property = cdx.Property{Name: "penstock:go:replacedBy", Value: re.New.Path}
			} else {
				property = cdx.Property{Name: "penstock:go:replaces", Value: r.Mod.String()}
				name, version = re.New.Path, re.New.Version
			}
		}
		parts = append(parts, library(packageurl.TypeGolang, name, version, property))
	}
	return parts
}

// fromPackageLock lists the installed packages of an npm lock file of
// version 2 or 3, those for development too, as excluded from the product.
func fromPackageLock(b []byte) []cdx.Component {
	parts := []cdx.Component{}
	var lock struct {
		Packages map[string]struct {
			Name      string `json:"name"`
			Version   string `json:"version"`
			Integrity string `json:"integrity"`
			Dev       bool   `json:"dev"`
			Link      bool   `json:"link"`
		} `json:"packages"`
	}
	if json.Unmarshal(b, &lock) != nil {
		return parts
	}
	for place, p := range lock.Packages {
		i := strings.LastIndex(place, "node_modules/")
		if i < 0 || p.Link || p.Version == "" { // the project itself, or a part of it
			continue
		}
		name := cmp.Or(p.Name, place[i+len("node_modules/"):]) // a name of its own is an alias's
		c := library(packageurl.TypeNPM, name, p.Version, cdx.Property{Name: "penstock:npm:integrity", Value: p.Integrity})
		if p.Dev {
			c.Scope = cdx.ScopeExcluded
			c.BOMRef += "#dev"
		}
		parts = append(parts, c)
	}
	return parts
}
