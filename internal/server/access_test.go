package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"assay/acme"
	"assay/internal/audit"
	"assay/internal/issuance"
)

func TestNobodyTouchesAnotherAccountsThings(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	owner, thief := h.client(dirDefault), h.client(dirDefault)
	pending := owner.order(value)
	ready := owner.ready(value, d)
	enrolledValue, _ := h.mint(issuance.Mint{})
	enrolled, certificate := owner.enrol(enrolledValue, d)

	h.unchangedButTrail("another account", func() {
		for _, o := range []*order{pending, ready, enrolled} {
			thief.get(o.url).refused(http.StatusForbidden, "unauthorized", "order-account")
			thief.get(o.authorization).refused(http.StatusForbidden, "unauthorized", "order-account")
			thief.post(o.authorization, []byte(`{"status":"deactivated"}`)).refused(http.StatusForbidden, "unauthorized", "order-account")
			thief.get(o.challenge).refused(http.StatusForbidden, "unauthorized", "order-account")
			thief.post(o.challenge, d.attest(o.token)).refused(http.StatusForbidden, "unauthorized", "order-account")
			thief.post(o.challenge, []byte(`{}`)).refused(http.StatusForbidden, "unauthorized", "order-account")
			thief.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "order-account")
		}
		thief.get(certificate.url).refused(http.StatusForbidden, "unauthorized", "certificate-account")
		thief.get(owner.kid).refused(http.StatusForbidden, "unauthorized", "account-owner")
		thief.post(owner.kid, []byte(`{"contact":["mailto:thief@example.com"]}`)).refused(http.StatusForbidden, "unauthorized", "account-owner")
		thief.post(owner.kid, []byte(`{"status":"deactivated"}`)).refused(http.StatusForbidden, "unauthorized", "account-owner")
		thief.get(owner.kid+"/orders").refused(http.StatusForbidden, "unauthorized", "account-owner")
		thief.post(thief.url("revoke-cert"), revocation(certificate, 0)).refused(http.StatusForbidden, "unauthorized", "revoke-authority")
	})
	h.pending(pending)
	h.isReady(ready)
	h.code(id, issuance.CodeUnused, 0)
	if rows := h.audited(audit.Filter{Order: string(ready.id)}, "order-account"); len(rows) == 0 {
		t.Error("the trail says nothing of the attempts on the order")
	}
	if rows := h.audited(audit.Filter{Certificate: string(certificate.id)}, "certificate-account"); len(rows) != 1 {
		t.Errorf("the trail has %d rows of the attempt on the certificate", len(rows))
	}
	owner.collect(owner.finalize(ready, d.csr()))
}

// unchangedButTrail is unchanged for refusals that concern something known: they are audited.
func (h *harness) unchangedButTrail(what string, do func()) {
	h.t.Helper()
	tables := []string{"accounts", "orders", "codes", "certificates", "evidence", "decisions", "devices", "documents", "crls", "issuers"}
	before := h.contentsOf(tables)
	do()
	if h.contentsOf(tables) != before {
		h.t.Errorf("%s changed the database", what)
	}
}

func TestThingsOfOneDirectoryAreNothingInAnother(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{Directory: dirDefault})
	here := h.client(dirDefault)
	o := here.ready(value, d)
	certificateValue, _ := h.mint(issuance.Mint{Directory: dirDefault})
	_, certificate := here.enrol(certificateValue, d)
	there := h.client(dirSerial)
	elsewhere := func(url string) string {
		return strings.Replace(url, "/acme/"+dirDefault+"/", "/acme/"+dirSerial+"/", 1)
	}

	h.unchangedButTrail("another directory", func() {
		// The account is none there, under its own URL nor under one of that directory.
		stray := &client{h: h, t: t, dir: dirSerial, key: here.key, kid: here.kid}
		stray.get(elsewhere(o.url)).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
		stray.kid = elsewhere(here.kid)
		for _, url := range []string{o.url, o.authorization, o.challenge, certificate.url, here.kid} {
			stray.get(elsewhere(url)).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
		}
		stray.post(stray.url("new-account"), []byte(`{"onlyReturnExisting":true}`), withJWK).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
		// An account of that directory reaches nothing of this one.
		there.get(elsewhere(o.url)).refused(http.StatusForbidden, "unauthorized", "order-account")
		there.finalize(&order{finalize: elsewhere(o.finalize)}, d.csr()).refused(http.StatusForbidden, "unauthorized", "order-account")
		there.get(elsewhere(certificate.url)).refused(http.StatusForbidden, "unauthorized", "certificate-account")
		there.post(there.url("new-order"), newOrder("permanent-identifier", value)).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
		there.post(there.url("revoke-cert"), revocation(certificate, 0)).refused(http.StatusForbidden, "unauthorized", "revoke-authority")
		// Not even the certificate's own key revokes it there.
		holder := &client{h: h, t: t, dir: dirSerial, key: d.key}
		holder.post(holder.url("revoke-cert"), revocation(certificate, 0), withJWK).refused(http.StatusForbidden, "unauthorized", "revoke-authority")
	})
	h.code(id, issuance.CodeUnused, 0)
	here.collect(here.finalize(o, d.csr()))

	same := &client{h: h, t: t, dir: dirSerial, key: here.key}
	same.register()
	if same.accountID() == here.accountID() {
		t.Error("one account serves two directories")
	}
}

func TestUnknownThingsAreNotFound(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	for _, url := range []string{
		c.url("order", "order_00000000000000000000000000"), c.url("authorization", "order_00000000000000000000000000"),
		c.url("challenge", "order_00000000000000000000000000"), c.url("order", "x%27%20OR%201=1"), c.url("order", strings.Repeat("a", 4000)),
	} {
		c.get(url).refused(http.StatusNotFound, "malformed", "order-exists")
	}
	c.get(c.url("certificate", "cert_00000000000000000000000000")).refused(http.StatusNotFound, "malformed", "certificate-exists")
	stray := &client{h: h, t: t, dir: dirDefault, key: c.key, kid: c.url("account", "acct_00000000000000000000000000")}
	stray.get(c.kid).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
	for _, kid := range []string{string(c.accountID()), "/acme/default/account/" + string(c.accountID()), c.kid + "/", c.kid + "?x=1",
		strings.Replace(c.kid, "example.com", "example.org", 1), strings.Replace(c.kid, "https:", "http:", 1)} {
		c.get(c.kid, withKid(kid)).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
	}
	for _, path := range []string{"directory", "new-nonce"} {
		r := h.do(t, http.MethodGet, baseURL+"/acme/nowhere/"+path, nil, nil)
		r.refused(http.StatusNotFound, "malformed", "directory-exists")
	}
	r := h.do(t, http.MethodPost, baseURL+"/acme/nowhere/new-account", []byte(`{}`), &message{contentType: "application/jose+json"})
	r.refused(http.StatusNotFound, "malformed", "directory-exists")
	for _, path := range []string{"/", "/acme", "/acme/default", "/acme/default/new-authz", "/acme/default/../default/directory", "/credential/x"} {
		if r := h.do(t, http.MethodGet, baseURL+path, nil, nil); r.status == http.StatusOK {
			t.Errorf("GET %s: %d", path, r.status)
		}
	}
}

// revocation asks to revoke a certificate.
func revocation(i *identity, reason int) []byte {
	payload, err := json.Marshal(acme.RevokeCert{Certificate: b64.EncodeToString(i.leaf.Raw), Reason: &reason})
	if err != nil {
		panic(err)
	}
	return payload
}
