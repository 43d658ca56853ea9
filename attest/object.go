package attest

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Limits on attestation objects.
const (
	MaxObject = 64 << 10 // bytes of an attestation object
	maxFormat = 32       // characters of fmt (WebAuthn Level 2, section 8.1)
)

// strictCBOR reads evidence: no duplicate keys, indefinite lengths, tags or trailing bytes, text
// must be UTF-8, and names are compared exactly. Sixteen is the smallest bound that the decoder
// takes for arrays and maps; the formats have narrower ones.
var strictCBOR = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		panic("attest: CBOR options: " + err.Error()) // constant options: fails in every test or never
	}
	return mode
}()

// object is the WebAuthn attestation object. authData and whatever else it carries has no meaning
// here, but must be well-formed.
type object struct {
	Format    string          `cbor:"fmt"`
	Statement cbor.RawMessage `cbor:"attStmt"`
}

// CBOR major types, as the upper three bits of an item's first byte tell them (RFC 8949, section 3.1).
const (
	majorBytes = 2
	majorArray = 4
	majorMap   = 5
)

func isMajor(item cbor.RawMessage, major byte) bool { return len(item) > 0 && item[0]>>5 == major }

// ParseObject reads a CBOR attestation object, without its JSON wrapping. The kind is Attested or
// Failed. The error is a *Refusal; the response beside it still holds the object as received, so
// that it can be kept as evidence.
func ParseObject(data []byte) (*Response, error) {
	r := &Response{Kind: Attested, Object: data}
	o, err := decodeObject(data)
	if err != nil {
		return r, err
	}
	r.Format, r.Statement = o.Format, o.Statement
	if f, known := formats[o.Format]; known && f.failed(o.Statement) {
		r.Kind = Failed
	}
	return r, nil
}

func decodeObject(data []byte) (object, error) {
	if len(data) > MaxObject {
		return object{}, refuse(CheckObjectSize, fmt.Sprintf("the attestation object has %d bytes, the limit is %d", len(data), MaxObject), nil)
	}
	var o object
	if err := strictCBOR.Unmarshal(data, &o); err != nil {
		return object{}, refuse(CheckObjectWellFormed, "the attestation object is not the CBOR map it should be", err)
	}
	if o.Format == "" {
		return object{}, refuse(CheckObjectWellFormed, "the attestation object has no fmt", nil)
	}
	if utf8.RuneCountInString(o.Format) > maxFormat {
		return object{}, refuse(CheckObjectWellFormed, fmt.Sprintf("fmt is longer than %d characters", maxFormat), nil)
	}
	if strings.ContainsFunc(o.Format, func(r rune) bool { return r < '!' || r > '~' }) {
		return object{}, refuse(CheckObjectWellFormed, "fmt is not printable ASCII", nil)
	}
	if !isMajor(o.Statement, majorMap) {
		return object{}, refuse(CheckObjectWellFormed, "the attestation object has no attStmt that is a map", nil)
	}
	return o, nil
}

// decodeX5C reads the member x5c of a statement: an array of byte strings (WebAuthn Level 2,
// section 8.2). An absent or null x5c is an error, an empty one is not.
func decodeX5C(statement []byte) ([][]byte, error) {
	var s struct {
		X5C cbor.RawMessage `cbor:"x5c"`
	}
	if err := strictCBOR.Unmarshal(statement, &s); err != nil {
		return nil, fmt.Errorf("decode statement: %w", err)
	}
	if !isMajor(s.X5C, majorArray) {
		return nil, errors.New("decode statement: x5c is no array")
	}
	var items []cbor.RawMessage
	if err := strictCBOR.Unmarshal(s.X5C, &items); err != nil {
		return nil, fmt.Errorf("decode x5c: %w", err)
	}
	certificates := make([][]byte, len(items))
	for i, item := range items {
		if !isMajor(item, majorBytes) {
			return nil, fmt.Errorf("decode x5c: element %d is no byte string", i)
		}
		if err := strictCBOR.Unmarshal(item, &certificates[i]); err != nil {
			return nil, fmt.Errorf("decode x5c: element %d: %w", i, err)
		}
	}
	return certificates, nil
}

// Chain returns the certificates (DER, leaf first) that the statement of an attestation object holds.
// Nothing about them is verified.
func Chain(object []byte) ([][]byte, error) {
	o, err := decodeObject(object)
	if err != nil {
		return nil, err
	}
	return decodeX5C(o.Statement)
}
