package server_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/internal/ca"
	"assay/internal/issuance"
)

// crlOf fetches the CRL that a certificate names.
func (h *harness) crlOf(i *identity) *x509.RevocationList {
	h.t.Helper()
	r := h.do(h.t, http.MethodGet, i.leaf.CRLDistributionPoints[0], nil, nil).want(http.StatusOK)
	if got := r.header.Get("Content-Type"); got != "application/pkix-crl" {
		h.t.Errorf("a CRL's content type is %q", got)
	}
	crl, err := x509.ParseRevocationList(r.body)
	if err != nil {
		h.t.Fatal(err)
	}
	issuer := h.do(h.t, http.MethodGet, i.leaf.IssuingCertificateURL[0], nil, nil).want(http.StatusOK)
	certificate, err := x509.ParseCertificate(issuer.body)
	if err != nil {
		h.t.Fatalf("what AIA names is no certificate: %v", err)
	}
	if err := crl.CheckSignatureFrom(certificate); err != nil {
		h.t.Errorf("the CRL is not its issuer's: %v", err)
	}
	if err := i.leaf.CheckSignatureFrom(certificate); err != nil {
		h.t.Errorf("AIA names another issuer: %v", err)
	}
	if now := h.clock.Now(); crl.ThisUpdate.After(now) || !crl.NextUpdate.After(now) {
		h.t.Errorf("the CRL is of %v to %v, and it is %v", crl.ThisUpdate, crl.NextUpdate, now)
	}
	return crl
}

func (h *harness) onCRL(i *identity) *x509.RevocationListEntry {
	h.t.Helper()
	for _, entry := range h.crlOf(i).RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(i.leaf.SerialNumber) == 0 {
			return &entry
		}
	}
	return nil
}

func TestCertificateIsRevokedByItsAccountOrItsKey(t *testing.T) {
	h := newHarness(t)
	for name, test := range map[string]struct {
		reason int
		by     func(owner *client, d *device) *client
		option []option
	}{
		"account":           {4, func(owner *client, _ *device) *client { return owner }, nil},
		"certificate's key": {1, func(_ *client, d *device) *client { return &client{h: h, t: h.t, dir: dirDefault, key: d.key} }, []option{withJWK}},
	} {
		h.subtest(name, func(t *testing.T) {
			d := h.device()
			value, id := h.mint(issuance.Mint{})
			owner := h.client(dirDefault)
			o, i := owner.enrol(value, d)
			if h.onCRL(i) != nil {
				t.Fatal("the certificate is on the CRL before it is revoked")
			}
			number := h.crlOf(i).Number
			h.clock.Advance(time.Minute)
			c := test.by(owner, d)
			if r := c.post(c.url("revoke-cert"), revocation(i, test.reason), test.option...).want(http.StatusOK); len(r.body) != 0 {
				t.Errorf("revocation answers %q", r.body)
			}
			entry := h.onCRL(i)
			if entry == nil || entry.ReasonCode != test.reason || !entry.RevocationTime.Equal(h.clock.Now()) {
				t.Fatalf("the CRL says %+v", entry)
			}
			if next := h.crlOf(i).Number; next.Cmp(new(big.Int).Add(number, big.NewInt(1))) != 0 {
				t.Errorf("CRL number %v follows %v", next, number)
			}
			row, err := h.store.Certificate(t.Context(), i.id)
			if err != nil || row.Status != issuance.CertificateRevoked || row.RevokedReason != test.reason {
				t.Errorf("the row is %s, reason %d, %v", row.Status, row.RevokedReason, err)
			}
			c.post(c.url("revoke-cert"), revocation(i, test.reason), test.option...).refused(http.StatusBadRequest, "alreadyRevoked", "revoked")
			h.state(o, "valid", "valid", "valid")
			h.code(id, issuance.CodeConsumed, 0)
			owner.get(i.url).want(http.StatusOK)
		})
	}
}

