package ca

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/csr"
)

const (
	oidCommonName = "2.5.4.3"
	oidEmail      = "1.2.840.113549.1.9.1"
	oidUPN        = "1.3.6.1.4.1.311.20.2.3"
)

// shortNames are the attribute types that Apple's documents may write in letters.
var shortNames = map[string]string{
	"C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8", "O": "2.5.4.10", "OU": "2.5.4.11", "CN": oidCommonName,
}

// attributeOID is the OID of an attribute type, in letters or dotted.
func attributeOID(name string) (string, error) {
	if id, known := shortNames[name]; known {
		return id, nil
	}
	if _, err := x509.ParseOID(name); err != nil {
		return "", fmt.Errorf("attribute type %q: %w", name, err)
	}
	return name, nil
}

// unreadableOID is why an object identifier is not granted.
const unreadableOID = "has a component beyond 31 bits, at which many relying parties refuse the whole certificate"

// isReadableOID reports whether every component of a dotted OID fits 31 bits, the first two of them
// joined as DER joins them.
func isReadableOID(dotted string) bool {
	for component := range strings.SplitSeq(dotted, ".") {
		if n, err := strconv.ParseUint(component, 10, 31); err != nil || n > math.MaxInt32-80 {
			return false
		}
	}
	return true
}

// bound is what RFC 5280, appendix A, lets an attribute's value be.
type bound struct {
	characters int        // at most; exactly for a country
	tag        cbasn1.Tag // the only string type that it may have; 0 for any
}

// bounds are those of the attributes that RFC 5280 knows.
var bounds = map[string]bound{
	oidCommonName:                {64, 0},
	"2.5.4.4":                    {32768, 0},                                  // surname
	"2.5.4.5":                    {64, cbasn1.PrintableString},                // serialNumber
	"2.5.4.6":                    {2, cbasn1.PrintableString},                 // country
	"2.5.4.7":                    {128, 0},                                    // locality
	"2.5.4.8":                    {128, 0},                                    // state or province
	"2.5.4.10":                   {64, 0},                                     // organization
	"2.5.4.11":                   {64, 0},                                     // organizational unit
	"2.5.4.12":                   {64, 0},                                     // title
	"2.5.4.46":                   {maxOtherAttribute, cbasn1.PrintableString}, // dnQualifier
	"2.5.4.65":                   {128, 0},                                    // pseudonym
	oidEmail:                     {255, 0},
	"0.9.2342.19200300.100.1.25": {63, cbasn1.IA5String}, // domainComponent
}

// maxOtherAttribute bounds, in characters, the attributes that RFC 5280 does not know.
const maxOtherAttribute = 256

// attributeProblem says why RFC 5280 does not allow an attribute in a certificate, "" if it does.
func attributeProblem(a csr.Attribute) string {
	limit, known := bounds[a.Type]
	if !known {
		limit.characters = maxOtherAttribute
	}
	if a.Value == "" {
		return "is empty"
	}
	if !isReadableOID(a.Type) {
		return unreadableOID
	}
	if characters := utf8.RuneCountInString(a.Value); characters > limit.characters {
		return fmt.Sprintf("has more than %d characters (RFC 5280, appendix A.1)", limit.characters)
	}
	if a.Type == shortNames["C"] && len(a.Value) != 2 {
		return "is no country code of two letters"
	}
	if limit.tag != 0 && stringTag(a) != limit.tag {
		return "has a string type that RFC 5280, appendix A.1, does not give it"
	}
	return ""
}

// stringTag is the string type of an attribute: the request's own, or the one it will be written as.
func stringTag(a csr.Attribute) cbasn1.Tag {
	var pair, value cryptobyte.String
	var tag cbasn1.Tag
	raw := cryptobyte.String(a.Raw)
	if raw.ReadASN1(&pair, cbasn1.SEQUENCE) && pair.SkipASN1(cbasn1.OBJECT_IDENTIFIER) && pair.ReadAnyASN1(&value, &tag) {
		return tag
	}
	if bounds[a.Type].tag == cbasn1.IA5String || a.Type == oidEmail {
		return cbasn1.IA5String
	}
	if csr.IsPrintableString(a.Value) {
		return cbasn1.PrintableString
	}
	return cbasn1.UTF8String
}

// emptySequence is the DER of a name without attributes.
var emptySequence = []byte{0x30, 0x00}

