package delivery

import (
	_ "embed"
	"encoding/json"
	"slices"
	"sync"

	"assay/credential"
)

//go:embed template_schema.json
var templateSchemaJSON []byte

// TemplateSchema is a JSON Schema (draft 2020-12) of the template file, for editors and for other
// people's CI. It takes what ParseTemplate takes and refuses unknown keys. Its document is that of
// credential.Schema, with placeholders.
func TemplateSchema() []byte { return slices.Clone(templateSchema()) }

var templateSchema = sync.OnceValue(func() []byte {
	schema, document := object(templateSchemaJSON), object(credential.Schema())
	delete(document, "$schema")
	delete(document, "title")
	document["description"] = "The ACMECredential document in Apple's own key names, without DirectoryURL and ClientIdentifier: each device's document gets its own."
	document["additionalProperties"] = false
	document["required"] = slices.DeleteFunc(document["required"].([]any), func(name any) bool { return isRendered(name.(string)) })
	properties := document["properties"].(map[string]any)
	for name := range properties {
		if isRendered(name) {
			delete(properties, name)
		}
	}
	rdn := properties["Subject"].(map[string]any)["items"].(map[string]any)
	pair := rdn["items"].(map[string]any)["prefixItems"].([]any)
	pair[1] = map[string]any{"$ref": "#/$defs/text"}
	names := properties["SubjectAltName"].(map[string]any)
	names["additionalProperties"] = false
	for _, name := range names["properties"].(map[string]any) {
		one := name.(map[string]any)
		delete(one, "type")
		one["$ref"] = "#/$defs/text"
	}
	schema["$defs"].(map[string]any)["document"] = document
	data, err := json.MarshalIndent(schema, "", "  ")
	if err != nil { // it was JSON
		panic(err)
	}
	return append(data, '\n')
})

// isRendered reports whether a key of the document is only set when a device's document is rendered.
func isRendered(key string) bool { return key == "DirectoryURL" || key == "ClientIdentifier" }

// object reads one of the embedded schemas.
func object(data []byte) map[string]any {
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil { // a test reads them too
		panic(err)
	}
	return out
}
