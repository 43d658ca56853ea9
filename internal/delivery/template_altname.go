package delivery

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"assay/credential"
	"assay/internal/issuance"
)

// altNameText is one alternative name of a template.
type altNameText struct {
	name string // Apple's key
	text
}

// altName is the field of an alternative name by Apple's key.
func altName(san *credential.SubjectAltName, name string) *string {
	switch name {
	case "dNSName":
		return &san.DNSName
	case "rfc822Name":
		return &san.RFC822Name
	case "uniformResourceIdentifier":
		return &san.UniformResourceIdentifier
	}
	return &san.NTPrincipalName
}

// uriDelimiters are the characters that end one part of a URI and begin another (RFC 3986, section
// 2.2), and two more: % makes any of them, and many readers take \ for /.
const uriDelimiters = `:/?#[]@!$&'()*+,;=%\`

// expand is text.expand for a name, of which readers trust parts: a host, a domain. A device's value
// is one part of it and must not make others.
func (n altNameText) expand(d issuance.Device) (value string, leftOut bool, refusal string) {
	if value, leftOut, refusal = n.text.expand(d); leftOut || refusal != "" {
		return value, leftOut, refusal
	}
	for _, p := range n.placeholders() {
		if wrong := n.breaksOut(p.of(d)); wrong != "" {
			return "", false, fmt.Sprintf("the value of {%s}, %s, %s: give the device another value", p.name, quote(p.of(d)), wrong)
		}
	}
	return value, false, ""
}

// breaksOut says what in a device's value would make another name of this one; "" for nothing. A text
// that is one placeholder alone has no parts to keep: its value is the name.
func (n altNameText) breaksOut(value string) string {
	alone := len(n.text) == 1
	switch n.name {
	case "dNSName":
		// A device that is *.example.com is every host of it.
		if strings.Contains(value, "*") {
			return "has a *, which would stand for hosts of other devices"
		}
		if slices.Contains(strings.Split(value, "."), "") {
			return "begins or ends with a dot, or has two in a row: its labels would not be its own"
		}
	case "uniformResourceIdentifier":
		if alone {
			return ""
		}
		if i := strings.IndexAny(value, uriDelimiters); i >= 0 {
			return fmt.Sprintf("has a %c, with which another part of the URI begins (let one placeholder alone hold the whole URI if it is one)", value[i])
		}
		if strings.ContainsFunc(value, unicode.IsSpace) {
			return "has a blank, which no URI has"
		}
		// As a path segment "..", as an end of a host ".example.net".
		if strings.HasPrefix(value, ".") || strings.HasSuffix(value, ".") {
			return "begins or ends with a dot, which would change the host or the path"
		}
	default: // addresses and principals
		if !alone && strings.Contains(value, "@") && slices.ContainsFunc(n.text, func(p part) bool { return strings.Contains(p.literal, "@") }) {
			return "has an @, and the template writes one (give the part before or after it only)"
		}
	}
	return ""
}
