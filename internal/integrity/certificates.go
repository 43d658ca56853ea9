package integrity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/policy"
)

// claimLimit is how old a reserved serial may be. A running server gives up what is a minute old, and looks every
// minute.
const claimLimit = 5 * time.Minute

// erased is how the serial number of a device begins whose rows were erased, and its certificates with them.
const erased = "forgotten "

// issuer is an issuing CA: nil if its chain is no chain.
type issuer struct{ certificate *x509.Certificate }

var chainRule = Rule{"issuer-chain", "the chain of an issuing CA parses, and each certificate signed the one before"}

// openIssuers reads the issuing CAs.
func (c *check) openIssuers(ctx context.Context) error {
	rows, err := c.store.Issuers(ctx)
	if err != nil {
		return err
	}
	known := c.issuers
	c.issuers = map[issuance.IssuerID]issuer{}
	for _, row := range rows {
		certificate, err := openChain(row.Chain)
		if _, told := known[row.ID]; err != nil && !told {
			c.fault(chainRule.Name, string(row.ID), "%v", err)
		}
		c.issuers[row.ID] = issuer{certificate}
	}
	return nil
}

// openChain returns the first certificate of a chain.
func openChain(chain [][]byte) (first *x509.Certificate, err error) {
	var below *x509.Certificate
	for n, der := range chain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d does not parse: %w", n+1, err)
		}
		if below == nil {
			first = certificate
		} else if err := below.CheckSignatureFrom(certificate); err != nil {
			return nil, fmt.Errorf("certificate %d is not signed by the next: %w", n, err)
		}
		below = certificate
	}
	return first, nil
}

// certificateRules are those of certificates and of serials that were reserved for one.
func (c *check) certificateRules(ctx context.Context) []rule[store.CertificateState] {
	return []rule[store.CertificateState]{
		{Rule{"certificate-order", "a serial belongs to the order that claimed it, and goes where the order goes"}, func(r *store.CertificateState) string {
			want := map[issuance.CertificateStatus]issuance.OrderStatus{
				issuance.CertificateReserved: issuance.OrderProcessing, issuance.CertificateValid: issuance.OrderValid,
				issuance.CertificateRevoked: issuance.OrderValid, issuance.CertificateAbandoned: issuance.OrderInvalid,
			}[r.Status]
			if r.OrderStatus != want {
				return fmt.Sprintf("it is %s, and its order %s is %q", r.Status, r.Order, r.OrderStatus)
			}
			return unless(r.OrderCode == r.Code, "it is of code %q, and its order of %q", r.Code, r.OrderCode)
		}},
		{Rule{"certificate-code", "the code of a certificate is consumed, that of a reserved serial is being used"}, func(r *store.CertificateState) string {
			want := map[issuance.CertificateStatus]issuance.CodeStatus{
				issuance.CertificateReserved: issuance.CodeIssuing, issuance.CertificateValid: issuance.CodeConsumed, issuance.CertificateRevoked: issuance.CodeConsumed,
			}[r.Status]
			return unless(r.Code == "" || want == "" || r.CodeStatus == want, "it is %s, and its code %s is %q", r.Status, r.Code, r.CodeStatus)
		}},
		{Rule{"certificate-decision", "a serial was reserved by a decision to issue, of its own order"}, func(r *store.CertificateState) string {
			return unless(r.DecisionOrder == r.Order && r.DecisionOutcome == policy.Issue && r.OrderDecision == r.Decision,
				"its decision %s is %q, of order %q", r.Decision, r.DecisionOutcome, r.DecisionOrder)
		}},
		{Rule{"certificate-evidence", "what a certificate rests on is the evidence of its own order"}, func(r *store.CertificateState) string {
			return unless(r.Evidence == r.OrderEvidence && (r.Evidence == "" || r.EvidenceOrder == r.Order), "its evidence %q is of order %q", r.Evidence, r.EvidenceOrder)
		}},
		{Rule{"certificate-reserved", "a reserved serial is young: a running server completes or abandons it"}, func(r *store.CertificateState) string {
			age := c.options.Now().Sub(r.ReservedAt)
			return unless(r.Status != issuance.CertificateReserved || age <= claimLimit, "it is reserved since %s: start the server, which abandons it", r.ReservedAt.Format(time.RFC3339))
		}},
		{Rule{"certificate-audit", "the audit tells of every certificate, revocation and abandoned serial"}, func(r *store.CertificateState) string {
			want := map[issuance.CertificateStatus][3]bool{issuance.CertificateValid: {true}, issuance.CertificateRevoked: {true, false, true}, issuance.CertificateAbandoned: {false, true}}[r.Status]
			got := [3]bool{r.Completed > 0, r.Abandoned > 0, r.Revoked > 0}
			return unless(got == want, "it is %s, and the audit says completed: %t, abandoned: %t, revoked: %t", r.Status, got[0], got[1], got[2])
		}},
		{Rule{"certificate-revocation", "a revoked certificate has a CRL that is to name it"}, func(r *store.CertificateState) string {
			return unless(r.Status != issuance.CertificateRevoked || r.CRLs > 0, "it is revoked, and shard %d of its issuer has no CRL", r.CRLShard)
		}},
		{Rule{"certificate-der", "a certificate is what its row says: serial, key, validity, CRL, signature of its issuer"}, func(r *store.CertificateState) string {
			return c.wrongDER(ctx, r)
		}},
	}
}

