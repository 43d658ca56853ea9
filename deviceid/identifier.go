package deviceid

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxValue is the largest identifier value, in bytes of its ACME form, that is accepted.
const MaxValue = 256

// PermanentIdentifier is the value of a permanent-identifier (draft-ietf-acme-device-attest,
// section 3): a device's name and, optionally, who assigned it.
type PermanentIdentifier struct {
	Value    string // device-identifier-value: UTF-8, at least one character, no '/'
	Assigner string // dotted OID; "" if none is named
}

// ParsePermanentIdentifier reads the ACME form, VALUE or VALUE/ASSIGNER. The error says what is
// wrong without repeating the value.
func ParsePermanentIdentifier(s string) (PermanentIdentifier, error) {
	value, assigner, named := strings.Cut(s, "/")
	if named && assigner == "" {
		return PermanentIdentifier{}, errors.New("parse permanent-identifier: nothing follows the '/'")
	}
	p := PermanentIdentifier{Value: value, Assigner: assigner}
	if err := p.check(); err != nil {
		return PermanentIdentifier{}, fmt.Errorf("parse permanent-identifier: %w", err)
	}
	return p, nil
}

// String is the ACME form, octet for octet what ParsePermanentIdentifier read.
func (p PermanentIdentifier) String() string {
	if p.Assigner == "" {
		return p.Value
	}
	return p.Value + "/" + p.Assigner
}

func (p PermanentIdentifier) check() error {
	if err := checkText(p.Value, len(p.String())); err != nil {
		return err
	}
	if p.Assigner == "" {
		return nil
	}
	if err := checkOID(p.Assigner); err != nil {
		return fmt.Errorf("assigner: %w", err)
	}
	return nil
}

// HardwareModule is the value of a hardware-module identifier (draft-ietf-acme-device-attest,
// section 4): the serial number of a secure cryptoprocessor and its type.
type HardwareModule struct {
	SerialNumber string // hw-serial-num-value: UTF-8, at least one character, no '/'
	Type         string // dotted OID of the hardware type
}

// ParseHardwareModule reads the ACME form, SERIAL/TYPE. The error says what is wrong without
// repeating the value.
func ParseHardwareModule(s string) (HardwareModule, error) {
	serial, hwType, named := strings.Cut(s, "/")
	if !named {
		return HardwareModule{}, errors.New("parse hardware-module: no '/' before a hardware type")
	}
	h := HardwareModule{SerialNumber: serial, Type: hwType}
	if err := h.check(); err != nil {
		return HardwareModule{}, fmt.Errorf("parse hardware-module: %w", err)
	}
	return h, nil
}

// String is the ACME form, octet for octet what ParseHardwareModule read.
func (h HardwareModule) String() string { return h.SerialNumber + "/" + h.Type }

func (h HardwareModule) check() error {
	if err := checkText(h.SerialNumber, len(h.String())); err != nil {
		return err
	}
	if err := checkOID(h.Type); err != nil {
		return fmt.Errorf("hardware type: %w", err)
	}
	return nil
}

// checkText holds what both grammars ask of the part before the '/'. size is that of the whole
// ACME form. Control characters are inside the grammar and so are not refused here.
func checkText(s string, size int) error {
	switch {
	case size > MaxValue:
		return fmt.Errorf("value of %d bytes is over the limit of %d", size, MaxValue)
	case s == "":
		return errors.New("value is empty")
	case !utf8.ValidString(s):
		return errors.New("value is not valid UTF-8")
	case strings.Contains(s, "/"):
		return errors.New("value contains a '/'")
	}
	return nil
}

// LooksLikeMacHardwareUUID reports whether a UDID has the form 8-4-4-4-12 of hexadecimal digits: a
// Mac's hardware UUID, as MDM inventories list it. Apple attests a Mac's provisioning UDID instead
// (8-16), so a code bound to such a value can never be used.
func LooksLikeMacHardwareUUID(udid string) bool {
	groups := strings.Split(udid, "-")
	if len(groups) != 5 {
		return false
	}
	for i, want := range [5]int{8, 4, 4, 4, 12} {
		if len(groups[i]) != want || strings.Trim(groups[i], "0123456789abcdefABCDEF") != "" {
			return false
		}
	}
	return true
}
