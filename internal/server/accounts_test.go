package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"assay/acme"
	"assay/internal/issuance"
)

func TestKeyRegistersOnceInADirectory(t *testing.T) {
	h := newHarness(t)
	c := h.stranger(dirDefault)
	c.post(c.url("new-account"), []byte(`{"onlyReturnExisting":true}`), withJWK).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
	if n := h.count("accounts"); n != 0 {
		t.Errorf("%d accounts", n)
	}
	made := c.register()
	account := into[acme.Account](made)
	if account.Status != "valid" || account.Orders != c.kid+"/orders" || !account.TermsOfServiceAgreed {
		t.Errorf("the new account is %+v", account)
	}
	for _, payload := range []string{`{"termsOfServiceAgreed":true}`, `{"onlyReturnExisting":true}`, `{"contact":["mailto:other@example.com"]}`} {
		r := c.post(c.url("new-account"), []byte(payload), withJWK).want(http.StatusOK)
		if r.header.Get("Location") != c.kid || len(into[acme.Account](r).Contact) != 0 {
			t.Errorf("registering again gives %s, %s", r.header.Get("Location"), r.body)
		}
	}
	if n := h.count("accounts"); n != 1 {
		t.Errorf("%d accounts", n)
	}
}

func TestTermsMustBeAgreedTo(t *testing.T) {
	h := newHarness(t)
	c := h.stranger(dirOther)
	for _, payload := range []string{`{}`, `{"termsOfServiceAgreed":false}`} {
		c.post(c.url("new-account"), []byte(payload), withJWK).refused(http.StatusForbidden, "userActionRequired", "terms")
	}
	if n := h.count("accounts"); n != 0 {
		t.Errorf("%d accounts", n)
	}
	c.register()
	free := h.stranger(dirDefault)
	free.post(free.url("new-account"), []byte(`{}`), withJWK).want(http.StatusCreated)
}

func TestContactsArePlainMailAddresses(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	for name, test := range map[string]struct{ contacts, kind string }{
		"phone": {`["tel:+15551212"]`, "unsupportedContact"}, "no scheme": {`["it@example.com"]`, "unsupportedContact"},
		"upper-case scheme": {`["MAILTO:it@example.com"]`, "unsupportedContact"},
		"two addresses":     {`["mailto:a@example.com,b@example.com"]`, "invalidContact"}, "header fields": {`["mailto:a@example.com?subject=x"]`, "invalidContact"},
		"display name": {`["mailto:IT <it@example.com>"]`, "invalidContact"}, "no domain": {`["mailto:it"]`, "invalidContact"}, "empty": {`["mailto:"]`, "invalidContact"},
		"oversize":   {`["mailto:` + strings.Repeat("a", 250) + `@example.com"]`, "invalidContact"},
		"line break": {`["mailto:it@example.com\nBcc: x@example.com"]`, "invalidContact"},
		"nine":       {`[` + strings.Repeat(`"mailto:it@example.com",`, 8) + `"mailto:it@example.com"]`, "invalidContact"},
		"one of two": {`["mailto:it@example.com","ftp://example.com"]`, "unsupportedContact"},
	} {
		h.subtest(name, func(*testing.T) {
			payload := []byte(`{"contact":` + test.contacts + `}`)
			h.unchanged("a bad contact", func() {
				c.post(c.kid, payload).refused(http.StatusBadRequest, test.kind, "contacts")
				s := h.stranger(dirDefault)
				s.post(s.url("new-account"), payload, withJWK).refused(http.StatusBadRequest, test.kind, "contacts")
			})
		})
	}
	r := c.post(c.kid, []byte(`{"contact":["mailto:it@example.com","mailto:ops@example.com"]}`)).want(http.StatusOK)
	if got := into[acme.Account](r).Contact; fmt.Sprint(got) != "[mailto:it@example.com mailto:ops@example.com]" {
		t.Errorf("contacts are %v", got)
	}
	c.post(c.kid, []byte(`{}`)).want(http.StatusOK)
	c.post(c.kid, []byte(`{"status":"valid"}`)).want(http.StatusOK)
	if got := into[acme.Account](c.get(c.kid).want(http.StatusOK)).Contact; len(got) != 2 {
		t.Errorf("contacts are %v", got)
	}
	if got := into[acme.Account](c.post(c.kid, []byte(`{"contact":[]}`)).want(http.StatusOK)).Contact; len(got) != 0 {
		t.Errorf("contacts are %v", got)
	}
	for _, payload := range []string{`{"status":"revoked"}`, `{"status":"Deactivated"}`} {
		c.post(c.kid, []byte(payload)).refused(http.StatusBadRequest, "malformed", "account-status")
	}
}

func TestDeactivatedAccountCanDoNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	enrolled, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	pending, ready := c.order(value), c.ready(value, d)
	valid, certificate := c.enrol(enrolled, d)
	if got := into[acme.Account](c.post(c.kid, []byte(`{"status":"deactivated"}`)).want(http.StatusOK)).Status; got != "deactivated" {
		t.Errorf("the account is %q", got)
	}
	h.state(pending, "invalid", "invalid", "invalid")
	h.state(ready, "invalid", "deactivated", "valid")
	h.state(valid, "valid", "valid", "valid")
	for _, url := range []string{c.kid, c.kid + "/orders", ready.url, pending.authorization, pending.challenge, certificate.url} {
		c.get(url).refused(http.StatusUnauthorized, "unauthorized", "account-status")
	}
	for url, payload := range map[string][]byte{
		c.url("new-order"): newOrder("permanent-identifier", value), ready.finalize: finalizeWith(d.csr()), pending.challenge: d.attest(pending.token),
		c.url("revoke-cert"): revocation(certificate, 0), c.kid: []byte(`{"status":"valid"}`), c.url("key-change"): []byte(`{}`),
	} {
		c.post(url, payload).refused(http.StatusUnauthorized, "unauthorized", "account-status")
	}
	for _, payload := range []string{`{"termsOfServiceAgreed":true}`, `{"onlyReturnExisting":true}`} {
		c.post(c.url("new-account"), []byte(payload), withJWK).refused(http.StatusUnauthorized, "unauthorized", "account-status")
	}
	if n := h.count(`accounts WHERE status = 'deactivated'`); n != 1 {
		t.Errorf("%d deactivated accounts", n)
	}
	h.code(id, issuance.CodeUnused, 0)
	h.stillGood(dirDefault, value, d)
}

// rollover makes the inner JWS of a key change.
func rollover(t *testing.T, c *client, newKey *client, change func(m *message, payload map[string]any)) []byte {
	t.Helper()
	payload := map[string]any{"account": c.kid, "oldKey": jwkOf(t, c.key)}
	m := &message{key: newKey.key, header: map[string]any{"alg": algorithm(t, newKey.key), "jwk": jwkOf(t, newKey.key), "url": c.url("key-change")}}
	if change != nil {
		change(m, payload)
	}
	if m.payload == nil {
		var err error
		if m.payload, err = json.Marshal(payload); err != nil {
			t.Fatal(err)
		}
	}
	return signJWS(t, m)
}

func TestKeyRollsOver(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	c, next := h.client(dirDefault), h.stranger(dirDefault)
	o := c.ready(value, d)
	before := *c
	c.post(c.url("key-change"), rollover(t, c, next, nil)).want(http.StatusOK)
	before.get(c.kid).refused(http.StatusBadRequest, "malformed", "jws-signature")
	next.kid = c.kid
	next.get(o.url).want(http.StatusOK)
	next.collect(next.finalize(o, d.csr()))
	next.post(next.url("new-account"), []byte(`{"onlyReturnExisting":true}`), withJWK).want(http.StatusOK)
	before.post(c.url("new-account"), []byte(`{"onlyReturnExisting":true}`), withJWK).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
}

func TestFaultyKeyRolloverChangesNothing(t *testing.T) {
	h := newHarness(t)
	c, other, next := h.client(dirDefault), h.client(dirDefault), h.stranger(dirDefault)
	for name, test := range map[string]struct {
		check  string
		change func(m *message, payload map[string]any)
	}{
		"another inner url":     {"key-change-url", func(m *message, _ map[string]any) { m.header["url"] = c.url("new-order") }},
		"another account":       {"key-change-account", func(_ *message, p map[string]any) { p["account"] = other.kid }},
		"no account":            {"key-change-account", func(_ *message, p map[string]any) { delete(p, "account") }},
		"another old key":       {"key-change-old-key", func(_ *message, p map[string]any) { p["oldKey"] = jwkOf(t, other.key) }},
		"old key is the new":    {"key-change-old-key", func(_ *message, p map[string]any) { p["oldKey"] = jwkOf(t, next.key) }},
		"no old key":            {"key-change-old-key", func(_ *message, p map[string]any) { delete(p, "oldKey") }},
		"old key is no key":     {"key-change-old-key", func(_ *message, p map[string]any) { p["oldKey"] = "key" }},
		"signed by the old key": {"jws-signature", func(m *message, _ map[string]any) { m.key = c.key }},
		"inner nonce":           {"jws-nonce", func(m *message, _ map[string]any) { m.header["nonce"] = "AAAA" }},
		"inner kid":             {"jws-header", func(m *message, _ map[string]any) { delete(m.header, "jwk"); m.header["kid"] = c.kid }},
		"inner payload no JSON": {"payload", func(m *message, _ map[string]any) { m.payload = []byte("x") }},
	} {
		h.subtest(name, func(*testing.T) {
			h.unchanged("a faulty key change", func() {
				c.post(c.url("key-change"), rollover(t, c, next, test.change)).refused(http.StatusBadRequest, "malformed", test.check)
			})
		})
	}
	c.post(c.url("key-change"), []byte(`{}`)).refused(http.StatusBadRequest, "malformed", "jws-syntax")
	c.get(c.kid).want(http.StatusOK)
}

func TestKeyOfAnotherAccountCannotBeTaken(t *testing.T) {
	h := newHarness(t)
	c, other := h.client(dirDefault), h.client(dirDefault)
	h.unchanged("taking another account's key", func() {
		r := c.post(c.url("key-change"), rollover(t, c, other, nil))
		r.refused(http.StatusConflict, "malformed", "key-change-in-use")
		if r.header.Get("Location") != other.kid {
			t.Errorf("Location is %q, want the account that has the key", r.header.Get("Location"))
		}
		// Nor does the new key's holder move somebody else's account onto it.
		other.post(other.url("key-change"), rollover(t, c, other, nil)).refused(http.StatusBadRequest, "malformed", "key-change-account")
	})
	c.get(c.kid).want(http.StatusOK)
	other.get(other.kid).want(http.StatusOK)
	elsewhere := h.client(dirSerial) // in another directory the key is free
	c.post(c.url("key-change"), rollover(t, c, elsewhere, nil)).want(http.StatusOK)
}
