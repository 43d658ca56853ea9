// Package ca is the certificate authority: issuers and their keys, the certificate profile that
// decides what a request is granted, and the signing of certificates and CRLs (RFC 5280).
//
// It works in two steps. Profile.Grant is pure: from a request, from what the code's credential
// says and from what evidence attests it makes the names and usages of the certificate, or refuses
// with a *csr.Error. Issuer.Issue then signs exactly that, under a serial that the caller has
// recorded before. No request can become a CA certificate, and no certificate outlives its issuer.
//
// It trusts its caller on one thing: that the public key that it certifies is the one that may be
// certified. Whether that is the attested key is compared where the decision is made, not here.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Issuer is an issuing CA that can sign. It is made by NewIssuer, never changes, and may be used by
// many goroutines if its key may.
type Issuer struct {
	ID          string
	Certificate *x509.Certificate
	Chain       [][]byte // DER as sent to clients: the issuing certificate first, no root

	key     crypto.Signer
	baseURL string
}

// maxChain is the number of certificates that a chain may have.
const maxChain = 8

// NewIssuer checks that the key can issue under chain[0]: it is the certificate's own, the certificate
// is a CA that may sign certificates and CRLs, and each certificate of the chain is signed by the next.
// WARNING: it does not look at the time, because the chains and CRLs of an expired issuer are still
// served; ValidAt and Window do. id is the opaque id that URLs name the issuer by. baseURL is the http
// or https URL under which IssuerPath and CRLPath are served; certificates name it for good, and
// fetching revocation over https can need revocation, so plain http is the usual choice.
func NewIssuer(id string, chain [][]byte, key crypto.Signer, baseURL string) (*Issuer, error) {
	certificates, err := parseChain(chain)
	if err != nil {
		return nil, fmt.Errorf("open issuer %s: %w", id, err)
	}
	if err := checkIssuing(certificates[0], key); err != nil {
		return nil, fmt.Errorf("open issuer %s: %w", id, err)
	}
	base, err := url.Parse(baseURL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" || base.User != nil {
		return nil, fmt.Errorf("open issuer %s: base URL %q is not http://HOST or https://HOST", id, baseURL)
	}
	if id == "" || url.PathEscape(id) != id {
		return nil, fmt.Errorf("open issuer: id %q cannot stand in a URL", id)
	}
	return &Issuer{ID: id, Certificate: certificates[0], Chain: chain, key: key, baseURL: strings.TrimSuffix(baseURL, "/")}, nil
}

// parseChain parses a chain and checks its links.
func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("chain has %d certificates, not 1 to %d", len(chain), maxChain)
	}
	var certificates []*x509.Certificate
	for n, der := range chain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d of the chain: %w", n+1, err)
		}
		if n > 0 {
			below := certificates[n-1]
			if !bytes.Equal(below.RawIssuer, certificate.RawSubject) {
				return nil, fmt.Errorf("certificate %d of the chain is not issued by certificate %d: the names differ", n, n+1)
			}
			if err := below.CheckSignatureFrom(certificate); err != nil {
				return nil, fmt.Errorf("certificate %d of the chain is not signed by certificate %d: %w", n, n+1, err)
			}
		}
		certificates = append(certificates, certificate)
	}
	return certificates, nil
}

// checkIssuing holds what an issuing certificate must be.
func checkIssuing(certificate *x509.Certificate, key crypto.Signer) error {
	public, comparable := certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !comparable || !public.Equal(key.Public()) {
		return errors.New("the key is not the certificate's")
	}
	if err := checkIssuerKey(key.Public()); err != nil {
		return err
	}
	if !certificate.BasicConstraintsValid || !certificate.IsCA {
		return errors.New("the certificate is no CA certificate")
	}
	if certificate.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the certificate may not sign certificates (keyUsage lacks keyCertSign)")
	}
	if certificate.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return errors.New("the certificate may not sign CRLs (keyUsage lacks cRLSign)")
	}
	// RFC 5280, section 4.2.1.2: without it no certificate or CRL could name the issuer's key.
	if len(certificate.SubjectKeyId) == 0 {
		return errors.New("the certificate has no subject key identifier")
	}
	return nil
}

// checkIssuerKey refuses keys that are too weak to hold for an issuer's lifetime.
func checkIssuerKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits < 256 {
			return fmt.Errorf("the key's curve has %d bits, fewer than 256", bits)
		}
		return nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 {
			return fmt.Errorf("the RSA key has %d bits, fewer than 2048", bits)
		}
		return nil
	}
	return fmt.Errorf("the key is a %T, neither RSA nor EC", key)
}

// IssuerPath is the path at which an issuer's certificate (DER, application/pkix-cert) is served.
func IssuerPath(id string) string { return "/issuer/" + id }

// CRLPath is the path at which an issuer's CRL of one shard (DER, application/pkix-crl) is served.
func CRLPath(id string, shard int) string { return "/crl/" + id + "/" + strconv.Itoa(shard) }

// CertificateURL is where issued certificates say that their issuer's certificate is.
func (i *Issuer) CertificateURL() string { return i.baseURL + IssuerPath(i.ID) }

// CRLURL is where issued certificates of a shard say that their CRL is.
func (i *Issuer) CRLURL(shard int) string { return i.baseURL + CRLPath(i.ID, shard) }

// ValidAt refuses an issuer whose certificate is not yet valid or has expired at now.
func (i *Issuer) ValidAt(now time.Time) error {
	if now.Before(i.Certificate.NotBefore) {
		return fmt.Errorf("issuer %s is not valid before %s", i.ID, i.Certificate.NotBefore.UTC().Format(time.RFC3339))
	}
	if !now.Before(i.Certificate.NotAfter) {
		return fmt.Errorf("issuer %s expired at %s", i.ID, i.Certificate.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Window is the validity of a certificate that is issued at now: the profile's lifetime and backdate,
// kept within the issuer's own validity. Both ends belong to it (RFC 5280, section 4.1.2.5), and are
// whole seconds in UTC. An issuer that is not valid at now has no window.
func (i *Issuer) Window(p *Profile, now time.Time) (notBefore, notAfter time.Time, err error) {
	now = now.UTC().Truncate(time.Second)
	if err := i.ValidAt(now); err != nil {
		return time.Time{}, time.Time{}, err
	}
	notBefore, notAfter = now.Add(-p.Backdate), now.Add(p.Lifetime)
	if notBefore.Before(i.Certificate.NotBefore) {
		notBefore = i.Certificate.NotBefore.UTC()
	}
	if notAfter.After(i.Certificate.NotAfter) {
		notAfter = i.Certificate.NotAfter.UTC()
	}
	return notBefore, notAfter, nil
}
