package csr

import (
	"encoding/hex"
	"errors"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/deviceid"
)

// Limits on alternative names.
const (
	maxAltNames     = 64
	maxAltNameBytes = 2048
)

// oidUPN is the otherName type of a Microsoft user principal name, which holds a UTF8String.
const oidUPN = "1.3.6.1.4.1.311.20.2.3"

// ParseAltNames reads the value of a certificate's or request's subjectAltName extension, the otherNames
// that crypto/x509 leaves out included. Errors are *Error.
func ParseAltNames(extension []byte) ([]AltName, error) { return parseAltNames(extension) }

// parseAltNames reads a subjectAltName extension. An empty list is not what RFC 5280 (section
// 4.2.1.6) wants, but Apple's client sends one where the credential's object is empty.
func parseAltNames(value cryptobyte.String) ([]AltName, error) {
	var list cryptobyte.String
	if !value.ReadASN1(&list, cbasn1.SEQUENCE) || !value.Empty() {
		return nil, refuse(CheckAltName, "subjectAltName is not a list of names")
	}
	var names []AltName
	for !list.Empty() {
		var raw, content cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1Element(&raw, &tag) {
			return nil, refuse(CheckAltName, "subjectAltName holds something that is no name")
		}
		if len(names) == maxAltNames {
			return nil, refuse(CheckAltName, "more than %d alternative names", maxAltNames)
		}
		if len(raw) > maxAltNameBytes {
			return nil, refuse(CheckAltName, "an alternative name is longer than %d bytes", maxAltNameBytes)
		}
		element := raw
		if !element.ReadASN1(&content, tag) {
			return nil, refuse(CheckAltName, "subjectAltName holds something that is no name")
		}
		name, err := parseAltName(tag, content, raw)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// The tags of GeneralName (RFC 5280, section 4.2.1.6).
var (
	tagOtherName     = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagEmail         = cbasn1.Tag(1).ContextSpecific()
	tagDNS           = cbasn1.Tag(2).ContextSpecific()
	tagX400          = cbasn1.Tag(3).ContextSpecific().Constructed()
	tagDirectoryName = cbasn1.Tag(4).ContextSpecific().Constructed()
	tagEDIParty      = cbasn1.Tag(5).ContextSpecific().Constructed()
	tagURI           = cbasn1.Tag(6).ContextSpecific()
	tagIPAddress     = cbasn1.Tag(7).ContextSpecific()
	tagRegisteredID  = cbasn1.Tag(8).ContextSpecific()
)

func parseAltName(tag cbasn1.Tag, content cryptobyte.String, raw []byte) (AltName, error) {
	switch tag {
	case tagEmail:
		return textAltName(AltEmail, content, raw)
	case tagDNS:
		return textAltName(AltDNS, content, raw)
	case tagURI:
		return textAltName(AltURI, content, raw)
	case tagOtherName:
		return parseOtherName(content, raw)
	case tagX400, tagDirectoryName, tagEDIParty, tagIPAddress, tagRegisteredID:
		return AltName{Kind: AltOther, Value: hex.EncodeToString(raw), Raw: raw}, nil
	}
	return AltName{}, refuse(CheckAltName, "subjectAltName holds a name of an unknown kind")
}

// textAltName takes an IA5String. Control characters, NUL first among them, have fooled programs that
// compare such names as C strings.
func textAltName(kind AltKind, content, raw []byte) (AltName, error) {
	ascii := every(content, func(c byte) bool { return c < utf8.RuneSelf })
	if !ascii || !printable(string(content)) || len(content) == 0 {
		return AltName{}, refuse(CheckAltName, "%s is empty or not printable ASCII", kind)
	}
	return AltName{Kind: kind, Value: string(content), Raw: raw}, nil
}

// parseOtherName tells a UPN and the two device names from any other otherName.
func parseOtherName(content cryptobyte.String, raw []byte) (AltName, error) {
	var value, text cryptobyte.String
	id, ok := readOID(&content)
	if !ok || !content.ReadASN1(&value, cbasn1.Tag(0).ContextSpecific().Constructed()) || !content.Empty() {
		return AltName{}, refuse(CheckAltName, "malformed otherName")
	}
	if id == oidUPN {
		if !value.ReadASN1(&text, cbasn1.UTF8String) || !value.Empty() || len(text) == 0 ||
			!utf8.Valid(text) || !printable(string(text)) {
			return AltName{}, refuse(CheckAltName, "%s does not hold one printable UTF8String", AltUPN)
		}
		return AltName{Kind: AltUPN, Value: string(text), Raw: raw}, nil
	}
	name, err := deviceid.ParseOtherName(raw)
	if errors.Is(err, deviceid.ErrNotDeviceName) {
		return AltName{Kind: AltOther, Value: hex.EncodeToString(raw), Raw: raw}, nil
	}
	if err != nil {
		return AltName{}, refuse(CheckAltName, "%v", err)
	}
	kind := AltPermanentIdentifier
	if _, isModule := name.(deviceid.HardwareModule); isModule {
		kind = AltHardwareModule
	}
	return AltName{Kind: kind, Value: name.String(), Raw: raw}, nil
}
