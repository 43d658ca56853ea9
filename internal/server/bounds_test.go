package server_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"assay/attest"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/server"
)

func TestRootRemovedSinceTheChallengeIssuesNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	directories := map[string]*server.Directory{}
	for name, dir := range h.config.Directories {
		stricter := *dir
		stricter.Roots, stricter.StandIn = map[string][]attest.Root{attest.FormatApple: {attest.AppleRoot()}}, false
		directories[name] = &stricter
	}
	h.config.Directories = directories
	h.restart()
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "root-accepted")
	h.refusedOrder(o, "root-accepted")
	h.code(id, issuance.CodeUnused, 1)
}

func TestClaimThatCannotBeCompletedIsUndoneAtOnce(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.hooked.completeError = issuance.ErrOverloaded
	r := c.finalize(o, d.csr())
	r.refused(http.StatusInternalServerError, "serverInternal", "internal")
	if lines := h.logs.lines(t, "internal error"); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["error"]), "overloaded") {
		t.Errorf("the log says %v", lines)
	}
	h.hooked.completeError = nil
	h.refusedOrder(o, "issuing")
	h.code(id, issuance.CodeUnused, 0)
	h.stillGood(dirDefault, value, d)
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.hooked.beforeBegin = func() { panic("a bug in here") }
	r := c.finalize(o, d.csr())
	r.refused(http.StatusInternalServerError, "serverInternal", "internal")
	if r.header.Get("Replay-Nonce") == "" || strings.Contains(string(r.body), "bug") {
		t.Errorf("reply %v %s", r.header, r.body)
	}
	if lines := h.logs.lines(t, "internal error"); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["error"]), "a bug in here") ||
		!strings.Contains(fmt.Sprint(lines[0]["error"]), "TestPanicIsAnsweredAndLogged") { // the stack
		t.Errorf("the log says %v", lines)
	}
	h.hooked.beforeBegin = nil
	h.code(id, issuance.CodeUnused, 0)
	c.collect(c.finalize(o, d.csr()))
}

func TestPanicOfAnUnsignedRequestIsAnsweredAndLogged(t *testing.T) {
	h := newHarness(t)
	h.hooked.beforePutCRL = func() { panic("a bug in here") }
	path := baseURL + "/crl/" + string(h.issuer) + "/0"
	r := h.do(t, http.MethodGet, path, nil, nil)
	r.refused(http.StatusInternalServerError, "serverInternal", "internal")
	if strings.Contains(string(r.body), "bug") {
		t.Errorf("reply %s", r.body)
	}
	if lines := h.logs.lines(t, "internal error"); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["error"]), "a bug in here") {
		t.Errorf("the log says %v", lines)
	}
	h.do(t, http.MethodGet, path, nil, nil).want(http.StatusOK)
}

func TestAnAccountFillsTheTrailOnlySoFast(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	c.order(value)
	refusedRows := func() int {
		return len(h.audited(audit.Filter{Account: string(c.accountID()), Action: audit.RequestRefused}, "certificate-exists"))
	}
	nothing := c.url("certificate", "cert_00000000000000000000000000")
	for range 75 {
		c.get(nothing).refused(http.StatusNotFound, "malformed", "certificate-exists")
	}
	if n := refusedRows(); n != 60 {
		t.Errorf("75 refusals in a minute left %d rows, want 60", n)
	}
	if err := h.serving.Load().FlushStrangers(h.ctx()); err != nil {
		t.Fatal(err)
	}
	strangers := h.audited(audit.Filter{Action: audit.StrangersRefused}, "")
	if len(strangers) != 1 || strangers[0].Detail["certificate-exists"] != "15" {
		t.Errorf("the rest is counted as %+v", strangers)
	}
	c.get(nothing).refused(http.StatusNotFound, "malformed", "certificate-exists")
	if n := refusedRows(); n != 61 {
		t.Errorf("after a minute an account has its share again: %d rows", n)
	}
}

func TestRefusalBeyondTheShareStillSpendsItsNonce(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	c.order(value)
	nothing := c.url("certificate", "cert_00000000000000000000000000")
	for range 60 {
		c.get(nothing).refused(http.StatusNotFound, "malformed", "certificate-exists")
	}
	before := h.count("nonces")
	c.get(nothing).refused(http.StatusNotFound, "malformed", "certificate-exists")
	if after := h.count("nonces"); after != before+1 {
		t.Errorf("%d nonces are spent after a refusal, %d before", after, before)
	}
}

func TestCodeIsExhaustedByRefusedTries(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{Serial: "C39SOMEOTHER"})
	c := h.client(dirDefault)
	for range issuance.MaxTriesPerCode {
		o := c.order(value)
		c.post(o.challenge, d.attest(o.token)).refused(http.StatusForbidden, "badAttestationStatement", "bound-serial")
	}
	c.post(c.url("new-order"), newOrder("permanent-identifier", value)).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
	code, err := h.store.Code(h.ctx(), id)
	if err != nil || code.StatusAt(h.clock.Now()) != issuance.CodeExhausted {
		t.Errorf("the code is %s, %v", code.StatusAt(h.clock.Now()), err)
	}
	rows := h.audited(audit.Filter{Code: string(id)}, "code-usable")
	if len(rows) != 1 || rows[0].Detail["status"] != "exhausted" {
		t.Errorf("the trail says %+v", rows)
	}
	if _, err := h.store.RevokeCode(h.ctx(), issuance.Call{Now: h.clock.Now()}, id); errors.Is(err, issuance.ErrConflict) {
		t.Error("an exhausted code cannot be revoked")
	}
}
