// Package csr holds what a certificate request asks for (names, usages, key) as one typed value,
// and reads its PKCS#10 form (RFC 2986), so that "the CSR asks for what the credential says" is a
// comparison of two values.
//
// Parse reads the names itself, because crypto/x509 drops the alternative names that it does not
// know (otherName among them) and the string types of a subject. It refuses requests that are too
// large, are not DER, say a thing twice, hold values that are not text, or are not signed by their
// own key. It trusts nothing but that signature. Which key sizes and names a certificate may have is
// not decided here but by the CA's profile.
package csr

import "crypto"

// MaxSize is the largest PKCS#10 request, in bytes, that Parse reads.
const MaxSize = 16 << 10

// Attribute is one attribute of a relative distinguished name.
type Attribute struct {
	Type  string `json:"type"`  // dotted OID
	Value string `json:"value"` // decoded text
	// Raw is the DER of the AttributeTypeAndValue as received, so that string types survive;
	// nil in a value that was not parsed. Never compared.
	Raw []byte `json:"-"`
}

// Name is an X.500 name: RDNs in order, each one or more attributes.
type Name [][]Attribute

// AltKind is the kind of a subject alternative name.
type AltKind string

// The kinds of alternative name that are told apart; any other GeneralName is AltOther.
const (
	AltEmail               AltKind = "rfc822Name"
	AltDNS                 AltKind = "dNSName"
	AltURI                 AltKind = "uniformResourceIdentifier"
	AltUPN                 AltKind = "ntPrincipalName"      // otherName 1.3.6.1.4.1.311.20.2.3
	AltPermanentIdentifier AltKind = "permanent-identifier" // otherName 1.3.6.1.5.5.7.8.3 (RFC 4043)
	AltHardwareModule      AltKind = "hardware-module"      // otherName 1.3.6.1.5.5.7.8.4 (RFC 4108)
	AltOther               AltKind = "other"                // anything else; Value is hex of the GeneralName
)

// AltName is one subject alternative name.
type AltName struct {
	Kind  AltKind `json:"kind"`
	Value string  `json:"value"` // text; identifiers in their ACME form, e.g. "SERIAL/1.2.3"
	Raw   []byte  `json:"-"`     // DER of the GeneralName as received; nil if not parsed
}

// Key types.
const (
	RSA = "RSA"
	EC  = "EC"
)

// ClientAuth is the extended key usage that a device asks for when its credential names none.
const ClientAuth = "1.3.6.1.5.5.7.3.2"

// KeyUsage is the bit field that credentials use: RFC 5280's bit numbers, least significant first
// (0x01 digitalSignature, 0x04 keyEncipherment), as crypto/x509 counts them.
type KeyUsage int

// Request is what is asked of a certificate.
type Request struct {
	Subject     Name      `json:"subject,omitempty"`
	AltNames    []AltName `json:"altNames,omitempty"`
	KeyUsage    KeyUsage  `json:"keyUsage,omitempty"`    // 0: the request has no keyUsage extension
	ExtKeyUsage []string  `json:"extKeyUsage,omitempty"` // dotted OIDs in order
	KeyType     string    `json:"keyType"`               // RSA or EC
	KeySize     int       `json:"keySize"`               // bits: RSA modulus or curve

	// OtherExtensions are the dotted OIDs of requested extensions that are not read here. Parse
	// alone sets them; nothing of them is ever granted.
	OtherExtensions []string `json:"otherExtensions,omitempty"`

	// PublicKey and SPKI (its DER SubjectPublicKeyInfo, as received) are set by Parse alone.
	PublicKey crypto.PublicKey `json:"-"`
	SPKI      []byte           `json:"-"`
}
