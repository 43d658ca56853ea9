package standin

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"time"

	"assay/attest"
)

// oidExample is an extension that nobody understands, under the arc for examples.
var oidExample = asn1.ObjectIdentifier{2, 999, 1}

// reissue replaces the sub CA by one with a changed certificate, issued by the same root.
func reissue(change func(template *x509.Certificate)) func(*Authority, Subject, *plan) error {
	return func(a *Authority, s Subject, p *plan) error {
		template, err := subCATemplate(a.random, s.Now)
		if err != nil {
			return err
		}
		change(template)
		certificate, err := issueCA(a.random, template, a.subCA.key.Public(), a.root)
		p.issuer = issuer{certificate: certificate, key: a.subCA.key}
		return err
	}
}

// under signs the leaf with a new key of the caller's making, certified as sub CA by the same root.
func under(newKey func(a *Authority) (crypto.Signer, error)) func(*Authority, Subject, *plan) error {
	return func(a *Authority, s Subject, p *plan) error {
		key, err := newKey(a)
		if err != nil {
			return err
		}
		template, err := subCATemplate(a.random, s.Now)
		if err != nil {
			return err
		}
		certificate, err := issueCA(a.random, template, key.Public(), a.root)
		p.issuer = issuer{certificate: certificate, key: key}
		return err
	}
}

// certificateMutations are faults of single certificates, whatever their place in the chain.
var certificateMutations = []Mutation{
	{Name: "certificate-oversize", Check: attest.CheckCertificateSize, Meaning: "the leaf is larger than 8 KiB",
		plan: func(_ *Authority, _ Subject, p *plan) error { p.set(oidExample, make([]byte, 8<<10)); return nil }},
	{Name: "serial-twice", Check: attest.CheckDuplicateExtension, Meaning: "the leaf names two serial numbers",
		plan: func(_ *Authority, _ Subject, p *plan) error {
			p.extensions = append(p.extensions, pkix.Extension{Id: oidSerial, Value: []byte("SECOND000001")},
				pkix.Extension{Id: oidSerial, Value: []byte("SECOND000002")})
			return nil
		}},
	{Name: "freshness-twice", Check: attest.CheckDuplicateExtension, Meaning: "the leaf carries two freshness codes",
		plan: func(_ *Authority, _ Subject, p *plan) error {
			p.extensions = append(p.extensions, pkix.Extension{Id: oidFreshness, Value: make([]byte, 32)})
			return nil
		}},
	{Name: "leaf-not-der", Check: attest.CheckCertificateWellFormed, Meaning: "the leaf is random bytes",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			return [][]byte{bytes.Repeat([]byte{0x5a}, 64), x5c[1]}, nil
		}},
	{Name: "leaf-trailing-byte", Check: attest.CheckCertificateWellFormed, Meaning: "a byte follows the leaf's DER",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			return [][]byte{append(slices.Clone(x5c[0]), 0), x5c[1]}, nil
		}},
	{Name: "issuer-cut-short", Check: attest.CheckCertificateWellFormed, Meaning: "the sub CA's last byte is missing",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			return [][]byte{x5c[0], x5c[1][:len(x5c[1])-1]}, nil
		}},
	{Name: "leaf-signed-with-sha512", Check: attest.CheckSignatureAlgorithm, Meaning: "the leaf is signed with ECDSA over SHA-512",
		plan: func(_ *Authority, _ Subject, p *plan) error {
			p.leaf.SignatureAlgorithm = x509.ECDSAWithSHA512
			return nil
		}},
	{Name: "issuer-rsa", Check: attest.CheckSignatureAlgorithm, Meaning: "the sub CA has an RSA key",
		plan: func(a *Authority, s Subject, p *plan) error {
			p.leaf.SignatureAlgorithm = x509.SHA256WithRSA
			return under(func(a *Authority) (crypto.Signer, error) { return rsa.GenerateKey(a.random, 2048) })(a, s, p)
		}},
	{Name: "issuer-p521", Check: attest.CheckSignatureAlgorithm, Meaning: "the sub CA has a P-521 key",
		plan: under(func(a *Authority) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P521(), a.random) })},
	{Name: "leaf-unknown-critical", Check: attest.CheckCriticalExtension, Meaning: "the leaf has an unknown critical extension",
		plan: func(_ *Authority, _ Subject, p *plan) error {
			p.extensions = append(p.extensions, pkix.Extension{Id: oidExample, Critical: true, Value: []byte{0x05, 0x00}})
			return nil
		}},
	{Name: "issuer-unknown-critical", Check: attest.CheckCriticalExtension, Meaning: "the sub CA has an unknown critical extension",
		plan: reissue(func(t *x509.Certificate) {
			t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidExample, Critical: true, Value: []byte{0x05, 0x00}})
		})},
	{Name: "issuer-name-constraints", Check: attest.CheckCriticalExtension, Meaning: "the sub CA has critical name constraints",
		plan: reissue(func(t *x509.Certificate) {
			t.PermittedDNSDomainsCritical, t.PermittedDNSDomains = true, []string{"example.com"}
		})},
}

