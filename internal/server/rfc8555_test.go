package server_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"assay/acme"
	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/internal/server"
)

func TestDirectorySaysWhereEverythingIs(t *testing.T) {
	h := newHarness(t)
	for dir, meta := range map[string]map[string]any{
		dirDefault: {"standInAttestation": true},
		dirOther:   {"standInAttestation": true, "termsOfService": termsURL, "website": "https://example.com/"},
		dirApple:   {},
	} {
		h.subtest(dir, func(t *testing.T) {
			base := baseURL + "/acme/" + dir
			for _, body := range [][]byte{nil, []byte(`{}`)} { // Apple's client sends a body with GET
				r := h.do(t, http.MethodGet, base+"/directory", body, &message{contentType: "application/json"}).want(http.StatusOK)
				got := into[map[string]any](r)
				if len(meta) > 0 || got["meta"] != nil {
					if m, ok := got["meta"].(map[string]any); !ok || fmt.Sprint(m) != fmt.Sprint(meta) {
						t.Errorf("meta is %v, want %v", got["meta"], meta)
					}
				}
				for member, path := range map[string]string{"newNonce": "new-nonce", "newAccount": "new-account", "newOrder": "new-order", "revokeCert": "revoke-cert", "keyChange": "key-change"} {
					if got[member] != base+"/"+path {
						t.Errorf("%s is %v", member, got[member])
					}
				}
			}
		})
	}
}

func TestNewNonceAnswersHeadAndGet(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			h := bootHarness(t, http2)
			url := baseURL + "/acme/default/new-nonce"
			seen := map[string]bool{}
			for method, status := range map[string]int{http.MethodHead: http.StatusOK, http.MethodGet: http.StatusNoContent} {
				for _, body := range [][]byte{nil, []byte(`{}`)} {
					r := h.do(t, method, url, body, &message{contentType: "application/json"}).want(status)
					nonce := r.header.Get("Replay-Nonce")
					if len(nonce) != 54 || seen[nonce] || len(r.body) != 0 {
						t.Errorf("%s: nonce %q, body %q", method, nonce, r.body)
					}
					seen[nonce] = true
					if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Link") != `<`+baseURL+`/acme/default/directory>;rel="index"` {
						t.Errorf("%s: headers %v", method, r.header)
					}
				}
			}
		})
	}
}

func TestSignedResourcesTakePostOnly(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o, i := c.enrol(value, h.device())
	for _, url := range []string{c.url("new-account"), c.url("new-order"), c.url("key-change"), c.url("revoke-cert"),
		c.kid, c.kid + "/orders", o.url, o.authorization, o.challenge, o.finalize, i.url} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodPatch} {
			r := h.do(t, method, url, nil, nil)
			r.refused(http.StatusMethodNotAllowed, "malformed", "method")
			if r.header.Get("Allow") != http.MethodPost {
				t.Errorf("%s %s: Allow is %q", method, url, r.header.Get("Allow"))
			}
		}
		if r := h.do(t, http.MethodHead, url, nil, nil); r.status != http.StatusMethodNotAllowed {
			t.Errorf("HEAD %s: %d", url, r.status)
		}
	}
	for _, path := range []string{"directory", "new-nonce"} {
		h.do(t, http.MethodPost, c.url(path), nil, nil).want(http.StatusMethodNotAllowed)
	}
}

// What is read is read by POST-as-GET, and by nothing else.
func TestResourcesAreReadByPostAsGet(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o, i := c.enrol(value, h.device())
	for _, url := range []string{o.url, c.kid + "/orders", i.url} {
		c.post(url, []byte(`{}`)).refused(http.StatusBadRequest, "malformed", "post-as-get")
		c.get(url).want(http.StatusOK)
	}
	c.get(o.authorization).want(http.StatusOK)
	c.get(o.challenge).want(http.StatusOK)
	c.get(c.kid).want(http.StatusOK)
	for _, url := range []string{c.url("new-order"), c.url("key-change"), c.url("revoke-cert")} {
		if r := c.get(url); r.status != http.StatusBadRequest {
			t.Errorf("POST-as-GET %s: %d", url, r.status)
		}
	}
}

