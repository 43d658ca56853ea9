package attest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// unhandledCritical finds a critical extension whose meaning is not enforced here. That includes
// some that crypto/x509 can read, such as name constraints.
func unhandledCritical(c *x509.Certificate) (oid string, found bool) {
	for _, e := range c.Extensions {
		handled := e.Id.Equal(oidKeyUsage) || e.Id.Equal(oidBasicConstraints) || e.Id.Equal(oidExtKeyUsage)
		if e.Critical && !handled {
			return e.Id.String(), true
		}
	}
	return "", false
}

// findExtension returns the extension with the OID, or nil.
func findExtension(c *x509.Certificate, oid asn1.ObjectIdentifier) *pkix.Extension {
	for i := range c.Extensions {
		if c.Extensions[i].Id.Equal(oid) {
			return &c.Extensions[i]
		}
	}
	return nil
}

// hasDuplicateExtension reports whether a certificate names an extension twice. Of a certificate
// that cannot be walked it says no: the parser then says what is wrong.
func hasDuplicateExtension(der []byte) bool {
	input := cryptobyte.String(der)
	var certificate, tbs, wrapped, extensions cryptobyte.String
	if !input.ReadASN1(&certificate, cryptobyteasn1.SEQUENCE) || !certificate.ReadASN1(&tbs, cryptobyteasn1.SEQUENCE) {
		return false
	}
	tag := cryptobyteasn1.Tag(3).ContextSpecific().Constructed()
	for !tbs.PeekASN1Tag(tag) {
		var skipped cryptobyte.String
		if !tbs.ReadAnyASN1Element(&skipped, new(cryptobyteasn1.Tag)) {
			return false
		}
	}
	if !tbs.ReadASN1(&wrapped, tag) || !wrapped.ReadASN1(&extensions, cryptobyteasn1.SEQUENCE) {
		return false
	}
	seen := map[string]bool{}
	for !extensions.Empty() {
		var extension, oid cryptobyte.String
		if !extensions.ReadASN1(&extension, cryptobyteasn1.SEQUENCE) || !extension.ReadASN1(&oid, cryptobyteasn1.OBJECT_IDENTIFIER) {
			return false
		}
		if seen[string(oid)] {
			return true
		}
		seen[string(oid)] = true
	}
	return false
}
