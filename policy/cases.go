package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"

	"cel.dev/cel-go/cel"
	"go.yaml.in/yaml/v4"
)

// Case is a unit test of a policy: what is given, and what it must decide. What a case does not give is
// an attested device with a live code, of which nothing more is known and to which nothing happened before.
type Case struct {
	Name     string               `yaml:"name"`
	Given    map[string]yaml.Node `yaml:"given"`    // attributes by name; null: not known
	Approved bool                 `yaml:"approved"` // whether a person approved the device
	Expect   Outcome              `yaml:"expect"`
	Score    *int                 `yaml:"score"`   // nil: any
	Failed   string               `yaml:"failed"`  // the first check that must fail; "": any
	Profile  string               `yaml:"profile"` // "": any

	given []givenValue
}

// givenValue is a value that a case gives an attribute; nil: not known.
type givenValue struct {
	attribute *attribute
	value     any
}

// CaseResult is what became of a case.
type CaseResult struct {
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Faults   []string `json:"faults,omitempty"` // what was expected, and what came
	Decision Decision `json:"decision"`
}

// caseTime is when all cases happen.
var caseTime = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// testCase checks a case and reads its values.
func (b *builder) testCase(c *Case) {
	place := "test " + c.Name
	if c.Name == "" {
		b.fault(0, "tests", "a case has no name")
	}
	if !slices.Contains([]Outcome{Issue, Hold, Refuse}, c.Expect) {
		b.fault(0, place, "expect: %.40q is none of issue, hold, refuse", c.Expect)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Given)) {
		node := c.Given[name]
		a := b.language.attributes[name]
		if a == nil {
			b.fault(node.Line, place, "there is no attribute %.80q (labels must be named under labels:)", name)
			continue
		}
		value, err := readValue(a.kind, &node)
		if err != nil {
			b.fault(node.Line, place, "%s: %v", name, err)
			continue
		}
		c.given = append(c.given, givenValue{a, value})
	}
}

// readValue reads a value of an attribute's type.
func readValue(kind *cel.Type, n *yaml.Node) (any, error) {
	if n.Tag == "!!null" {
		return nil, nil
	}
	switch {
	case kind == cel.BoolType:
		return readAs[bool](n)
	case kind == cel.IntType:
		return readAs[int](n)
	case kind == cel.StringType:
		return readAs[string](n)
	case kind == cel.TimestampType:
		return readAs[time.Time](n)
	case kind.IsExactType(stringsType):
		return readAs[[]string](n)
	case kind == versionType:
		return parseVersion(n.Value)
	}
	return nil, fmt.Errorf("a case cannot give a %s", kindName(kind))
}

func readAs[T any](n *yaml.Node) (any, error) {
	var v T
	if err := n.Load(&v); err != nil {
		return nil, fmt.Errorf("must be a %T", v)
	}
	return v, nil
}

// Test runs the policy's own cases.
func (p *Policy) Test(ctx context.Context) []CaseResult { return p.TestCases(ctx, p.cases) }

// casesTimeout bounds how long the cases of one file may take: a server runs them when it starts, and when the file
// changes.
const casesTimeout = 10 * time.Second

// TestCases runs cases that were read with this policy or by ParseCases. What takes too long fails.
func (p *Policy) TestCases(ctx context.Context, cases []Case) []CaseResult {
	return p.testCases(ctx, cases, casesTimeout)
}

func (p *Policy) testCases(ctx context.Context, cases []Case, timeout time.Duration) []CaseResult {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	results := make([]CaseResult, len(cases))
	for i := range cases {
		results[i] = p.testCase(ctx, &cases[i])
		if ctx.Err() != nil { // also where the refusal that this makes of it is what was expected
			results[i].Passed = false
			results[i].Faults = append(results[i].Faults, fmt.Sprintf("the cases took longer than %s, or were interrupted", timeout))
		}
	}
	return results
}

