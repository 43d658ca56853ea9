// Package credential is Apple's ACMECredential document: the JSON that a device downloads when it
// resolves a com.apple.asset.credential.acme asset, and that tells it which key to make, which
// ACME server to ask and what to ask for.
//
// Parse refuses whatever a device would refuse and whatever two readers could read differently
// (duplicate keys, wrong encodings, trailing data), and reports every problem at once, each with
// its place, its rule and the rule's source. Document.Judge adds what a given platform, version
// and chip will make of the document.
//
// The package trusts nothing: documents are outside input of at most MaxSize bytes. It does not
// contact the directory, and it cannot know what the server will do with the request.
package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// MaxSize is the largest document, in bytes, that is read or written: the published example has
// 700, and no sensible subject needs a hundred times that.
const MaxSize = 64 << 10

// ContentType is the media type that a server must send the document with. Devices compare it
// case-sensitively up to a ";" and take a missing header for text/html.
const ContentType = "application/json"

// ClientAuth is the extended key usage that a device asks for when the document names none.
const ClientAuth = "1.3.6.1.5.5.7.3.2"

// KeyType is the kind of key pair that the device makes.
type KeyType string

// The key types of the document.
const (
	RSA KeyType = "RSA"              // KeySize 1024 to 4096, a multiple of 8; never hardware-bound
	EC  KeyType = "ECSECPrimeRandom" // KeySize 256, 384 or 521; hardware-bound with 256 or 384
)

// UsageFlags is the key usage that the device asks for: a bit field. Zero stands for an absent
// key: the request then has no keyUsage extension.
type UsageFlags int

// The bits that Apple documents.
const (
	DigitalSignature UsageFlags = 0x01
	KeyEncipherment  UsageFlags = 0x04
)

// Credential is an ACMECredential document. Its zero value breaks rules: use New or Parse, and
// Encode for the bytes that a device may download.
type Credential struct {
	DirectoryURL     string     `json:"DirectoryURL"`     // ACME directory (RFC 8555, section 7.1.1), https
	ClientIdentifier string     `json:"ClientIdentifier"` // value of the order's permanent-identifier
	KeySize          int        `json:"KeySize"`          // bits
	KeyType          KeyType    `json:"KeyType"`
	HardwareBound    bool       `json:"HardwareBound"` // the Secure Enclave makes and keeps the key
	Subject          Subject    `json:"Subject"`
	UsageFlags       UsageFlags `json:"UsageFlags,omitempty"`
	// SubjectAltName is nil when absent; an empty value is another document: the device then
	// asks for an empty extension.
	SubjectAltName *SubjectAltName `json:"SubjectAltName,omitempty"`
	// ExtendedKeyUsage holds dotted OIDs in order; when empty the device asks for ClientAuth.
	ExtendedKeyUsage []string `json:"ExtendedKeyUsage,omitempty"`
	Attest           bool     `json:"Attest,omitempty"` // absent is false
}

// SubjectAltName is the names that the device asks for beside the subject, one of each kind at
// most. An empty string is an absent name.
type SubjectAltName struct {
	DNSName                   string `json:"dNSName,omitempty"`
	RFC822Name                string `json:"rfc822Name,omitempty"` // email address
	UniformResourceIdentifier string `json:"uniformResourceIdentifier,omitempty"`
	// NTPrincipalName becomes the otherName 1.3.6.1.4.1.311.20.2.3 holding a UTF8String.
	NTPrincipalName string `json:"ntPrincipalName,omitempty"`
}

// New returns the strongest document for a subject: a hardware-bound, attested P-384 key for
// signatures and client authentication.
func New(directoryURL, clientIdentifier string, subject Subject) *Credential {
	return &Credential{
		DirectoryURL:     directoryURL,
		ClientIdentifier: clientIdentifier,
		KeySize:          384,
		KeyType:          EC,
		HardwareBound:    true,
		Subject:          subject,
		UsageFlags:       DigitalSignature,
		ExtendedKeyUsage: []string{ClientAuth},
		Attest:           true,
	}
}

// errNotFaithful is a value that JSON cannot carry unchanged, such as text that is not UTF-8.
var errNotFaithful = errors.New("the value does not survive as JSON")

// Encode returns the document's bytes, the same for the same value, to be served as ContentType.
// It refuses a value that breaks a rule with an *InvalidError, so that no device gets to see it.
func (c *Credential) Encode() ([]byte, error) {
	data, err := c.encode()
	if err != nil {
		return nil, err
	}
	again, findings := Parse(data)
	if err := findings.Err(); err != nil {
		return nil, fmt.Errorf("encode credential: %w", err)
	}
	if !again.Equal(c) {
		return nil, fmt.Errorf("encode credential: %w", errNotFaithful)
	}
	return data, nil
}

// encode writes the document without judging it. Text stays readable: no HTML escapes.
func (c *Credential) encode() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("encode credential: %w", err)
	}
	return buf.Bytes(), nil
}

// UnmarshalJSON is Parse for documents inside other JSON; it returns an *InvalidError.
func (c *Credential) UnmarshalJSON(data []byte) error {
	parsed, findings := Parse(data)
	if err := findings.Err(); err != nil {
		return err
	}
	*c = *parsed
	return nil
}

// Equal reports whether two documents ask a device for the same.
func (c *Credential) Equal(other *Credential) bool {
	if c == nil || other == nil {
		return c == other
	}
	if (c.SubjectAltName == nil) != (other.SubjectAltName == nil) {
		return false
	}
	if c.SubjectAltName != nil && *c.SubjectAltName != *other.SubjectAltName {
		return false
	}
	return c.DirectoryURL == other.DirectoryURL &&
		c.ClientIdentifier == other.ClientIdentifier &&
		c.KeySize == other.KeySize && c.KeyType == other.KeyType &&
		c.HardwareBound == other.HardwareBound && c.Attest == other.Attest &&
		c.UsageFlags == other.UsageFlags &&
		slices.Equal(c.ExtendedKeyUsage, other.ExtendedKeyUsage) &&
		c.Subject.Equal(other.Subject)
}
