package delivery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/credential"
	"assay/internal/lifetime"

	"go.yaml.in/yaml/v4"
)

// Fault is one thing that is wrong with a template file.
type Fault struct {
	Line    int    // from 1; 0 if it concerns no place
	Key     string // such as document.KeySize or targets[0]
	Message string
	Fix     string
}

func (f Fault) String() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.Line)
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Message)
	if f.Fix != "" {
		b.WriteString("; " + f.Fix)
	}
	return b.String()
}

// TemplateError is a template file that cannot be used, with everything that is wrong with it.
type TemplateError struct {
	Template string
	Faults   []Fault
}

func (e *TemplateError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = "credential template " + e.Template + ": " + f.String()
	}
	return strings.Join(lines, "\n")
}

// ParseTemplate reads a template file (YAML). Its document is checked with the rules of package
// credential, for each of its targets too, by rendering it for a sample device; what depends on a
// device's values is left to Render. Its error is a *TemplateError.
func ParseTemplate(name string, data []byte) (*Template, error) {
	r := &templateReader{template: &Template{
		Name: name, BindSerial: true, BindUDID: true, Accessible: AccessibleDefault,
		Expires: MaxExpires, ExpiresAfterFetch: time.Hour, RenewBefore: 30 * day,
	}}
	r.file(data)
	if len(r.faults) > 0 {
		slices.SortStableFunc(r.faults, func(a, b Fault) int { return a.Line - b.Line })
		return nil, &TemplateError{Template: name, Faults: r.faults}
	}
	return r.template, nil
}

// templateReader reads one file.
type templateReader struct {
	template *Template
	faults   []Fault
	targets  []*yaml.Node // of template.Targets
}

// maxFaults bounds what a hostile file makes the reader write.
const maxFaults = 200

func (r *templateReader) fault(n *yaml.Node, key, fix, format string, args ...any) {
	if len(r.faults) >= maxFaults {
		return
	}
	f := Fault{Key: key, Fix: fix, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		f.Line = n.Line
	}
	r.faults = append(r.faults, f)
}

func (r *templateReader) file(data []byte) {
	if !templateName.MatchString(r.template.Name) {
		r.fault(nil, "", "", "the name %s is not 1 to 63 lower-case letters, digits and hyphens", quote(r.template.Name))
		return
	}
	if len(data) > MaxTemplateSize {
		r.fault(nil, "", "", "the file has more than %d bytes and was not read", MaxTemplateSize)
		return
	}
	var root yaml.Node
	if err := yaml.Load(data, &root); err != nil {
		r.faults = append(r.faults, notYAML(data, err))
		return
	}
	n := &root
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	if is(n, "!!null") && n.Value == "" {
		r.fault(nil, "", "", "the file is empty")
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, "", "", "a template is a mapping of keys to values")
		return
	}
	if !r.plain(n) {
		return
	}
	r.keys(n)
}

// plain refuses what makes one text mean another: anchors, aliases and tags.
func (r *templateReader) plain(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		r.fault(n, "", "write the value out", "anchors, aliases and tags are not read in templates")
		return false
	}
	for _, one := range n.Content {
		if !r.plain(one) {
			return false
		}
	}
	return true
}

// keySetter reads the value of one of the file's keys.
type keySetter struct {
	key string
	set func(*templateReader, *yaml.Node)
}

// setters are all keys, in the order in which they are listed.
var setters = []keySetter{
	{"version", (*templateReader).version},
	{"directory", (*templateReader).directory},
	{"targets", (*templateReader).readTargets},
	{"document", nil}, // read last: it is judged for the targets
	{"bind", (*templateReader).bind},
	{"allowUnattested", func(r *templateReader, n *yaml.Node) { r.boolean(n, "allowUnattested", &r.template.AllowUnattested) }},
	{"authentication", (*templateReader).authentication},
	{"accessible", (*templateReader).accessible},
	{"allowAllAppsAccess", func(r *templateReader, n *yaml.Node) {
		r.pointer(n, "allowAllAppsAccess", &r.template.AllowAllAppsAccess)
	}},
	{"keyIsExtractable", func(r *templateReader, n *yaml.Node) {
		r.pointer(n, "keyIsExtractable", &r.template.KeyIsExtractable)
	}},
	{"expires", func(r *templateReader, n *yaml.Node) {
		r.duration(n, "expires", time.Minute, MaxExpires, &r.template.Expires)
	}},
	{"expiresAfterFetch", func(r *templateReader, n *yaml.Node) {
		r.duration(n, "expiresAfterFetch", time.Minute, MaxExpires, &r.template.ExpiresAfterFetch)
	}},
	{"renewBefore", func(r *templateReader, n *yaml.Node) {
		r.duration(n, "renewBefore", 0, maxRenewBefore, &r.template.RenewBefore)
	}},
	{"revokeSuperseded", func(r *templateReader, n *yaml.Node) { r.boolean(n, "revokeSuperseded", &r.template.RevokeSuperseded) }},
}

