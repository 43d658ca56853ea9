// Package standin is an attestation authority that stands in for Apple's, for the demonstration,
// the simulated device and tests. Its evidence has the shape of Apple's to the byte, but for what
// keeps it from being believed: every certificate carries attest.StandInMarker and a subject that
// says that it is not Apple's.
//
// It also makes every hostile variant of that evidence: see Mutations. It trusts its caller, who
// says what to attest; nothing that it signs says anything about real hardware.
package standin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"assay/attest"
)

// Names of the authority's certificates. The organization is part of every subject.
const (
	organization = "Assay stand-in (" + attest.StandInSubject + ")"
	rootName     = "Assay stand-in Attestation Root CA (" + attest.StandInSubject + ")"
	subCAName    = "Assay stand-in Attestation Sub CA 1 (" + attest.StandInSubject + ")"
)

const (
	backdate      = 24 * time.Hour // as Apple backdates leaves
	leafLifetime  = 90 * 24 * time.Hour
	subCALifetime = 10 * 365 * 24 * time.Hour
	rootLifetime  = 25 * 365 * 24 * time.Hour
)

// Authority is a stand-in attestation authority. Safe for concurrent use if its random source is.
type Authority struct {
	random io.Reader
	root   issuer
	subCA  issuer
	anchor attest.Root
}

// issuer is a CA certificate with its key.
type issuer struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// New makes an authority with new keys, valid from a day before now.
func New(random io.Reader, now time.Time) (*Authority, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), random)
	if err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	subCAKey, err := ecdsa.GenerateKey(elliptic.P384(), random)
	if err != nil {
		return nil, fmt.Errorf("make sub CA key: %w", err)
	}
	template, err := caTemplate(random, rootName, now, rootLifetime)
	if err != nil {
		return nil, err
	}
	rootCertificate, err := issueCA(random, template, rootKey.Public(), issuer{certificate: template, key: rootKey})
	if err != nil {
		return nil, fmt.Errorf("issue root: %w", err)
	}
	root := issuer{certificate: rootCertificate, key: rootKey}
	if template, err = subCATemplate(random, now); err != nil {
		return nil, err
	}
	subCACertificate, err := issueCA(random, template, subCAKey.Public(), root)
	if err != nil {
		return nil, fmt.Errorf("issue sub CA: %w", err)
	}
	return assemble(random, root, issuer{certificate: subCACertificate, key: subCAKey})
}

// assemble makes an authority of its parts and refuses parts that do not belong together.
func assemble(random io.Reader, root, subCA issuer) (*Authority, error) {
	anchor, err := attest.NewRoot(root.certificate)
	if err != nil {
		return nil, fmt.Errorf("use stand-in root: %w", err)
	}
	if !anchor.StandIn {
		return nil, errors.New("use stand-in root: it does not carry the stand-in marker")
	}
	if err := subCA.certificate.CheckSignatureFrom(root.certificate); err != nil {
		return nil, fmt.Errorf("use stand-in sub CA: %w", err)
	}
	for _, i := range []issuer{root, subCA} {
		public, ok := i.key.Public().(*ecdsa.PublicKey)
		if !ok || !public.Equal(i.certificate.PublicKey) {
			return nil, fmt.Errorf("use stand-in CA %q: its key is another's", i.certificate.Subject.CommonName)
		}
	}
	return &Authority{random: random, root: root, subCA: subCA, anchor: anchor}, nil
}

// Root is the trust anchor that has to be configured for this authority's evidence. It is marked as
// a stand-in.
func (a *Authority) Root() attest.Root { return a.anchor }

// caTemplate describes a CA certificate as Apple's look: critical basic constraints and key usage,
// key identifiers, nothing else but the marker.
func caTemplate(random io.Reader, name string, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := randomSerial(random, 20)
	if err != nil {
		return nil, err
	}
	subject := pkix.Name{CommonName: name, Organization: []string{organization}}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(lifetime).UTC(),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
		ExtraExtensions:       []pkix.Extension{marker()},
	}, nil
}

func subCATemplate(random io.Reader, now time.Time) (*x509.Certificate, error) {
	template, err := caTemplate(random, subCAName, now, subCALifetime)
	if err != nil {
		return nil, err
	}
	template.MaxPathLenZero = true
	return template, nil
}

func issueCA(random io.Reader, template *x509.Certificate, key crypto.PublicKey, by issuer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(random, template, by.certificate, key, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// marker is the extension that says what made the certificate.
func marker() pkix.Extension {
	return pkix.Extension{Id: attest.StandInMarker, Value: []byte("made by an Assay stand-in (" + attest.StandInSubject + ")")}
}

// randomSerial makes a positive serial number of exactly size bytes.
func randomSerial(random io.Reader, size int) (*big.Int, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x01
	return new(big.Int).SetBytes(b), nil
}
