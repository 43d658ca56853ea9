package ca

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"assay/deviceid"
	"assay/internal/manual"
)

var update = flag.Bool("update", false, "write the generated part of docs/certificate-profile.md")

var comparePatterns = cmp.Comparer(func(a, b Pattern) bool { return a.text == b.text })

func decode(text string) (*Profile, error) {
	var p Profile
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&p); err != nil {
		return nil, err
	}
	p.FillDefaults()
	return &p, p.Validate()
}

func TestDefaultProfileIsValid(t *testing.T) {
	if err := DefaultProfile().Validate(); err != nil {
		t.Error(err)
	}
	var p Profile
	if p.Validate() == nil {
		t.Error("the zero profile is valid")
	}
	p.FillDefaults()
	if diff := cmp.Diff(DefaultProfile(), &p, comparePatterns); diff != "" {
		t.Error(diff)
	}
}

func TestProfileReadsYAML(t *testing.T) {
	got, err := decode(example(t))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultProfile()
	want.Name, want.Version, want.Lifetime, want.Backdate = "laptops", 3, 90*24*time.Hour, 10*time.Minute
	want.Keys = KeyRule{Allow: []string{"P-256", "P-384"}, RSAMinBits: 2048}
	want.Subject = SubjectRule{Rule: Fixed, Value: [][][]string{{{"C", "US"}}, {{"O", "Example Inc."}}, {{"CN", "{identity.id}"}}}}
	want.SubjectAltName.DNS = AltNameRule{Rule: AsRequested, Pattern: pattern(t, `[a-z0-9-]+\.devices\.example\.com`)}
	want.SubjectAltName.UPN.Rule = DropField
	want.SubjectAltName.PermanentIdentifier = PermanentIdentifierRule{Rule: AsAttested, Source: deviceid.Serial}
	want.KeyUsage = KeyUsageRule{Rule: Fixed, Value: []string{"digitalSignature"}}
	want.ExtKeyUsage = ExtKeyUsageRule{Rule: AsMinted, Allow: []string{"serverAuth"}}
	if diff := cmp.Diff(want, got, comparePatterns); diff != "" {
		t.Error(diff)
	}
	again, err := decode(string(must(yaml.Marshal(got))(t)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again, comparePatterns); diff != "" {
		t.Error("after writing and reading:", diff)
	}
}

func TestProfileRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nam: x":                       "nam",
		"name: A b":                    "name",
		"version: -1":                  "version",
		"lifetime: 30s":                "lifetime",
		"lifetime: 200000h":            "lifetime",
		"backdate: -1h":                "backdate",
		"backdate: 49h":                "backdate",
		"keys: {allow: [Ed25519]}":     "Ed25519",
		"keys: {rsaMinBits: 512}":      "rsaMinBits",
		"keys: {rsaMinBits: 8192}":     "rsaMinBits",
		"subject: {rule: asAttested}":  "subject.rule",
		"subject: {rule: minted}":      "subject.rule",
		"subject: {rule: asRequested}": "subject.attributes",
		"subject: {attributes: [{type: CN, pattern: a}]}":                      "subject.attributes",
		"subject: {rule: asRequested, attributes: [{type: CN}]}":               "no pattern",
		"subject: {rule: asRequested, attributes: [{type: XX, pattern: a}]}":   "XX",
		"subject: {rule: asRequested, attributes: [{type: CN, pattern: '('}]}": "pattern",
		"subject: {rule: fixed}":                                                               "subject.value",
		"subject: {value: [[[CN, a]]]}":                                                        "subject.value",
		"subject: {rule: fixed, value: [[]]}":                                                  "empty RDN",
		"subject: {rule: fixed, value: [[[CN]]]}":                                              "[type, value]",
		"subject: {rule: fixed, value: [[[XX, a]]]}":                                           "XX",
		"subject: {rule: fixed, value: [[[C, USA]]]}":                                          "C has more",
		"subject: {rule: fixed, value: [[[CN, '']]]}":                                          "empty",
		"subject: {rule: fixed, value: [[[CN, '{device.serial}']]]}":                           "placeholder",
		"subject: {rule: fixed, value: [[[CN, '{identity.id} {identity.id} {identity.id}']]]}": "64 characters",
		"subjectAltName: {dNSName: {rule: asAttested}}":                                        "subjectAltName.dNSName.rule",
		"subjectAltName: {dNSName: {rule: asRequested}}":                                       "subjectAltName.dNSName.pattern",
		"subjectAltName: {dNSName: {pattern: a}}":                                              "subjectAltName.dNSName.pattern",
		"subjectAltName: {rfc822Name: {rule: fixed}}":                                          "subjectAltName.rfc822Name.value",
		"subjectAltName: {rfc822Name: {rule: fixed, value: [a]}}":                              "mail address",
		"subjectAltName: {uniformResourceIdentifier: {rule: fixed, value: ['urn:x:{id}']}}":    "placeholder",
		"subjectAltName: {permanent-identifier: {rule: asRequested}}":                          "permanent-identifier.rule",
		"subjectAltName: {permanent-identifier: {rule: asAttested}}":                           "permanent-identifier.source",
		"subjectAltName: {permanent-identifier: {rule: asAttested, source: hardware-serial}}":  "permanent-identifier.source",
		"subjectAltName: {permanent-identifier: {source: serial}}":                             "permanent-identifier.source",
		"subjectAltName: {hardware-module: {rule: fixed}}":                                     "hardware-module.rule",
		"keyUsage: {rule: asRequested}":                                                        "keyUsage.allow",
		"keyUsage: {allow: [digitalSignature]}":                                                "keyUsage.allow",
		"keyUsage: {rule: fixed}":                                                              "keyUsage.value",
		"keyUsage: {rule: fixed, value: [keyCertSign]}":                                        "keyCertSign",
		"keyUsage: {value: [digitalSignature]}":                                                "keyUsage.value",
		"extKeyUsage: {rule: asRequested}":                                                     "extKeyUsage.allow",
		"extKeyUsage: {rule: dropped, allow: [clientAuth]}":                                    "extKeyUsage.allow",
		"extKeyUsage: {allow: [webServer]}":                                                    "webServer",
		"extKeyUsage: {rule: fixed, value: [1.2.99999999999]}":                                 "1.2.99999999999",
	} {
		if _, err := decode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	_, err := decode("{name: A, version: -1, keyUsage: {rule: x}}")
	if err == nil || strings.Count(err.Error(), "profile field") != 3 {
		t.Errorf("error %v", err)
	}
}

