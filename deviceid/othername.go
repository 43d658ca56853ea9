package deviceid

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The otherName types of device names in a subjectAltName.
const (
	permanentIdentifierOID = "1.3.6.1.5.5.7.8.3" // id-on-permanentIdentifier, RFC 4043
	hardwareModuleOID      = "1.3.6.1.5.5.7.8.4" // id-on-hardwareModuleName, RFC 4108
)

// maxOtherName bounds the DER that is read: the largest value with its type, tags and lengths.
const maxOtherName = 2 * MaxValue

// ErrNotDeviceName: the GeneralName is well-formed as far as it was read, but it is no otherName
// of a type that names devices.
var ErrNotDeviceName = errors.New("no PermanentIdentifier or HardwareModuleName")

// OtherName is a device name as a subjectAltName carries it: a PermanentIdentifier or a
// HardwareModule.
type OtherName interface {
	// String is the name's ACME form.
	String() string
	// GeneralName is the name's DER, a GeneralName of kind otherName; an error if a field is
	// outside the grammar.
	GeneralName() ([]byte, error)
}

var tagZero = asn1.Tag(0).ContextSpecific().Constructed()

// GeneralName encodes the identifier as an otherName PermanentIdentifier (RFC 4043). The value and
// the assigner, where there is one, are both present, as the draft demands.
func (p PermanentIdentifier) GeneralName() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("encode PermanentIdentifier: %w", err)
	}
	return otherName(permanentIdentifierOID, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(p.Value)) })
		if p.Assigner != "" {
			addOID(b, p.Assigner)
		}
	})
}

// GeneralName encodes the identifier as an otherName HardwareModuleName (RFC 4108).
func (h HardwareModule) GeneralName() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("encode HardwareModuleName: %w", err)
	}
	return otherName(hardwareModuleOID, func(b *cryptobyte.Builder) {
		addOID(b, h.Type)
		b.AddASN1OctetString([]byte(h.SerialNumber))
	})
}

// otherName wraps the fields of a SEQUENCE as GeneralName [0] { type-id, [0] EXPLICIT value }.
func otherName(typeID string, fields func(b *cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
		addOID(b, typeID)
		b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, fields)
		})
	})
	return b.Bytes()
}

// ParseOtherName reads the DER of one GeneralName. It returns ErrNotDeviceName for other kinds of
// name, and another error for a device name outside its type's encoding or the draft's grammar.
func ParseOtherName(der []byte) (OtherName, error) {
	input := cryptobyte.String(der)
	if !input.PeekASN1Tag(tagZero) {
		return nil, ErrNotDeviceName
	}
	var name, wrapped, value cryptobyte.String
	if !input.ReadASN1(&name, tagZero) || !input.Empty() {
		return nil, errors.New("parse otherName: not one DER value")
	}
	typeID, ok := readOID(&name)
	if !ok {
		return nil, errors.New("parse otherName: no type-id")
	}
	if typeID != permanentIdentifierOID && typeID != hardwareModuleOID {
		return nil, ErrNotDeviceName
	}
	if len(der) > maxOtherName {
		return nil, fmt.Errorf("parse otherName: %d bytes is over the limit of %d", len(der), maxOtherName)
	}
	if !name.ReadASN1(&wrapped, tagZero) || !name.Empty() ||
		!wrapped.ReadASN1(&value, asn1.SEQUENCE) || !wrapped.Empty() {
		return nil, errors.New("parse otherName: value is not one explicitly tagged SEQUENCE")
	}
	if typeID == permanentIdentifierOID {
		return readPermanentIdentifier(value)
	}
	return readHardwareModule(value)
}

func readPermanentIdentifier(s cryptobyte.String) (OtherName, error) {
	var p PermanentIdentifier
	var text cryptobyte.String
	// RFC 4043 lets identifierValue be absent (the subject's serialNumber then stands in); the
	// draft forbids that.
	if !s.ReadASN1(&text, asn1.UTF8String) {
		return nil, errors.New("parse PermanentIdentifier: no identifierValue")
	}
	p.Value = string(text)
	if !s.Empty() {
		var ok bool
		if p.Assigner, ok = readOID(&s); !ok || !s.Empty() {
			return nil, errors.New("parse PermanentIdentifier: assigner is not one object identifier")
		}
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("parse PermanentIdentifier: %w", err)
	}
	return p, nil
}

func readHardwareModule(s cryptobyte.String) (OtherName, error) {
	var h HardwareModule
	var ok bool
	if h.Type, ok = readOID(&s); !ok {
		return nil, errors.New("parse HardwareModuleName: no hwType")
	}
	var serial cryptobyte.String
	if !s.ReadASN1(&serial, asn1.OCTET_STRING) || !s.Empty() {
		return nil, errors.New("parse HardwareModuleName: hwSerialNum is not one OCTET STRING")
	}
	h.SerialNumber = string(serial)
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("parse HardwareModuleName: %w", err)
	}
	return h, nil
}