func TestNobodyElseRevokesACertificate(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	owner := h.client(dirDefault)
	_, i := owner.enrol(value, d)
	altered := bytes.Clone(i.leaf.Raw)
	altered[len(altered)-1] ^= 1
	forgery := *i.leaf
	forgery.Raw = altered
	h.unchangedButTrail("a revocation by nobody who may", func() {
		// The account's key is not the account: signed by jwk it is some key.
		for _, c := range []*client{h.stranger(dirDefault), {h: h, t: t, dir: dirDefault, key: owner.key}} {
			c.post(c.url("revoke-cert"), revocation(i, 0), withJWK).refused(http.StatusForbidden, "unauthorized", "revoke-authority")
		}
		owner.post(owner.url("revoke-cert"), revocation(&identity{leaf: &forgery}, 0)).refused(http.StatusNotFound, "malformed", "certificate-exists")
		owner.post(owner.url("revoke-cert"), revocation(&identity{leaf: h.root.Certificate}, 0)).refused(http.StatusNotFound, "malformed", "certificate-exists")
		for _, reason := range []int{7, 8, 11, -1, 255} {
			owner.post(owner.url("revoke-cert"), revocation(i, reason)).refused(http.StatusBadRequest, "badRevocationReason", "revocation-reason")
		}
		for payload, check := range map[string]string{
			`{}`: "certificate-encoding", `{"certificate":"AAAA"}`: "certificate-encoding", `{"certificate":"` + b64.EncodeToString(i.leaf.Raw) + `=="}`: "certificate-encoding",
			`{"certificate":7}`: "payload", `{"certificate":"` + b64.EncodeToString(i.leaf.Raw) + `","reason":"1"}`: "payload",
			`{"certificate":"` + b64.EncodeToString(i.leaf.Raw) + `","reason":1.5}`: "payload",
		} {
			owner.post(owner.url("revoke-cert"), []byte(payload)).refused(http.StatusBadRequest, "malformed", check)
		}
	})
	if h.onCRL(i) != nil {
		t.Error("the certificate is on the CRL")
	}
	// Without a reason it is unspecified.
	owner.post(owner.url("revoke-cert"), []byte(`{"certificate":"`+b64.EncodeToString(i.leaf.Raw)+`"}`)).want(http.StatusOK)
	if entry := h.onCRL(i); entry == nil || entry.ReasonCode != 0 {
		t.Errorf("the CRL says %+v", entry)
	}
}

func TestCRLsAreRenewedBeforeTheyAreOver(t *testing.T) {
	h := newHarness(t)
	if err := h.serving.Load().RenewCRLs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := h.count("crls"); n != 6 { // two issuers, three shards
		t.Errorf("%d CRLs, want 6", n)
	}
	h.unchanged("renewing fresh CRLs", func() {
		if err := h.serving.Load().RenewCRLs(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	h.clock.Advance(ca.CRLRenewalAge)
	if err := h.serving.Load().RenewCRLs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := h.count("crls WHERE number = 2"); n != 6 {
		t.Errorf("%d CRLs were renewed, want 6", n)
	}
	for _, path := range []string{"/crl/issuer_nobody/0", "/crl/" + string(h.issuer) + "/3", "/crl/" + string(h.issuer) + "/-1",
		"/crl/" + string(h.issuer) + "/x", "/crl/" + string(h.issuer) + "/99999999999999999999", "/issuer/issuer_nobody"} {
		h.do(t, http.MethodGet, baseURL+path, nil, nil).want(http.StatusNotFound)
	}
}

func TestManyFetchesOfADueCRLGetGoodOnes(t *testing.T) {
	h := newHarness(t)
	url := baseURL + ca.CRLPath(string(h.issuer), 0)
	for _, r := range atOnce(16, func(int) *reply { return h.do(t, http.MethodGet, url, nil, nil) }) {
		if _, err := x509.ParseRevocationList(r.want(http.StatusOK).body); err != nil {
			t.Error(err)
		}
	}
	h.do(t, http.MethodGet, url, nil, nil).want(http.StatusOK)
	if n := h.count(`crls WHERE stale = 0`); n != 1 {
		t.Errorf("%d CRLs are stored and complete, want 1", n)
	}
}

func TestCRLOfAnotherServerWins(t *testing.T) {
	h := newHarness(t)
	url := baseURL + ca.CRLPath(string(h.issuer), 0)
	h.hooked.beforePutCRL = func() {
		if err := h.serving.Load().RenewCRLs(t.Context()); err != nil {
			t.Error(err)
		}
	}
	r := h.do(t, http.MethodGet, url, nil, nil).want(http.StatusOK)
	stored, err := h.store.CRL(t.Context(), h.issuer, 0)
	if err != nil || stored.Number != 1 || !bytes.Equal(stored.DER, r.body) {
		t.Errorf("CRL %d is stored, %v, and served is another", stored.Number, err)
	}
}

func TestFailingKeyPublishesNoCRL(t *testing.T) {
	h := newHarness(t)
	h.caKey.hook(func() error { return fmt.Errorf("the HSM is on fire") })
	r := h.do(t, http.MethodGet, baseURL+ca.CRLPath(string(h.issuer), 0), nil, nil).want(http.StatusServiceUnavailable)
	if strings.Contains(string(r.body), "HSM") {
		t.Errorf("the client learns of the cause: %s", r.body)
	}
	if err := h.serving.Load().RenewCRLs(t.Context()); err == nil {
		t.Error("renewal says nothing of it")
	}
	if n := h.count("crls WHERE issuer = '" + string(h.issuer) + "'"); n != 0 {
		t.Errorf("%d CRLs are stored", n)
	}
}