const maxRenewBefore = 3650 * day

// keys reads the file's keys.
func (r *templateReader) keys(root *yaml.Node) {
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		at := slices.IndexFunc(setters, func(s keySetter) bool { return s.key == key.Value })
		switch {
		case at < 0 || key.Kind != yaml.ScalarNode:
			r.fault(key, shorten(key.Value), meant(key.Value), "this is no key of a template")
		case values[key.Value] != nil:
			r.fault(key, key.Value, "keep one of them", "the key appears twice")
		default:
			values[key.Value] = value
			if set := setters[at].set; set != nil {
				set(r, value)
			}
		}
	}
	if values["version"] == nil {
		r.fault(root, "version", fmt.Sprintf("write version: %d", TemplateVersion), "the key is missing")
	}
	if values["document"] == nil {
		r.fault(root, "document", "say what the device's document holds", "the key is missing")
		return
	}
	r.document(values["document"])
	r.macOnly(values)
	r.outlook(values)
}

// meant says which key was perhaps meant by one that is none; "" for no idea.
func meant(key string) string {
	fold := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	for _, s := range setters {
		if oneSlip(fold(key), fold(s.key)) {
			return "write " + s.key
		}
	}
	return ""
}

// oneSlip reports whether two words differ at one place, in at most two letters and by less than a third.
func oneSlip(a, b string) bool {
	longer, shorter := max(len(a), len(b)), min(len(a), len(b))
	same := 0
	for same < shorter && a[same] == b[same] {
		same++
	}
	for end := 1; same < shorter && end <= shorter && a[len(a)-end] == b[len(b)-end]; end++ {
		same++
	}
	return longer-same <= 2 && 3*(longer-same) < longer
}

func (r *templateReader) version(n *yaml.Node) {
	if version, err := strconv.Atoi(n.Value); !is(n, "!!int") || err != nil || version != TemplateVersion {
		r.fault(n, "version", "", "this program reads version %d", TemplateVersion)
	}
}

func (r *templateReader) directory(n *yaml.Node) {
	if !is(n, "!!str") || !templateName.MatchString(n.Value) {
		r.fault(n, "directory", "", "this is not the name of a directory: lower-case letters, digits and hyphens")
		return
	}
	r.template.Directory = n.Value
}

// maxTargets is the most targets of a template.
const maxTargets = 100

func (r *templateReader) readTargets(n *yaml.Node) {
	items, ok := r.list(n, "targets")
	if !ok {
		return
	}
	if len(items) > maxTargets {
		r.fault(n, "targets", "", "there are more than %d", maxTargets)
		return
	}
	for i, item := range items {
		key := fmt.Sprintf("targets[%d]", i)
		if !is(item, "!!str") {
			r.fault(item, key, `write PLATFORM[:VERSION][,chip=NAME] in quotes, such as "ios:17.4,chip=A12"`, "this is no text")
			continue
		}
		target, err := credential.ParseTarget(item.Value)
		if err != nil {
			r.fault(item, key, "", "%v", err)
			continue
		}
		r.template.Targets = append(r.template.Targets, target)
		r.targets = append(r.targets, item)
	}
}

func (r *templateReader) bind(n *yaml.Node) {
	items, ok := r.list(n, "bind")
	if !ok {
		return
	}
	r.template.BindSerial, r.template.BindUDID = false, false
	for i, item := range items {
		key := fmt.Sprintf("bind[%d]", i)
		var field *bool
		switch {
		case is(item, "!!str") && item.Value == "serial":
			field = &r.template.BindSerial
		case is(item, "!!str") && item.Value == "udid":
			field = &r.template.BindUDID
		default:
			r.fault(item, key, "", "a code is bound to serial and udid, not to %s", quote(item.Value))
			continue
		}
		if *field {
			r.fault(item, key, "remove it", "%s appears twice", item.Value)
		}
		*field = true
	}
}

