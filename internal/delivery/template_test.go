package delivery

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/credential"

	"github.com/google/go-cmp/cmp"
)

// readTemplate reads a file of testdata/templates.
func readTemplate(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "templates", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parseTemplate(t testing.TB, data string) *Template {
	t.Helper()
	parsed, err := ParseTemplate("test", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// small is the smallest template; each case below changes one thing in it.
const small = `version: 1
document:
  KeyType: ECSECPrimeRandom
  KeySize: 384
  HardwareBound: true
  Attest: true
  Subject: [[["CN", "{device.serial}"]]]
`

func TestTemplateSaysEverythingItsFileSays(t *testing.T) {
	parsed, err := ParseTemplate("every-key", readTemplate(t, "every-key"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Template{
		Name: "every-key", Directory: "staff",
		Targets:  []credential.Target{{Platform: credential.IOS}, must(credential.ParseTarget("macos:14,chip=M1"))},
		BindUDID: true, AllowUnattested: true, MDM: true, Accessible: AccessibleAfterFirstUnlock,
		AllowAllAppsAccess: new(false), KeyIsExtractable: new(false),
		Expires: 48 * time.Hour, ExpiresAfterFetch: 90 * time.Minute, RenewBefore: 14 * day, RevokeSuperseded: true,
	}
	if diff := cmp.Diff(want, parsed, cmp.FilterPath(func(p cmp.Path) bool {
		field, ok := p.Last().(cmp.StructField)
		return ok && strings.ToLower(field.Name()[:1]) == field.Name()[:1]
	}, cmp.Ignore()), cmp.AllowUnexported(credential.Chip{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"device.labels.mail", "device.labels.owner?", "device.serial", "device.udid?"}, parsed.Placeholders()); diff != "" {
		t.Errorf("placeholders -want +got:\n%s", diff)
	}
	document := `{"KeySize":256,"KeyType":"ECSECPrimeRandom","HardwareBound":true,` +
		`"Subject":[[["C","US"]],[["O","Example {{Inc}}"]],[["CN","{device.serial}"]],[["2.5.4.5","{device.udid?}"]]],"UsageFlags":1,` +
		`"SubjectAltName":{"rfc822Name":"{device.labels.mail}","ntPrincipalName":"{device.labels.owner?}@corp.example.com"},` +
		`"ExtendedKeyUsage":["1.3.6.1.5.5.7.3.2"],"Attest":true}`
	if got := string(parsed.Document()); got != document {
		t.Errorf("document\n%s, want\n%s", got, document)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestTemplateDefaults(t *testing.T) {
	got := parseTemplate(t, small)
	if !got.BindSerial || !got.BindUDID || got.AllowUnattested || got.MDM || got.Accessible != "Default" || got.AllowAllAppsAccess != nil ||
		got.KeyIsExtractable != nil || got.Expires != 720*time.Hour || got.ExpiresAfterFetch != time.Hour || got.RenewBefore != 720*time.Hour || got.RevokeSuperseded {
		t.Errorf("defaults: %+v", got)
	}
	if got := parseTemplate(t, small+"bind: []\nrenewBefore: 0\n"); got.BindSerial || got.BindUDID || got.RenewBefore != 0 {
		t.Errorf("nothing bound and never renewed: %+v", got)
	}
}

// faultCases are files that are refused, each with the key and a word of its one fault.
var faultCases = []struct{ name, old, new, key, word string }{
	{"no version", "version: 1\n", "", "version", "missing"},
	{"another version", "version: 1", "version: 2", "version", "reads version 1"},
	{"version as text", "version: 1", `version: "1"`, "version", "reads version 1"},
	{"unknown key", "version: 1", "version: 1\nextra: 1", "extra", "no key"},
	{"key twice", "version: 1", "version: 1\nbind: []\nbind: []", "bind", "twice"},
	{"null", "version: 1", "version: 1\nbind:", "bind", "no list"},
	{"null text", "version: 1", "version: 1\ndirectory: ~", "directory", "not the name"},
	{"no document", small[len("version: 1\n"):], "", "document", "missing"},
	{"document of another kind", small[len("version: 1\n"):], "document: [1]", "document", "no mapping"},
	{"no mapping at all", small, "[1]", "", "mapping"},
	{"empty", small, "", "", "test: the file is empty"},
	{"empty but for a comment", small, "# later\n", "", "test: the file is empty"},
	{"empty but for a mark", small, "---\n", "", "test: the file is empty"},
	{"no YAML", small, "{", "", "line 1: a [ or { that is never closed"},
	{"tag of nobody", "version: 1", "version: !a!b 1", "", "line 1: anchors, aliases and tags"},
	{"alias of nothing", "KeySize: 384", "KeySize: *size", "", "line 4: anchors, aliases and tags"},
	{"tab", "  KeySize: 384", "\tKeySize: 384", "", "line 4: a tab; indent with blanks"},
	{"tab before a list", "version: 1", "version: 1\nbind:\n\t- serial", "", "line 3: a tab; indent with blanks"},
	{"tab in a text", "version: 1", "version: 1\nx: |\n\tserial", "", "line 3: a tab; indent with blanks"},
	{"quote not closed", `"CN", "`, `"CN, "`, "", "line 7: "},
	{"quote never closed", "KeyType: EC", "KeyType: 'EC", "", "line 3: a quote that is never closed"},
	{"bracket not closed", `}"]]]`, `}"]]`, "", "line 7: a [ without its ]"},
	{"brace not closed", "version: 1", "version: 1\nx: {a: 1\ny: 2", "", "line 2: a { without its }"},
	{"colon in a value", "version: 1", "version: 1\nx: a: b", "", "line 2: a colon where no key can stand"},
	{"indentation", "  KeySize", "   KeySize", "", "line 4: a colon where no key can stand; mend the indentation"},
	{"item among keys", "version: 1", "version: 1\n- x", "", "line 2: this does not belong to the lines above; mend the indentation"},
	{"sign that begins no value", "version: 1", "version: 1\nx: @é", "", "line 2: a value cannot begin with @; put it in quotes"},
	{"backslash", "version: 1", "version: 1\nx: \"\\q\"", "", `line 2: a \ within quotes`},
	{"control character", "KeySize: 384", "KeySize: 384 # \x01", "", "line 4: a control character"},
	{"not UTF-8", "KeySize: 384", "KeySize: 384 # \xff", "", "line 4: the text is not UTF-8"},
	{"two documents", small, small + "---\n" + small, "", "more than one document; remove the lines ---"},
	{"key misspelt", "version: 1", "version: 1\nexpireAfterFetch: 1h", "expireAfterFetch", "write expiresAfterFetch"},
	{"key of another style", "version: 1", "version: 1\nrenew-before: 1h", "renew-before", "write renewBefore"},
	{"letters swapped", "version: 1", "version: 1\ntragets: [ios]", "tragets", "write targets"},
	{"word for a truth", "version: 1", "version: 1\nrevokeSuperseded: yes", "revokeSuperseded", "write true or false"},
	{"word for a truth in the document", "Attest: true", "Attest: certainly", "document.Attest", "write true or false"},
	{"number for a key of the document", "Attest: true", "Attest: true\n  1: x", "document", "write the key in quotes"},
	{"too large", small, "#" + strings.Repeat("x", MaxTemplateSize) + "\n" + small, "", "65536"},
	{"directory with a slash", "version: 1", "version: 1\ndirectory: a/b", "directory", "name"},
	{"target of nothing known", "version: 1", "version: 1\ntargets: [android]", "targets[0]", "platform"},
	{"target that does not fetch documents", "version: 1", "version: 1\ntargets: [ios, \"ios:16\"]", "targets[1]", "target-version"},
	{"target without an enclave", "version: 1", "version: 1\ntargets: [\"macos:14,chip=Intel\"]", "targets[0]", "target-hardware-bound"},
	{"target as number", "version: 1", "version: 1\ntargets: [17]", "targets[0]", "no text"},
	{"too many targets", "version: 1", "version: 1\ntargets: [" + strings.Repeat("ios, ", maxTargets) + "ios]", "targets", "more than 100"},
	{"bound to something else", "version: 1", "version: 1\nbind: [serial, imei]", "bind[1]", "serial and udid"},
	{"bound twice", "version: 1", "version: 1\nbind: [udid, udid]", "bind[1]", "twice"},
	{"truth as text", "version: 1", `version: 1
allowUnattested: "true"`, "allowUnattested", "true or false"},
	{"truth as number", "version: 1", "version: 1\nrevokeSuperseded: 1", "revokeSuperseded", "true or false"},
	{"authentication of another spelling", "version: 1", "version: 1\nauthentication: mdm", "authentication", "None or MDM"},
	{"accessible of another kind", "version: 1", "version: 1\naccessible: Always", "accessible", "AfterFirstUnlock"},
	{"Mac key without a Mac", "version: 1", "version: 1\ntargets: [ios]\nkeyIsExtractable: false", "keyIsExtractable", "only macOS"},
	{"Mac key null", "version: 1", "version: 1\nallowAllAppsAccess:", "allowAllAppsAccess", "true or false"},
	{"no duration", "version: 1", "version: 1\nexpires: soon", "expires", "no duration"},
	{"number as duration", "version: 1", "version: 1\nexpires: 30", "expires", "no duration"},
	{"duration too long", "version: 1", "version: 1\nexpires: 31d", "expires", "between 1m and 30d"},
	{"duration too short", "version: 1", "version: 1\nexpiresAfterFetch: 59s", "expiresAfterFetch", "between 1m and 30d"},
	{"duration that overflows", "version: 1", "version: 1\nrenewBefore: 99999999999d", "renewBefore", "no duration"},
	{"negative duration", "version: 1", "version: 1\nrenewBefore: -1h", "renewBefore", "between 0s and 3650d"},
	{"alias", "Subject: [[[\"CN\", \"{device.serial}\"]]]", "Subject: &s [[[\"CN\", a]]]\n  X: *s", "", "aliases"},
	{"tag", "KeySize: 384", "KeySize: !!str 384", "", "tags"},

	{"required key missing", "  KeySize: 384\n", "", "document.KeySize", "missing-key"},
	{"unknown key in the document", "  Attest: true", "  Attest: true\n  Extra: 1", "document.Extra", "unknown-key"},
	{"unknown key in the alternative names", "  Attest: true", "  Attest: true\n  SubjectAltName: {dNSName: a, iPAddress: b}", "document.SubjectAltName.iPAddress", "unknown-key"},
	{"key of the configuration in the document", "  Attest: true", "  Attest: true\n  KeyIsExtractable: false", "document.KeyIsExtractable", "misplaced-key"},
	{"key twice in the document", "  Attest: true", "  Attest: true\n  Attest: true", "document.Attest", "duplicate-key"},
	{"directory URL", "  Attest: true", "  Attest: true\n  DirectoryURL: https://a.example.com/", "document.DirectoryURL", "gets its own"},
	{"client identifier", "  Attest: true", "  Attest: true\n  ClientIdentifier: \"{device.serial}\"", "document.ClientIdentifier", "gets its own"},
	{"size as text", "KeySize: 384", `KeySize: "384"`, "document.KeySize", "wrong-type"},
	{"size that no key has", "KeySize: 384", "KeySize: 512", "document.KeySize", "key-size-ec"},
	{"infinite size", "KeySize: 384", "KeySize: .inf", "document.KeySize", "wrong-type"},
	{"nesting", "Attest: true", "Attest: true\n  SubjectAltName: " + strings.Repeat("[", 9) + strings.Repeat("]", 9), "document.SubjectAltName", "8 deep"},
	{"hostile nesting", "Attest: true", "Attest: true\n  Subject: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000), "document.Subject", "8 deep"},
	{"null in the document", "Attest: true", "Attest:", "document.Attest", "null-value"},
	{"a level of brackets missing", `[[["CN", "{device.serial}"]]]`, `[["CN", "{device.serial}"]]`, "document.Subject[0]", "subject-shape"},
	{"placeholder in an attribute type", `"CN", "`, `"{device.serial}", "`, "document.Subject[0][0][0]", "subject-attribute"},
	{"placeholder in the key type", "ECSECPrimeRandom", `"{device.labels.type}"`, "document.KeyType", "key-type"},
	{"placeholder of another name", "device.serial", "device.imei", "document.Subject[0][0][1]", "no placeholder"},
	{"placeholder of another case", "device.serial", "Device.Serial", "document.Subject[0][0][1]", "no placeholder"},
	{"placeholder of an MDM", "{device.serial}", "${SERIALNUMBER}", "document.Subject[0][0][1]", "no placeholder"},
	{"placeholder not closed", "{device.serial}", "{device.serial", "document.Subject[0][0][1]", "without its }"},
	{"brace not opened", "{device.serial}", "device.serial}", "document.Subject[0][0][1]", "without its {"},
	{"placeholder in a placeholder", "{device.serial}", "{device.labels.{device.serial}}", "document.Subject[0][0][1]", "without its }"},
	{"label without a name", "{device.serial}", "{device.labels.}", "document.Subject[0][0][1]", "names no label"},
	{"label with a blank", "{device.serial}", "{device.labels. a}", "document.Subject[0][0][1]", "names no label"},
	{"label with a question mark", "{device.serial}", "{device.labels.a??}", "document.Subject[0][0][1]", "names no label"},
	{"label of too many letters", "{device.serial}", "{device.labels." + strings.Repeat("a", maxLabelName+1) + "}", "document.Subject[0][0][1]", "names no label"},
}

func TestParseTemplateRefuses(t *testing.T) {
	for _, c := range faultCases {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(small, c.old) {
				t.Fatalf("the template has no %q", c.old)
			}
			parsed, err := ParseTemplate("test", []byte(strings.Replace(small, c.old, c.new, 1)))
			faulty, ok := errors.AsType[*TemplateError](err)
			if !ok || parsed != nil {
				t.Fatalf("got %v, %v", parsed, err)
			}
			if len(faulty.Faults) != 1 || faulty.Faults[0].Key != c.key || !strings.Contains(faulty.Error(), c.word) {
				t.Errorf("want one fault of %q with %q, got: %v", c.key, c.word, err)
			}
			if !strings.Contains(err.Error(), "credential template test") {
				t.Errorf("the error does not name the template: %v", err)
			}
		})
	}
}

func TestParseTemplateReportsEveryFaultWithItsLine(t *testing.T) {
	_, err := ParseTemplate("test", []byte(`version: 1
targets: [ios, nokia]
document:
  KeyType: EC
  KeySize: 384
  HardwareBound: yes please
  Subject: [[["cn", "a"]], [["CN", 7]]]
expires: 60d
bind: serial
`))
	faulty, ok := errors.AsType[*TemplateError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, f := range faulty.Faults {
		got = append(got, fmt.Sprintf("%d %s", f.Line, f.Key))
	}
	want := []string{"2 targets[1]", "4 document.KeyType", "6 document.HardwareBound", "7 document.Subject[0][0][0]", "7 document.Subject[1][0][1]", "8 expires", "9 bind"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s\n%v", diff, err)
	}
}

// Faults of every kind in one file: none hides another, and none is told twice.
func TestParseTemplateReportsFaultsOfAllKindsTogether(t *testing.T) {
	_, err := ParseTemplate("test", []byte(`version: 2
expire: 30d
targets: ["macos:14,chip=Intel"]
document:
  ClientIdentifier: x
  1: y
  KeyType: ECSECPrimeRandom
  KeySize: 512
  HardwareBound: true
  Subject: [[["O", "{device.imei}"], ["cn", "a"]], [["CN", "{device.serial"]]]
  SubjectAltName: [[[[[[[[[1]]]]]]]]]
`))
	faulty, ok := errors.AsType[*TemplateError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, f := range faulty.Faults {
		got = append(got, fmt.Sprintf("%d %s", f.Line, f.Key))
	}
	want := []string{"1 version", "2 expire", "3 targets[0]", "5 document.ClientIdentifier", "6 document", "8 document.KeySize",
		"10 document.Subject[0][0][1]", "10 document.Subject[1][0][1]", "10 document.Subject[0][1][0]", "11 document.SubjectAltName"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s\n%v", diff, err)
	}
}

func TestAKeyIsSuggestedForASlipOnly(t *testing.T) {
	for key, want := range map[string]string{"expiresafterfetch": "write expiresAfterFetch", "Directory": "write directory", "directoryy": "write directory", "targts": "write targets",
		"x": "", "extra": "", "vrsn": "", "binder": "", "allow": "", "": "", "b": ""} {
		if got := meant(key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	_, err := ParseTemplate("test", []byte(small+"targets: ["+strings.Repeat("x, ", 90)+"x]\n"+strings.Repeat("x: 1\n", 1000)))
	if faulty, ok := errors.AsType[*TemplateError](err); !ok || len(faulty.Faults) != maxFaults {
		t.Errorf("got %d faults", len(faulty.Faults))
	}
}

func TestTemplateNameHasItsForm(t *testing.T) {
	for _, name := range []string{"", "A", "-a", "a.b", "a/b", "../a", strings.Repeat("a", 64)} {
		if _, err := ParseTemplate(name, []byte(small)); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if _, err := ParseTemplate(strings.Repeat("a", 63), []byte(small)); err != nil {
		t.Error(err)
	}
}

func TestTemplateWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		want     []string
	}{
		"none":                                {"", "", nil},
		"of the document":                     {"  KeySize: 384", "  UsageFlags: 0\n  KeySize: 384", []string{"usage-flags-zero document.UsageFlags 4"}},
		"of a target":                         {"version: 1", "version: 1\ntargets: [\"ipados:17,chip=A10X\"]", []string{"target-attest-ignored document.Attest 7"}},
		"not of a value yet unknown":          {"KeySize: 384", "KeySize: 384\n  SubjectAltName: {rfc822Name: \"{device.labels.mail}\"}", nil},
		"of a value that is always so":        {"KeySize: 384", "KeySize: 384\n  SubjectAltName: {rfc822Name: mail}", []string{"alt-name-email document.SubjectAltName.rfc822Name 5"}},
		"Mac key where others are too":        {"version: 1", "version: 1\ntargets: [ios, \"macos,chip=M1\"]\nkeyIsExtractable: false", []string{"macos-only keyIsExtractable 3"}},
		"placeholder with its braces doubled": {"{device.serial}", "{{device.serial}}", []string{"escaped-placeholder document.Subject[0][0][1] 7"}},
		"such a one beside a real one":        {"{device.serial}", "{device.serial}-{{device.labels.a?}}", []string{"escaped-placeholder document.Subject[0][0][1] 7"}},
		"braces that are no placeholder":      {"{device.serial}", "{{no}} device.serial}} {{device.serial", nil},
		"every device refused":                {"Attest: true", "Attest: false", []string{"attest-off document.Attest 6", "unattested-refused allowUnattested 3"}},
		"anybody who learns the URL first":    {"version: 1", "version: 1\nallowUnattested: true", []string{"unattested-anybody allowUnattested 2"}},
		"only the device learns the URL":      {"version: 1", "version: 1\nallowUnattested: true\nauthentication: MDM", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range parseTemplate(t, strings.Replace(small, c.old, c.new, 1)).Warnings() {
				got = append(got, fmt.Sprintf("%s %s %d", f.Rule, f.Path, f.Line))
				if f.Severity != credential.Warning || f.Message == "" || f.Source == "" {
					t.Errorf("incomplete: %+v", f)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestNewTemplateParsesAndExplains(t *testing.T) {
	for name, n := range map[string]NewTemplate{
		"nothing chosen": {},
		"everything chosen": {Directory: "staff", Targets: []string{"ios", "macos:14,chip=M1"}, KeyType: credential.RSA, KeySize: 2048, Software: true,
			Subject: []credential.Attribute{{"O", "Exämple: \"Inc\" # {{no}} \\ \u2028"}, {"OU", "{device.labels.unit?}"}, {"CN", "{device.labels.owner}"}}, Email: "{device.labels.mail?}", DNSName: "{device.serial}.example.com",
			UPN: "{device.labels.owner?}@corp.example.com", AllowUnattested: true, MDM: true, RevokeSuperseded: true},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := n.Encode("first")
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := ParseTemplate("first", data)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Directory != n.Directory || parsed.MDM != n.MDM || parsed.AllowUnattested != n.AllowUnattested || parsed.RevokeSuperseded != n.RevokeSuperseded ||
				len(parsed.Targets) != len(n.Targets) || parsed.document.HardwareBound == n.Software {
				t.Errorf("not what was chosen:\n%s", data)
			}
			want := n.Subject
			if len(want) == 0 {
				want = []credential.Attribute{{"CN", "{device.serial}"}}
			}
			for i, part := range want {
				if got := parsed.document.Subject; len(got) != len(want) || len(got[i]) != 1 || got[i][0] != part {
					t.Errorf("subject %q, want one RDN each of %q", got, want)
				}
			}
			lines := strings.Split(string(data), "\n")
			for i, line := range lines {
				key := strings.TrimSpace(line)
				if key == "" || strings.HasPrefix(key, "#") || strings.HasPrefix(key, "document:") || strings.HasPrefix(key, "expiresAfterFetch:") {
					continue
				}
				if i == 0 || !strings.HasPrefix(strings.TrimSpace(lines[i-1]), "#") {
					t.Errorf("line %q is not explained", line)
				}
			}
		})
	}
	if _, err := (NewTemplate{KeySize: 512}).Encode("first"); err == nil {
		t.Error("a template that breaks a rule was written")
	}
}

// The parser never panics, is deterministic, and what it takes it can show, count and render.
func FuzzParseTemplate(f *testing.F) {
	seeds, err := filepath.Glob("testdata/templates/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range seeds {
		f.Add(must(os.ReadFile(path)))
	}
	for _, c := range faultCases {
		if len(c.new) < 1000 {
			f.Add([]byte(strings.Replace(small, c.old, c.new, 1)))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := ParseTemplate("test", data)
		again, errAgain := ParseTemplate("test", data)
		if (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("two readings: %v, %v", err, errAgain)
		}
		if err != nil {
			if faulty, ok := errors.AsType[*TemplateError](err); !ok || len(faulty.Faults) == 0 {
				t.Fatalf("no fault in %v", err)
			}
			return
		}
		if string(parsed.Document()) != string(again.Document()) {
			t.Fatal("two readings differ")
		}
		parsed.Placeholders()
		c, err := parsed.Render(fullDevice(parsed), testDirectoryURL, testCode)
		if _, refused := errors.AsType[*RenderError](err); err != nil && !refused {
			t.Fatalf("a template that was taken cannot be rendered: %v\n%s", err, data)
		} else if err != nil {
			return
		}
		if _, err := c.Encode(); err != nil {
			t.Fatalf("rendered a faulty document: %v", err)
		}
	})
}
