package server_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// onlyHold is the one hold that there is.
func (h *harness) onlyHold() issuance.Hold {
	h.t.Helper()
	var holds []issuance.Hold
	for hold, err := range h.store.Holds(h.ctx(), issuance.HoldFilter{}) {
		if err != nil {
			h.t.Fatal(err)
		}
		holds = append(holds, hold)
	}
	if len(holds) != 1 {
		h.t.Fatalf("%d holds", len(holds))
	}
	return holds[0]
}

func (h *harness) say(hold issuance.HoldID, approve bool) {
	h.t.Helper()
	call := issuance.Call{Now: h.clock.Now(), From: "operator:test"}
	if _, err := h.store.SayOfHold(h.ctx(), call, hold, 0, issuance.Word{Approve: approve, By: call.From}); err != nil {
		h.t.Fatal(err)
	}
}

// held runs an enrolment that a policy holds back.
func (c *client) held(code string, d *device) *order {
	c.t.Helper()
	o := c.ready(code, d)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "held")
	return o
}

// approved is a device that a policy held back and a person approved: the code that it may order with again,
// and the client that does.
func (h *harness) approved() (d *device, value string, code issuance.CodeID, c *client) {
	h.t.Helper()
	h.decideBy(dirDefault, holdAll)
	d = h.device()
	value, code = h.mint(issuance.Mint{})
	c = h.client(dirDefault)
	c.held(value, d)
	h.say(h.onlyHold().ID, true)
	return d, value, code, c
}

const holdAll = "outcomes: [{outcome: hold, approval: 2h, lifetime: 1d, message: ask the desk, advice: call sam}]"

func TestAHeldDeviceSucceedsOnceAfterItsApproval(t *testing.T) {
	h := newHarness(t)
	h.decideBy(dirDefault, holdAll)
	d := h.device()
	value, code := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	r := c.finalize(o, d.csr())
	r.refused(http.StatusForbidden, "unauthorized", "held")
	if !strings.Contains(string(r.body), "ask the desk") {
		t.Errorf("the answer is %s", r.body)
	}
	h.refusedOrder(o, "held")
	h.code(code, issuance.CodeUnused, 1)
	hold := h.onlyHold()
	if lines := h.logs.lines(t, "refused"); len(lines) != 1 || lines[0]["hint"] != "call sam" || lines[0]["device"] != d.serial {
		t.Errorf("log lines %v", lines)
	}
	if rows := h.audited(audit.Filter{Device: string(hold.Device)}, "held"); len(rows) != 1 || rows[0].Personal.Serial != d.serial {
		t.Errorf("audit rows %+v", rows)
	}

	o = c.ready(value, d) // nobody has said anything yet
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "held")
	h.say(hold.ID, true)
	_, issued := c.enrol(value, d)
	if got := issued.leaf.NotAfter.Sub(h.clock.Now()); got > 24*time.Hour || got < 23*time.Hour {
		t.Errorf("the certificate lives %s", got)
	}
	if hold := h.onlyHold(); hold.Status != issuance.HoldUsed || hold.Tries != 2 || hold.Order != issued.row.Order {
		t.Errorf("hold %+v", hold)
	}
	next, _ := h.mint(issuance.Mint{})
	o = c.ready(next, d)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "held")
}

func TestAnApprovalIsNoOtherDevices(t *testing.T) {
	h := newHarness(t)
	h.decideBy(dirDefault, "unattested: allow\n"+holdAll)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	c.held(value, d)
	h.say(h.onlyHold().ID, true)

	other := h.device()
	other.serial, other.udid = "C39XX0AB12CE", "00008120-001A2B3C4D5E6F71"
	c.held(value, other)
	o := c.order(value) // somebody who has the code, and attests nothing
	c.post(o.challenge, standin.NoneResponse()).want(http.StatusOK)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "held")

	h.clock.Advance(2 * time.Hour)
	c.held(value, d)
}

// Under User Enrollment a device attests its key and leaves out who it is.
func TestAnApprovalOfANamelessAttestationIsNoUnattestedDevices(t *testing.T) {
	for name, attestsFirst := range map[string]bool{"approved attested, tried unattested": true, "approved unattested, tried attested": false} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.decideBy(dirDefault, "unattested: allow\n"+holdAll)
			d := h.device()
			d.serial, d.udid = "", ""
			value, _ := h.mint(issuance.Mint{})
			c := h.client(dirDefault)
			try := func(attest bool) *reply {
				if attest {
					return c.finalize(c.ready(value, d), d.csr())
				}
				o := c.order(value)
				c.post(o.challenge, standin.NoneResponse()).want(http.StatusOK)
				return c.finalize(o, d.csr())
			}
			try(attestsFirst).refused(http.StatusForbidden, "unauthorized", "held")
			h.say(h.onlyHold().ID, true)
			try(!attestsFirst).refused(http.StatusForbidden, "unauthorized", "held")
			try(attestsFirst).want(http.StatusOK)
		})
	}
}

