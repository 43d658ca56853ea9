package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
	"assay/internal/audit"
	"assay/internal/issuance"
)

func TestCodeIsForTheDeviceThatItIsBoundTo(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	for name, test := range map[string]struct {
		bound, attested issuance.Device
		check           string // "": accepted
	}{
		"unbound":              {issuance.Device{}, issuance.Device{Serial: d.serial, UDID: d.udid}, ""},
		"unbound, nothing":     {issuance.Device{}, issuance.Device{}, ""},
		"both":                 {issuance.Device{Serial: d.serial, UDID: d.udid}, issuance.Device{Serial: d.serial, UDID: d.udid}, ""},
		"UDID in other case":   {issuance.Device{UDID: strings.ToLower(d.udid)}, issuance.Device{UDID: d.udid}, ""},
		"serial only":          {issuance.Device{Serial: d.serial}, issuance.Device{Serial: d.serial}, ""},
		"another serial":       {issuance.Device{Serial: "C39XX0AB12CE"}, issuance.Device{Serial: d.serial}, "bound-serial"},
		"serial in other case": {issuance.Device{Serial: strings.ToLower(d.serial)}, issuance.Device{Serial: d.serial}, "bound-serial"},
		"serial with a blank":  {issuance.Device{Serial: d.serial + " "}, issuance.Device{Serial: d.serial}, "bound-serial"},
		"serial lacking":       {issuance.Device{Serial: d.serial}, issuance.Device{UDID: d.udid}, "bound-serial-attested"},
		"another UDID":         {issuance.Device{UDID: "00008120-001A2B3C4D5E6F71"}, issuance.Device{UDID: d.udid}, "bound-udid"},
		"UDID lacking":         {issuance.Device{UDID: d.udid}, issuance.Device{Serial: d.serial}, "bound-udid-attested"},
		"right serial, another UDID": {issuance.Device{Serial: d.serial, UDID: "00008120-001A2B3C4D5E6F71"},
			issuance.Device{Serial: d.serial, UDID: d.udid}, "bound-udid"},
		"right UDID, another serial": {issuance.Device{Serial: "C39XX0AB12CE", UDID: d.udid},
			issuance.Device{Serial: d.serial, UDID: d.udid}, "bound-serial"},
	} {
		h.subtest(name, func(t *testing.T) {
			value, id := h.mint(issuance.Mint{Serial: test.bound.Serial, UDID: test.bound.UDID})
			sender := h.device()
			sender.serial, sender.udid = test.attested.Serial, test.attested.UDID
			c := h.client(dirDefault)
			o := c.order(value)
			r := c.post(o.challenge, sender.attest(o.token))
			if test.check != "" {
				r.refused(http.StatusForbidden, "badAttestationStatement", test.check)
				h.dead(o, test.check)
				h.code(id, issuance.CodeUnused, 1)
				if test.bound.Serial == d.serial {
					h.stillGood(dirDefault, value, &device{t: t, key: sender.key, serial: test.bound.Serial, udid: test.bound.UDID})
				}
				return
			}
			r.want(http.StatusOK)
			i := c.collect(c.finalize(o, sender.csr()))
			if i.row.DeviceSerial != sender.serial || i.row.DeviceUDID != sender.udid || i.row.ExpectedSerial != "" || i.row.ExpectedUDID != "" {
				t.Errorf("the certificate is of %q, %q; expected %q, %q", i.row.DeviceSerial, i.row.DeviceUDID, i.row.ExpectedSerial, i.row.ExpectedUDID)
			}
			if i.row.AttestationRoot != authority().Root().SHA256 {
				t.Errorf("the certificate's attestation root is %q", i.row.AttestationRoot)
			}
			h.code(id, issuance.CodeConsumed, 0)
		})
	}
}

