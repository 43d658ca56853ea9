package delivery

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"assay/credential"
	"assay/internal/manual"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

func compileTemplateSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(TemplateSchema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("template.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("template.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// asJSON is a YAML file as an editor hands it to the schema; ok is false for a file that is none.
func asJSON(t *testing.T, data string) (value any, ok bool) {
	t.Helper()
	var loaded any
	if err := yaml.Load([]byte(data), &loaded); err != nil {
		return nil, false
	}
	text, err := json.Marshal(loaded)
	if err != nil {
		return nil, false
	}
	value, err = jsonschema.UnmarshalJSON(bytes.NewReader(text))
	return value, err == nil
}

// takenFiles are files that ParseTemplate takes.
func takenFiles(t *testing.T) []string {
	files := []string{small, rendered, propertyTemplate,
		small + "renewBefore: 0\n", small + "renewBefore: \"0\"\n", small + "renewBefore: -0h\n", small + "renewBefore: 1h30m0.5s\n", small + "expires: +1h\n", small + "bind: []\n", small + "targets: []\n",
		strings.Replace(small, "384", "384.0", 1), strings.Replace(small, "384", "0x180", 1), strings.Replace(small, "{device.serial}", "{{{device.serial?}}} {device.labels.Asset Tag é}", 1),
		strings.Replace(small, "384", "384\n  SubjectAltName: {}\n  ExtendedKeyUsage: []\n  UsageFlags: 0", 1)}
	paths := must(filepath.Glob("testdata/templates/*.yaml"))
	if len(paths) == 0 {
		t.Fatal("no templates")
	}
	for _, path := range paths {
		files = append(files, string(must(os.ReadFile(path))))
	}
	for _, n := range []NewTemplate{{}, {Software: true, KeyType: credential.RSA, AllowUnattested: true, Email: "{device.labels.mail?}"}} {
		files = append(files, string(must(n.Encode("first"))))
	}
	return files
}

func TestTemplateSchemaTakesWhatIsTaken(t *testing.T) {
	compiled := compileTemplateSchema(t)
	for _, data := range takenFiles(t) {
		if _, err := ParseTemplate("test", []byte(data)); err != nil {
			t.Fatal(err)
		}
		value, ok := asJSON(t, data)
		if !ok {
			t.Fatalf("no JSON: %s", data)
		}
		if err := compiled.Validate(value); err != nil {
			t.Errorf("%v\n%s", err, data)
		}
	}
}

func TestTemplateSchemaRefusesWhatIsRefused(t *testing.T) {
	// What a schema cannot say: sizes, order of keys, durations as lengths of time, what targets can do.
	beyond := []string{"too large", "two documents", "target of nothing known", "target that does not fetch documents", "target without an enclave",
		"Mac key without a Mac", "duration too long", "duration too short", "duration that overflows", "negative duration", "alias", "tag"}
	compiled := compileTemplateSchema(t)
	said := 0
	for _, c := range faultCases {
		value, ok := asJSON(t, strings.Replace(small, c.old, c.new, 1))
		if !ok || slices.Contains(beyond, c.name) {
			continue
		}
		if compiled.Validate(value) == nil {
			t.Errorf("%s was taken", c.name)
		}
		said++
	}
	if said < 35 {
		t.Errorf("only %d cases", said)
	}
}

// The schema's descriptions are the manual's table; keys are the parser's own.
func TestManualHasEveryKeyOfTemplates(t *testing.T) {
	type described struct {
		Description string
		Default     any
		Properties  map[string]*described
	}
	var schema struct {
		Properties map[string]*described
		Defs       map[string]*described `json:"$defs"`
	}
	if err := json.Unmarshal(TemplateSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	schema.Properties["document"] = schema.Defs["document"]
	var table strings.Builder
	table.WriteString("| key | default | meaning |\n|---|---|---|\n")
	var rows func(prefix string, keys []string, properties map[string]*described)
	rows = func(prefix string, keys []string, properties map[string]*described) {
		if len(keys) != len(properties) {
			t.Errorf("%s: the schema has %d keys, the parser %d", prefix, len(properties), len(keys))
		}
		for _, key := range keys {
			one := properties[key]
			if one == nil || one.Description == "" {
				t.Fatalf("%s%s is not in the schema, or not described", prefix, key)
			}
			standard := ""
			if one.Default != nil {
				standard = "`" + strings.Trim(strings.NewReplacer(`"`, "", ",", ", ").Replace(string(must(json.Marshal(one.Default)))), " ") + "`"
			}
			fmt.Fprintf(&table, "| `%s` | %s | %s |\n", prefix+key, standard, strings.ReplaceAll(one.Description, "|", `\|`))
			switch {
			case key == "document":
				rows("document.", slices.DeleteFunc(jsonKeys(reflect.TypeFor[credential.Credential]()), isRendered), one.Properties)
			case key == "SubjectAltName":
				rows(prefix+"SubjectAltName.", jsonKeys(reflect.TypeFor[credential.SubjectAltName]()), one.Properties)
			}
		}
	}
	var keys []string
	for _, s := range setters {
		keys = append(keys, s.key)
	}
	rows("", keys, schema.Properties)
	generatedPart(t, "keys", table.String())
}

func jsonKeys(t reflect.Type) (keys []string) {
	for n := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(n).Tag.Get("json"), ",")
		keys = append(keys, name)
	}
	return keys
}

const templateManual = "../../docs/templates.md"

var updateManual = flag.Bool("update", false, "write the generated part of docs/templates.md")

// generatedPart holds a part of the manual to what it is made of.
func generatedPart(t *testing.T, name, want string) {
	t.Helper()
	manual.Part(t, templateManual, name, want, *updateManual, "go test ./internal/delivery -run Manual -update")
}

// The defaults that the schema promises are the parser's.
func TestSchemaDefaultsAreTheParsers(t *testing.T) {
	var schema struct {
		Properties map[string]struct{ Default json.RawMessage }
	}
	if err := json.Unmarshal(TemplateSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	said := small
	for key, one := range schema.Properties {
		if one.Default != nil {
			said += fmt.Sprintf("%s: %s\n", key, one.Default)
		}
	}
	if said == small {
		t.Fatal("the schema has no default")
	}
	// The lines are others, the template is not.
	if diff := cmp.Diff(parseTemplate(t, small), parseTemplate(t, said), cmp.AllowUnexported(Template{}, altNameText{}, part{}, placeholder{})); diff != "" {
		t.Errorf("-left out +written out:\n%s", diff)
	}
}

func TestManualsExamplesParse(t *testing.T) {
	manual := string(must(os.ReadFile(templateManual)))
	parts := strings.Split(manual, "```yaml\n")
	if len(parts) < 2 {
		t.Fatal("the manual has no example")
	}
	for _, one := range parts[1:] {
		example, _, _ := strings.Cut(one, "```")
		if _, err := ParseTemplate("example", []byte(example)); err != nil {
			t.Error(err)
		}
	}
}
