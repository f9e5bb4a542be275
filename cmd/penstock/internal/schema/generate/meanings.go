package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// meanings are the comments of structs, by "Type", and of their fields, by
// "Type.Field".
type meanings map[string]string

// readMeanings reads the comments of a package.
func readMeanings(dir string) (meanings, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	out := meanings{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range file.Decls {
			if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				out.types(g)
			}
		}
	}
	return out, nil
}

func (m meanings) types(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		t := spec.(*ast.TypeSpec)
		s, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		m[t.Name.Name] = sentence(g.Doc)
		for _, f := range s.Fields.List {
			for _, name := range f.Names {
				m[t.Name.Name+"."+name.Name] = strings.TrimSpace(sentence(f.Doc) + " " + sentence(f.Comment))
			}
		}
	}
}

// sentence gives a comment as one line.
func sentence(c *ast.CommentGroup) string {
	if c == nil {
		return ""
	}
	return strings.Join(strings.Fields(c.Text()), " ")
}
