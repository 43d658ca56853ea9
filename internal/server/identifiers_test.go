package server_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/acme"
	"assay/attest/standin"
	"assay/internal/audit"
	"assay/internal/issuance"
)

func TestOrderNamesOneIdentifierThatCanBeProven(t *testing.T) {
	h := newHarness(t)
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	one := func(kind, value string) string {
		return fmt.Sprintf(`{"identifiers":[{"type":%q,"value":%q}]}`, kind, value)
	}
	for name, test := range map[string]struct{ payload, kind, check string }{
		"none":                     {`{"identifiers":[]}`, "malformed", "identifier-count"},
		"absent":                   {`{}`, "malformed", "identifier-count"},
		"two":                      {`{"identifiers":[{"type":"permanent-identifier","value":"` + value + `"},{"type":"permanent-identifier","value":"` + value + `"}]}`, "malformed", "identifier-count"},
		"a device and a host":      {`{"identifiers":[{"type":"permanent-identifier","value":"` + value + `"},{"type":"dns","value":"example.com"}]}`, "malformed", "identifier-count"},
		"dns":                      {one("dns", "example.com"), "unsupportedIdentifier", "identifier-type"},
		"ip":                       {one("ip", "192.0.2.1"), "unsupportedIdentifier", "identifier-type"},
		"type in upper case":       {one("Permanent-Identifier", value), "unsupportedIdentifier", "identifier-type"},
		"no type":                  {one("", value), "unsupportedIdentifier", "identifier-type"},
		"empty value":              {one("permanent-identifier", ""), "malformed", "identifier-grammar"},
		"nothing after the slash":  {one("permanent-identifier", value+"/"), "malformed", "identifier-grammar"},
		"assigner that is no OID":  {one("permanent-identifier", value+"/apple"), "malformed", "identifier-grammar"},
		"two slashes":              {one("permanent-identifier", value+"/1.2.3/4"), "malformed", "identifier-grammar"},
		"oversize":                 {one("permanent-identifier", strings.Repeat("A", 257)), "malformed", "identifier-grammar"},
		"with assigner":            {one("permanent-identifier", value+"/1.2.840.113635"), "rejectedIdentifier", "identifier-assigner"},
		"hardware module":          {one("hardware-module", value+"/1.2.3"), "rejectedIdentifier", "identifier-hardware-module"},
		"hardware module, no type": {one("hardware-module", value), "malformed", "identifier-grammar"},
		"value is a number":        {`{"identifiers":[{"type":"permanent-identifier","value":7}]}`, "malformed", "payload"},
		"identifiers is an object": {`{"identifiers":{}}`, "malformed", "payload"},
		"null":                     {`null`, "malformed", "payload"},
		"trailing data":            {one("permanent-identifier", value) + "{}", "malformed", "payload"},
		"identifiers twice":        {`{"identifiers":[],` + one("permanent-identifier", value)[1:], "malformed", "payload"},
		"value twice":              {`{"identifiers":[{"type":"permanent-identifier","value":"a","value":"` + value + `"}]}`, "malformed", "payload"},
		"depth bomb":               {`{"x":` + strings.Repeat(`{"x":`, 3000) + "1" + strings.Repeat("}", 3000) + `}`, "malformed", "payload"},
		"date that is none":        {`{"notAfter":"tomorrow",` + one("permanent-identifier", value)[1:], "malformed", "payload"},
	} {
		h.subtest(name, func(*testing.T) {
			h.unchanged("a faulty order", func() {
				c.post(c.url("new-order"), []byte(test.payload)).refused(http.StatusBadRequest, test.kind, test.check)
			})
		})
	}
	c.post(c.url("new-order"), nil).refused(http.StatusBadRequest, "malformed", "payload")
	h.code(id, issuance.CodeUnused, 0)
}

