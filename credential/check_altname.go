package credential

import (
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

var altNameKeys = []key{
	{"dNSName", kindString, false},
	{"rfc822Name", kindString, false},
	{"uniformResourceIdentifier", kindString, false},
	{"ntPrincipalName", kindString, false},
}

// checkAltName judges the alternative names. None of its own rules is an error: devices take the
// strings as they are, and Apple's published example has an rfc822Name that is no address.
func (d *Document) checkAltName() {
	n, ok := d.root.typed("SubjectAltName", kindObject)
	if !ok {
		return
	}
	d.draft.SubjectAltName = &SubjectAltName{}
	d.checkKeys(n, altNameKeys, "SubjectAltName")
	names := 0
	for _, k := range altNameKeys {
		v, ok := n.typed(k.name, kindString)
		if n.member(k.name) != nil {
			names++
		}
		if ok {
			d.readAltName(k.name, v)
		}
	}
	if names == 0 {
		d.at(n, altNameEmpty, "leave the key out, or add dNSName, rfc822Name, uniformResourceIdentifier or ntPrincipalName",
			"SubjectAltName holds no name: the device asks for an empty extension, which strict servers refuse")
	}
}

// readAltName reads one alternative name into the draft and judges it.
func (d *Document) readAltName(name string, n *node) {
	if n.text == "" {
		d.at(n, altNameEmptyValue, "leave the key out", "%s is empty: a certificate cannot carry an empty name, and strict servers refuse the request", name)
		return
	}
	san := d.draft.SubjectAltName
	if name == "ntPrincipalName" {
		san.NTPrincipalName = n.text
		if local, domain, ok := strings.Cut(n.text, "@"); !ok || local == "" || domain == "" || strings.Contains(domain, "@") {
			d.at(n, altNameUPN, "write name@domain", "ntPrincipalName %s does not have the form name@domain: a Windows server will map it to no account", quote(n.text))
		}
		return
	}
	ascii := strings.IndexFunc(n.text, func(c rune) bool { return c >= 0x80 }) < 0
	if !ascii {
		d.at(n, altNameASCII, "write a domain in its xn-- form; percent-encode a URI",
			"%s has characters outside ASCII, which its type in a certificate (IA5String) cannot carry", name)
	}
	switch name {
	case "dNSName":
		san.DNSName = n.text
		if ascii {
			d.checkDNSName(n)
		}
	case "rfc822Name":
		san.RFC822Name = n.text
		if ascii && !isAddress(n.text) {
			d.at(n, altNameEmail, "write local@domain", "rfc822Name %s is not an email address: the device asks for it all the same, servers drop or refuse it", quote(n.text))
		}
	case "uniformResourceIdentifier":
		san.UniformResourceIdentifier = n.text
		if u, err := url.Parse(n.text); err != nil || u.Scheme == "" || u.Opaque == "" && u.Host == "" && u.Path == "" || strings.ContainsAny(n.text, " <>\"") {
			d.at(n, altNameURI, "write an absolute URI such as https://www.example.com/ or urn:uuid:…",
				"uniformResourceIdentifier %s is not an absolute URI: servers drop or refuse it", quote(n.text))
		}
	}
}

// isAddress reports whether a text is a bare address, without a display name or brackets.
func isAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Name == "" && a.Address == s
}

var dnsShape = regexp.MustCompile(`^(?:\*\.)?(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// checkDNSName judges a host name.
func (d *Document) checkDNSName(n *node) {
	if _, err := netip.ParseAddr(n.text); err == nil {
		d.at(n, altNameDNS, "write a host name", "dNSName %s is an IP address: no program matches it as a DNS name, and the document has no place for addresses", quote(n.text))
		return
	}
	if len(n.text) > 253 || !dnsShape.MatchString(n.text) {
		d.at(n, altNameDNS, "write a host name such as site.example.com", "dNSName %s is not a host name: servers drop or refuse it", quote(n.text))
	}
}
