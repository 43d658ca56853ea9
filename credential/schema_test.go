package credential

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("credential.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("credential.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// beyondSchema are the rules of severity Error that a schema cannot say, because they are about bytes
// and not about the value that a reader makes of them, or about devices.
var beyondSchema = []string{"document-too-large", "byte-order-mark", "invalid-utf-8", "duplicate-key", "lone-surrogate", "nesting-too-deep",
	"target-version", "target-hardware-bound"}

// unreadable are the rules that make a document no JSON value at all.
var unreadable = []string{"document-empty", "not-utf-8", "json-syntax", "trailing-data"}

func TestSchemaAgreesWithTheRules(t *testing.T) {
	compiled := compileSchema(t)
	refused, taken := 0, 0
	for _, c := range ruleCases {
		t.Run(c.name, func(t *testing.T) {
			data := c.document(t)
			var rules []string // broken ones that a schema can say
			for _, f := range Read(data).Findings.Errors() {
				if slices.Contains(unreadable, f.Rule) {
					return
				}
				if !slices.Contains(beyondSchema, f.Rule) {
					rules = append(rules, f.Rule)
				}
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			if err != nil {
				return // the decoder refuses already what the rules refuse
			}
			err = compiled.Validate(value)
			switch {
			case len(rules) > 0 && err == nil:
				t.Errorf("the schema takes a document that breaks %v", rules)
			case len(rules) == 0 && err != nil:
				t.Errorf("the schema refuses a document that breaks no rule of errors: %v", err)
			case err != nil:
				refused++
			default:
				taken++
			}
		})
	}
	if refused < 40 || taken < 60 {
		t.Errorf("%d refused and %d taken: the cases no longer show anything", refused, taken)
	}
}

func TestEveryErrorIsInTheSchemaOrKnownToBeBeyondIt(t *testing.T) {
	compiled := compileSchema(t)
	said := map[string]bool{}
	for _, c := range ruleCases {
		data := c.document(t)
		errs := Read(data).Findings.Errors()
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if len(errs) > 0 && err == nil && compiled.Validate(value) != nil {
			for _, f := range errs {
				said[f.Rule] = true
			}
		}
	}
	for _, r := range Rules() {
		if r.Severity == Error && !said[r.ID] && !slices.Contains(beyondSchema, r.ID) && !slices.Contains(unreadable, r.ID) {
			t.Errorf("the schema never refuses what breaks %s", r.ID)
		}
	}
}

func TestSchemaTakesPublishedExamples(t *testing.T) {
	compiled := compileSchema(t)
	for _, path := range []string{"testdata/published.json", "../docs/credential.json"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if _, findings := Parse(data); (findings.Err() == nil) != (compiled.Validate(value) == nil) {
			t.Errorf("%s: rules say %v, the schema %v", path, findings.Err(), compiled.Validate(value))
		}
	}
}

// The rules know more of URLs and codes than a pattern can say, never less.
func TestSchemaTakesWhateverTheRulesTake(t *testing.T) {
	compiled := compileSchema(t)
	pieces := []string{"https://", "HTTPS://", "http://", "//", "a", "id.example.com", "[::1]", "[fe80::1%25en0]", ":443", ":00443", ":65535", ":65536", ":", "@", "user:pw@", "/", "?", "#", "%41", "%zz", " ", "é", "\\", "1.2.3", "2.999", "/1.40", "."}
	text := rapid.OneOf(rapid.Just("a"), rapid.Map(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 6), func(s []string) string { return strings.Join(s, "") }))
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		// Sound values with something added: most are still sound.
		c := New("https://id.example.com"+rapid.SampledFrom([]string{"", "/", "?", "#", ":443"}).Draw(t, "then")+text.Draw(t, "url"),
			"code"+text.Draw(t, "identifier"), Subject{{{"CN", "x"}}})
		if rapid.Bool().Draw(t, "another host") {
			c.DirectoryURL = "https://" + text.Draw(t, "host") + "a"
		}
		if rapid.Bool().Draw(t, "another type") {
			c.Subject[0][0][0] = rapid.SampledFrom([]string{"1.2", "2.999", "0.39.1", ""}).Draw(t, "first arcs") + text.Draw(t, "type")
		}
		data, err := c.Encode()
		if err != nil {
			return
		}
		taken++
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(value); err != nil {
			t.Fatalf("the rules take %s: %v", data, err)
		}
	})
	if taken == 0 {
		t.Error("the rules took none of the documents")
	}
}

func TestSchemaNamesEveryKey(t *testing.T) {
	var schema struct {
		Required   []string
		Properties map[string]struct {
			Description string
			Properties  map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	for _, k := range documentKeys {
		if schema.Properties[k.name].Description == "" || slices.Contains(schema.Required, k.name) != k.required {
			t.Errorf("%s is not described, or not required as the rules have it", k.name)
		}
	}
	for _, k := range altNameKeys {
		if schema.Properties["SubjectAltName"].Properties[k.name].Description == "" {
			t.Errorf("%s is not described", k.name)
		}
	}
	if len(schema.Properties) != len(documentKeys) || len(schema.Properties["SubjectAltName"].Properties) != len(altNameKeys) {
		t.Error("the schema has keys that the document does not have")
	}
}
