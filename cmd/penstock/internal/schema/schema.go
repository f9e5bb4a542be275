// Package schema holds the JSON Schema of definition files, for editors. It is
// generated from the structs of package workflows and their comments, so that
// it knows the keys that the parser knows, and says of each what it means.
package schema

import _ "embed"

//go:generate go run ./generate

// JSON is the schema, in the vocabulary of draft 7, which editors know best.
//
//go:embed penstock.schema.json
var JSON []byte
