package credential

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// clean is a document without any finding; each case below changes one thing in it.
const clean = `{
    "DirectoryURL": "https://id.example.com/acme/default/directory",
    "ClientIdentifier": "9vJ8n3sX0uZlq7QbW2dKfA",
    "KeySize": 384,
    "KeyType": "ECSECPrimeRandom",
    "HardwareBound": true,
    "Subject": [[["C", "US"]], [["O", "Example Inc."]], [["CN", "device"]]],
    "UsageFlags": 1,
    "SubjectAltName": {
        "dNSName": "device.example.com",
        "rfc822Name": "person@example.com"
    },
    "ExtendedKeyUsage": ["1.3.6.1.5.5.7.3.2"],
    "Attest": true
}
`

// found is a finding as the tables state it.
type found struct{ Rule, Path string }

func summary(findings Findings) []found {
	var out []found
	for _, f := range findings {
		out = append(out, found{f.Rule, f.Path})
	}
	return out
}

type ruleCase struct {
	name     string
	old, new string // the change to the clean document; an empty old replaces it whole
	target   string // judged too, when not empty
	want     []found
}

func (c ruleCase) document(t *testing.T) []byte {
	t.Helper()
	if c.old == "" {
		if c.new == "=" {
			return []byte(clean)
		}
		return []byte(c.new)
	}
	if strings.Count(clean, c.old) != 1 {
		t.Fatalf("%q is not in the clean document exactly once", c.old)
	}
	return []byte(strings.Replace(clean, c.old, c.new, 1))
}

func (c ruleCase) findings(t *testing.T) Findings {
	t.Helper()
	d := Read(c.document(t))
	all := slices.Clone(d.Findings)
	if c.target != "" {
		target, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d.Judge(target)...)
	}
	return all
}

func one(rule, path string) []found { return []found{{rule, path}} }

var ruleCases = slices.Concat(encodingCases, keyCases, requestCases, keyPairCases, subjectCases, altNameCases, usageCases, targetCases)

func TestCleanDocumentHasNoFinding(t *testing.T) {
	c, findings := Parse([]byte(clean))
	if len(findings) != 0 || c == nil {
		t.Fatalf("credential %v, findings %v", c, findings)
	}
}

func TestEachRuleIsFoundAtItsPlace(t *testing.T) {
	for _, c := range ruleCases {
		t.Run(c.name, func(t *testing.T) {
			findings := c.findings(t)
			if diff := cmp.Diff(c.want, summary(findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s\n%v", diff, findings)
			}
			for _, f := range findings {
				if f.Message == "" || f.Source == "" || f.Line == 0 || f.Column == 0 {
					t.Errorf("finding lacks message, source or place: %+v", f)
				}
			}
		})
	}
}

func TestEveryRuleHasACaseAndEveryFindingARule(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range ruleCases {
		for _, f := range c.findings(t) {
			seen[f.Rule] = true
		}
	}
	ids := map[string]bool{}
	for _, r := range Rules() {
		if ids[r.ID] {
			t.Errorf("two rules are called %s", r.ID)
		}
		ids[r.ID] = true
		if !seen[r.ID] {
			t.Errorf("no case exercises rule %s", r.ID)
		}
		if r.Title == "" || r.Source == "" || r.Severity != Error && r.Severity != Warning {
			t.Errorf("rule %s is incomplete: %+v", r.ID, r)
		}
	}
	for id := range seen {
		if !ids[id] {
			t.Errorf("finding of rule %s, which Rules does not list", id)
		}
	}
}

func TestDocumentWithAnErrorYieldsNoCredential(t *testing.T) {
	for _, c := range ruleCases {
		d := Read(c.document(t))
		if broken := len(d.Findings.Errors()) > 0; broken != (d.Credential == nil) {
			t.Errorf("%s: errors %v, credential %v", c.name, broken, d.Credential)
		}
		if (d.Findings.Err() == nil) != (d.Credential != nil) {
			t.Errorf("%s: Err is %v, credential %v", c.name, d.Findings.Err(), d.Credential)
		}
	}
}

var update = flag.Bool("update", false, "write docs/credential-rules.md")

func TestRulesPageListsTheRules(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Rules of credential documents\n\n" +
		"What `assay credential check` looks for. An error means that a device refuses the document or that\n" +
		"its enrolment cannot succeed; a warning, that a device or server will do something else than one may\n" +
		"think. Ids are stable. This page is generated: `go test ./credential -run RulesPage -update`.\n")
	for _, severity := range []Severity{Error, Warning} {
		fmt.Fprintf(&b, "\n## %ss\n\n| rule | what it demands | source |\n|---|---|---|\n", strings.ToUpper(string(severity[:1]))+string(severity[1:]))
		for _, r := range Rules() {
			if r.Severity == severity {
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.ID, r.Title, r.Source)
			}
		}
	}
	const page = "../docs/credential-rules.md"
	if *update {
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("docs/credential-rules.md differs from the rules (-want +got):\n%s", diff)
	}
}