// wrongDER says what of a certificate itself is not as its row has it.
func (c *check) wrongDER(ctx context.Context, r *store.CertificateState) string {
	if r.Status != issuance.CertificateValid && r.Status != issuance.CertificateRevoked {
		return ""
	}
	if len(r.DER) == 0 {
		return unless(strings.HasPrefix(r.DeviceSerial, erased), "it is empty, and its device was not forgotten")
	}
	certificate, err := x509.ParseCertificate(r.DER)
	if err != nil {
		return fmt.Sprintf("it does not parse: %v", err)
	}
	signer, err := c.issuer(ctx, r.Issuer)
	key := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	switch {
	case err != nil:
		return err.Error()
	case ca.FormatSerial(certificate.SerialNumber) != r.Serial:
		return fmt.Sprintf("its serial is %s, and its row's %s", ca.FormatSerial(certificate.SerialNumber), r.Serial)
	case hex.EncodeToString(key[:]) != r.SPKISHA256:
		return "its key is not its row's"
	case !certificate.NotBefore.Equal(r.NotBefore) || !certificate.NotAfter.Equal(r.NotAfter):
		return fmt.Sprintf("it is valid %s to %s, and its row %s to %s", certificate.NotBefore.Format(time.RFC3339), certificate.NotAfter.Format(time.RFC3339),
			r.NotBefore.Format(time.RFC3339), r.NotAfter.Format(time.RFC3339))
	case len(certificate.CRLDistributionPoints) != 1 || !strings.HasSuffix(certificate.CRLDistributionPoints[0], ca.CRLPath(string(r.Issuer), r.CRLShard)):
		return fmt.Sprintf("it names the CRL %q, and its revocation would stand in shard %d", certificate.CRLDistributionPoints, r.CRLShard)
	}
	if err := certificate.CheckSignatureFrom(signer); err != nil {
		return fmt.Sprintf("its issuer %s did not sign it: %v", r.Issuer, err)
	}
	return ""
}

// issuer returns an issuing certificate, also of one that was added since the check began.
func (c *check) issuer(ctx context.Context, id issuance.IssuerID) (*x509.Certificate, error) {
	if _, known := c.issuers[id]; !known {
		if err := c.openIssuers(ctx); err != nil {
			return nil, err
		}
	}
	if one := c.issuers[id]; one.certificate != nil {
		return one.certificate, nil
	}
	return nil, fmt.Errorf("its issuer %s is missing, or has no chain that holds", id)
}
