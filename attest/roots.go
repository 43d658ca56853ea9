package attest

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed" // Apple's root
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// StandInMarker is the extension that every certificate of a stand-in attestation authority carries,
// so that none is ever taken for a manufacturer's. It lies under the arc for examples (ITU-T X.660,
// 2.999): a UUID under 2.25 would not fit the 31 bits that crypto/x509 reads of a component.
var StandInMarker = asn1.ObjectIdentifier{2, 999, 1095975257, 1}

// StandInSubject is what the subject of a stand-in root must contain.
const StandInSubject = "not Apple"

// Limits on root files.
const (
	maxRootFile = 256 << 10 // bytes
	maxRoots    = 16
)

//go:embed roots/Apple_Enterprise_Attestation_Root_CA.pem
var appleRootPEM []byte

// AppleRoot is Apple's Enterprise Attestation Root CA, which anchors what Apple devices send.
func AppleRoot() Root { return appleRoot() }

var appleRoot = sync.OnceValue(func() Root {
	roots, err := ParseRoots(appleRootPEM)
	if err != nil {
		panic("attest: embedded root: " + err.Error()) // constant input: fails in every test or never
	}
	return roots[0]
})

// NewRoot makes a trust anchor of a CA certificate. It refuses a certificate that may not issue
// others, and a marked one whose subject does not say StandInSubject.
func NewRoot(certificate *x509.Certificate) (Root, error) {
	if !isCA(certificate) {
		return Root{}, errors.New("certificate is no CA that may sign certificates")
	}
	if !acceptableKey(certificate.PublicKey) {
		return Root{}, errors.New("certificate's key is not on the curve P-256 or P-384")
	}
	standIn := isMarked(certificate)
	name := certificate.Subject.String()
	if standIn && !strings.Contains(name, StandInSubject) {
		return Root{}, fmt.Errorf("certificate has the stand-in marker, but its subject does not say %q", StandInSubject)
	}
	sum := sha256.Sum256(certificate.Raw)
	return Root{Certificate: certificate, Name: name, SHA256: hex.EncodeToString(sum[:]), StandIn: standIn}, nil
}

// ParseRoots reads a PEM file of trust anchors for one format: certificates only, each once. It
// does not ask whether they are valid now; Verify does at every use.
func ParseRoots(data []byte) ([]Root, error) {
	if len(data) > maxRootFile {
		return nil, fmt.Errorf("parse roots: %d bytes is over the limit of %d", len(data), maxRootFile)
	}
	var roots []Root
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("parse roots: PEM block %q is no certificate", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse roots: certificate %d: %w", len(roots)+1, err)
		}
		root, err := NewRoot(certificate)
		if err != nil {
			return nil, fmt.Errorf("parse roots: certificate %d: %w", len(roots)+1, err)
		}
		if slices.ContainsFunc(roots, func(r Root) bool { return r.SHA256 == root.SHA256 }) {
			return nil, fmt.Errorf("parse roots: certificate %d occurs twice", len(roots)+1)
		}
		roots = append(roots, root)
		if len(roots) > maxRoots {
			return nil, fmt.Errorf("parse roots: more than %d certificates", maxRoots)
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("parse roots: no PEM certificate found")
	}
	return roots, nil
}

// isMarked reports whether a certificate carries the stand-in marker.
func isMarked(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(StandInMarker) {
			return true
		}
	}
	return false
}
