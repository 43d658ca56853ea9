package standin

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"assay/attest"
)

// signedByLeaf lets another attested key play the CA: the oldest fault of chain verifiers.
func signedByLeaf(a *Authority, s Subject, p *plan) error {
	key, err := ecdsa.GenerateKey(elliptic.P384(), a.random)
	if err != nil {
		return err
	}
	s.PublicKey = key.Public()
	other, err := a.plan(s)
	if err != nil {
		return err
	}
	x5c, err := other.sign(a)
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(x5c[0])
	p.issuer = issuer{certificate: certificate, key: key}
	return err
}

// furtherCA puts a CA below the sub CA, which may have none.
func furtherCA(a *Authority, s Subject, p *plan) error {
	key, err := ecdsa.GenerateKey(elliptic.P384(), a.random)
	if err != nil {
		return err
	}
	template, err := caTemplate(a.random, "Assay stand-in further CA ("+attest.StandInSubject+")", s.Now, subCALifetime)
	if err != nil {
		return err
	}
	certificate, err := issueCA(a.random, template, key.Public(), a.subCA)
	p.issuer = issuer{certificate: certificate, key: key}
	return err
}

// alterSubject changes one letter inside a signed leaf's subject, which no other check looks at.
func alterSubject(leaf []byte) ([]byte, error) {
	at := bytes.Index(leaf, []byte(leafUnit))
	if at < 0 {
		return nil, errors.New("no organizational unit to alter")
	}
	altered := slices.Clone(leaf)
	altered[at] = 'B'
	return altered, nil
}

func newCurveKey(curve elliptic.Curve) func(io.Reader) (crypto.Signer, error) {
	return func(random io.Reader) (crypto.Signer, error) { return ecdsa.GenerateKey(curve, random) }
}

// changing makes a mutation's plan of a change that cannot fail.
func changing(change func(p *plan)) func(*Authority, Subject, *plan) error {
	return func(_ *Authority, _ Subject, p *plan) error { change(p); return nil }
}

// setting replaces one extension's value.
func setting(oid asn1.ObjectIdentifier, value []byte) func(*Authority, Subject, *plan) error {
	return changing(func(p *plan) { p.set(oid, value) })
}

// fresh replaces the freshness code by one that is derived from the subject.
func fresh(code func(s Subject) ([]byte, error)) func(*Authority, Subject, *plan) error {
	return func(_ *Authority, s Subject, p *plan) error {
		value, err := code(s)
		if err != nil {
			return err
		}
		p.set(oidFreshness, value)
		return nil
	}
}

func sum(data []byte) []byte {
	digest := sha256.Sum256(data)
	return digest[:]
}

func keyAuthorization(s Subject) string {
	if s.KeyAuthorization != "" {
		return s.KeyAuthorization
	}
	return s.Token + "." + base64.RawURLEncoding.EncodeToString(sum([]byte("an account key")))
}

