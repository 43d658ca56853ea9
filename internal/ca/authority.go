package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// KeyAlgorithm is a kind of key for a CA.
type KeyAlgorithm string

// The kinds of key that GenerateKey makes.
const (
	P256    KeyAlgorithm = "P-256"
	P384    KeyAlgorithm = "P-384"
	RSA3072 KeyAlgorithm = "RSA-3072"
)

// How long the certificates of an authority last.
const (
	rootLifetime    = 20 * 365 * 24 * time.Hour
	issuingLifetime = 10 * 365 * 24 * time.Hour
	// servingLifetime is below the 398 days that Apple's systems accept of some server certificates.
	servingLifetime = 397 * 24 * time.Hour
)

// authorityBackdate lets devices with a slow clock use a new authority.
const authorityBackdate = 24 * time.Hour

// MaxName is the longest name of an installation, in characters: common names hold it, with their
// role, in 64 (RFC 5280, appendix A.1).
const MaxName = 40

// GenerateKey makes a key from the system's randomness, which nothing may replace.
func GenerateKey(algorithm KeyAlgorithm) (crypto.Signer, error) {
	switch algorithm {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, fmt.Errorf("generate key: %q is none of %s, %s and %s", algorithm, P256, P384, RSA3072)
}

// Root is a self-signed CA with its key. It signs issuing CAs or server certificates, never both.
type Root struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// NewRoot makes the root above issuing CAs. name is the installation's, such as "Example Inc.".
func NewRoot(name string, key crypto.Signer, now time.Time) (*Root, error) {
	// One level of issuing CAs, which certify devices only.
	return newRoot(name, "Device Root CA", 1, key, now)
}

// NewServingRoot makes the root of the server's own TLS certificate. It is apart from the root of
// devices: whoever trusts the server's name does not thereby trust a device.
func NewServingRoot(name string, key crypto.Signer, now time.Time) (*Root, error) {
	return newRoot(name, "Server Root CA", 0, key, now)
}

func newRoot(name, role string, pathLen int, key crypto.Signer, now time.Time) (*Root, error) {
	template, err := caTemplate(name, role, pathLen, key.Public(), now, rootLifetime)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	certificate, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	return &Root{Certificate: certificate, key: key}, nil
}

// OpenRoot joins a root's certificate and key again.
func OpenRoot(certificate *x509.Certificate, key crypto.Signer, now time.Time) (*Root, error) {
	if err := checkIssuing(certificate, key); err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	if now.Before(certificate.NotBefore) || !now.Before(certificate.NotAfter) {
		return nil, fmt.Errorf("open root: the certificate is not valid at %s", now.UTC().Format(time.RFC3339))
	}
	return &Root{Certificate: certificate, key: key}, nil
}

// NewIssuing certifies the key of an issuing CA, which can certify no further CA (pathLen 0).
func (r *Root) NewIssuing(name string, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	template, err := caTemplate(name, issuingRole, 0, key, now, issuingLifetime)
	if err != nil {
		return nil, fmt.Errorf("make issuing CA: %w", err)
	}
	template.NotAfter = earlier(template.NotAfter, r.Certificate.NotAfter)
	certificate, err := sign(template, r.Certificate, key, r.key)
	if err != nil {
		return nil, fmt.Errorf("make issuing CA: %w", err)
	}
	return certificate, nil
}

const issuingRole = "Device Issuing CA"

// NewServing certifies the key of a TLS server for host names and IP addresses.
func (r *Root) NewServing(hosts []string, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	_, serial, err := NewSerial(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server certificate: %w", err)
	}
	keyID, err := keyIdentifier(key)
	if err != nil {
		return nil, fmt.Errorf("make server certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             laterOf(now.Add(-authorityBackdate), r.Certificate.NotBefore),
		NotAfter:              earlier(now.Add(servingLifetime-authorityBackdate), r.Certificate.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SubjectKeyId:          keyID,
		BasicConstraintsValid: true,
	}
	if len(hosts) == 0 {
		return nil, errors.New("make server certificate: no host")
	}
	for _, host := range hosts {
		if address, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, address.AsSlice())
		} else if isHostName(strings.TrimPrefix(host, "*.")) {
			template.DNSNames = append(template.DNSNames, host)
		} else {
			return nil, fmt.Errorf("make server certificate: %q is neither a host name nor an IP address", host)
		}
	}
	if len(hosts[0]) <= 64 {
		template.Subject.CommonName = hosts[0]
	}
	certificate, err := sign(template, r.Certificate, key, r.key)
	if err != nil {
		return nil, fmt.Errorf("make server certificate: %w", err)
	}
	return certificate, nil
}

// caTemplate is a CA certificate to be signed.
func caTemplate(name, role string, pathLen int, key crypto.PublicKey, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	if err := checkIssuerKey(key); err != nil {
		return nil, err
	}
	subject, keyID, err := caSubject(name, role, key)
	if err != nil {
		return nil, err
	}
	_, serial, err := NewSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		NotBefore:             now.Add(-authorityBackdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId:          keyID,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
	}, nil
}

// caSubject names a CA by installation, role and key: when a CA is rotated, the new one must have a
// name of its own (RFC 5280, section 4.1.2.6, ties one name to one entity; clients look CAs up by it).
func caSubject(name, role string, key crypto.PublicKey) (pkix.Name, []byte, error) {
	if name == "" || utf8.RuneCountInString(name) > MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return pkix.Name{}, nil, fmt.Errorf("name %q is not 1 to %d printable characters", name, MaxName)
	}
	keyID, err := keyIdentifier(key)
	if err != nil {
		return pkix.Name{}, nil, err
	}
	return pkix.Name{
		Organization: []string{name},
		CommonName:   name + " " + role + " " + hex.EncodeToString(keyID[:2]),
	}, keyID, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func laterOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// NewSigningRequest is a PKCS#10 request (DER) for an issuing CA, to be signed by an existing PKI. It
// asks for what NewIssuing gives: a CA with pathLen 0 that signs certificates and CRLs.
func NewSigningRequest(name string, key crypto.Signer) ([]byte, error) {
	if err := checkIssuerKey(key.Public()); err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	subject, _, err := caSubject(name, issuingRole, key.Public())
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: subject,
		ExtraExtensions: []pkix.Extension{
			{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00}}, // CA:TRUE, pathLen 0
			{Id: oidKeyUsage, Critical: true, Value: []byte{0x03, 0x02, 0x01, 0x06}},                                 // keyCertSign, cRLSign
		},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	return der, nil
}

// Adopt reads the PEM chain of an issuing CA from another PKI, issuing certificate first, and returns
// its DER without the self-signed root that may end it. NewIssuer checks it together with its key.
func Adopt(chainPEM []byte) (chain [][]byte, err error) {
	for rest := chainPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.TrimSpace(string(rest)) != "" {
				return nil, errors.New("read CA chain: text that is no PEM")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("read CA chain: PEM block is %q, not CERTIFICATE", block.Type)
		}
		chain = append(chain, block.Bytes)
	}
	certificates, err := parseChain(chain)
	if err != nil {
		return nil, fmt.Errorf("read CA chain: %w", err)
	}
	last := certificates[len(certificates)-1]
	if len(chain) > 1 && slices.Equal(last.RawSubject, last.RawIssuer) {
		chain = chain[:len(chain)-1]
	}
	return chain, nil
}
