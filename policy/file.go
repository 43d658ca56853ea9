package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/internal/lifetime"

	"go.yaml.in/yaml/v4"
)

// FileVersion is the version of the form of policies.
const FileVersion = 1

// Limits on a policy.
const (
	MaxSize       = 256 << 10 // bytes
	maxLabels     = 64
	maxMessage    = 300 // bytes
	maxPoints     = 1_000_000
	maxCases      = 500
	maxApproval   = 90 * day
	maxDuration   = 10 * 365 * day
	day           = 24 * time.Hour
	requirePrefix = "require:"
)

type duration = time.Duration

// Unattested says who may go without attestation.
type Unattested string

// Who may go without attestation. An order that names a serial number or UDID never may.
const (
	UnattestedByCode Unattested = "code"  // as the code was minted: the default
	UnattestedAllow  Unattested = "allow" // every order with a code
	UnattestedNever  Unattested = "never" // not even where the code says so
)

// form is the file as it is written.
type form struct {
	Version     int           `yaml:"version"`
	Description string        `yaml:"description"`
	Unattested  Unattested    `yaml:"unattested"`
	Labels      []string      `yaml:"labels"`
	Require     []requirement `yaml:"require"`
	Signals     []signal      `yaml:"signals"`
	Outcomes    []outcome     `yaml:"outcomes"`
	Tests       []Case        `yaml:"tests"`
}

// requirement is a condition without which nothing is issued.
type requirement struct {
	Name    string  `yaml:"name"`
	When    located `yaml:"when"` // the requirement applies where this holds; empty: everywhere
	That    located `yaml:"that"`
	Message string  `yaml:"message"`
	Advice  string  `yaml:"advice"`

	when, that *expression
}

// signal is a condition that gives points.
type signal struct {
	Name    string  `yaml:"name"`
	That    located `yaml:"that"`
	Points  int     `yaml:"points"`
	Unknown int     `yaml:"unknown"` // points where it cannot be told
	Message string  `yaml:"message"`

	that *expression
}

// outcome is what is done with a score.
type outcome struct {
	Outcome  Outcome `yaml:"outcome"`
	Score    *int    `yaml:"score"` // at least; nil: whatever the score
	When     located `yaml:"when"`
	Profile  string  `yaml:"profile"`
	Lifetime string  `yaml:"lifetime"`
	Approval string  `yaml:"approval"`
	Message  string  `yaml:"message"`
	Advice   string  `yaml:"advice"`

	when               *expression
	lifetime, approval time.Duration
}

// says is the outcome's own message, or another.
func (o *outcome) says(otherwise string) string { return cmp.Or(o.Message, otherwise) }

// located is a text with the line where it stands.
type located struct {
	text string
	line int
}

// UnmarshalYAML keeps the line.
func (l *located) UnmarshalYAML(n *yaml.Node) error {
	l.line = n.Line
	return n.Load(&l.text)
}

// Fault is something wrong with a policy.
type Fault struct {
	Line    int    `json:"line,omitempty"` // 0: it concerns no line
	Place   string `json:"place,omitempty"`
	Message string `json:"message"`
}

func (f Fault) String() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.Line)
	}
	if f.Place != "" {
		b.WriteString(f.Place + ": ")
	}
	return b.String() + f.Message
}

// ParseError is a policy that cannot be used, with everything that is wrong with it.
type ParseError struct {
	Name   string
	Faults []Fault
}

func (e *ParseError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return "policy " + e.Name + ": " + strings.Join(lines, "; ")
}

var (
	ruleName  = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	labelName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)
	// What a policy says reaches logs and problem documents.
	plainText = regexp.MustCompile(`^[^\x00-\x1f\x7f]*$`)
)

// Parse reads and checks a policy. Its errors are *ParseError. The cases among its tests are not run:
// see Policy.Test.
func Parse(name string, text []byte) (*Policy, error) {
	p, faults := parse(name, text)
	if len(faults) > 0 {
		return nil, &ParseError{Name: name, Faults: faults}
	}
	return p, nil
}

func parse(name string, text []byte) (*Policy, []Fault) {
	if len(text) > MaxSize {
		return nil, []Fault{{Message: fmt.Sprintf("is larger than %d KiB", MaxSize>>10)}}
	}
	f, faults := readForm(text)
	if len(faults) > 0 {
		return nil, faults
	}
	sum := sha256.Sum256(text)
	b := builder{form: f, names: map[string]bool{}, policy: &Policy{
		version: Version{Name: name, SHA256: hex.EncodeToString(sum[:])}, description: strings.TrimSpace(f.Description),
		text: bytes.Clone(text), unattested: cmp.Or(f.Unattested, UnattestedByCode), labels: f.Labels,
	}}
	b.build()
	return b.policy, b.faults
}

