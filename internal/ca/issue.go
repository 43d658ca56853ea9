package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"assay/internal/tracing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// IssueInput is everything that a certificate is made of.
type IssueInput struct {
	Serial              *big.Int
	Grant               *Grant           // what the profile grants; never changed
	PublicKey           crypto.PublicKey // the request's
	NotBefore, NotAfter time.Time        // from Window; whole seconds
	Shard               int              // of the CRL that will list the certificate
}

// Issue signs a certificate and returns its DER. The caller has recorded the serial before, so that
// no certificate exists without a row. The signature is verified before the certificate is returned.
func (i *Issuer) Issue(ctx context.Context, in IssueInput) (der []byte, err error) {
	ctx, span := tracing.Start(ctx, "sign certificate")
	defer span.End(&err)
	if err := i.check(in); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	template, err := i.template(in)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	// CreateCertificate verifies the signature that it made, whatever holds the key.
	der, err = x509.CreateCertificate(rand.Reader, template, i.Certificate, in.PublicKey, i.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return der, nil
}

// check holds what no certificate may be, whatever the caller asks.
func (i *Issuer) check(in IssueInput) error {
	if err := checkSerial(in.Serial); err != nil {
		return err
	}
	// CreateCertificate would leave out an empty keyUsage or make an empty list of usages.
	if in.Grant == nil || len(in.Grant.RawSubject) == 0 || in.Grant.KeyUsage == 0 || len(in.Grant.ExtKeyUsage) == 0 {
		return errors.New("no profile granted this certificate its names and usages")
	}
	if in.Grant.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("a device's key may not sign certificates or CRLs")
	}
	if in.Shard < 0 {
		return fmt.Errorf("CRL shard is %d", in.Shard)
	}
	if !in.NotBefore.Before(in.NotAfter) {
		return errors.New("validity ends before it begins")
	}
	// A certificate that outlives its issuer could be neither verified nor revoked at its end.
	if in.NotAfter.After(i.Certificate.NotAfter) {
		return errors.New("validity ends after the issuer's")
	}
	if in.NotBefore.Before(i.Certificate.NotBefore) {
		return errors.New("validity begins before the issuer's")
	}
	// CreateCertificate certifies Ed25519 keys too, which no profile can allow.
	switch in.PublicKey.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
		return nil
	}
	return fmt.Errorf("public key is a %T, neither RSA nor EC", in.PublicKey)
}

// template is the certificate to be signed: critical basicConstraints with CA false and critical
// keyUsage, always.
func (i *Issuer) template(in IssueInput) (*x509.Certificate, error) {
	keyID, err := keyIdentifier(in.PublicKey)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          in.Serial,
		RawSubject:            in.Grant.RawSubject,
		NotBefore:             in.NotBefore,
		NotAfter:              in.NotAfter,
		KeyUsage:              in.Grant.KeyUsage,
		SubjectKeyId:          keyID,
		BasicConstraintsValid: true,
		IsCA:                  false,
		IssuingCertificateURL: []string{i.CertificateURL()},
		CRLDistributionPoints: []string{i.CRLURL(in.Shard)},
	}
	usages, err := extKeyUsageExtension(in.Grant.ExtKeyUsage)
	if err != nil {
		return nil, err
	}
	template.ExtraExtensions = []pkix.Extension{usages}
	if in.Grant.RawAltNames != nil {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{
			Id: oidSubjectAltName,
			// RFC 5280, section 4.2.1.6: with an empty subject the alternative names are all there is.
			Critical: len(in.Grant.RawSubject) == len(emptySequence),
			Value:    in.Grant.RawAltNames,
		})
	}
	return template, nil
}

// keyIdentifier is the leftmost 160 bits of the SHA-256 hash of the key's bit string (RFC 7093,
// section 2, method 1): no SHA-1, and the same length that RFC 5280's method gives.
func keyIdentifier(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

// extKeyUsageExtension encodes the usages, in order.
func extKeyUsageExtension(usages []string) (pkix.Extension, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, usage := range usages {
			addOID(b, usage)
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode extended key usages: %w", err)
	}
	return pkix.Extension{Id: oidExtKeyUsage, Value: der}, nil
}

// addOID adds a dotted object identifier in DER.
func addOID(b *cryptobyte.Builder, dotted string) {
	oid, err := x509.ParseOID(dotted)
	if err != nil {
		b.SetError(fmt.Errorf("object identifier %q: %w", dotted, err))
		return
	}
	content, err := oid.MarshalBinary()
	if err != nil {
		b.SetError(fmt.Errorf("object identifier %q: %w", dotted, err))
		return
	}
	b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}
