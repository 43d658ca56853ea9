package credential

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// Document is what was read from some bytes: the findings, and the credential if none is an error.
type Document struct {
	// Credential is nil when a finding is an error: a document in doubt yields no value.
	Credential *Credential
	Findings   Findings

	draft Credential // the fields that could be read, the zero value for others
	data  []byte
	root  *node
}

// Parse reads a document. The credential is nil exactly when a finding is an error.
func Parse(data []byte) (*Credential, Findings) {
	d := Read(data)
	return d.Credential, d.Findings
}

// Read reads a document and keeps what Judge needs.
func Read(data []byte) *Document {
	d := &Document{data: data}
	r := &reader{data: data, report: d.report}
	if d.root = r.root(); d.root != nil {
		d.checkKeys(d.root, documentKeys, "")
		d.checkDirectoryURL()
		d.checkClientIdentifier()
		d.checkKeyPair()
		d.checkSubject()
		d.checkAltName()
		d.checkUsage()
	}
	d.Findings.sortByPlace()
	if d.full() {
		d.Findings = append(d.Findings, Finding{Severity: Error, Path: "$", Line: 1, Column: 1, Rule: tooManyFindings.ID, Source: tooManyFindings.Source,
			Message: fmt.Sprintf("the document breaks rules in more places than the %d listed", maxFindings), Fix: "mend these first"})
	}
	if len(d.Findings.Errors()) > 0 {
		return d
	}
	// U+2028 takes six bytes when written: what was accepted must fit when written again.
	if again, err := d.draft.encode(); err != nil || len(again) > MaxSize {
		d.report(documentTooLarge, 0, "$", fmt.Sprintf("the document has more than %d bytes when written canonically", MaxSize), "")
		return d
	}
	credential := d.draft
	d.Credential = &credential
	return d
}

// maxFindings bounds what a hostile document makes the reader write.
const maxFindings = 1000

// full reports that no more findings are taken; Read then adds an error that says so.
func (d *Document) full() bool { return len(d.Findings) >= maxFindings }

// report adds a finding at an offset of the document.
func (d *Document) report(r *Rule, offset int, path, message, fix string) {
	if d.full() {
		return
	}
	f := Finding{Severity: r.Severity, Path: path, Rule: r.ID, Message: message, Fix: fix, Source: r.Source}
	before := d.data[:min(offset, len(d.data))]
	f.Line = bytes.Count(before, []byte("\n")) + 1
	f.Column = len(before) - bytes.LastIndexByte(before, '\n')
	d.Findings = append(d.Findings, f)
}

// at reports a finding about a value.
func (d *Document) at(n *node, r *Rule, fix, format string, args ...any) {
	d.report(r, n.offset, n.path, fmt.Sprintf(format, args...), fix)
}

// key is a key of an object.
type key struct {
	name     string
	kind     kind
	required bool
}

var documentKeys = []key{
	{"DirectoryURL", kindString, true},
	{"ClientIdentifier", kindString, true},
	{"KeySize", kindNumber, true},
	{"KeyType", kindString, true},
	{"HardwareBound", kindBool, true},
	{"Subject", kindArray, true},
	{"SubjectAltName", kindObject, false},
	{"UsageFlags", kindNumber, false},
	{"ExtendedKeyUsage", kindArray, false},
	{"Attest", kindBool, false},
}

// typed returns the named value if it is there and has its type. checkKeys says what is wrong otherwise.
func (n *node) typed(name string, want kind) (*node, bool) {
	v := n.member(name)
	return v, v != nil && v.kind == want
}

// checkKeys reports missing, unknown, null and mistyped members of an object.
func (d *Document) checkKeys(object *node, keys []key, inside string) {
	for _, k := range keys {
		v := object.member(k.name)
		switch {
		case v == nil && k.required:
			fix := "add it"
			if m := near(object, k.name, keys); m != "" {
				fix = fmt.Sprintf("rename %s to %s", quote(m), k.name)
			}
			d.report(missingKey, object.offset, object.path+"."+k.name,
				k.name+" is required and missing: a device refuses the document", fix)
		case v != nil:
			d.checkType(v, k)
		}
	}
	for _, m := range object.members {
		if !known(m.name, keys) && !d.full() {
			d.unknownKey(m, keys, inside)
		}
	}
}