// ParseCases reads the cases of a file beside the policy: `tests:` and nothing else.
func (p *Policy) ParseCases(text []byte) ([]Case, error) {
	if len(text) > MaxSize {
		return nil, &ParseError{Name: p.version.Name + " (tests)", Faults: []Fault{{Message: fmt.Sprintf("is larger than %d KiB", MaxSize>>10)}}}
	}
	var f struct {
		Tests []Case `yaml:"tests"`
	}
	if err := yaml.Load(text, &f, yaml.WithKnownFields()); err != nil {
		return nil, &ParseError{Name: p.version.Name + " (tests)", Faults: yamlFaults(err)}
	}
	l, err := newLanguage(p.labels)
	if err != nil {
		return nil, err
	}
	b := builder{language: l, policy: p}
	for i := range f.Tests {
		b.testCase(&f.Tests[i])
	}
	if len(b.faults) > 0 {
		return nil, &ParseError{Name: p.version.Name + " (tests)", Faults: b.faults}
	}
	return f.Tests, nil
}

func (p *Policy) testCase(ctx context.Context, c *Case) CaseResult {
	in := c.input()
	values := &values{known: p.valuesOf(in).known}
	given := map[string]givenValue{}
	for _, g := range c.given {
		given[g.attribute.name] = g
	}
	for _, a := range p.uses {
		if g, ok := given[a.name]; ok {
			values.set(a, g.value)
		} else {
			values.set(a, a.of(in))
		}
	}
	d := p.decide(ctx, in, values)
	result := CaseResult{Name: c.Name, Decision: d}
	expect := func(what string, want, got any) {
		if want != got {
			result.Faults = append(result.Faults, fmt.Sprintf("%s is %v, not %v", what, got, want))
		}
	}
	expect("outcome", c.Expect, d.Outcome)
	if c.Score != nil {
		expect("score", *c.Score, d.Score)
	}
	failed := ""
	if r := d.Refused(); r != nil {
		failed = r.Check
	}
	if c.Failed != "" {
		expect("failed check", c.Failed, failed)
	}
	if c.Profile != "" {
		expect("profile", c.Profile, d.Profile)
	}
	if d.Outcome != c.Expect && failed != "" {
		result.Faults = append(result.Faults, "because "+failed+": "+d.Refused().Detail)
	}
	result.Passed = len(result.Faults) == 0
	return result
}

// input is what a case decides on, as far as the built-in checks read it.
func (c *Case) input() *Input {
	in := &Input{
		Now: caseTime, Formats: []string{attest.FormatApple}, Roots: []string{"case"}, Identifier: ByCode, Evidence: attest.Attested,
		Facts:   &attest.Facts{Format: attest.FormatApple, PublicKey: []byte("key"), Fresh: true, Root: attest.RootFact{SHA256: "case"}},
		Code:    &Code{ID: "code", Live: true, CreatedAt: caseTime},
		Request: &csr.Request{KeyType: csr.EC, KeySize: 384}, History: &History{},
	}
	if c.Approved {
		in.Approval = &Approval{Hold: "hold", By: "case", At: caseTime, ExpiresAt: caseTime.Add(day)}
	}
	for _, g := range c.given {
		stage(in, g.attribute.name, g.value)
	}
	if in.Identifier != ByCode { // as if the evidence proved what the order names
		in.Code = nil
		in.Facts = withIdentifier(in.Facts, in)
	}
	return in
}

// stage lets what a case gives reach the built-in checks.
func stage(in *Input, name string, value any) {
	if strings.HasPrefix(name, "device.") && in.Device == nil {
		in.Device = &Device{}
	}
	if strings.HasPrefix(name, opinionPrefix) && in.Opinion == nil {
		in.Opinion = &Opinion{Answered: true}
	}
	switch v := value.(type) {
	case bool:
		if name == "code.allowUnattested" && in.Code != nil {
			in.Code.AllowUnattested = v
		}
	case string:
		switch name {
		case "evidence.kind":
			if in.Evidence = attest.Kind(v); in.Evidence != attest.Attested {
				in.Facts = nil
			}
		case "order.kind":
			in.Identifier = IdentifierKind(v)
		case "order.claimed":
			in.Claimed = v
		case "device.state":
			in.Device.State = State(v)
		}
	}
}

// withIdentifier is facts that prove what the order names.
func withIdentifier(f *attest.Facts, in *Input) *attest.Facts {
	if f == nil {
		return nil
	}
	kind := deviceid.Serial
	if in.Identifier == ByUDID {
		kind = deviceid.UDID
	}
	in.Claimed = cmp.Or(in.Claimed, "CLAIMED")
	f.Identifiers = []deviceid.Identifier{{Kind: kind, Value: in.Claimed}}
	return f
}
