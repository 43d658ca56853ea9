package server_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/credential"
	"assay/internal/audit"
	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/logbook"
	"assay/internal/server"

	"github.com/prometheus/client_golang/prometheus"
)

// logBook keeps what the server logs.
type logBook struct{ logbook.Book }

// lines are the log's records with this message.
func (l *logBook) lines(t *testing.T, message string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range bytes.Lines([]byte(l.String())) {
		var record map[string]any
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if record["msg"] == message {
			out = append(out, record)
		}
	}
	return out
}

// A device shows nobody why it was refused, so each refusal is one log line that names device, check
// and hint.
func TestEachRefusalIsOneLogLine(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	mutation, err := standin.LookupMutation("leaf-forged")
	if err != nil {
		t.Fatal(err)
	}
	bound := func() (string, issuance.CodeID) { return h.mint(issuance.Mint{Serial: d.serial}) }
	expected := d.serial + " (expected)"
	for name, test := range map[string]struct {
		check, device string
		hint          bool
		refuse        func() (order *order, code issuance.CodeID)
	}{
		"bad evidence": {"chain-signature", expected, true, func() (*order, issuance.CodeID) {
			value, id := bound()
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, standin.AttestedResponse(d.object(o.token, mutation)))
			return o, id
		}},
		"bad CBOR": {"object-well-formed", expected, true, func() (*order, issuance.CodeID) {
			value, id := bound()
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, standin.AttestedResponse([]byte{0xff}))
			return o, id
		}},
		"no evidence": {"evidence", expected, true, func() (*order, issuance.CodeID) {
			value, id := bound()
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, standin.NoneResponse())
			return o, id
		}},
		"no evidence, bound to a UDID": {"evidence", d.udid + " (expected)", true, func() (*order, issuance.CodeID) {
			value, id := h.mint(issuance.Mint{UDID: d.udid})
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, standin.NoneResponse())
			return o, id
		}},
		"no evidence, unbound": {"evidence", "", true, func() (*order, issuance.CodeID) {
			value, id := h.mint(issuance.Mint{})
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, standin.NoneResponse())
			return o, id
		}},
		"another device": {"bound-serial", "C39XX0AB12CE", true, func() (*order, issuance.CodeID) {
			value, id := bound()
			other := h.device()
			other.serial = "C39XX0AB12CE"
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, other.attest(o.token))
			return o, id
		}},
		"device without serial": {"bound-serial-attested", d.udid, true, func() (*order, issuance.CodeID) {
			value, id := bound()
			other := h.device()
			other.serial = ""
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, other.attest(o.token))
			return o, id
		}},
		"another key": {"attested-key", d.serial, false, func() (*order, issuance.CodeID) {
			value, id := bound()
			c := h.client(dirDefault)
			o := c.ready(value, d)
			c.finalize(o, h.device().csr())
			return o, id
		}},
		"bad CSR": {"csr-syntax", d.serial, false, func() (*order, issuance.CodeID) {
			value, id := bound()
			c := h.client(dirDefault)
			o := c.ready(value, d)
			c.finalize(o, []byte("no CSR"))
			return o, id
		}},
		"code taken": {"code-live", d.serial, true, func() (*order, issuance.CodeID) {
			value, id := bound()
			c := h.client(dirDefault)
			o := c.ready(value, d)
			h.stillGood(dirDefault, value, d)
			c.finalize(o, d.csr())
			return o, id
		}},
		"used code": {"code-usable", "", true, func() (*order, issuance.CodeID) {
			value, id := bound()
			h.stillGood(dirDefault, value, d)
			c := h.client(dirDefault)
			c.post(c.url("new-order"), newOrder("permanent-identifier", value))
			return nil, id
		}},
		"another account": {"order-account", "", false, func() (*order, issuance.CodeID) {
			value, id := bound()
			o := h.client(dirDefault).order(value)
			h.client(dirDefault).get(o.url)
			return o, id
		}},
	} {
		h.subtest(name, func(t *testing.T) {
			before := len(h.logs.lines(t, "refused"))
			o, code := test.refuse()
			lines := h.logs.lines(t, "refused")[before:]
			if len(lines) != 1 {
				t.Fatalf("%d log lines: %v", len(lines), lines)
			}
			line := lines[0]
			if line["check"] != test.check || line["level"] != "WARN" || line["code"] != string(code) || line["directory"] != dirDefault || line["account"] == "" {
				t.Errorf("the line is %v", line)
			}
			if device, _ := line["device"].(string); device != test.device {
				t.Errorf("the line names device %q, want %q", device, test.device)
			}
			if hint, _ := line["hint"].(string); (hint != "") != test.hint {
				t.Errorf("the line's hint is %q", hint)
			}
			if o != nil && line["order"] != string(o.id) {
				t.Errorf("the line names order %v, not %s", line["order"], o.id)
			}
			if test.check == "code-usable" && line["reason"] != "code "+string(code)+" is consumed" {
				t.Errorf("the line's reason is %v", line["reason"])
			}
		})
	}
}