func TestOrderedValidityIsIgnored(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	for _, dates := range []string{`"notBefore":"0001-01-01T00:00:00Z","notAfter":"0001-01-01T00:00:00Z",`, `"notAfter":"2099-01-01T00:00:00Z",`} {
		r := c.post(c.url("new-order"), []byte(`{`+dates+`"identifiers":[{"type":"permanent-identifier","value":"`+value+`"}]}`)).want(http.StatusCreated)
		if o := into[acme.Order](r); o.NotAfter != nil || o.NotBefore != nil {
			t.Errorf("the order repeats the validity asked for: %s", r.body)
		}
	}
}

// A client cannot tell an unknown code from a used, expired or revoked one, or from another
// directory's; the trail can.
func TestUnusableCodesLookAlike(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	used, usedID := h.mint(issuance.Mint{})
	expired, expiredID := h.mint(issuance.Mint{Lifetime: time.Minute})
	revoked, revokedID := h.mint(issuance.Mint{})
	elsewhere, elsewhereID := h.mint(issuance.Mint{Directory: dirSerial})
	h.client(dirDefault).enrol(used, d)
	if _, err := h.store.RevokeCode(t.Context(), issuance.Call{Now: h.clock.Now(), From: "operator:test"}, revokedID); err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(time.Minute)
	unknown, err := issuance.NewCodeValue(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	h.secrets.add("code that does not exist", unknown)
	c := h.client(dirDefault)
	var first *reply
	for name, test := range map[string]struct {
		value  string
		id     issuance.CodeID
		status string
	}{
		"unknown": {unknown, "", ""}, "used": {used, usedID, "consumed"}, "expired": {expired, expiredID, "expired"},
		"revoked": {revoked, revokedID, "revoked"}, "elsewhere": {elsewhere, "", ""}, "not a code": {"hello", "", ""},
	} {
		h.subtest(name, func(t *testing.T) {
			orders := h.count("orders")
			r := c.post(c.url("new-order"), newOrder("permanent-identifier", test.value))
			r.refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
			if first == nil {
				first = r
			}
			if !bytes.Equal(r.body, first.body) {
				t.Errorf("the refusal differs: %s and %s", r.body, first.body)
			}
			if n := h.count("orders"); n != orders {
				t.Errorf("%d orders were made", n-orders)
			}
			if test.id == "" {
				return
			}
			rows := h.audited(audit.Filter{Code: string(test.id)}, "code-usable")
			if len(rows) != 1 || rows[0].Detail["status"] != test.status || rows[0].Account != string(c.accountID()) {
				t.Errorf("the trail says %+v, want one refusal with status %s", rows, test.status)
			}
		})
	}
	h.code(usedID, issuance.CodeConsumed, 0)
	h.code(elsewhereID, issuance.CodeUnused, 0)
}

func TestSixtyFourLiveOrdersMayNameACode(t *testing.T) {
	h := newHarness(t)
	value, id := h.mint(issuance.Mint{})
	d := h.device()
	c, other := h.client(dirDefault), h.client(dirDefault)
	payload := newOrder("permanent-identifier", value)
	for range issuance.MaxLiveOrdersPerCode - 1 {
		c.post(c.url("new-order"), payload).want(http.StatusCreated)
	}
	last := other.order(value)
	for _, client := range []*client{c, other} {
		client.post(client.url("new-order"), payload).refused(http.StatusTooManyRequests, "rateLimited", "live-orders")
	}
	if n := h.count("orders"); n != issuance.MaxLiveOrdersPerCode {
		t.Errorf("%d orders", n)
	}
	if rows := h.audited(audit.Filter{}, "live-orders"); len(rows) != 2 || rows[0].Code != string(id) || rows[1].Code != string(id) {
		t.Errorf("the trail says %v, want two refusals of the code", rows)
	}
	for _, line := range h.logs.lines(t, "refused") {
		if line["code"] != string(id) {
			t.Errorf("the log line %v does not name the code", line)
		}
	}
	// Those orders hold nothing: one of them still gets the code; and one that ended makes room.
	other.post(last.challenge, []byte(`{"attObj":"AA"}`)).refused(http.StatusForbidden, "badAttestationStatement", "object-well-formed")
	h.stillGood(dirDefault, value, d)
}

func TestOrderedSerialOrUDIDMustBeTheAttestedOne(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	for name, test := range map[string]struct {
		dir, value   string
		serial, udid string // attested
		check        string // "": accepted
	}{
		"serial":                    {dirSerial, d.serial, d.serial, d.udid, ""},
		"UDID":                      {dirSerial, d.udid, d.serial, d.udid, ""},
		"UDID in other case":        {dirUDID, strings.ToLower(d.udid), d.serial, d.udid, ""},
		"another serial":            {dirSerial, "C39XX0AB12CE", d.serial, d.udid, "ordered-identifier"},
		"serial in other case":      {dirSerial, strings.ToLower(d.serial), d.serial, d.udid, "ordered-identifier"},
		"serial as UDID":            {dirUDID, d.serial, d.serial, d.udid, "ordered-identifier"},
		"another UDID":              {dirSerial, "00008120-001A2B3C4D5E6F71", d.serial, d.udid, "ordered-identifier"},
		"serial is not attested":    {dirSerial, d.serial, "", d.udid, "ordered-identifier-attested"},
		"UDID is not attested":      {dirUDID, d.udid, d.serial, "", "ordered-identifier-attested"},
		"UDID where serials are":    {dirSerialOnly, d.udid, d.serial, d.udid, "ordered-identifier"},
		"nothing of it is attested": {dirSerial, d.serial, "", "", "ordered-identifier-attested"},
	} {
		h.subtest(name, func(t *testing.T) {
			attested := h.device()
			attested.serial, attested.udid = test.serial, test.udid
			c := h.client(test.dir)
			o := c.order(test.value)
			r := c.post(o.challenge, attested.attest(o.token))
			if test.check == "" {
				r.want(http.StatusOK)
				h.list(d.serial, d.udid)
				i := c.collect(c.finalize(o, attested.csr()))
				if i.row.DeviceSerial != test.serial || i.row.DeviceUDID != test.udid || i.row.Code != "" {
					t.Errorf("the certificate is of %q, %q, code %q", i.row.DeviceSerial, i.row.DeviceUDID, i.row.Code)
				}
				return
			}
			r.refused(http.StatusForbidden, "badAttestationStatement", test.check)
			h.dead(o, test.check)
			c.finalize(o, attested.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
		})
	}
}

func TestDeviceThatOrdersBySerialMustBeListed(t *testing.T) {
	h := newHarness(t)
	for _, test := range []struct{ dir, value string }{{dirSerial, h.device().serial}, {dirUDID, h.device().udid}} {
		h.subtest(test.dir, func(*testing.T) {
			d := h.device()
			c := h.client(test.dir)
			value := d.serial
			if test.dir == dirUDID {
				value = d.udid
			}
			o := c.order(value)
			c.post(o.challenge, d.attest(o.token)).want(http.StatusOK)
			c.finalize(o, d.csr()).refused(http.StatusForbidden, "unauthorized", "require:listed-device")
			h.refusedOrder(o, "require:listed-device")
		})
	}
}

func TestDeviceThatOrdersBySerialMustAttest(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	for name, payload := range map[string][]byte{"none": standin.NoneResponse(), "failed": standin.FailedResponse("no luck")} {
		h.subtest(name, func(*testing.T) {
			c := h.client(dirSerial)
			for _, value := range []string{d.serial, d.udid} {
				o := c.order(value)
				c.post(o.challenge, payload).refused(http.StatusForbidden, "badAttestationStatement", "evidence")
				h.dead(o, "evidence")
			}
		})
	}
}

func TestDirectoryWithoutCodesLooksNoCodeUp(t *testing.T) {
	h := newHarness(t)
	value, id := h.mint(issuance.Mint{Directory: dirUDID, AllowUnattested: true})
	c := h.client(dirUDID)
	o := c.order(value) // a UDID like any other, which no device has
	c.post(o.challenge, standin.NoneResponse()).refused(http.StatusForbidden, "badAttestationStatement", "evidence")
	h.code(id, issuance.CodeUnused, 0)
}
