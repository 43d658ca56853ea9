package csr

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Limits on the parts of a request; all are far above what devices send.
const (
	maxAttributes = 16 // PKCS#10 attributes
	maxExtensions = 32
	maxExtUsages  = 32
	maxOID        = 128 // bytes of an encoded object identifier
)

// oidExtensionRequest is the attribute that holds the extensions (RFC 2985, section 5.4.2).
const oidExtensionRequest = "1.2.840.113549.1.9.14"

// The extensions that are read (RFC 5280, section 4.2.1).
const (
	oidKeyUsage    = "2.5.29.15"
	oidAltName     = "2.5.29.17"
	oidExtKeyUsage = "2.5.29.37"
)

// outer is a CertificationRequest (RFC 2986, section 4.2) cut into its parts.
type outer struct {
	info       []byte // the signed bytes
	subject    cryptobyte.String
	spki       []byte
	attributes cryptobyte.String
	algorithm  cryptobyte.String
	signature  []byte
}

// Parse reads a DER PKCS#10 request and verifies that its own key signed it. Every error is an *Error.
// The request keeps no reference to der.
func Parse(der []byte) (*Request, error) {
	if len(der) > MaxSize {
		return nil, refuse(CheckSize, "request has %d bytes, more than %d", len(der), MaxSize)
	}
	parts, err := cut(append([]byte(nil), der...))
	if err != nil {
		return nil, err
	}
	r := &Request{SPKI: parts.spki}
	if err := r.readKey(); err != nil {
		return nil, err
	}
	if err := verify(r.PublicKey, parts); err != nil {
		return nil, err
	}
	if r.Subject, err = parseName(parts.subject); err != nil {
		return nil, err
	}
	if err := r.readAttributes(parts.attributes); err != nil {
		return nil, err
	}
	return r, nil
}

// cut checks the frame of the request and takes it apart.
func cut(der []byte) (*outer, error) {
	var (
		p       outer
		input   = cryptobyte.String(der)
		request cryptobyte.String
		info    cryptobyte.String
		spki    cryptobyte.String
		version int
		element cryptobyte.String
	)
	syntax := func(what string) error { return refuse(CheckSyntax, "%s", what) }
	if !input.ReadASN1(&request, cbasn1.SEQUENCE) {
		return nil, syntax("not a DER sequence")
	}
	if !input.Empty() {
		return nil, syntax("bytes after the request")
	}
	if !request.ReadASN1Element(&element, cbasn1.SEQUENCE) {
		return nil, syntax("no CertificationRequestInfo")
	}
	p.info = element
	if !element.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1Integer(&version) {
		return nil, syntax("no version")
	}
	if version != 0 {
		return nil, syntax("version is not v1 (0)")
	}
	if !info.ReadASN1(&p.subject, cbasn1.SEQUENCE) {
		return nil, syntax("no subject")
	}
	if !info.ReadASN1Element(&spki, cbasn1.SEQUENCE) {
		return nil, syntax("no SubjectPublicKeyInfo")
	}
	p.spki = spki
	// RFC 2986 wants the attributes even when empty; OpenSSL and others once left them out.
	if !info.ReadOptionalASN1(&p.attributes, nil, cbasn1.Tag(0).Constructed().ContextSpecific()) || !info.Empty() {
		return nil, syntax("bytes that are no attributes after the key")
	}
	if !request.ReadASN1(&p.algorithm, cbasn1.SEQUENCE) {
		return nil, syntax("no signature algorithm")
	}
	if !request.ReadASN1BitStringAsBytes(&p.signature) || !request.Empty() {
		return nil, syntax("no signature, or bytes after it")
	}
	return &p, nil
}

// readAttributes reads the PKCS#10 attributes. Each type may occur once; all but extensionRequest are
// ignored (a challengePassword, for one, says nothing about the certificate).
func (r *Request) readAttributes(attributes cryptobyte.String) error {
	seen := map[string]bool{}
	for !attributes.Empty() {
		var attribute, values, extensions cryptobyte.String
		if !attributes.ReadASN1(&attribute, cbasn1.SEQUENCE) {
			return refuse(CheckSyntax, "malformed attribute")
		}
		id, ok := readOID(&attribute)
		if !ok || !attribute.ReadASN1(&values, cbasn1.SET) || !attribute.Empty() {
			return refuse(CheckSyntax, "malformed attribute")
		}
		if seen[id] {
			return refuse(CheckExtension, "attribute %s occurs twice", id)
		}
		seen[id] = true
		if len(seen) > maxAttributes {
			return refuse(CheckSyntax, "more than %d attributes", maxAttributes)
		}
		if id != oidExtensionRequest {
			continue
		}
		if !values.ReadASN1(&extensions, cbasn1.SEQUENCE) || !values.Empty() {
			return refuse(CheckExtension, "extensionRequest does not hold exactly one list of extensions")
		}
		if err := r.readExtensions(extensions); err != nil {
			return err
		}
	}
	return nil
}

