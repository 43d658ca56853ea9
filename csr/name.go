package csr

import (
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Limits on names.
const (
	maxRDNs       = 32
	maxAttrsInRDN = 8
	maxAttrBytes  = 512 // of one attribute's encoded value; no X.520 bound of a string is larger than 256 characters
)

// String types that cryptobyte does not name.
const (
	tagNumericString   = cbasn1.Tag(18)
	tagVisibleString   = cbasn1.Tag(26)
	tagUniversalString = cbasn1.Tag(28)
	tagBMPString       = cbasn1.Tag(30)
)

// parseName reads the content of an RDNSequence (RFC 5280, section 4.1.2.4).
func parseName(rdns cryptobyte.String) (Name, error) {
	var name Name
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return nil, refuse(CheckSubject, "subject holds something that is no set of attributes")
		}
		if len(name) == maxRDNs {
			return nil, refuse(CheckSubject, "subject has more than %d parts", maxRDNs)
		}
		var rdn []Attribute
		for !set.Empty() {
			attribute, err := parseAttribute(&set)
			if err != nil {
				return nil, err
			}
			if len(rdn) == maxAttrsInRDN {
				return nil, refuse(CheckSubject, "a part of the subject has more than %d attributes", maxAttrsInRDN)
			}
			rdn = append(rdn, attribute)
		}
		name = append(name, rdn)
	}
	return name, nil
}

// parseAttribute reads one AttributeTypeAndValue.
func parseAttribute(set *cryptobyte.String) (Attribute, error) {
	var raw, pair, value cryptobyte.String
	var tag cbasn1.Tag
	if !set.ReadASN1Element(&raw, cbasn1.SEQUENCE) {
		return Attribute{}, refuse(CheckSubject, "malformed attribute")
	}
	rest := raw
	if !rest.ReadASN1(&pair, cbasn1.SEQUENCE) {
		return Attribute{}, refuse(CheckSubject, "malformed attribute")
	}
	oid, ok := readOID(&pair)
	if !ok || !pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
		return Attribute{}, refuse(CheckSubject, "malformed attribute")
	}
	if len(value) > maxAttrBytes {
		return Attribute{}, refuse(CheckSubject, "attribute %s is longer than %d bytes", oid, maxAttrBytes)
	}
	text, ok := decodeText(tag, value)
	if !ok {
		return Attribute{}, refuse(CheckSubject, "attribute %s is no text, or holds characters that its string type does not have", oid)
	}
	if text == "" {
		return Attribute{}, refuse(CheckSubject, "attribute %s is empty", oid)
	}
	if !printable(text) {
		return Attribute{}, refuse(CheckSubject, "attribute %s holds control or invisible formatting characters", oid)
	}
	return Attribute{Type: oid, Value: text, Raw: raw}, nil
}

// decodeText reads an ASN.1 string strictly. Values that are no strings are refused, so that no two
// different values ever have the same text form.
func decodeText(tag cbasn1.Tag, value []byte) (string, bool) {
	switch tag {
	case cbasn1.UTF8String:
		return string(value), utf8.Valid(value)
	case cbasn1.PrintableString:
		return string(value), IsPrintableString(string(value))
	case tagNumericString:
		return string(value), every(value, func(c byte) bool { return c == ' ' || c >= '0' && c <= '9' })
	case cbasn1.IA5String, tagVisibleString, cbasn1.T61String:
		// Nobody agrees on what T.61 means beyond ASCII, so nothing beyond it is taken.
		return string(value), every(value, func(c byte) bool { return c < utf8.RuneSelf })
	case tagBMPString:
		return decodeBMP(value)
	case tagUniversalString:
		return decodeUniversal(value)
	}
	return "", false
}

// decodeBMP reads UCS-2: surrogates stand for no character in it.
func decodeBMP(value []byte) (string, bool) {
	if len(value)%2 != 0 {
		return "", false
	}
	var text []rune
	for i := 0; i < len(value); i += 2 {
		r := rune(value[i])<<8 | rune(value[i+1])
		if utf16.IsSurrogate(r) {
			return "", false
		}
		text = append(text, r)
	}
	return string(text), true
}

// decodeUniversal reads UCS-4.
func decodeUniversal(value []byte) (string, bool) {
	if len(value)%4 != 0 {
		return "", false
	}
	var text []rune
	for i := 0; i < len(value); i += 4 {
		r := rune(value[i])<<24 | rune(value[i+1])<<16 | rune(value[i+2])<<8 | rune(value[i+3])
		if !utf8.ValidRune(r) {
			return "", false
		}
		text = append(text, r)
	}
	return string(text), true
}

// IsPrintableString reports whether every character of s is in ASN.1's PrintableString (X.680,
// section 41.4). '*', '@', '&' and '_' are not.
func IsPrintableString(s string) bool {
	return every([]byte(s), func(c byte) bool {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return true
		}
		switch c {
		case ' ', '\'', '(', ')', '+', ',', '-', '.', '/', ':', '=', '?':
			return true
		}
		return false
	})
}

// printable reports whether text can be shown as it is: control characters could forge lines of a
// log or end a string in C, and invisible formatting characters (Unicode category Cf, such as the
// right-to-left override) make two different names look the same.
func printable(text string) bool {
	for _, r := range text {
		if unicode.In(r, unicode.Cc, unicode.Cf) {
			return false
		}
	}
	return true
}

func every(value []byte, ok func(byte) bool) bool {
	for _, c := range value {
		if !ok(c) {
			return false
		}
	}
	return true
}
