package attest

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"assay/deviceid"

	"golang.org/x/crypto/cryptobyte"
)

// maxPropertyText bounds an attested text, in bytes.
const maxPropertyText = 256

// appleProperty is one extension of an attestation leaf: what it means, how its value is encoded
// and where the facts keep it.
type appleProperty struct {
	name    string
	meaning string
	decode  func(raw []byte) (propertyValue, error)
	record  func(f *Facts, v propertyValue) error
	verdict func(v propertyValue) string // says for people what a number means; nil for other values
}

// propertyValue is a decoded value; of the fields only the decoder's own is set.
type propertyValue struct {
	text   string
	number *big.Int
	raw    []byte
}

// appleProperties is every extension that Apple documents, by OID. Values are raw bytes without
// inner DER, but for the two integers.
var appleProperties = map[string]appleProperty{
	appleArc + "9.1": {name: "serialNumber", meaning: "serial number of the device", decode: decodeText,
		record: identify(deviceid.Serial)},
	appleArc + "9.2": {name: "udid", meaning: "UDID of the device; of a Mac the provisioning UDID, not the hardware UUID that MDM reports", decode: decodeText,
		record: identify(deviceid.UDID)},
	appleArc + "9.3": {name: "attestationPublicKey", meaning: "public key of a co-resident attestation key", decode: decodeRaw,
		record: func(f *Facts, v propertyValue) error { f.Posture.AttestationPublicKey = v.raw; return nil }},
	appleArc + "9.4": {name: "softwareUpdateDeviceID", meaning: "product type, by which Apple lists software updates", decode: decodeText,
		record: func(f *Facts, v propertyValue) error { f.Posture.ProductType = v.text; return nil }},
	appleArc + "10.1": {name: "osVersion", meaning: "version of the operating system when attested", decode: decodeText,
		record: func(f *Facts, v propertyValue) error { f.Posture.OSVersion = v.text; return nil }},
	appleArc + "10.2": {name: "sepOSVersion", meaning: "version of the Secure Enclave's operating system", decode: decodeText,
		record: func(f *Facts, v propertyValue) error { f.Posture.SepOSVersion = v.text; return nil }},
	appleArc + "10.3": {name: "llbVersion", meaning: "version of the low-level bootloader", decode: decodeText,
		record: func(f *Facts, v propertyValue) error { f.Posture.LLBVersion = v.text; return nil }},
	appleArc + "11.1": {name: "freshnessCode", meaning: "SHA-256 of the challenge's token, as a string", decode: decodeRaw,
		record: func(*Facts, propertyValue) error { return nil }}, // checked on its own
	appleArc + "13.1": {name: "sipStatus", meaning: "System Integrity Protection", decode: decodeInteger,
		record: recordSIP, verdict: sipVerdict},
	appleArc + "13.2": {name: "secureBootStatus", meaning: "startup security: Full, Reduced or Permissive Security", decode: decodeText,
		record: func(f *Facts, v propertyValue) error { f.Posture.SecureBoot = v.text; return nil }},
	appleArc + "13.3": {name: "thirdPartyKextsAllowed", meaning: "whether kernel extensions of third parties may load", decode: decodeInteger,
		record: recordKexts, verdict: kextVerdict},
}

func identify(kind deviceid.Kind) func(*Facts, propertyValue) error {
	return func(f *Facts, v propertyValue) error {
		f.Identifiers = append(f.Identifiers, deviceid.Identifier{Kind: kind, Value: v.text})
		return nil
	}
}

func recordSIP(f *Facts, v propertyValue) error {
	// An unknown value must not count as enabled, nor be forgotten: it is refused.
	if v.number.Sign() != 0 && v.number.Cmp(big.NewInt(1)) != 0 {
		return errors.New("the value is neither 0 nor 1")
	}
	f.Posture.SIPEnabled = new(v.number.Sign() == 0)
	return nil
}

func recordKexts(f *Facts, v propertyValue) error {
	f.Posture.ThirdPartyKexts = new(v.number.Sign() != 0)
	return nil
}

func sipVerdict(v propertyValue) string {
	switch v.number.String() {
	case "0":
		return "enabled"
	case "1":
		return "disabled"
	}
	return "undocumented value"
}

func kextVerdict(v propertyValue) string {
	if v.number.Sign() == 0 {
		return "not allowed"
	}
	return "some kinds allowed"
}

// readAppleProperties adds every property of a leaf to the facts. A blank value is absent: Apple
// could not confirm it. Properties without a documented meaning are kept as they are; their size is
// bounded by the certificate's.
func readAppleProperties(leaf *x509.Certificate, f *Facts) error {
	for _, e := range leaf.Extensions {
		oid := e.Id.String()
		if !isAppleProperty(oid) || len(e.Value) == 0 {
			continue
		}
		property, known := appleProperties[oid]
		if !known {
			if f.Opaque == nil {
				f.Opaque = map[string][]byte{}
			}
			f.Opaque[oid] = e.Value
			continue
		}
		value, err := property.decode(e.Value)
		if err == nil {
			err = property.record(f, value)
		}
		if err != nil {
			return refuse(CheckPropertyEncoding, "the property "+property.name+" is not encoded as documented", err)
		}
	}
	return nil
}

func decodeRaw(raw []byte) (propertyValue, error) { return propertyValue{raw: raw}, nil }

// decodeText reads a text without inner DER. Nothing is trimmed: identifiers compare exactly.
func decodeText(raw []byte) (propertyValue, error) {
	switch {
	case len(raw) > maxPropertyText:
		return propertyValue{}, fmt.Errorf("text of %d bytes is over the limit of %d", len(raw), maxPropertyText)
	case !utf8.Valid(raw):
		return propertyValue{}, errors.New("text is not UTF-8")
	case strings.ContainsFunc(string(raw), func(r rune) bool { return !unicode.IsPrint(r) }):
		return propertyValue{}, errors.New("text has a character that cannot be printed")
	}
	return propertyValue{text: string(raw)}, nil
}

// decodeInteger reads a DER INTEGER.
func decodeInteger(raw []byte) (propertyValue, error) {
	s := cryptobyte.String(raw)
	number := new(big.Int)
	if !s.ReadASN1Integer(number) || !s.Empty() {
		return propertyValue{}, errors.New("value is not one DER INTEGER")
	}
	return propertyValue{number: number}, nil
}

// explainApple tells people what an Apple property says.
func explainApple(oid string, raw []byte) (explanation, bool) {
	if !isAppleProperty(oid) {
		return explanation{}, false
	}
	property, known := appleProperties[oid]
	if !known {
		return explanation{name: "unknown Apple property", value: hex.EncodeToString(raw),
			meaning: "Apple documents no meaning; kept as raw bytes"}, true
	}
	e := explanation{name: property.name, meaning: property.meaning}
	if len(raw) == 0 {
		e.value = "(blank: Apple could not confirm it)"
		return e, true
	}
	value, err := property.decode(raw)
	switch {
	case err != nil:
		e.value, e.problem = hex.EncodeToString(raw), err.Error()
	case value.number != nil:
		e.value = value.number.String() + " (" + property.verdict(value) + ")"
	case value.raw != nil:
		e.value = hex.EncodeToString(value.raw)
	default:
		e.value = value.text
	}
	return e, true
}