// readForm decodes the file strictly.
func readForm(text []byte) (*form, []Fault) {
	var probe struct {
		Version int `yaml:"version"`
	}
	if err := yaml.Load(text, &probe); err != nil {
		return nil, yamlFaults(err)
	}
	if probe.Version != FileVersion {
		return nil, []Fault{{Message: fmt.Sprintf("version is %d: this program reads version %d", probe.Version, FileVersion)}}
	}
	var f form
	if err := yaml.Load(text, &f, yaml.WithKnownFields()); err != nil {
		return nil, yamlFaults(err)
	}
	return &f, nil
}

var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	goType       = regexp.MustCompile(` into \S*policy\.\S*`)
)

// yamlFaults says what is wrong with the YAML in the words of whoever wrote it.
func yamlFaults(err error) []Fault {
	var faults []Fault
	add := func(one *yaml.LoadError) {
		message := goType.ReplaceAllString(unknownField.ReplaceAllString(one.Message, `unknown key "$1"`), "")
		faults = append(faults, Fault{Line: one.Mark.Line, Message: message})
	}
	if several, ok := errors.AsType[*yaml.LoadErrors](err); ok {
		for _, one := range several.Errors {
			add(one)
		}
	} else if one, ok := errors.AsType[*yaml.LoadError](err); ok {
		add(one)
	} else {
		faults = append(faults, Fault{Message: err.Error()})
	}
	return faults
}

// builder makes a policy out of a form, and gathers what is wrong with it.
type builder struct {
	form     *form
	policy   *Policy
	language *language
	names    map[string]bool // of requirements and signals
	count    int             // expressions
	faults   []Fault
}

func (b *builder) fault(line int, place, format string, args ...any) {
	b.faults = append(b.faults, Fault{Line: line, Place: place, Message: fmt.Sprintf(format, args...)})
}

func (b *builder) build() {
	p, f := b.policy, b.form
	if !slices.Contains([]Unattested{UnattestedByCode, UnattestedAllow, UnattestedNever}, p.unattested) {
		b.fault(0, "unattested", "%.40q is none of code, allow, never", f.Unattested)
	}
	b.text(0, "description", p.description, 2<<10)
	if !b.checkLabels() {
		return // without them no expression can be checked
	}
	var err error
	if b.language, err = newLanguage(p.labels); err != nil {
		b.fault(0, "", "%v", err)
		return
	}
	for i := range f.Require {
		b.requirement(&f.Require[i])
	}
	for i := range f.Signals {
		b.signal(&f.Signals[i])
	}
	if len(f.Outcomes) == 0 {
		b.fault(0, "outcomes", "at least one is needed")
	}
	for i := range f.Outcomes {
		b.outcome(i, &f.Outcomes[i])
	}
	if b.count > maxExpressions {
		b.fault(0, "", "%d expressions, but the limit is %d", b.count, maxExpressions)
	}
	p.require, p.signals, p.outcomes = f.Require, f.Signals, f.Outcomes
	p.collectUses()
	if len(f.Tests) > maxCases {
		b.fault(0, "tests", "%d cases, but the limit is %d", len(f.Tests), maxCases)
	}
	p.cases = f.Tests
	for i := range f.Tests {
		b.testCase(&f.Tests[i])
	}
}

func (b *builder) checkLabels() bool {
	before := len(b.faults)
	if len(b.policy.labels) > maxLabels {
		b.fault(0, "labels", "%d labels, but the limit is %d", len(b.policy.labels), maxLabels)
	}
	seen := map[string]bool{}
	for _, label := range b.policy.labels {
		if !labelName.MatchString(label) || seen[label] {
			b.fault(0, "labels", "%.80q is named twice, or no name that an expression can write", label)
		}
		seen[label] = true
	}
	return len(b.faults) == before
}

// text checks what the policy says to people.
func (b *builder) text(line int, place, text string, most int) {
	if len(text) > most {
		b.fault(line, place, "is longer than %d bytes", most)
	}
	if place != "description" && !plainText.MatchString(text) {
		b.fault(line, place, "holds control characters or line ends")
	}
}

