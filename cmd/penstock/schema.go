package main

import (
	"github.com/penstock-cd/penstock/cmd/penstock/internal/schema"
	"github.com/spf13/cobra"
)

// schemaFile is the name under which init writes the schema, for the line
// "# yaml-language-server: $schema=" at the top of the files beside it.
const schemaFile = "penstock.schema.json"

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of definitions, for editors",
		Long: `Prints the JSON Schema (draft 7) of definition files. An editor with a YAML
language server completes, explains and underlines with it. It knows the keys;
penstock check knows all the rest.`,
		Example: "  penstock schema > penstock/" + schemaFile,
		Args:    args(),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(schema.JSON)
			return err
		},
	}
}
