package deviceid

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// checkOID reports what keeps s from being a dotted-decimal OBJECT IDENTIFIER as the draft's
// assigner-value and hw-type-value rules write it: 0.0 to 1.39 or 2.n first, no leading zeros.
func checkOID(s string) error {
	if s == "" {
		return errors.New("object identifier is empty")
	}
	arcs := strings.Split(s, ".")
	if len(arcs) < 2 {
		return errors.New("object identifier has one component, needs at least two")
	}
	for _, arc := range arcs {
		if err := checkArc(arc); err != nil {
			return err
		}
	}
	first, second := arcs[0], arcs[1]
	if first != "0" && first != "1" && first != "2" {
		return errors.New("object identifier must begin with 0, 1 or 2")
	}
	// X.660: below 0 and 1 there are 40 arcs, so a second component is at most 39.
	if first != "2" && (len(second) > 2 || len(second) == 2 && second[0] > '3') {
		return errors.New("second component of the object identifier is over 39")
	}
	return nil
}

func checkArc(arc string) error {
	switch {
	case arc == "":
		return errors.New("object identifier has an empty component")
	case len(arc) > 1 && arc[0] == '0':
		return errors.New("object identifier has a component with a leading zero")
	}
	for i := range len(arc) {
		if arc[i] < '0' || arc[i] > '9' {
			return errors.New("object identifier has a component that is not a decimal number")
		}
	}
	return nil
}

// addOID adds a dotted OID in DER. Components may be of any size, so encoding/asn1's ints do not do.
func addOID(b *cryptobyte.Builder, dotted string) {
	oid, err := x509.ParseOID(dotted)
	if err != nil {
		b.SetError(fmt.Errorf("encode object identifier: %w", err))
		return
	}
	content, err := oid.MarshalBinary()
	if err != nil {
		b.SetError(fmt.Errorf("encode object identifier: %w", err))
		return
	}
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}

// readOID reads a DER OID as dotted text.
func readOID(s *cryptobyte.String) (string, bool) {
	var content cryptobyte.String
	if !s.ReadASN1(&content, asn1.OBJECT_IDENTIFIER) {
		return "", false
	}
	var oid x509.OID
	if err := oid.UnmarshalBinary(content); err != nil {
		return "", false
	}
	return oid.String(), true
}