func TestADeclinedDeviceStaysRefused(t *testing.T) {
	h := newHarness(t)
	d, value, _, c := h.approved()
	h.say(h.onlyHold().ID, false)
	c.held(value, d)
	if hold := h.onlyHold(); hold.Status != issuance.HoldDeclined {
		t.Errorf("hold %+v", hold)
	}
}

func TestManyDevicesWithOneApprovalGetOneCertificate(t *testing.T) {
	h := newHarness(t)
	d, _, _, _ := h.approved()
	const n = 6
	clients, orders, csrs := make([]*client, n), make([]*order, n), make([][]byte, n)
	for i := range n {
		value, _ := h.mint(issuance.Mint{})
		clients[i] = h.client(dirDefault)
		orders[i], csrs[i] = clients[i].ready(value, d), d.csr()
	}
	statuses := make([]int, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { statuses[i] = clients[i].finalize(orders[i], csrs[i]).status })
	}
	all.Wait()
	issued := 0
	for _, status := range statuses {
		switch status {
		case http.StatusOK:
			issued++
		case http.StatusForbidden:
		default:
			t.Errorf("status %d", status)
		}
	}
	if issued != 1 {
		t.Errorf("%d certificates on one approval", issued)
	}
}

func TestAFailedSignatureGivesTheApprovalBack(t *testing.T) {
	h := newHarness(t)
	d, value, _, c := h.approved()
	h.caKey.hook(func() error { return errors.New("the token was pulled out") })
	c.finalize(c.ready(value, d), d.csr()).want(http.StatusInternalServerError)
	h.caKey.hook(func() error { return nil })
	if hold := h.onlyHold(); hold.Status != issuance.HoldApproved {
		t.Errorf("hold %+v", hold)
	}
	h.stillGood(dirDefault, value, d)
}

func TestAnApprovalTakenBackWhileDecidingIssuesNothing(t *testing.T) {
	h := newHarness(t)
	d, value, code, c := h.approved()
	o := c.ready(value, d)
	h.hooked.beforeBegin = func() { h.say(h.onlyHold().ID, false) }
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "approval-live")
	h.hooked.beforeBegin = nil
	h.refusedOrder(o, "approval-live")
	h.code(code, issuance.CodeUnused, 1)
}

func TestThePolicyChoosesProfileAndLifetime(t *testing.T) {
	h := newHarness(t)
	h.decideBy(dirDefault, "outcomes: [{outcome: issue, profile: generous, lifetime: 5d}]")
	value, _ := h.mint(issuance.Mint{})
	_, i := h.client(dirDefault).enrol(value, h.device())
	if got := i.leaf.NotAfter.Sub(h.clock.Now()); i.row.Profile != "generous" || got > 5*24*time.Hour || got < 5*24*time.Hour-time.Minute {
		t.Errorf("profile %s, %s", i.row.Profile, got)
	}
	h.decideBy(dirDefault, "outcomes: [{outcome: issue, lifetime: 3650d}]") // longer than the profile says
	value, _ = h.mint(issuance.Mint{})
	_, i = h.client(dirDefault).enrol(value, h.device())
	if got := i.leaf.NotAfter.Sub(h.clock.Now()); i.row.Profile == "generous" || got > h.config.Directories[dirDefault].Profile.Lifetime {
		t.Errorf("profile %s, %s", i.row.Profile, got)
	}
	h.decideBy(dirDefault, "outcomes: [{outcome: issue, profile: none-such}]")
	value, _ = h.mint(issuance.Mint{})
	c, d := h.client(dirDefault), h.device()
	o := c.ready(value, d)
	c.finalize(o, d.csr()).want(http.StatusInternalServerError)
	h.noCertificate(o)
}