// chainMutations are faults of how certificates issue each other.
var chainMutations = []Mutation{
	{Name: "chain-reversed", Check: attest.CheckChainOrder, Meaning: "the sub CA comes before the leaf",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) { return [][]byte{x5c[1], x5c[0]}, nil }},
	{Name: "leaf-twice", Check: attest.CheckChainOrder, Meaning: "the leaf stands twice before the sub CA",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			return [][]byte{x5c[0], x5c[0], x5c[1]}, nil
		}},
	{Name: "issuer-no-ca", Check: attest.CheckIssuerIsCA, Meaning: "the sub CA's basic constraints say that it is no CA",
		plan: reissue(func(t *x509.Certificate) { t.IsCA, t.MaxPathLenZero = false, false })},
	{Name: "issuer-no-constraints", Check: attest.CheckIssuerIsCA, Meaning: "the sub CA has no basic constraints",
		plan: reissue(func(t *x509.Certificate) { t.BasicConstraintsValid, t.IsCA, t.MaxPathLenZero = false, false, false })},
	{Name: "issuer-no-cert-sign", Check: attest.CheckIssuerIsCA, Meaning: "the sub CA's key usage does not allow signing certificates",
		plan: reissue(func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageCRLSign })},
	{Name: "signed-by-leaf", Check: attest.CheckIssuerIsCA, Meaning: "another device's attested key signed the leaf", plan: signedByLeaf,
		chain: func(a *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			return append(x5c, a.subCA.certificate.Raw), nil
		}},
	{Name: "path-too-long", Check: attest.CheckPathLength, Meaning: "a further CA stands below the sub CA, whose path length is 0", plan: furtherCA,
		chain: func(a *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			return append(x5c, a.subCA.certificate.Raw), nil
		}},
	{Name: "leaf-expired", Check: attest.CheckChainValidity, Meaning: "the leaf's 90 days are over",
		plan: func(_ *Authority, s Subject, p *plan) error {
			p.leaf.NotBefore, p.leaf.NotAfter = s.Now.Add(-leafLifetime-backdate), s.Now.Add(-time.Minute)
			return nil
		}},
	{Name: "leaf-not-yet-valid", Check: attest.CheckChainValidity, Meaning: "the leaf becomes valid later",
		plan: func(_ *Authority, s Subject, p *plan) error { p.leaf.NotBefore = s.Now.Add(time.Minute); return nil }},
	{Name: "issuer-expired", Check: attest.CheckChainValidity, Meaning: "the sub CA has expired",
		plan: func(a *Authority, s Subject, p *plan) error {
			return reissue(func(t *x509.Certificate) { t.NotAfter = s.Now.Add(-time.Minute) })(a, s, p)
		}},
	{Name: "issuer-not-yet-valid", Check: attest.CheckChainValidity, Meaning: "the sub CA becomes valid later",
		plan: func(a *Authority, s Subject, p *plan) error {
			return reissue(func(t *x509.Certificate) { t.NotBefore = s.Now.Add(time.Minute) })(a, s, p)
		}},
	{Name: "other-root", Check: attest.CheckChainAnchored, Meaning: "another authority with the same names made the evidence",
		plan: func(a *Authority, s Subject, p *plan) error {
			other, err := New(a.random, s.Now)
			if err != nil {
				return err
			}
			p.issuer = other.subCA
			return nil
		}},
	{Name: "other-root-included", Check: attest.CheckChainAnchored, Meaning: "another authority with the same names, whose root is sent along",
		plan: func(a *Authority, s Subject, p *plan) error {
			other, err := New(a.random, s.Now)
			if err != nil {
				return err
			}
			p.issuer, p.root = other.subCA, other.root.certificate
			return nil
		}},
	{Name: "issuer-altered", Check: attest.CheckChainAnchored, Meaning: "the sub CA's serial number was altered after it was signed",
		chain: func(a *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			issuer := slices.Clone(x5c[1])
			at := bytes.Index(issuer, a.subCA.certificate.SerialNumber.Bytes())
			issuer[at+1] ^= 0x01
			return [][]byte{x5c[0], issuer}, nil
		}},
	{Name: "leaf-alone", Check: attest.CheckChainAnchored, Meaning: "the sub CA is missing",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) { return x5c[:1], nil }},
	{Name: "leaf-self-signed", Check: attest.CheckChainAnchored, Meaning: "the leaf is signed by a CA that nobody knows",
		plan: func(a *Authority, s Subject, p *plan) error {
			template, err := caTemplate(a.random, "Unknown CA", s.Now, leafLifetime)
			if err != nil {
				return err
			}
			key, err := ecdsa.GenerateKey(elliptic.P384(), a.random)
			p.issuer = issuer{certificate: template, key: key}
			return err
		},
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) { return x5c[:1], nil }},
	{Name: "leaf-forged", Check: attest.CheckChainSignature, Meaning: "another key than the sub CA's signed the leaf",
		plan: func(a *Authority, _ Subject, p *plan) error {
			key, err := ecdsa.GenerateKey(elliptic.P384(), a.random)
			p.issuer.key = key
			return err
		}},
	{Name: "leaf-altered", Check: attest.CheckChainSignature, Meaning: "the leaf was altered after it was signed",
		chain: func(_ *Authority, _ Subject, x5c [][]byte) ([][]byte, error) {
			leaf, err := alterSubject(x5c[0])
			return [][]byte{leaf, x5c[1]}, err
		}},
}