func (r *templateReader) authentication(n *yaml.Node) {
	if !is(n, "!!str") || n.Value != "None" && n.Value != "MDM" {
		r.fault(n, "authentication", "write None or MDM", "a device authenticates for the document with None or MDM")
		return
	}
	r.template.MDM = n.Value == "MDM"
}

func (r *templateReader) accessible(n *yaml.Node) {
	one := Accessible(n.Value)
	if !is(n, "!!str") || one != AccessibleDefault && one != AccessibleAfterFirstUnlock {
		r.fault(n, "accessible", "", "a key is accessible as %s or %s says", AccessibleDefault, AccessibleAfterFirstUnlock)
		return
	}
	r.template.Accessible = one
}

func (r *templateReader) boolean(n *yaml.Node, key string, to *bool) bool {
	if !is(n, "!!bool") || n.Load(to) != nil {
		r.fault(n, key, "write true or false", "this is not true or false")
		return false
	}
	return true
}

func (r *templateReader) pointer(n *yaml.Node, key string, to **bool) {
	var value bool
	if r.boolean(n, key, &value) {
		*to = &value
	}
}

// duration reads 90m, 24h or 30d.
func (r *templateReader) duration(n *yaml.Node, key string, least, most time.Duration, to *time.Duration) {
	const form = "write a duration such as 90m, 24h or 30d"
	if !is(n, "!!str") && !(is(n, "!!int") && n.Value == "0") {
		r.fault(n, key, form, "this is no duration")
		return
	}
	d, err := lifetime.Parse(n.Value)
	if err != nil {
		r.fault(n, key, form, "%s is no duration", quote(n.Value))
		return
	}
	if d < least || d > most {
		r.fault(n, key, "", "%s is not between %s and %s", quote(n.Value), lifetime.Text(least), lifetime.Text(most))
		return
	}
	*to = d
}

// list returns the items of a list.
func (r *templateReader) list(n *yaml.Node, key string) ([]*yaml.Node, bool) {
	if n.Kind != yaml.SequenceNode {
		r.fault(n, key, "write a list: [ … ]", "this is no list")
		return nil, false
	}
	return n.Content, true
}

// is reports whether a node is a scalar of a YAML type.
func is(n *yaml.Node, tag string) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == tag }

// macOnly judges the two keys that only macOS has.
func (r *templateReader) macOnly(values map[string]*yaml.Node) {
	others := slices.IndexFunc(r.template.Targets, func(t credential.Target) bool { return t.Platform != credential.MacOS })
	mac := slices.ContainsFunc(r.template.Targets, func(t credential.Target) bool { return t.Platform == credential.MacOS })
	for _, key := range []string{"allowAllAppsAccess", "keyIsExtractable"} {
		n := values[key]
		switch {
		case n == nil || others < 0:
		case !mac:
			r.fault(n, key, "remove it", "only macOS has it, and no target is a Mac")
		default:
			r.warn(n, key, "macos-only", "make a template of their own for Macs", "Apple schemas, com.apple.configuration.security.identity, com.apple.security.acme",
				"only macOS has %s: %s ignores it", key, r.template.Targets[others])
		}
	}
}

// outlook warns about templates whose enrolments the server's policy treats otherwise than one may
// think.
func (r *templateReader) outlook(values map[string]*yaml.Node) {
	const source = "policy of this server"
	t := r.template
	if !t.document.Attest && !t.AllowUnattested {
		r.warn(values["document"], "allowUnattested", "unattested-refused", "set allowUnattested to true, or Attest in the document", source,
			"the document asks for no attestation and allowUnattested is false: the server refuses every device")
	}
	if t.AllowUnattested && !t.MDM {
		r.warn(values["allowUnattested"], "allowUnattested", "unattested-anybody", "write authentication: MDM, or leave allowUnattested out", source,
			"a device without attestation proves nothing but that it knows the code: whoever learns the document's URL first gets the certificate")
	}
}

func (r *templateReader) warn(n *yaml.Node, path, rule, fix, source, format string, args ...any) {
	r.template.warnings = append(r.template.warnings, credential.Finding{Severity: credential.Warning, Path: path, Line: n.Line, Column: n.Column,
		Rule: rule, Message: fmt.Sprintf(format, args...), Fix: fix, Source: source})
}
