package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/docs/schema"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// schemaRow is one schema as the list shows it.
type schemaRow struct {
	Kind string `json:"kind"`
	URL  string `json:"url"`
}

func newSchema() *cobra.Command {
	var out output
	names := make([]string, 0, len(schema.Kinds()))
	for _, kind := range schema.Kinds() {
		names = append(names, strings.ToLower(kind))
	}
	cmd := &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print the JSON Schema of a kind of file, for editors",
		Long: `Print the JSON Schema (draft 7) of a kind of file of a fleet repository. Without a kind, list all.

Editors with the YAML language server complete fields, explain them and underline mistakes in a file whose
first line names its schema: "# yaml-language-server: $schema=URL".
A schema knows every field that flotilla accepts, and no other. "flotilla render" checks more:
what needs a second file, and what no schema can say.`,
		Example: `  flotilla schema
  flotilla schema bundle > .schemas/bundle.json`,
		ValidArgs: names,
		Args:      atMostOneArg("kind"),
	}
	out.flag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			if cmd.Flags().Changed("output") {
				return usagef("--output is for the list: a schema is JSON%s", seeHelp(cmd))
			}
			return printSchema(cmd, args[0])
		}
		rows := make([]schemaRow, 0, len(schema.Kinds()))
		for _, kind := range schema.Kinds() {
			rows = append(rows, schemaRow{kind, schema.Base + schema.File(kind)})
		}
		return out.print(outOf(cmd), rows, func(w *terminal.Printer) {
			row(w, "KIND", "SCHEMA")
			for _, r := range rows {
				row(w, r.Kind, r.URL)
			}
		})
	}
	return cmd
}

// printSchema prints one schema. Kinds are taken in any case.
func printSchema(cmd *cobra.Command, name string) error {
	i := slices.IndexFunc(schema.Kinds(), func(kind string) bool { return strings.EqualFold(kind, name) })
	if i < 0 {
		return usagef("there is no schema of %q: kinds are %s%s", name, strings.Join(schema.Kinds(), ", "), seeHelp(cmd))
	}
	text, _ := schema.Of(schema.Kinds()[i])
	_, err := outOf(cmd).Write(text)
	return err
}