func known(name string, keys []key) bool {
	for _, k := range keys {
		if k.name == name {
			return true
		}
	}
	return false
}

// checkType reports a value that is null or of another type than its key's.
func (d *Document) checkType(v *node, k key) {
	if v.kind == k.kind {
		if k.kind == kindString {
			d.checkText(v)
		}
		return
	}
	consequence := "a device refuses the document"
	if !k.required {
		consequence = "devices do not convert types, so the document is refused or the key has no effect"
	}
	if v.kind == kindNull {
		fix := "give it a value"
		if !k.required {
			fix = "leave the key out"
		}
		d.at(v, nullValue, fix, "%s is null, not %s: %s", k.name, k.kind, consequence)
		return
	}
	d.at(v, wrongType, typeFix(v, k), "%s is %s, not %s: %s", k.name, v.kind, k.kind, consequence)
}

// typeFix says how to write the value that was probably meant.
func typeFix(v *node, k key) string {
	switch {
	case k.kind == kindNumber && v.kind == kindString:
		if _, err := strconv.Atoi(strings.TrimSpace(v.text)); err == nil {
			return "write the number without quotes: " + strings.TrimSpace(v.text)
		}
	case k.kind == kindBool && v.kind == kindString:
		if b, err := strconv.ParseBool(strings.ToLower(strings.TrimSpace(v.text))); err == nil {
			return fmt.Sprintf("write %t without quotes", b)
		}
	case k.kind == kindBool && v.kind == kindNumber && (v.text == "0" || v.text == "1"):
		return fmt.Sprintf("write %t", v.text == "1")
	case k.kind == kindString && v.kind == kindArray:
		return "write a single string: the document takes one value here, not a list"
	case k.name == "ExtendedKeyUsage" && v.kind == kindString:
		return "write an array of strings: [" + quote(v.text) + "]"
	case k.name == "Subject":
		return `write an array of RDNs, each an array of pairs: [[["C", "US"]], [["CN", "name"]]]`
	}
	return "write " + string(k.kind)
}

// integer reads a number as an integer of 31 bits, as the schema's <integer> keys hold them.
func (d *Document) integer(n *node, name string) (int, bool) {
	if value, err := strconv.Atoi(n.text); err == nil && n.text != "-0" {
		if value < 0 || value > math.MaxInt32 {
			d.at(n, integerRange, "", "%s is %s, which is no integer from 0 to 2147483647", name, quote(n.text))
			return 0, false
		}
		return value, true
	}
	value, err := strconv.ParseFloat(n.text, 64)
	if err != nil || value < 0 || value > math.MaxInt32 {
		d.at(n, integerRange, "", "%s is %s, which is no integer from 0 to 2147483647", name, quote(n.text))
		return 0, false
	}
	if value != math.Trunc(value) {
		d.at(n, wrongType, "write an integer", "%s is %s, which is not an integer: a device refuses the document or cuts the fraction off", name, quote(n.text))
		return 0, false
	}
	d.at(n, integerForm, fmt.Sprintf("write %d", int(value)),
		"%s is written as %s: decoders make it a floating-point number, which need not pass for the integer that the schema asks for", name, n.text)
	return int(value), true
}

// checkText reports what no text of the document should have: invisible characters, code points that
// are none (XML, and so a profile, cannot carry U+FFFE), stray spaces and template variables that nobody
// filled in.
func (d *Document) checkText(n *node) {
	if i := strings.IndexFunc(n.text, func(c rune) bool {
		return unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Noncharacter_Code_Point)
	}); i >= 0 {
		d.at(n, controlCharacter, "remove it", "the text %s has a control or invisible character: programs cut the text there, or refuse it, as this server does in names", quote(n.text))
	}
	if strings.TrimSpace(n.text) != n.text {
		d.at(n, surroundingSpace, "remove it", "the text %s begins or ends with white space, which the device keeps: it will not compare equal to the text without it", quote(n.text))
	}
	if v := variable(n.text); v != "" {
		d.at(n, placeholder, "publish the document through the server that fills it in, or write the value",
			"%s looks like a template variable that was not filled in: a device replaces nothing and uses the text as it stands", quote(v))
	}
}
