package credential

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

const subjectExample = `[[["C", "US"]], [["O", "Example Inc."]], [["CN", "name"]]]`

// checkSubject judges the subject. Devices look only at the two outer arrays when they accept a
// document; the rest goes wrong when they build the request.
func (d *Document) checkSubject() {
	n, ok := d.root.typed("Subject", kindArray)
	if !ok {
		return
	}
	d.draft.Subject = Subject{}
	if len(n.items) == 0 {
		d.at(n, subjectEmpty, "name the certificate, for example "+`[[["CN", "name"]]]`,
			"Subject is empty: the device asks for a certificate without a subject, which many programs cannot show or select")
	}
	for _, rdn := range n.items {
		d.draft.Subject = append(d.draft.Subject, d.readRDN(rdn))
	}
}

// readRDN reads one RDN, an array of pairs.
func (d *Document) readRDN(n *node) []Attribute {
	if n.kind != kindArray {
		d.at(n, subjectShape, "write "+subjectExample, "an RDN of Subject is %s, not an array of pairs: a device refuses the document", n.kind)
		return nil
	}
	if len(n.items) == 0 {
		d.at(n, subjectRDNEmpty, "remove the empty array", "an RDN of Subject is empty: no X.500 name has one, so the device cannot build its request")
		return nil
	}
	if isPair(n) {
		d.at(n, subjectShape, fmt.Sprintf("write [[%s, %s]]", quote(n.items[0].text), quote(n.items[1].text)),
			"an RDN of Subject is a pair itself: a level of brackets is missing, and the device cannot build its request")
		return nil
	}
	var rdn []Attribute
	for i, pair := range n.items {
		if a, ok := d.readPair(pair); ok {
			rdn = append(rdn, a)
		}
		if i == 1 {
			d.at(n, subjectMultiPair, "give each pair its own array",
				"an RDN of Subject has %d pairs: devices ask for the first alone, and the rest never reaches the server", len(n.items))
		}
	}
	return rdn
}

// isPair reports whether an array is exactly two strings.
func isPair(n *node) bool {
	return len(n.items) == 2 && n.items[0].kind == kindString && n.items[1].kind == kindString
}

// readPair reads one attribute.
func (d *Document) readPair(n *node) (Attribute, bool) {
	if n.kind != kindArray {
		d.at(n, subjectShape, "write "+subjectExample, "an attribute of Subject is %s, not a pair of strings: the device cannot build its request", n.kind)
		return Attribute{}, false
	}
	if len(n.items) != 2 {
		d.at(n, subjectShape, `write two strings: ["CN", "name"]`, "an attribute of Subject has %d items instead of a type and a value: the device cannot build its request", len(n.items))
		return Attribute{}, false
	}
	if !isPair(n) {
		for _, item := range n.items {
			if item.kind == kindNull {
				d.at(item, nullValue, "write a string", "an item of a Subject pair is null, not a string: the device cannot build its request")
			} else if item.kind != kindString {
				d.at(item, wrongType, "write a string", "an item of a Subject pair is %s, not a string: the device cannot build its request", item.kind)
			}
		}
		return Attribute{}, false
	}
	a := Attribute{n.items[0].text, n.items[1].text}
	d.checkAttributeType(n.items[0])
	d.checkAttributeValue(n.items[1], a)
	return a, true
}

// otherTypes are attribute types that people write by name and devices know by OID alone.
var otherTypes = map[string]string{
	"E":            "1.2.840.113549.1.9.1",
	"EMAILADDRESS": "1.2.840.113549.1.9.1",
	"DC":           "0.9.2342.19200300.100.1.25",
	"UID":          "0.9.2342.19200300.100.1.1",
	"SERIALNUMBER": "2.5.4.5",
	"SN":           "2.5.4.4",
	"GN":           "2.5.4.42",
	"GIVENNAME":    "2.5.4.42",
	"T":            "2.5.4.12",
	"TITLE":        "2.5.4.12",
	"STREET":       "2.5.4.9",
}

// longNames are the short names written out.
var longNames = map[string]string{
	"S": "ST", "SP": "ST", "STATE": "ST", "STATEORPROVINCENAME": "ST",
	"COUNTRY": "C", "COUNTRYNAME": "C", "LOCALITY": "L", "LOCALITYNAME": "L",
	"ORGANIZATION": "O", "ORGANIZATIONNAME": "O", "ORGANIZATIONALUNIT": "OU",
	"ORGANIZATIONALUNITNAME": "OU", "COMMONNAME": "CN",
}

// checkAttributeType judges an attribute's type: a short name or an OID.
func (d *Document) checkAttributeType(n *node) {
	if _, ok := shortNames[n.text]; ok {
		return
	}
	if n.text != "" && n.text[0] >= '0' && n.text[0] <= '9' {
		d.checkOIDNode(n, "the attribute type")
		return
	}
	upper := strings.ToUpper(strings.TrimSpace(n.text))
	fix := "write C, L, ST, O, OU, CN or a dotted OID"
	if _, ok := shortNames[upper]; ok {
		fix = fmt.Sprintf("write %q", upper)
	} else if name, ok := longNames[upper]; ok {
		fix = fmt.Sprintf("write %q", name)
	} else if oid, ok := otherTypes[upper]; ok {
		fix = fmt.Sprintf("write %q", oid)
	}
	d.at(n, subjectAttribute, fix, "the attribute type %s is neither a short name that devices know nor a dotted OID: the device cannot build its request", quote(n.text))
}

// checkOIDNode reports a malformed OID and arcs that many programs cannot hold; it reports whether
// the OID is well formed.
func (d *Document) checkOIDNode(n *node, what string) bool {
	if err := checkOID(n.text); err != nil {
		d.at(n, oidSyntax, "write a dotted OID such as "+ClientAuth, "%s %s is no OID (%v): the device cannot build its request", what, quote(n.text), err)
		return false
	}
	if arc := largeArc(n.text); arc != "" {
		d.at(n, oidLargeArc, "use an OID with smaller arcs", "%s has the arc %s, more than 31 bits: many programs cannot read the certificate's OID", what, quote(arc))
	}
	return true
}

// upperBounds are the longest values in characters, by attribute OID (RFC 5280, appendix A.1).
var upperBounds = map[string]int{
	"2.5.4.3": 64, "2.5.4.5": 64, "2.5.4.7": 128, "2.5.4.8": 128, "2.5.4.10": 64, "2.5.4.11": 64,
	"2.5.4.12": 64, "1.2.840.113549.1.9.1": 255,
}

var countryShape = regexp.MustCompile(`^[A-Z]{2}$`)

// checkAttributeValue judges an attribute's text.
func (d *Document) checkAttributeValue(n *node, a Attribute) {
	d.checkText(n)
	if n.text == "" {
		d.at(n, subjectValueEmpty, "remove the attribute or give it a value", "the attribute %s is empty, which X.500 does not allow: servers refuse the request or drop the attribute", quote(a.Type()))
		return
	}
	if a.OID() == shortNames["C"] && !countryShape.MatchString(n.text) {
		d.at(n, countryCode, "write the ISO 3166 code, for example US", "the country %s is not two upper-case letters: servers refuse the request or drop the attribute", quote(n.text))
	}
	if bound, length := upperBounds[a.OID()], utf8.RuneCountInString(n.text); bound > 0 && length > bound {
		d.at(n, subjectValueLong, "shorten it", "the attribute %s has %d characters, more than the %d that X.509 allows: servers refuse the request", quote(a.Type()), length, bound)
	}
}
