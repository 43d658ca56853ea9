package ca

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// When CRLs are renewed: daily, and at once on a revocation, while each may be used for a week. So a
// server that is down for days leaves its relying parties with a CRL that they accept.
const (
	crlLifetime   = 7 * 24 * time.Hour // from thisUpdate to nextUpdate
	CRLRenewalAge = 24 * time.Hour     // a CRL of this age is due for renewal
	crlAhead      = time.Minute        // the clocks of servers may differ by less
)

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// CRL is the content of a CRL: the revoked certificates of one shard of an issuer.
type CRL struct {
	Number                 int64 // larger than that of every earlier CRL of the shard (RFC 5280, section 5.2.3)
	ThisUpdate, NextUpdate time.Time
	Shard                  int
	Revoked                []Revoked
}

// Revoked is one entry of a CRL.
type Revoked struct {
	Serial string // lower-case hex, 40 digits
	At     time.Time
	Reason Reason
}

// CRLWindow is thisUpdate and nextUpdate of a CRL that is signed at now.
func CRLWindow(now time.Time) (thisUpdate, nextUpdate time.Time) {
	thisUpdate = now.UTC().Truncate(time.Second)
	return thisUpdate, thisUpdate.Add(crlLifetime)
}

// CRLDue reports whether a CRL of that thisUpdate must be renewed at now: it is old, or it was signed by a clock
// that was ahead, and relying parties refuse it until then.
func CRLDue(thisUpdate, now time.Time) bool {
	age := now.Sub(thisUpdate)
	return age >= CRLRenewalAge || age <= -crlAhead
}

// SignCRL signs a CRL and returns its DER. Its critical issuingDistributionPoint (RFC 5280, section
// 5.2.5) names the shard's URL: without it, one shard's CRL could be passed off as another's, and a
// revoked certificate as good.
func (i *Issuer) SignCRL(ctx context.Context, crl CRL) (der []byte, err error) {
	if crl.Number < 1 || crl.Shard < 0 {
		return nil, fmt.Errorf("sign CRL: number %d or shard %d is out of range", crl.Number, crl.Shard)
	}
	if !crl.ThisUpdate.Before(crl.NextUpdate) {
		return nil, errors.New("sign CRL: nextUpdate is not after thisUpdate")
	}
	point, err := distributionPoint(i.CRLURL(crl.Shard))
	if err != nil {
		return nil, fmt.Errorf("sign CRL: %w", err)
	}
	template := &x509.RevocationList{
		Number:          big.NewInt(crl.Number),
		ThisUpdate:      crl.ThisUpdate,
		NextUpdate:      crl.NextUpdate,
		ExtraExtensions: []pkix.Extension{{Id: oidIssuingDistributionPoint, Critical: true, Value: point}},
	}
	for _, revoked := range crl.Revoked {
		serial, err := ParseSerial(revoked.Serial)
		if err != nil {
			return nil, fmt.Errorf("sign CRL: %w", err)
		}
		if _, err := ReasonOf(int(revoked.Reason)); err != nil {
			return nil, fmt.Errorf("sign CRL: entry %s: %w", revoked.Serial, err)
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber:   serial,
			RevocationTime: revoked.At.UTC(),
			ReasonCode:     int(revoked.Reason), // 0 is left out, as section 5.3.1 wants it
		})
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sign CRL: %w", err)
	}
	der, err = x509.CreateRevocationList(rand.Reader, template, i.Certificate, i.key)
	if err != nil {
		return nil, fmt.Errorf("sign CRL: %w", err)
	}
	return der, nil
}

// distributionPoint is an IssuingDistributionPoint of one URL with onlyContainsUserCerts.
func distributionPoint(url string) ([]byte, error) {
	context0 := cbasn1.Tag(0).ContextSpecific().Constructed()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(context0, func(b *cryptobyte.Builder) { // distributionPoint
			b.AddASN1(context0, func(b *cryptobyte.Builder) { // fullName
				b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
			})
		})
		b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddUint8(0xff) })
	})
	return b.Bytes()
}
