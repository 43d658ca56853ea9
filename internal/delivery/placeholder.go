package delivery

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"assay/internal/issuance"
)

// maxLabelName is the longest name of a label in a placeholder, in bytes.
const maxLabelName = 128

// placeholder stands in a template for a value of the device.
type placeholder struct {
	name     string // device.serial, device.udid or device.labels.NAME
	optional bool
}

const labelPrefix = "device.labels."

// of is the device's value, "" if it has none.
func (p placeholder) of(d issuance.Device) string {
	switch p.name {
	case "device.serial":
		return d.Serial
	case "device.udid":
		return d.UDID
	}
	return d.Labels[strings.TrimPrefix(p.name, labelPrefix)]
}

// missing says what a device lacks whose value is empty, and what to do about it.
func (p placeholder) missing() string {
	switch p.name {
	case "device.serial":
		return "the device's serial number is not known: give it, or write {device.serial?} in the template to leave the field out"
	case "device.udid":
		return "the device's UDID is not known: give it, or write {device.udid?} in the template to leave the field out"
	}
	return fmt.Sprintf("the device has no label %q: set it, or write {%s?} in the template to leave the field out",
		strings.TrimPrefix(p.name, labelPrefix), p.name)
}

// text is a string of a template, taken apart once: values are put between the literal parts and
// never looked at again, so no value can become a placeholder.
type text []part

// part is a literal, or a placeholder if that has a name.
type part struct {
	literal string
	placeholder
}

// parseText takes a template's string apart. "{{" and "}}" are literal braces.
func parseText(s string) (text, error) {
	var t text
	var literal strings.Builder
	for i := 0; i < len(s); {
		switch {
		case strings.HasPrefix(s[i:], "{{"), strings.HasPrefix(s[i:], "}}"):
			literal.WriteByte(s[i])
			i += 2
		case s[i] == '{':
			end := strings.IndexAny(s[i+1:], "{}")
			if end < 0 || s[i+1+end] != '}' {
				return nil, fmt.Errorf("%s has a { without its }: write {{ for a brace", quote(s))
			}
			p, err := parsePlaceholder(s[i+1 : i+1+end])
			if err != nil {
				return nil, err
			}
			if literal.Len() > 0 {
				t = append(t, part{literal: literal.String()})
				literal.Reset()
			}
			t = append(t, part{placeholder: p})
			i += end + 2
		case s[i] == '}':
			return nil, fmt.Errorf("%s has a } without its {: write }} for a brace", quote(s))
		default:
			literal.WriteByte(s[i])
			i++
		}
	}
	if literal.Len() > 0 {
		t = append(t, part{literal: literal.String()})
	}
	return t, nil
}

// parsePlaceholder reads what stands between braces.
func parsePlaceholder(s string) (placeholder, error) {
	name, optional := strings.CutSuffix(s, "?")
	p := placeholder{name: name, optional: optional}
	if name == "device.serial" || name == "device.udid" {
		return p, nil
	}
	label, ok := strings.CutPrefix(name, labelPrefix)
	if !ok {
		return p, fmt.Errorf("{%s} is no placeholder: there are {device.serial}, {device.udid} and {device.labels.NAME}, each with a ? before the } if it may be empty; write {{ for a brace", shorten(s))
	}
	if label == "" || len(label) > maxLabelName || label != strings.TrimSpace(label) || !utf8.ValidString(label) ||
		strings.ContainsFunc(label, func(c rune) bool { return c == '?' || unicode.IsControl(c) }) {
		return p, fmt.Errorf("{%s} names no label: a name has 1 to %d bytes, no ?, and no blank around it", shorten(s), maxLabelName)
	}
	return p, nil
}

// placeholders are the ones in the text.
func (t text) placeholders() []placeholder {
	var out []placeholder
	for _, p := range t {
		if p.name != "" {
			out = append(out, p.placeholder)
		}
	}
	return out
}

// escaped is the placeholder that stands in the text with its braces doubled, and so for nothing; ""
// for none.
func (t text) escaped() string {
	for _, p := range t {
		_, opened, _ := strings.Cut(p.literal, "{")
		for piece := range strings.SplitSeq(opened, "{") {
			name, _, closed := strings.Cut(piece, "}")
			if _, err := parsePlaceholder(name); closed && err == nil {
				return name
			}
		}
	}
	return ""
}

// fill is the text with a value for each placeholder.
func (t text) fill(value func(placeholder) string) string {
	var b strings.Builder
	for _, p := range t {
		if p.name == "" {
			b.WriteString(p.literal)
		} else {
			b.WriteString(value(p.placeholder))
		}
	}
	return b.String()
}

// expand is the text for a device. It is to be left out if an optional placeholder is empty. refusal
// says why the device cannot have it, "" if it can.
func (t text) expand(d issuance.Device) (value string, leftOut bool, refusal string) {
	for _, p := range t.placeholders() {
		switch v := p.of(d); {
		case v == "" && p.optional:
			leftOut = true
		case v == "":
			return "", false, p.missing()
		case !utf8.ValidString(v):
			return "", false, fmt.Sprintf("the value of {%s}, %s, is not UTF-8 text: a document cannot carry it", p.name, quote(v))
		}
	}
	if leftOut {
		return "", true, ""
	}
	return t.fill(func(p placeholder) string { return p.of(d) }), false, ""
}

// raw is the text as a template writes it.
func (t text) raw() string {
	var b strings.Builder
	for _, p := range t {
		switch {
		case p.name == "":
			b.WriteString(escapeBraces(p.literal))
		case p.optional:
			b.WriteString("{" + p.name + "?}")
		default:
			b.WriteString("{" + p.name + "}")
		}
	}
	return b.String()
}

// escapeBraces makes a literal of any text.
func escapeBraces(s string) string {
	return strings.NewReplacer("{", "{{", "}", "}}").Replace(s)
}

// quote makes outside text fit for a message: escaped and of bounded length.
func quote(s string) string { return fmt.Sprintf("%q", shorten(s)) }

// shorten bounds the length of outside text.
func shorten(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > limit-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
