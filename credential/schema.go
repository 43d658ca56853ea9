package credential

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schemaJSON []byte

// Schema is a JSON Schema (draft 2020-12) of the document, for editors and for other people's CI. It
// refuses what the rules of severity Error refuse, as far as a schema can say it, and takes whatever
// breaks no such rule; the rules' warnings are not in it.
func Schema() []byte { return slices.Clone(schemaJSON) }
