package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Limits on certificate chains.
const (
	maxChain       = 4       // certificates in a statement
	maxCertificate = 8 << 10 // bytes of one certificate
)

// chain is a verified chain: each certificate issued by the next, the last one by the root.
type chain struct {
	certificates []*x509.Certificate // leaf first, without the root
	root         Root
}

// verifyChain checks certificates as they came (leaf first, the root last or absent) up to one of
// the roots at p.Now. It checks everything but what a leaf of the format must look like. It is as
// strict as x509.Certificate.Verify, which cannot say which rule failed; names and extended key
// usages are not looked at, as attestation leaves carry none that matter.
func (v *Verifier) verifyChain(ders [][]byte, p Params) (*chain, error) {
	certificates, err := v.parseChain(ders)
	if err != nil {
		return nil, err
	}
	certificates = withoutRoot(certificates, p.Roots)
	if err := checkCertificates(certificates, p.Now); err != nil {
		return nil, err
	}
	root, err := v.anchor(certificates, p.Roots)
	if err != nil {
		return nil, err
	}
	if err := checkRoot(root, len(certificates)-1, p.Now); err != nil {
		return nil, err
	}
	for i := len(certificates) - 2; i >= 0; i-- {
		// The leaf is new with every request: remembering it would only cost memory.
		if err := v.verifySignature(certificates[i], certificates[i+1], i > 0); err != nil {
			return nil, refuse(CheckChainSignature, "a certificate's signature does not verify with its issuer's key", err)
		}
	}
	if err := checkMarkers(certificates, root); err != nil {
		return nil, err
	}
	return &chain{certificates: certificates, root: root}, nil
}

func (v *Verifier) parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, refuse(CheckChainLength, fmt.Sprintf("the statement carries %d certificates, not 1 to %d", len(ders), maxChain), nil)
	}
	certificates := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if known := v.intermediates.find(der); known != nil {
			certificates[i] = known
			continue
		}
		if len(der) > maxCertificate {
			return nil, refuse(CheckCertificateSize, fmt.Sprintf("a certificate has %d bytes, the limit is %d", len(der), maxCertificate), nil)
		}
		// crypto/x509 refuses duplicates too, but as one of many parse errors.
		if hasDuplicateExtension(der) {
			return nil, refuse(CheckDuplicateExtension, "a certificate carries an extension twice", nil)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(CheckCertificateWellFormed, "a certificate cannot be read", err)
		}
		certificates[i] = c
	}
	return certificates, nil
}

// withoutRoot drops a last certificate that is a root itself: senders may include it, and trust
// comes from the configured copy. A root may be re-issued, so it is told by key and subject.
func withoutRoot(certificates []*x509.Certificate, roots []Root) []*x509.Certificate {
	last := certificates[len(certificates)-1]
	for _, r := range roots {
		if len(certificates) > 1 && bytes.Equal(last.RawSubject, r.Certificate.RawSubject) &&
			bytes.Equal(last.RawSubjectPublicKeyInfo, r.Certificate.RawSubjectPublicKeyInfo) {
			return certificates[:len(certificates)-1]
		}
	}
	return certificates
}

// checkCertificates checks all that needs no signature.
func checkCertificates(certificates []*x509.Certificate, now time.Time) error {
	for _, c := range certificates {
		if c.SignatureAlgorithm != x509.ECDSAWithSHA256 && c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			return refuse(CheckSignatureAlgorithm, "a certificate is signed with "+c.SignatureAlgorithm.String(), nil)
		}
		if oid, found := unhandledCritical(c); found {
			return refuse(CheckCriticalExtension, "a certificate has the critical extension "+oid+", which is not understood", nil)
		}
	}
	for i, c := range certificates[1:] {
		below := certificates[i]
		if !bytes.Equal(below.RawIssuer, c.RawSubject) {
			return refuse(CheckChainOrder, "a certificate does not name the next one as its issuer", nil)
		}
		if !isCA(c) {
			return refuse(CheckIssuerIsCA, "an issuing certificate is no CA that may sign certificates", nil)
		}
		if !acceptableKey(c.PublicKey) {
			return refuse(CheckSignatureAlgorithm, "an issuing certificate's key is not on the curve P-256 or P-384", nil)
		}
		if !pathAllows(c, i) {
			return refuse(CheckPathLength, "there are more intermediates than an issuing certificate allows", nil)
		}
	}
	for _, c := range certificates {
		if err := checkValidity(c, now); err != nil {
			return err
		}
	}
	return nil
}

// anchor finds the root that issued the last certificate: by name, then by signature.
func (v *Verifier) anchor(certificates []*x509.Certificate, roots []Root) (Root, error) {
	last := certificates[len(certificates)-1]
	cause := errors.New("no root has the name of the issuer")
	for _, r := range roots {
		if !bytes.Equal(last.RawIssuer, r.Certificate.RawSubject) {
			continue
		}
		if cause = v.verifySignature(last, r.Certificate, len(certificates) > 1); cause == nil {
			return r, nil
		}
	}
	return Root{}, refuse(CheckChainAnchored, "the chain does not end at a configured root", cause)
}

// checkRoot checks a root at every use: a configured root may expire, and Root can be made by hand.
func checkRoot(root Root, intermediates int, now time.Time) error {
	c := root.Certificate
	if !isCA(c) {
		return refuse(CheckIssuerIsCA, "the root is no CA that may sign certificates", nil)
	}
	if !pathAllows(c, intermediates) {
		return refuse(CheckPathLength, "there are more intermediates than the root allows", nil)
	}
	return checkValidity(c, now)
}

// checkMarkers keeps the stand-in's certificates from being believed under a root that does not
// say that it is one: whoever allows stand-ins, or not, decides by the root.
func checkMarkers(certificates []*x509.Certificate, root Root) error {
	if isMarked(root.Certificate) {
		return nil
	}
	for _, c := range certificates {
		if isMarked(c) {
			return refuse(CheckStandInMarker, "a stand-in's certificate is anchored by a root without the stand-in marker", nil)
		}
	}
	return nil
}

// verifySignature verifies a certificate's signature with its issuer's key. With remember, it does
// so once for the exact bytes of the certificate and this key.
func (v *Verifier) verifySignature(c, issuer *x509.Certificate, remember bool) error {
	if remember && v.intermediates.isSignedBy(c, issuer) {
		return nil
	}
	if !acceptableKey(issuer.PublicKey) {
		return errors.New("issuer's key is not on the curve P-256 or P-384")
	}
	if err := issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return err
	}
	if remember {
		v.intermediates.remember(c, issuer)
	}
	return nil
}

func isCA(c *x509.Certificate) bool {
	return c.BasicConstraintsValid && c.IsCA && c.KeyUsage&x509.KeyUsageCertSign != 0
}

// pathAllows reports whether a CA's path length allows this many intermediates below it.
func pathAllows(c *x509.Certificate, below int) bool {
	limited := c.MaxPathLen > 0 || c.MaxPathLenZero
	return !limited || below <= c.MaxPathLen
}

func checkValidity(c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) {
		return refuse(CheckChainValidity, "a certificate is not valid before "+c.NotBefore.UTC().Format(time.RFC3339), nil)
	}
	if now.After(c.NotAfter) {
		return refuse(CheckChainValidity, "a certificate is not valid after "+c.NotAfter.UTC().Format(time.RFC3339), nil)
	}
	return nil
}

// acceptableKey is the policy for attested and issuing keys alike.
func acceptableKey(key any) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && (k.Curve == elliptic.P256() || k.Curve == elliptic.P384())
}