// Whoever is refused without having anything to do with us cannot fill the disk.
func TestStrangersRefusalsAreSampledAndCounted(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	trail, logged := h.count("audit"), len(h.logs.lines(t, "refused"))
	const refusals = 1000
	atOnce(20, func(i int) int {
		for range refusals / 20 {
			switch i % 4 {
			case 0:
				c.post(c.url("new-order"), newOrder("permanent-identifier", "guess"))
			case 1:
				c.get(c.url("order", "order_00000000000000000000000000"))
			case 2:
				c.get(c.kid, withKey(c.key), withNonce("AAAA"))
			case 3:
				c.get(c.kid, withURL(c.url("directory")))
			}
		}
		return 0
	})
	if n := h.count("audit") - trail; n != 0 {
		t.Errorf("%d refusals of strangers left %d audit rows", refusals, n)
	}
	if n := len(h.logs.lines(t, "refused")) - logged; n != 1 {
		t.Errorf("%d refusals within one second left %d log lines, want 1", refusals, n)
	}
	h.clock.Advance(time.Second)
	c.get(c.kid, withNonce("AAAA"))
	if n := len(h.logs.lines(t, "refused")) - logged; n != 2 {
		t.Errorf("a second later there are %d log lines, want 2", n)
	}
	for range 2 {
		if err := h.serving.Load().FlushStrangers(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var rows []audit.Row
	for row, err := range h.store.Audit(h.ctx(), audit.Filter{Action: audit.StrangersRefused}) {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	want := map[string]string{"code-usable": "250", "order-exists": "250", "nonce": "251", "jws-url": "250"}
	if len(rows) != 1 || !maps.Equal(rows[0].Detail, want) {
		t.Errorf("the trail says %v, want one row with %v", rows, want)
	}
}

// A refusal that cannot be recorded is none: the operator would never learn of it.
func TestRefusalThatCannotBeRecordedIsInternal(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	h.hooked.refusalError = errors.New("the disk is full")
	c.get(c.url("order", "x")).refused(http.StatusInternalServerError, "serverInternal", "internal")
}

// A refusal that concerns something known is never lost in the sample.
func TestKnownRefusalsAreAllLoggedAndAudited(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	logged := len(h.logs.lines(t, "refused"))
	const refusals = 20
	for range refusals {
		c.post(o.url, []byte(`{}`)).refused(http.StatusBadRequest, "malformed", "post-as-get")
	}
	if n := len(h.logs.lines(t, "refused")) - logged; n != refusals {
		t.Errorf("%d refusals left %d log lines", refusals, n)
	}
	if n := len(h.audited(audit.Filter{Order: string(o.id)}, "post-as-get")); n != refusals {
		t.Errorf("%d refusals left %d audit rows", refusals, n)
	}
}

func TestRefusalsAreCountedByCheck(t *testing.T) {
	h := newHarness(t)
	h.config.Metrics = server.NewMetrics()
	h.restart()
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	c.post(c.url("new-order"), newOrder("permanent-identifier", "guess"))
	c.get(c.kid, withNonce("AAAA"))
	c.enrol(value, h.device())
	registry := prometheus.NewRegistry()
	registry.MustRegister(h.config.Metrics.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			counts[family.GetName()+" "+strings.Join(labels, " ")] = metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]float64{
		"assay_refusals_total code-usable default rejectedIdentifier": 1, "assay_refusals_total nonce default badNonce": 1,
		"assay_certificates_issued_total default attested": 1, "assay_decisions_total default issue": 1,
		"assay_acme_requests_total ok new-account": 1, "assay_acme_requests_total ok new-nonce": 7, "assay_acme_requests_total ok new-order": 1,
		"assay_acme_requests_total refused new-order": 1, "assay_acme_requests_total refused account": 1,
		"assay_acme_requests_total ok authorization": 1, "assay_acme_requests_total ok challenge": 1, "assay_acme_requests_total ok finalize": 1,
		"assay_acme_requests_total ok certificate": 1, "assay_acme_request_duration_seconds finalize": 1,
	}
	maps.DeleteFunc(counts, func(name string, n float64) bool { // every counter begins at zero; of the durations one will do
		return n == 0 || strings.HasPrefix(name, "assay_acme_request_duration_seconds ") && !strings.HasSuffix(name, " finalize")
	})
	if !maps.Equal(counts, want) {
		t.Errorf("counted were %v, want %v", counts, want)
	}
}

// A document's URL is as secret as the code inside; see verifyNoSecrets.
func TestDocumentLeavesWithItsCodeAndIsNeverLogged(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	d.key, d.subject = newCurveKey(t, elliptic.P384()), pkix.Name{CommonName: "sam"}
	publisher := &delivery.Publisher{Store: h.store, BaseURL: baseURL, DirectoryURL: h.serving.Load().DirectoryURL(dirDefault)}
	template := credential.New("https://example.com/", "set on publishing", credential.Subject{{{"CN", "sam"}}})
	published, err := publisher.Publish(t.Context(), issuance.Call{Now: h.clock.Now()}, template, issuance.Mint{Directory: dirDefault, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	h.secrets.add("document's URL", path.Base(published.URL))
	r := h.do(t, http.MethodGet, published.URL, nil, nil).want(http.StatusOK)
	var document struct{ DirectoryURL, ClientIdentifier string }
	if err := json.Unmarshal(r.body, &document); err != nil || document.DirectoryURL != baseURL+"/acme/default/directory" {
		t.Fatalf("document %s, %v", r.body, err)
	}
	h.secrets.add("code", document.ClientIdentifier)
	c := h.client(dirDefault)
	o := c.ready(document.ClientIdentifier, d)
	clientAuth := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2}}
	signature := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{0x03, 0x02, 0x07, 0x80}}
	c.collect(c.finalize(o, d.csr(clientAuth, signature)))
	if r := h.do(t, http.MethodGet, published.URL, nil, nil); r.status != http.StatusNotFound && r.status != http.StatusGone {
		t.Errorf("the document of a used code: %d %s", r.status, r.body)
	}
}