func TestUnattestedDeviceNeedsACodeThatAllowsIt(t *testing.T) {
	h := newHarness(t)
	for name, payload := range map[string][]byte{
		"none":                     standin.NoneResponse(),
		"none with an error":       []byte(`{"error":"attestation is unavailable"}`),
		"none with unknown member": []byte(`{"keyAuthorization":"x"}`),
		"failed":                   standin.FailedResponse("attestation is unavailable"),
	} {
		h.subtest(name, func(t *testing.T) {
			d := h.device()
			value, id := h.mint(issuance.Mint{Serial: d.serial})
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, payload).refused(http.StatusForbidden, "badAttestationStatement", "evidence")
			h.dead(o, "evidence")
			h.code(id, issuance.CodeUnused, 1)
			c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
			h.stillGood(dirDefault, value, d)
		})
	}
}

func TestUnattestedDeviceIsShownAsExpectedNeverAsAttested(t *testing.T) {
	for name, payload := range map[string][]byte{"none": standin.NoneResponse(), "failed": standin.FailedResponse("no luck")} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			d := h.device()
			value, id := h.mint(issuance.Mint{Serial: d.serial, UDID: d.udid, AllowUnattested: true})
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, payload).want(http.StatusOK)
			h.isReady(o)
			i := c.collect(c.finalize(o, d.csr()))
			if i.row.DeviceSerial != "" || i.row.DeviceUDID != "" || i.row.AttestationRoot != "" {
				t.Errorf("an unattested certificate names %q, %q, root %q", i.row.DeviceSerial, i.row.DeviceUDID, i.row.AttestationRoot)
			}
			if i.row.ExpectedSerial != d.serial || i.row.ExpectedUDID != d.udid {
				t.Errorf("expected are %q and %q", i.row.ExpectedSerial, i.row.ExpectedUDID)
			}
			decision, err := h.store.Decision(h.ctx(), i.row.Decision)
			if err != nil {
				t.Fatal(err)
			}
			if !decision.Decision.Key.Unattested || decision.Decision.Key.Attested != nil || decision.Decision.Verified || decision.Decision.StandIn {
				t.Errorf("the decision is %+v", decision.Decision)
			}
			known, err := h.store.Device(h.ctx(), i.row.Device)
			if err != nil || known.Attested {
				t.Errorf("device %+v, %v: nothing attested it", known, err)
			}
			h.code(id, issuance.CodeConsumed, 0)
		})
	}
}

// A code that allows a device to go without evidence does not make bad evidence good.
func TestAllowingUnattestedAllowsNoBadEvidence(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	for name, spoil := range map[string]func(*order) ([]byte, string){
		"stale":     func(*order) ([]byte, string) { return d.attest("another token"), "freshness" },
		"malformed": func(*order) ([]byte, string) { return []byte(`{"attObj":""}`), "object-well-formed" },
		"another device": func(o *order) ([]byte, string) {
			other := h.device()
			other.serial = "C39XX0AB12CE"
			return other.attest(o.token), "bound-serial"
		},
	} {
		h.subtest(name, func(*testing.T) {
			value, id := h.mint(issuance.Mint{Serial: d.serial, AllowUnattested: true})
			c := h.client(dirDefault)
			o := c.order(value)
			payload, check := spoil(o)
			c.post(o.challenge, payload).refused(http.StatusForbidden, "badAttestationStatement", check)
			h.dead(o, check)
			h.code(id, issuance.CodeUnused, 1)
		})
	}
}