func TestThePolicySeesDeviceAndHistory(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	h.decideBy(dirDefault, `require: [{name: fresh-key, that: history.keyCertificates == 0, message: the key was certified before}]
signals:
- {name: listed, that: device.known && device.proven, points: 1}
- {name: second, that: history.deviceCertificates == 1, points: 10}
- {name: refused, that: history.refusals == 1, points: 100}
outcomes: [{outcome: issue}]`)
	h.list(d.serial, "")
	value, _ := h.mint(issuance.Mint{Serial: d.serial})
	c := h.client(dirDefault)
	_, first := c.enrol(value, d)
	scoreOf := func(i *identity) int {
		t.Helper()
		decision, err := h.store.Decision(h.ctx(), i.row.Decision)
		if err != nil {
			t.Fatal(err)
		}
		if decision.Device == "" || decision.Input.Device.State == "" || decision.Input.Code == nil || decision.Input.History == nil || decision.Input.Request == nil {
			t.Errorf("decision %+v", decision)
		}
		return decision.Decision.Score
	}
	if got := scoreOf(first); got != 1 {
		t.Errorf("score %d", got)
	}
	value, _ = h.mint(issuance.Mint{Serial: d.serial})
	o := c.ready(value, d)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "require:fresh-key")
	h.refusedOrder(o, "require:fresh-key")
	again := h.device() // the same device with a fresh key
	_, second := c.enrol(value, again)
	if got := scoreOf(second); got != 111 {
		t.Errorf("score %d", got)
	}
}

func TestALostDeviceGetsNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	id := h.list(d.serial, "")
	call := issuance.Call{Now: h.clock.Now(), From: "operator:test"}
	if _, _, err := h.store.SetDeviceState(h.ctx(), call, id, 0, issuance.StateChange{State: policy.Lost}); err != nil {
		t.Fatal(err)
	}
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "device-state")
	h.refusedOrder(o, "device-state")
}

func TestOnlyAPolicyThatUsesAnOpinionAsksForOne(t *testing.T) {
	h := newHarness(t)
	asked := 0
	var answer policy.Opinion
	h.opinion = func(_ context.Context, in policy.Input) *policy.Opinion {
		asked++
		if in.Facts == nil || in.Request == nil || in.History == nil {
			t.Errorf("asked with %+v", in)
		}
		return &answer
	}
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	h.client(dirDefault).enrol(value, d)
	if asked != 0 {
		t.Fatalf("asked %d times by the built-in policy", asked)
	}
	h.decideBy(dirDefault, "outcomes: [{outcome: issue, when: 'opinion.verdict == \"good\"'}, {outcome: refuse}]")
	for _, test := range []struct {
		answer policy.Opinion
		check  string
	}{
		{policy.Opinion{Answered: true, Verdict: "good"}, ""},
		{policy.Opinion{Answered: true, Verdict: "bad"}, "outcome"},
		{policy.Opinion{Failure: "timeout", Verdict: "good"}, "outcome"},
		{policy.Opinion{Failure: "timeout", Required: true}, "outside-opinion"},
	} {
		asked, answer = 0, test.answer
		value, _ := h.mint(issuance.Mint{})
		c := h.client(dirDefault)
		o := c.ready(value, d)
		r := c.finalize(o, d.csr())
		if test.check == "" {
			r.want(http.StatusOK)
		} else {
			r.refused(http.StatusForbidden, "unauthorized", test.check)
			h.refusedOrder(o, test.check)
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	}
}

func TestNobodyIsAskedAboutWhatIsRefusedAnyway(t *testing.T) {
	h := newHarness(t)
	h.opinion = func(context.Context, policy.Input) *policy.Opinion {
		t.Error("asked")
		return &policy.Opinion{Answered: true, Verdict: "good"}
	}
	h.decideBy(dirDefault, "outcomes: [{outcome: issue, when: 'opinion.verdict == \"good\"'}]")
	d := h.device()
	call := issuance.Call{Now: h.clock.Now(), From: "operator:test"}
	if _, _, err := h.store.SetDeviceState(h.ctx(), call, h.list(d.serial, ""), 0, issuance.StateChange{State: policy.Retired}); err != nil {
		t.Fatal(err)
	}
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	c.finalize(c.ready(value, d), d.csr()).refused(http.StatusForbidden, "unauthorized", "device-state")
}

func TestAPolicyTakesOverBetweenRequests(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	one := h.decideBy(dirDefault, "outcomes: [{outcome: refuse}]")
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	c.finalize(c.ready(value, d), d.csr()).refused(http.StatusForbidden, "unauthorized", "outcome")
	two := h.decideBy(dirDefault, "outcomes: [{outcome: issue}]")
	c.enrol(value, d)
	var used []string
	for u, err := range h.store.PolicyUses(h.ctx()) {
		if err != nil {
			t.Fatal(err)
		}
		used = append(used, u.SHA256)
	}
	if len(used) != 2 || used[0] != one.Version().SHA256 || used[1] != two.Version().SHA256 {
		t.Errorf("used %v", used)
	}
}

// stands says where a device stands from now on.
func (h *harness) stands(id issuance.DeviceID, state policy.State) {
	h.t.Helper()
	call := issuance.Call{Now: h.clock.Now(), From: "operator:test"}
	if _, _, err := h.store.SetDeviceState(h.ctx(), call, id, 0, issuance.StateChange{State: state, Revoke: true}); err != nil {
		h.t.Fatal(err)
	}
}

// One device often stands in the inventory twice: one list has its serial number, another its UDID.
func TestALostDeviceGetsNothingUnderItsOtherName(t *testing.T) {
	for name, test := range map[string]struct {
		lost, other func(*harness, *device) issuance.DeviceID
	}{
		"its UDID is lost, its serial number expected": {
			func(h *harness, d *device) issuance.DeviceID { return h.list("", d.udid) },
			func(h *harness, d *device) issuance.DeviceID { return h.list(d.serial, "") },
		},
		"its UDID is lost under another serial number": {
			func(h *harness, d *device) issuance.DeviceID { return h.list("C39XX0AB12CE", d.udid) },
			func(*harness, *device) issuance.DeviceID { return "" },
		},
		"its UDID is lost, its serial number was attested before": {
			func(h *harness, d *device) issuance.DeviceID { return h.list("", d.udid) },
			func(h *harness, d *device) issuance.DeviceID { return h.list(d.serial, "00008120-001A2B3C4D5E6F71") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			d := h.device()
			row := test.lost(h, d)
			h.stands(row, policy.Lost)
			test.other(h, d)
			value, _ := h.mint(issuance.Mint{})
			c := h.client(dirDefault)
			o := c.ready(value, d)
			c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "device-state")
			h.refusedOrder(o, "device-state")
			// Whoever looks for the reason would look at the other row.
			said := fmt.Sprint(h.logs.lines(t, "refused"))
			if !strings.Contains(said, "says the inventory of "+string(row)) || !strings.Contains(said, "assay device forget "+string(row)) {
				t.Errorf("the log does not name the row %s: %s", row, said)
			}
		})
	}
}