// encodeName is the DER of a name. Attributes that came from a request are copied as they are; others
// become PrintableString where their text allows it, else UTF8String.
func encodeName(name csr.Name) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range name {
			var set [][]byte
			for _, a := range rdn {
				raw := a.Raw
				if raw == nil {
					raw = encodeAttribute(a)
				}
				set = append(set, raw)
			}
			// DER sorts the members of a SET OF (X.690, section 11.6), which a request may not have done.
			slices.SortFunc(set, bytes.Compare)
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				for _, raw := range set {
					b.AddBytes(raw)
				}
			})
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode subject: %w", err)
	}
	return der, nil
}

// encodeAttribute is the DER of an attribute; nil if its type is no OID, which profiles are checked for.
func encodeAttribute(a csr.Attribute) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, a.Type)
		b.AddASN1(stringTag(a), func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.Value)) })
	})
	der, err := b.Bytes()
	if err != nil {
		return nil
	}
	return der
}

// encodeAltNames is the DER of a list of alternative names, nil for none.
func encodeAltNames(names []csr.AltName) ([]byte, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range names {
			if name.Raw != nil {
				b.AddBytes(name.Raw)
				continue
			}
			addAltName(b, name)
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode alternative names: %w", err)
	}
	return der, nil
}

// addAltName adds a name that the profile itself gives.
func addAltName(b *cryptobyte.Builder, name csr.AltName) {
	text := func(b *cryptobyte.Builder) { b.AddBytes([]byte(name.Value)) }
	context0 := cbasn1.Tag(0).ContextSpecific().Constructed()
	switch name.Kind {
	case csr.AltEmail:
		b.AddASN1(cbasn1.Tag(1).ContextSpecific(), text)
	case csr.AltDNS:
		b.AddASN1(cbasn1.Tag(2).ContextSpecific(), text)
	case csr.AltURI:
		b.AddASN1(cbasn1.Tag(6).ContextSpecific(), text)
	case csr.AltUPN:
		b.AddASN1(context0, func(b *cryptobyte.Builder) {
			addOID(b, oidUPN)
			b.AddASN1(context0, func(b *cryptobyte.Builder) { b.AddASN1(cbasn1.UTF8String, text) })
		})
	default:
		b.SetError(fmt.Errorf("names of kind %s cannot be encoded", name.Kind))
	}
}

// altNameProblem says why RFC 5280, section 4.2.1.6, does not allow a name in a certificate, "" if
// it does. Relying parties refuse whole certificates for one such name.
func altNameProblem(kind csr.AltKind, value string) string {
	switch kind {
	case csr.AltEmail:
		address, err := mail.ParseAddress(value)
		at := strings.LastIndexByte(value, '@')
		if err != nil || address.Address != value || at < 0 || !isHostName(value[at+1:]) {
			return "is no mail address (RFC 5280, section 4.2.1.6)"
		}
	case csr.AltDNS:
		if !isHostName(value) {
			return "is no host name (RFC 5280, section 4.2.1.6)"
		}
	case csr.AltURI:
		link, err := url.Parse(value)
		if err != nil || link.Scheme == "" || link.Opaque == "" && link.Host == "" {
			return "is no absolute URI (RFC 5280, section 4.2.1.6)"
		}
		if link.Host != "" && !isAddressOf(link) && !isQualified(link.Hostname()) {
			return "is a URI whose host is neither a fully qualified name nor an address (RFC 5280, section 4.2.1.6)"
		}
	}
	return ""
}

// isAddressOf reports whether the host of a URI is an address: one of IPv6 stands in brackets (RFC 3986, section
// 3.2.2).
func isAddressOf(link *url.URL) bool {
	address, err := netip.ParseAddr(link.Hostname())
	return err == nil && address.Is6() == strings.HasPrefix(link.Host, "[")
}

// isQualified reports whether a host name is fully qualified: below a top-level domain, which begins
// with a letter (RFC 3696, section 2).
func isQualified(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return isHostName(host) && len(last) < len(host) && strings.Trim(last[:1], "0123456789-") != ""
}

// isHostName reports whether a name has the preferred name syntax of RFC 1034, section 3.5, as RFC
// 1123 widens it: labels of letters, digits and inner hyphens. Addresses are not names.
func isHostName(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return false
		}
	}
	return true
}