func TestOrderShowsEachStep(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	check := func(r *reply, status string) acme.Order {
		t.Helper()
		got := into[acme.Order](r.want(http.StatusOK))
		if got.Status != status || len(got.Identifiers) != 1 || got.Identifiers[0] != (acme.Identifier{Type: "permanent-identifier", Value: value}) ||
			!slices.Equal(got.Authorizations, []string{o.authorization}) || got.Finalize != o.finalize || got.Expires == nil || !got.Expires.Equal(epoch.Add(issuance.OrderLifetime)) {
			t.Errorf("the order is %s, want status %s", r.body, status)
		}
		return got
	}
	check(c.get(o.url), "pending")
	answered := into[acme.Challenge](c.post(o.challenge, d.attest(o.token)).want(http.StatusOK))
	if answered.Status != "valid" || answered.Validated == nil || !answered.Validated.Equal(epoch) || answered.Token != o.token || answered.URL != o.challenge || answered.Type != "device-attest-01" {
		t.Errorf("the answered challenge is %+v", answered)
	}
	check(c.get(o.url), "ready")
	finalized := c.finalize(o, d.csr())
	done := check(finalized, "valid")
	if finalized.header.Get("Location") != o.url || done.Certificate == "" {
		t.Errorf("finalize: Location %q, certificate %q", finalized.header.Get("Location"), done.Certificate)
	}
	check(c.get(o.url), "valid")
}

func TestChainIsLeafFirstWithoutRoot(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	_, i := c.enrol(value, h.device())
	r := c.get(i.url).want(http.StatusOK)
	if got := r.header.Get("Content-Type"); got != "application/pem-certificate-chain" {
		t.Errorf("content type %q", got)
	}
	var chain [][]byte
	for rest := r.body; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("no PEM: %q", rest)
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) != 2 || !bytes.Equal(chain[0], i.leaf.Raw) || !bytes.Equal(chain[1], h.config.Issuers[h.issuer].Certificate.Raw) {
		t.Errorf("the chain has %d certificates, or not leaf and issuer", len(chain))
	}
	collected, err := h.store.Certificate(t.Context(), i.id)
	if err != nil || !collected.CollectedAt.Equal(epoch) {
		t.Errorf("collected at %v, %v", collected.CollectedAt, err)
	}
}

func TestAuthorizationCanBeGivenUp(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	giveUp := []byte(`{"status":"deactivated"}`)

	pending := c.order(value)
	if got := into[acme.Authorization](c.post(pending.authorization, giveUp).want(http.StatusOK)); got.Status != "deactivated" {
		t.Errorf("authorization is %q", got.Status)
	}
	h.state(pending, "invalid", "deactivated", "invalid")
	c.post(pending.challenge, d.attest(pending.token)).refused(http.StatusBadRequest, "malformed", "challenge-pending")
	c.post(pending.authorization, giveUp).refused(http.StatusForbidden, "orderNotReady", "state")

	ready := c.ready(value, d)
	c.post(ready.authorization, giveUp).want(http.StatusOK)
	h.state(ready, "invalid", "deactivated", "valid")
	c.finalize(ready, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
	h.code(id, issuance.CodeUnused, 0)

	o, i := c.enrol(value, d)
	c.post(o.authorization, giveUp).want(http.StatusOK)
	h.state(o, "valid", "deactivated", "valid")
	c.get(i.url).want(http.StatusOK)
	for _, payload := range []string{`{"status":"valid"}`, `{"status":"invalid"}`, `{}`, `{"Status":"deactivated"}`} {
		c.post(o.authorization, []byte(payload)).refused(http.StatusBadRequest, "malformed", "authorization-status")
	}
	c.post(o.authorization, []byte(`[]`)).refused(http.StatusBadRequest, "malformed", "payload")
}

func TestOrdersListHasPages(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	var values [4]string
	for i := range values {
		values[i], _ = h.mint(issuance.Mint{})
	}
	want := map[string]bool{}
	const orders = 205
	for i := range orders {
		r := c.post(c.url("new-order"), newOrder("permanent-identifier", values[i%len(values)])).want(http.StatusCreated)
		want[r.header.Get("Location")] = true
		h.clock.Advance(1e6) // so that ids sort as they were made
	}
	h.client(dirDefault).order(values[0])
	got := map[string]bool{}
	pages := 0
	for url := c.kid + "/orders"; url != ""; pages++ {
		r := c.get(url).want(http.StatusOK)
		page := into[acme.Orders](r)
		for _, o := range page.Orders {
			if got[o] {
				t.Errorf("%s is listed twice", o)
			}
			got[o] = true
		}
		url = ""
		for _, link := range r.header.Values("Link") {
			if next, ok := strings.CutSuffix(link, `>;rel="next"`); ok {
				url = strings.TrimPrefix(next, "<")
			}
		}
		if pages > 5 {
			t.Fatal("the pages have no end")
		}
	}
	if pages != 3 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d orders on %d pages, want %d on 3", len(got), pages, orders)
	}
	fresh := h.client(dirDefault)
	if r := fresh.get(fresh.kid + "/orders").want(http.StatusOK); strings.TrimSpace(string(r.body)) != `{"orders":[]}` {
		t.Errorf("a new account's orders are %s", r.body)
	}
}