// leafMutations are faults of the leaf's constraints, usage, key and freshness code.
var leafMutations = []Mutation{
	{Name: "leaf-is-ca", Check: attest.CheckLeafNotCA, Meaning: "the leaf is a CA",
		plan: setting(oidBasicConstraints, []byte{0x30, 0x03, 0x01, 0x01, 0xff})},
	{Name: "leaf-no-constraints", Check: attest.CheckLeafNotCA, Meaning: "the leaf has no basic constraints",
		plan: changing(func(p *plan) { p.remove(oidBasicConstraints) })},
	{Name: "leaf-constraints-not-critical", Check: attest.CheckLeafNotCA, Meaning: "the leaf's basic constraints are not critical",
		plan: changing(func(p *plan) { p.extensions[0].Critical = false })},
	{Name: "leaf-no-digital-signature", Check: attest.CheckLeafUsage, Meaning: "the leaf's key usage lacks digitalSignature",
		plan: setting(oidKeyUsage, []byte{0x03, 0x02, 0x04, 0x70})},
	{Name: "leaf-no-key-usage", Check: attest.CheckLeafUsage, Meaning: "the leaf has no key usage",
		plan: changing(func(p *plan) { p.remove(oidKeyUsage) })},
	{Name: "key-p224", Check: attest.CheckKeyType, Meaning: "the attested key is on P-224", NewKey: newCurveKey(elliptic.P224())},
	{Name: "key-p521", Check: attest.CheckKeyType, Meaning: "the attested key is on P-521", NewKey: newCurveKey(elliptic.P521())},
	{Name: "key-rsa", Check: attest.CheckKeyType, Meaning: "the attested key is RSA",
		NewKey: func(random io.Reader) (crypto.Signer, error) { return rsa.GenerateKey(random, 2048) }},
	{Name: "key-ed25519", Check: attest.CheckKeyType, Meaning: "the attested key is Ed25519",
		NewKey: func(random io.Reader) (crypto.Signer, error) {
			_, key, err := ed25519.GenerateKey(random)
			return key, err
		}},
	{Name: "name-of-other-key", Check: attest.CheckKeyName, Meaning: "the common name is another key's hash",
		plan: changing(func(p *plan) { p.commonName = fmt.Sprintf("%x", sum([]byte("another key"))) })},
	{Name: "name-upper-case", Check: attest.CheckKeyName, Meaning: "the common name is in upper case",
		plan: changing(func(p *plan) { p.commonName = strings.ToUpper(p.commonName) })},
	{Name: "name-of-encoded-key", Check: attest.CheckKeyName, Meaning: "the common name is the hash of the encoded key, not of its point",
		plan: func(_ *Authority, _ Subject, p *plan) error {
			der, err := x509.MarshalPKIXPublicKey(p.key)
			p.commonName = fmt.Sprintf("%x", sum(der))
			return err
		}},
	{Name: "name-twice", Check: attest.CheckKeyName, Meaning: "there are two common names, the right one last",
		plan: func(_ *Authority, _ Subject, p *plan) (err error) {
			p.leaf.RawSubject, err = leafSubject(fmt.Sprintf("%x", sum([]byte("another key"))), p.commonName)
			return err
		}},
	{Name: "freshness-absent", Check: attest.CheckFreshnessPresent, Meaning: "there is no freshness code",
		plan: changing(func(p *plan) { p.remove(oidFreshness) })},
	{Name: "freshness-blank", Check: attest.CheckFreshnessPresent, Meaning: "the freshness code is blank",
		plan: setting(oidFreshness, []byte{})},
	{Name: "freshness-of-other-token", Check: attest.CheckFreshness, Meaning: "the evidence was made for another challenge",
		plan: setting(oidFreshness, sum([]byte("another token")))},
	{Name: "freshness-of-key-authorization", Check: attest.CheckFreshness, Meaning: "the freshness code is the hash of the key authorization",
		plan: fresh(func(s Subject) ([]byte, error) { return sum([]byte(keyAuthorization(s))), nil })},
	{Name: "freshness-of-decoded-token", Check: attest.CheckFreshness, Meaning: "the freshness code is the hash of the decoded token",
		plan: fresh(func(s Subject) ([]byte, error) {
			decoded, err := base64.RawURLEncoding.DecodeString(s.Token)
			return sum(decoded), err
		})},
	{Name: "freshness-is-token", Check: attest.CheckFreshness, Meaning: "the freshness code is the token itself",
		plan: fresh(func(s Subject) ([]byte, error) { return []byte(s.Token), nil })},
	{Name: "freshness-cut-short", Check: attest.CheckFreshness, Meaning: "the freshness code is the first 16 bytes of the hash",
		plan: fresh(func(s Subject) ([]byte, error) { return sum([]byte(s.Token))[:16], nil })},
	{Name: "freshness-in-der", Check: attest.CheckFreshness, Meaning: "the freshness code is wrapped in an OCTET STRING",
		plan: fresh(func(s Subject) ([]byte, error) { return asn1.Marshal(sum([]byte(s.Token))) })},
	{Name: "freshness-zero", Check: attest.CheckFreshness, Meaning: "the freshness code is 32 zero bytes",
		plan: setting(oidFreshness, make([]byte, 32))},
}

// propertyMutations are faults of the attested properties' encoding.
var propertyMutations = []Mutation{
	{Name: "serial-not-utf8", Check: attest.CheckPropertyEncoding, Meaning: "the serial number is not UTF-8",
		plan: setting(oidSerial, []byte("C02\xff\xfe"))},
	{Name: "serial-control-character", Check: attest.CheckPropertyEncoding, Meaning: "the serial number holds a line break",
		plan: setting(oidSerial, []byte("C02X\nEXAMPLE"))},
	{Name: "serial-nul", Check: attest.CheckPropertyEncoding, Meaning: "the serial number holds a NUL",
		plan: setting(oidSerial, []byte("C02X\x00EXAMPLE"))},
	{Name: "serial-in-der", Check: attest.CheckPropertyEncoding, Meaning: "the serial number is wrapped in a UTF8String",
		plan: setting(oidSerial, append([]byte{0x0c, 0x04}, "C02X"...))},
	{Name: "udid-oversize", Check: attest.CheckPropertyEncoding, Meaning: "the UDID has 300 characters",
		plan: setting(oidUDID, bytes.Repeat([]byte("0"), 300))},
	{Name: "os-version-not-utf8", Check: attest.CheckPropertyEncoding, Meaning: "the OS version is not UTF-8",
		plan: setting(oidOSVersion, []byte{0xc3, 0x28})},
	{Name: "sip-not-der", Check: attest.CheckPropertyEncoding, Meaning: "the SIP status is the text 0",
		plan: setting(oidSIP, []byte("0"))},
	{Name: "sip-undocumented", Check: attest.CheckPropertyEncoding, Meaning: "the SIP status is 2",
		plan: setting(oidSIP, []byte{0x02, 0x01, 0x02})},
	{Name: "sip-padded", Check: attest.CheckPropertyEncoding, Meaning: "the SIP status is an INTEGER with a needless zero byte",
		plan: setting(oidSIP, []byte{0x02, 0x02, 0x00, 0x00})},
	{Name: "kexts-trailing-byte", Check: attest.CheckPropertyEncoding, Meaning: "a byte follows the INTEGER that says whether kernel extensions are allowed",
		plan: setting(oidKexts, []byte{0x02, 0x01, 0x00, 0x00})},
}