func TestADeviceThatIsLostWhileDecidingGetsNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	id := h.list(d.serial, "")
	value, code := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.hooked.beforeBegin = func() { h.stands(id, policy.Lost) }
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "device-state")
	h.hooked.beforeBegin = nil
	h.refusedOrder(o, "device-state")
	h.code(code, issuance.CodeUnused, 0)
}

func TestADeviceThatIsLostWhileItsCertificateIsSignedGetsNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	id := h.list(d.serial, "")
	value, code := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.caKey.hook(func() error { h.stands(id, policy.Lost); return nil })
	c.finalize(o, d.csr()).want(http.StatusInternalServerError)
	h.caKey.hook(func() error { return nil })
	h.noCertificate(o)
	h.code(code, issuance.CodeUnused, 0)
}

// Clients that know no other name for themselves put the order's identifier into the CSR. While the device
// is held, the code is good for another try.
func TestADecisionHoldsNoCode(t *testing.T) {
	h := newHarness(t)
	h.decideBy(dirDefault, `signals: [{name: hidden, that: 'request.commonName == "CN (code)" && request.dnsNames == ["(code).example.com"]', points: 1}]
outcomes: [{outcome: hold}]`)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	d.subject = pkix.Name{CommonName: "CN " + value}
	c := h.client(dirDefault)
	o := c.ready(value, d)
	names, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(value + ".example.com")},
		{Class: asn1.ClassContextSpecific, Tag: 5, IsCompound: true, Bytes: []byte("\xa1\x22\x0c\x20" + value)}, // ediPartyName
	})
	if err != nil {
		t.Fatal(err)
	}
	c.finalize(o, d.csr(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names})).refused(http.StatusForbidden, "unauthorized", "held")
	decision, err := h.store.Decision(h.ctx(), h.onlyHold().Decision)
	if err != nil {
		t.Fatal(err)
	}
	if decision.Decision.Score != 1 {
		t.Errorf("decided on %+v", decision.Input.Request)
	}
	stored, err := json.Marshal(decision)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(stored, []byte(value)) || bytes.Contains(stored, []byte(hex.EncodeToString([]byte(value)))) {
		t.Errorf("the code is in %s", stored)
	}
}