// readExtensions reads the requested extensions. Criticality is not kept: the CA decides it.
func (r *Request) readExtensions(extensions cryptobyte.String) error {
	seen := map[string]bool{}
	for !extensions.Empty() {
		var extension, value cryptobyte.String
		var critical bool
		if !extensions.ReadASN1(&extension, cbasn1.SEQUENCE) {
			return refuse(CheckExtension, "malformed extension")
		}
		id, ok := readOID(&extension)
		if ok && extension.PeekASN1Tag(cbasn1.BOOLEAN) {
			ok = extension.ReadASN1Boolean(&critical)
		}
		if !ok || !extension.ReadASN1(&value, cbasn1.OCTET_STRING) || !extension.Empty() {
			return refuse(CheckExtension, "malformed extension")
		}
		if seen[id] {
			return refuse(CheckExtension, "extension %s occurs twice", id)
		}
		seen[id] = true
		if len(seen) > maxExtensions {
			return refuse(CheckExtension, "more than %d extensions", maxExtensions)
		}
		var err error
		switch id {
		case oidAltName:
			r.AltNames, err = parseAltNames(value)
		case oidKeyUsage:
			r.KeyUsage, err = parseKeyUsage(value)
		case oidExtKeyUsage:
			r.ExtKeyUsage, err = parseExtKeyUsage(value)
		default:
			r.OtherExtensions = append(r.OtherExtensions, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseKeyUsage reads a keyUsage (RFC 5280, section 4.2.1.3). Trailing zero bits are not DER, but
// change nothing and are let pass; a usage with no bit set asks for nothing.
func parseKeyUsage(value cryptobyte.String) (KeyUsage, error) {
	var bits asn1.BitString
	if !value.ReadASN1BitString(&bits) || !value.Empty() {
		return 0, refuse(CheckExtension, "keyUsage is not a bit string")
	}
	var usage KeyUsage
	for i := range bits.BitLength {
		if bits.At(i) == 0 {
			continue
		}
		if i > 8 {
			return 0, refuse(CheckExtension, "keyUsage has bit %d, which means nothing", i)
		}
		usage |= 1 << i
	}
	return usage, nil
}

// parseExtKeyUsage reads an extendedKeyUsage (RFC 5280, section 4.2.1.12).
func parseExtKeyUsage(value cryptobyte.String) ([]string, error) {
	var list cryptobyte.String
	if !value.ReadASN1(&list, cbasn1.SEQUENCE) || !value.Empty() || list.Empty() {
		return nil, refuse(CheckExtension, "extKeyUsage is not a list of usages")
	}
	var usages []string
	for !list.Empty() {
		id, ok := readOID(&list)
		if !ok {
			return nil, refuse(CheckExtension, "extKeyUsage holds something that is no object identifier")
		}
		if len(usages) == maxExtUsages {
			return nil, refuse(CheckExtension, "more than %d extended key usages", maxExtUsages)
		}
		if slices.Contains(usages, id) {
			return nil, refuse(CheckExtension, "extended key usage %s occurs twice", id)
		}
		usages = append(usages, id)
	}
	return usages, nil
}

func refuse(check, format string, args ...any) *Error {
	return &Error{Problem: BadCSR, Check: check, Detail: fmt.Sprintf(format, args...)}
}

// readOID reads an object identifier as dotted text. Its components may be of any size, as those of
// UUID-based identifiers are.
func readOID(s *cryptobyte.String) (string, bool) {
	var content cryptobyte.String
	var oid x509.OID
	if !s.ReadASN1(&content, cbasn1.OBJECT_IDENTIFIER) || len(content) > maxOID || oid.UnmarshalBinary(content) != nil {
		return "", false
	}
	return oid.String(), true
}