const manualFile = "../../docs/certificate-profile.md"

// example is the profile that the manual shows.
func example(t *testing.T) string {
	t.Helper()
	_, rest, found := strings.Cut(string(must(os.ReadFile(manualFile))(t)), "```yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the manual has no example")
	}
	return text
}

// The manual's table is made of the comments of the profile's fields.
func TestManualHasEveryField(t *testing.T) {
	var table strings.Builder
	table.WriteString("| field | default | meaning |\n|---|---|---|\n")
	comments := fieldComments(t)
	writeRows(t, &table, comments, "", reflect.ValueOf(*DefaultProfile()))
	manual.Part(t, manualFile, "fields", table.String(), *update, "go test ./internal/ca -run TestManual -update")
}

// fieldComments are the comments of the fields in profile.go, by type and field.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	file := must(parser.ParseFile(token.NewFileSet(), "profile.go", nil, parser.ParseComments))(t)
	comments := map[string]string{}
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.TypeSpec)
		if !ok {
			return true
		}
		fields, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range fields.Fields.List {
			comments[spec.Name.Name+"."+field.Names[0].Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
		}
		return true
	})
	return comments
}

func writeRows(t *testing.T, table *strings.Builder, comments map[string]string, prefix string, value reflect.Value) {
	t.Helper()
	for n := range value.NumField() {
		field := value.Type().Field(n)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		comment := comments[value.Type().Name()+"."+field.Name]
		if name == "" || comment == "" {
			t.Errorf("field %s has no name or no comment", field.Name)
		}
		nested := field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[Pattern]()
		standard := ""
		if !nested && !value.Field(n).IsZero() {
			standard = strings.TrimSuffix(fmt.Sprint(value.Field(n).Interface()), "0m0s")
		}
		fmt.Fprintf(table, "| `%s` | %s | %s |\n", prefix+name, standard, strings.ReplaceAll(comment, "|", `\|`))
		// The fields of a rule are the same for every kind of text name.
		if nested && (field.Type != reflect.TypeFor[AltNameRule]() || field.Name == "Email") {
			writeRows(t, table, comments, prefix+name+".", value.Field(n))
		}
	}
}