// name checks the name of a requirement or signal.
func (b *builder) name(line int, kind, name string) string {
	place := kind + " " + name
	switch {
	case name == "":
		b.fault(line, kind, "has no name")
	case !ruleName.MatchString(name) || len(name) > 63:
		b.fault(line, kind, "%.80q is no name: use lower-case letters, digits and hyphens", name)
	case b.names[name]:
		b.fault(line, place, "the name is used twice")
	}
	b.names[name] = true
	return place
}

// expression compiles a condition; nil for an empty or faulty one.
func (b *builder) expression(place, key string, l located, needed bool) *expression {
	if l.text == "" && !needed {
		return nil
	}
	b.count++
	x, err := b.language.compile(place, l.text)
	if err != nil {
		b.fault(l.line, place, "%s: %v", key, err)
	}
	return x
}

func (b *builder) requirement(q *requirement) {
	place := b.name(q.That.line, "requirement", q.Name)
	q.when, q.that = b.expression(place, "when", q.When, false), b.expression(place, "that", q.That, true)
	if q.Message == "" {
		b.fault(q.That.line, place, "has no message: it is what people read where it does not hold")
	}
	b.text(q.That.line, place, q.Message, maxMessage)
	b.text(q.That.line, place, q.Advice, maxMessage)
}

func (b *builder) signal(s *signal) {
	place := b.name(s.That.line, "signal", s.Name)
	s.that = b.expression(place, "that", s.That, true)
	for _, points := range []int{s.Points, s.Unknown} {
		if points < -maxPoints || points > maxPoints {
			b.fault(s.That.line, place, "%d points are not within ±%d", points, maxPoints)
		}
	}
	b.text(s.That.line, place, s.Message, maxMessage)
}

func (b *builder) outcome(i int, o *outcome) {
	place := fmt.Sprintf("outcome %d", i+1)
	if !slices.Contains([]Outcome{Issue, Hold, Refuse}, o.Outcome) {
		b.fault(o.When.line, place, "%.40q is none of issue, hold, refuse", o.Outcome)
	}
	o.when = b.expression(place, "when", o.When, false)
	b.text(o.When.line, place, o.Message, maxMessage)
	b.text(o.When.line, place, o.Advice, maxMessage)
	o.lifetime = b.lifetime(place, "lifetime", o.Lifetime, maxDuration)
	o.approval = b.lifetime(place, "approval", o.Approval, maxApproval)
	if o.Outcome == Refuse && (o.Profile != "" || o.Lifetime != "") {
		b.fault(o.When.line, place, "refuses, so there is no profile and no lifetime")
	}
	if o.Outcome != Hold && o.Approval != "" {
		b.fault(o.When.line, place, "approval belongs to hold")
	}
}

func (b *builder) lifetime(place, key, text string, most time.Duration) time.Duration {
	if text == "" {
		return 0
	}
	d, err := lifetime.Parse(text)
	if err == nil && (d < time.Minute || d > most) {
		err = fmt.Errorf("%q is not between 1m and %s", text, lifetime.Text(most))
	}
	if err != nil {
		b.fault(0, place, "%s: %v", key, err)
	}
	return d
}

// expressions are all conditions of the policy.
func (p *Policy) expressions() []*expression {
	var all []*expression
	add := func(xs ...*expression) {
		for _, x := range xs {
			if x != nil {
				all = append(all, x)
			}
		}
	}
	for i := range p.require {
		add(p.require[i].when, p.require[i].that)
	}
	for i := range p.signals {
		add(p.signals[i].that)
	}
	for i := range p.outcomes {
		add(p.outcomes[i].when)
	}
	return all
}

// collectUses notes which attributes the policy reads.
func (p *Policy) collectUses() {
	for _, x := range p.expressions() {
		p.uses = append(append(p.uses, x.uses...), x.known...)
	}
	slices.SortFunc(p.uses, byName)
	p.uses = slices.Compact(p.uses)
}

// UsesOpinion reports whether the policy reads what a service outside says.
func (p *Policy) UsesOpinion() bool {
	return slices.ContainsFunc(p.uses, func(a *attribute) bool { return a.isOpinion() })
}

// Profiles are the certificate profiles that the outcomes name, each once.
func (p *Policy) Profiles() []string {
	var names []string
	for i := range p.outcomes {
		if p.outcomes[i].Profile != "" {
			names = append(names, p.outcomes[i].Profile)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
