package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSignCRL(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	crl := testCRL()
	list := must(x509.ParseRevocationList(must(issuer.SignCRL(t.Context(), crl))(t)))(t)
	if err := list.CheckSignatureFrom(issuer.Certificate); err != nil {
		t.Error(err)
	}
	if list.Number.Int64() != 7 || !list.ThisUpdate.Equal(testNow.Truncate(time.Second)) || list.NextUpdate.Sub(list.ThisUpdate) != crlLifetime ||
		!bytes.Equal(list.AuthorityKeyId, issuer.Certificate.SubjectKeyId) {
		t.Errorf("number %v, %s to %s", list.Number, list.ThisUpdate, list.NextUpdate)
	}
	var got []Revoked
	for _, entry := range list.RevokedCertificateEntries {
		got = append(got, Revoked{FormatSerial(entry.SerialNumber), entry.RevocationTime, Reason(entry.ReasonCode)})
	}
	want := slices.Clone(crl.Revoked)
	for n := range want {
		want[n].At = want[n].At.Truncate(time.Second)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(list.RevokedCertificateEntries[0].Extensions); n != 0 {
		t.Errorf("reason unspecified is written (%d extensions)", n)
	}
	var point struct {
		Point struct {
			FullName []asn1.RawValue `asn1:"tag:0"`
		} `asn1:"tag:0"`
		UserCerts bool `asn1:"tag:1"`
	}
	for _, extension := range list.Extensions {
		if extension.Id.Equal(oidIssuingDistributionPoint) && extension.Critical {
			if rest, err := asn1.Unmarshal(extension.Value, &point); err != nil || len(rest) > 0 {
				t.Fatal(err)
			}
		}
	}
	if !point.UserCerts || len(point.Point.FullName) != 1 || string(point.Point.FullName[0].Bytes) != issuer.CRLURL(2) {
		t.Errorf("issuing distribution point %+v", point)
	}
}

func TestSignCRLRefuses(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	for label, change := range map[string]func(*CRL){
		"number 0":       func(c *CRL) { c.Number = 0 },
		"shard":          func(c *CRL) { c.Shard = -1 },
		"ends before":    func(c *CRL) { c.NextUpdate = c.ThisUpdate },
		"serial":         func(c *CRL) { c.Revoked[0].Serial = "xyz" },
		"reason 7":       func(c *CRL) { c.Revoked[0].Reason = 7 },
		"removeFromCRL":  func(c *CRL) { c.Revoked[0].Reason = 8 },
		"unknown reason": func(c *CRL) { c.Revoked[0].Reason = 11 },
	} {
		crl := testCRL()
		change(&crl)
		if _, err := issuer.SignCRL(t.Context(), crl); err == nil {
			t.Errorf("%s: signed", label)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := issuer.SignCRL(ctx, testCRL()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestCRLIsDueAfterADay(t *testing.T) {
	thisUpdate, _ := CRLWindow(testNow)
	if CRLDue(thisUpdate, testNow.Add(CRLRenewalAge-time.Minute)) || !CRLDue(thisUpdate, testNow.Add(CRLRenewalAge)) {
		t.Error("a CRL is due at another age")
	}
}

func TestCRLOfAClockThatWasAheadIsDue(t *testing.T) {
	thisUpdate, _ := CRLWindow(testNow)
	if !CRLDue(thisUpdate, thisUpdate.Add(-time.Minute)) || CRLDue(thisUpdate, thisUpdate.Add(-time.Minute+time.Second)) {
		t.Error("a CRL is due at another distance from now")
	}
}

func TestReasons(t *testing.T) {
	for number := -1; number <= 11; number++ {
		reason, err := ReasonOf(number)
		if legal := slices.Contains([]int{0, 1, 2, 3, 4, 5, 6, 9, 10}, number); legal != (err == nil) {
			t.Errorf("reason %d: %v", number, err)
		}
		if err != nil {
			continue
		}
		if again, err := ParseReason(reason.String()); err != nil || again != reason {
			t.Errorf("%d is %s is %d, %v", number, reason, again, err)
		}
	}
	for _, name := range []string{"", "removeFromCRL", "KeyCompromise"} {
		if _, err := ParseReason(name); err == nil {
			t.Errorf("reason %q passes", name)
		}
	}
}