// Apple's client ends at anything that is not at once; so nothing ever tells a client to come back.
func TestNothingSaysRetryAfter(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	for _, r := range []*reply{
		c.get(o.url), c.get(o.authorization), c.get(o.challenge), c.post(o.challenge, d.attest(o.token)), c.finalize(o, d.csr()), c.get(o.url),
		c.post(c.url("new-order"), newOrder("permanent-identifier", value)),
	} {
		if r.header.Get("Retry-After") != "" {
			t.Errorf("%s: Retry-After %q", r.what, r.header.Get("Retry-After"))
		}
	}
}

// Every fault of a payload's JSON is a problem, on every resource that takes one.
func TestEveryPayloadMustBeOneObject(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o, i := c.enrol(value, h.device())
	serial, err := json.Marshal(i.row.Serial)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{c.url("new-order"), c.url("revoke-cert"), c.kid, o.authorization} {
		for _, payload := range []string{"x", "[]", `"text"`, "null", "7", `{"a":1,"a":2}`, `{} {}`, `{"certificate":` + string(serial) + `,}`, "{\"x\":\"\xff\"}"} {
			c.post(url, []byte(payload)).refused(http.StatusBadRequest, "malformed", "payload")
		}
	}
	s := h.stranger(dirDefault)
	for _, payload := range []string{"", "x", "[]", `{"termsOfServiceAgreed":"yes"}`, `{"contact":{}}`, `{"contact":[],"contact":[]}`} {
		s.post(s.url("new-account"), []byte(payload), withJWK).refused(http.StatusBadRequest, "malformed", "payload")
	}
	if n := h.count("accounts"); n != 1 {
		t.Errorf("%d accounts", n)
	}
}

func TestCertificateOfAnUnknownIssuerIsNotHalfDelivered(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	d := h.device()
	o := c.ready(value, d)
	done := into[acme.Order](c.finalize(o, d.csr()).want(http.StatusOK))
	whole := h.config
	h.config.Issuers = map[issuance.IssuerID]*ca.Issuer{h.other: whole.Issuers[h.other]}
	h.config.Directories = map[string]*server.Directory{dirDefault: {Name: dirDefault, Issuer: h.other, Profile: ca.DefaultProfile()}}
	h.restart()
	c.get(done.Certificate).refused(http.StatusInternalServerError, "serverInternal", "internal")
	if n := h.count(`certificates WHERE collected_at <> 0`); n != 0 {
		t.Error("the certificate counts as collected")
	}
	h.config = whole
	h.restart()
	c.get(done.Certificate).want(http.StatusOK)
}

// A store that fails is the server's fault, and no client learns how it fails.
func TestBrokenStoreIsInternal(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	nonce := c.nonce()
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*reply{
		c.get(c.kid, withNonce(nonce)), c.post(c.url("new-account"), []byte(`{}`), withJWK), c.post(c.url("new-account"), []byte(`{"onlyReturnExisting":true}`), withJWK),
	} {
		r.refused(http.StatusInternalServerError, "serverInternal", "internal")
		if bytes.Contains(r.body, []byte("sql")) || bytes.Contains(r.body, []byte("store")) {
			t.Errorf("the client learns of the cause: %s", r.body)
		}
	}
	h.do(t, http.MethodGet, baseURL+ca.CRLPath(string(h.issuer), 0), nil, nil).want(http.StatusServiceUnavailable)
	h.open()
}