// The device's error text is whatever a hostile device likes: it is kept, bounded and harmless, among
// the personal values of the trail, and goes nowhere else.
func TestDeviceErrorTextIsHarmless(t *testing.T) {
	h := newHarness(t)
	for name, text := range map[string]string{
		"line breaks": "Hostilität\nlevel=ERROR msg=forged\r\nthird",
		"terminal":    "Hostilität\x1b[2J\x1b[31mred\x1b[0m\a\b",
		"direction":   "Hostilität\u202etxt.exe\u2066",
		"NUL":         "Hostilität\x00b",
		"100 KiB":     strings.Repeat("Hostilität ", 5000),
	} {
		h.subtest(name, func(t *testing.T) {
			value, id := h.mint(issuance.Mint{})
			c := h.client(dirDefault)
			o := c.order(value)
			logged := len(h.logs.String())
			r := c.post(o.challenge, standin.FailedResponse(text))
			r.refused(http.StatusForbidden, "badAttestationStatement", "evidence")
			rows := h.audited(audit.Filter{Code: string(id)}, "evidence")
			if len(rows) != 1 || rows[0].Personal == nil {
				t.Fatalf("the trail has %d rows of the refusal", len(rows))
			}
			kept := rows[0].Personal.DeviceError
			if !strings.HasPrefix(kept, "Hostilität") || len(kept) > 1<<10 || strings.ContainsAny(kept, "\n\r\x1b\x00\a\b\u202e\u2066") {
				t.Errorf("the trail keeps %d bytes: %.60q", len(kept), kept)
			}
			evidence, err := h.store.Evidence(h.ctx(), h.state(o, "invalid", "invalid", "invalid").Evidence)
			if err != nil || evidence.Kind != attest.Failed || strings.ContainsAny(evidence.DeviceError, "\n\r\x1b\x00") {
				t.Errorf("evidence is %s with %.60q, %v", evidence.Kind, evidence.DeviceError, err)
			}
			detail, err := json.Marshal(rows[0].Detail)
			if err != nil {
				t.Fatal(err)
			}
			for what, where := range map[string]string{"log": h.logs.String()[logged:], "reply": string(r.body), "trail's row": string(detail)} {
				if strings.Contains(where, "Hostilität") {
					t.Errorf("the %s holds the device's error text", what)
				}
			}
		})
	}
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	c.post(o.challenge, standin.FailedResponse(strings.Repeat("x", 1<<20))).refused(http.StatusRequestEntityTooLarge, "malformed", "body-size")
	h.pending(o)
	h.code(id, issuance.CodeUnused, 0)
}

func TestCodeThatEndsBeforeFinalizeIsRefusedThere(t *testing.T) {
	revoke := func(h *harness, id issuance.CodeID) {
		if _, err := h.store.RevokeCode(h.ctx(), issuance.Call{Now: h.clock.Now()}, id); err != nil {
			h.t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		end    func(h *harness, id issuance.CodeID)
		raced  bool // it ends between decision and claim: not the policy but the claim finds out
		status issuance.CodeStatus
		tries  int
	}{
		"expired":                    {func(h *harness, _ issuance.CodeID) { h.clock.Advance(10 * time.Minute) }, false, issuance.CodeExpired, 1},
		"revoked":                    {revoke, false, issuance.CodeRevoked, 1},
		"revoked after the decision": {revoke, true, issuance.CodeRevoked, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			d := h.device()
			value, id := h.mint(issuance.Mint{Lifetime: 10 * time.Minute})
			c := h.client(dirDefault)
			o := c.ready(value, d)
			if test.raced {
				h.hooked.beforeBegin = func() { test.end(h, id) }
			} else {
				test.end(h, id)
			}
			c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "code-live")
			h.refusedOrder(o, "code-live")
			h.code(id, test.status, test.tries)
			if rows := h.audited(audit.Filter{Order: string(o.id)}, "code-live"); len(rows) != 1 {
				t.Errorf("the trail has %d rows of the refusal", len(rows))
			}
			h.hooked.beforeBegin = nil
			c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
		})
	}
}

func TestOrderDoesNotHoldItsCode(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	slow := h.client(dirDefault)
	o := slow.ready(value, d)
	h.stillGood(dirDefault, value, h.device())
	slow.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "code-live")
	h.refusedOrder(o, "code-live")
	if got := into[struct{ Status string }](slow.get(o.authorization).want(http.StatusOK)).Status; got != "valid" {
		t.Errorf("the authorization of a refused order is %q: the challenge was answered well", got)
	}
	h.code(id, issuance.CodeConsumed, 1)
}
