package integrity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"time"

	"assay/internal/ca"
	"assay/internal/issuance"
)

var (
	crlRule        = Rule{"crl-der", "a CRL is what its row says: number, validity, signature of its issuer"}
	crlEntriesRule = Rule{"crl-entries", "a CRL that is not stale names every revoked certificate of its shard, and no CRL names another"}
	crlNumberRule  = Rule{"crl-number", "no two CRLs of a shard have one number, and the newest has the greatest"}
)

// place names a CRL.
func place(issuer issuance.IssuerID, shard int) string { return fmt.Sprintf("%s/%d", issuer, shard) }

// crlTries is how often a CRL is read again because it was replaced, or something was revoked, meanwhile.
const crlTries = 20

// checkCRLs holds every CRL to the rows.
func (c *check) checkCRLs(ctx context.Context) error {
	crls, err := c.store.CRLs(ctx)
	if err != nil {
		return err
	}
	for _, crl := range crls {
		c.counts.CRLs++
		for try := 0; ; try++ {
			faults, err := c.crlFaults(ctx, crl)
			if err != nil {
				return err
			}
			now, err := c.store.CRL(ctx, crl.Issuer, crl.Shard)
			if err != nil {
				return err
			}
			if now.Number != crl.Number || now.Revision != crl.Revision || now.Stale != crl.Stale {
				if try == crlTries {
					return fmt.Errorf("CRL %s changes faster than it can be checked", place(crl.Issuer, crl.Shard))
				}
				crl = now
				continue
			}
			for _, f := range faults {
				c.options.Found(f)
			}
			break
		}
	}
	return nil
}

// crlFaults is what is wrong with one CRL.
func (c *check) crlFaults(ctx context.Context, crl issuance.CRL) (faults []Fault, err error) {
	fault := func(rule Rule, format string, args ...any) {
		faults = append(faults, Fault{rule.Name, place(crl.Issuer, crl.Shard), fmt.Sprintf(format, args...)})
	}
	if len(crl.DER) == 0 { // none was signed yet
		if !crl.Stale {
			fault(crlRule, "there is none, and none is due")
		}
		return faults, nil
	}
	signer, err := c.issuer(ctx, crl.Issuer)
	if err != nil {
		fault(crlRule, "%v", err)
		return faults, nil
	}
	signed, err := x509.ParseRevocationList(crl.DER)
	if err != nil {
		fault(crlRule, "it does not parse: %v", err)
		return faults, nil
	}
	if err := signed.CheckSignatureFrom(signer); err != nil {
		fault(crlRule, "its issuer did not sign it: %v", err)
	}
	// A restore raises the number that the next CRL follows on.
	if number := signed.Number.Int64(); number > crl.Number || number < crl.Number && !crl.Stale {
		fault(crlRule, "its number is %d, and its row's %d", number, crl.Number)
	}
	if !signed.ThisUpdate.Equal(crl.ThisUpdate) || !signed.NextUpdate.Equal(crl.NextUpdate) {
		fault(crlRule, "it is of %s, and its row of %s", signed.ThisUpdate.Format(time.RFC3339), crl.ThisUpdate.Format(time.RFC3339))
	}
	return c.entryFaults(ctx, crl, signed, faults)
}

// entryFaults adds what is wrong with the entries of a CRL.
func (c *check) entryFaults(ctx context.Context, crl issuance.CRL, signed *x509.RevocationList, faults []Fault) ([]Fault, error) {
	fault := func(format string, args ...any) {
		faults = append(faults, Fault{crlEntriesRule.Name, place(crl.Issuer, crl.Shard), fmt.Sprintf(format, args...)})
	}
	named := make(map[string]*x509.RevocationListEntry, len(signed.RevokedCertificateEntries))
	for n := range signed.RevokedCertificateEntries {
		entry := &signed.RevokedCertificateEntries[n]
		named[ca.FormatSerial(entry.SerialNumber)] = entry
	}
	revoked, err := c.store.RevokedSerials(ctx, crl.Issuer, crl.Shard, c.options.Now())
	if err != nil {
		return faults, err
	}
	for _, r := range revoked {
		entry := named[r.Serial]
		delete(named, r.Serial)
		switch {
		case entry == nil && !crl.Stale:
			fault("it does not name %s, which is revoked", r.Serial)
		case entry != nil && (!entry.RevocationTime.Equal(r.RevokedAt.Truncate(time.Second)) || entry.ReasonCode != r.Reason):
			fault("it names %s with another time or reason than its row", r.Serial)
		}
	}
	for serial := range named { // they expired since, or are not revoked
		row, err := c.store.CertificateBySerial(ctx, serial)
		if err != nil && !errors.Is(err, issuance.ErrNotFound) {
			return faults, err
		}
		if row.Status != issuance.CertificateRevoked || row.Issuer != crl.Issuer || row.CRLShard != crl.Shard {
			fault("it names %s, which is %q, of issuer %q and shard %d", serial, row.Status, row.Issuer, row.CRLShard)
		}
	}
	return faults, nil
}

// checkPublications holds the numbers of CRLs against what the audit says of them.
func (c *check) checkPublications(ctx context.Context) error {
	last := map[string]int64{}
	for p, err := range c.store.Publications(ctx) {
		if err != nil {
			return err
		}
		of := string(p.Issuer) + "/" + p.Detail["shard"]
		number, err := strconv.ParseInt(p.Detail["number"], 10, 64)
		if err != nil {
			return fmt.Errorf("audit row %s: number of a CRL: %w", p.Row, err)
		}
		last[of] = max(last[of], number)
	}
	double, err := c.store.DoublePublications(ctx)
	if err != nil {
		return err
	}
	for _, p := range double {
		c.fault(crlNumberRule.Name, string(p.Issuer)+"/"+p.Detail["shard"], "number %s was published %d times", p.Detail["number"], p.Times)
	}
	crls, err := c.store.CRLs(ctx)
	if err != nil {
		return err
	}
	for _, crl := range crls {
		if of := place(crl.Issuer, crl.Shard); crl.Number < last[of] {
			c.fault(crlNumberRule.Name, of, "its number is %d, but %d was published before", crl.Number, last[of])
		}
	}
	return nil
}
