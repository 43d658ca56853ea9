package server_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/acme"
	"assay/csr"
	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/ca"
	"assay/internal/issuance"
)

func TestFinalizeRefusesKeyNotAttested(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	for n := range issuance.MaxTries {
		other := h.device() // same serial and UDID, another key
		h.isReady(o)
		c.finalize(o, other.csr()).refused(http.StatusBadRequest, "badCSR", "attested-key")
		if row, err := h.store.Order(t.Context(), o.id); err != nil || row.Tries != n+1 {
			t.Errorf("after %d refused requests the order counts %d, %v", n+1, row.Tries, err)
		}
	}
	h.refusedOrder(o, "too-many-tries")
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
	if rows := h.audited(audit.Filter{Order: string(o.id)}, "attested-key"); len(rows) != issuance.MaxTries {
		t.Errorf("the trail has %d rows of %d refusals", len(rows), issuance.MaxTries)
	}
	h.code(id, issuance.CodeUnused, 0)
	h.stillGood(dirDefault, value, d)
}

func TestOrderStaysReadyAfterARefusedCSR(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	for range issuance.MaxTries - 1 {
		c.finalize(o, h.device().csr()).refused(http.StatusBadRequest, "badCSR", "attested-key")
	}
	c.collect(c.finalize(o, d.csr()))
	h.code(id, issuance.CodeConsumed, 0)
}

// The smaller curve's key in evidence, and a CSR for another kind of key.
func TestFinalizeRefusesKeyOfAnotherKind(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newKey(t), newCurveKey(t, elliptic.P521()), rsaKey} {
		other := h.device()
		other.key = key
		c.finalize(o, other.csr()).refused(http.StatusBadRequest, "badCSR", "attested-key")
	}
	c.collect(c.finalize(o, d.csr()))
}

func TestFinalizeNeedsAReadyOrder(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
	h.pending(o)
	c.post(o.challenge, d.attest(o.token)).want(http.StatusOK)
	expired := c.ready(value, d)
	h.clock.Advance(issuance.OrderLifetime - time.Second)
	c.finalize(o, d.csr()).want(http.StatusOK)
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
	h.clock.Advance(time.Second)
	c.finalize(expired, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
	h.isReady(expired) // its time is over: on the wire it is invalid
	if got := into[acme.Order](c.get(expired.url).want(http.StatusOK)).Status; got != "invalid" {
		t.Errorf("an expired order is %q", got)
	}
	if got := into[acme.Authorization](c.get(expired.authorization).want(http.StatusOK)).Status; got != "expired" {
		t.Errorf("an expired order's valid authorization is %q", got)
	}
	h.code(id, issuance.CodeConsumed, 0)
	h.noCertificate(expired)
}

func TestFinalizeRefusesTheAccountKey(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := &client{h: h, t: t, dir: dirDefault, key: d.key}
	c.register()
	o := c.ready(value, d)
	c.finalize(o, d.csr()).refused(http.StatusBadRequest, "badPublicKey", "account-key")
	h.isReady(o)
	h.noCertificate(o)
	h.code(id, issuance.CodeUnused, 0)
	h.stillGood(dirDefault, value, d)
}

func TestFaultyCSRIsRefusedByItsCheck(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	good := d.csr()
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	altNames := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x03, 0x82, 0x01}}
	usage := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2}}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		csr         []byte
		kind, check string
	}{
		"no DER":           {[]byte("hello"), "badCSR", csr.CheckSyntax},
		"cut short":        {good[:len(good)-1], "badCSR", csr.CheckSyntax},
		"trailing byte":    {append(bytes.Clone(good), 0), "badCSR", csr.CheckSyntax},
		"indefinite":       {append([]byte{0x30, 0x80}, append(bytes.Clone(good[4:]), 0, 0)...), "badCSR", csr.CheckSyntax},
		"oversize":         {bytes.Repeat([]byte{0x30}, csr.MaxSize+1), "badCSR", csr.CheckSize},
		"bad signature":    {flipped, "badCSR", csr.CheckSignature},
		"certificate":      {h.root.Certificate.Raw, "badCSR", csr.CheckSyntax},
		"extension twice":  {d.csr(usage, usage), "badCSR", csr.CheckExtension},
		"malformed names":  {d.csr(altNames), "badCSR", csr.CheckAltName},
		"unsupported key":  {(&device{t: t, key: newCurveKey(t, elliptic.P224())}).csr(), "badPublicKey", csr.CheckKey},
		"CSR of other key": {(&device{t: t, key: small}).csr(), "badCSR", "attested-key"},
	} {
		h.subtest(name, func(*testing.T) {
			o := c.ready(value, d)
			c.finalize(o, test.csr).refused(http.StatusBadRequest, test.kind, test.check)
			if row := h.isReady(o); row.Tries != 1 {
				t.Errorf("the order counts %d tries", row.Tries)
			}
			if rows := h.audited(audit.Filter{Order: string(o.id)}, test.check); len(rows) != 1 {
				t.Errorf("the trail has %d rows of the refusal", len(rows))
			}
		})
	}
	h.code(id, issuance.CodeUnused, 0)
}

func TestFaultyFinalizePayloadChangesNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	csr := b64.EncodeToString(d.csr())
	for name, test := range map[string]struct{ payload, check string }{
		"no JSON": {"csr", "payload"}, "empty": {"", "payload"}, "array": {"[]", "payload"}, "csr twice": {`{"csr":"` + csr + `","csr":"` + csr + `"}`, "payload"},
		"number": {`{"csr":7}`, "payload"}, "no csr": {`{}`, "csr-encoding"}, "other case": {`{"CSR":"` + csr + `"}`, "csr-encoding"},
		"padded": {`{"csr":"` + csr + `=="}`, "csr-encoding"}, "PEM": {`{"csr":"-----BEGIN CERTIFICATE REQUEST-----"}`, "csr-encoding"},
		"depth bomb": {`{"csr":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, "payload"},
	} {
		h.subtest(name, func(*testing.T) {
			c.post(o.finalize, []byte(test.payload)).refused(http.StatusBadRequest, "malformed", test.check)
			if row := h.isReady(o); row.Tries != 0 {
				t.Errorf("the order counts %d tries", row.Tries)
			}
		})
	}
	c.collect(c.finalize(o, d.csr()))
}

func TestProfileDecidesWhatTheCertificateSays(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	d.subject = pkix.Name{CommonName: "admin", Organization: []string{"Evil Inc."}}
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	keyUsage := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{0x03, 0x02, 0x01, 0xa6}} // with keyCertSign
	serverAuth := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 1}}
	host := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x0d, 0x82, 0x0b, 'e', 'x', 'a', 'm', 'p', 'l', 'e', '.', 'o', 'r', 'g'}}
	ca := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}
	i := c.collect(c.finalize(o, d.csr(keyUsage, serverAuth, host, ca)))
	if i.leaf.Subject.CommonName == "admin" || len(i.leaf.Subject.Names) != 1 || len(i.leaf.DNSNames) != 0 || i.leaf.IsCA {
		t.Errorf("granted are subject %s, hosts %v, CA %v", i.leaf.Subject, i.leaf.DNSNames, i.leaf.IsCA)
	}
	if i.leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(i.leaf.ExtKeyUsage) != 1 || i.leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("granted are key usage %b and extended ones %v", i.leaf.KeyUsage, i.leaf.ExtKeyUsage)
	}
	decision, err := h.store.Decision(h.ctx(), i.row.Decision)
	if err != nil {
		t.Fatal(err)
	}
	if want := string(i.id); i.leaf.Subject.CommonName != want {
		t.Errorf("the common name is %s, not the identity's id %s", i.leaf.Subject.CommonName, want)
	}
	if len(decision.Decision.Dropped) < 4 {
		t.Errorf("the decision lists as dropped %v", decision.Decision.Dropped)
	}
}

func TestCSRMustAskForWhatTheCredentialSays(t *testing.T) {
	h := newHarness(t)
	minted := &csr.Request{Subject: csr.Name{{{Type: "2.5.4.3", Value: "sam"}}}, ExtKeyUsage: []string{csr.ClientAuth}, KeyType: csr.EC, KeySize: 384}
	clientAuth := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2}}
	d := h.device()
	value, id := h.mint(issuance.Mint{Minted: minted})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	d.subject = pkix.Name{CommonName: "admin"}
	c.finalize(o, d.csr(clientAuth)).refused(http.StatusBadRequest, "badCSR", "minted-subject")
	h.isReady(o)
	h.noCertificate(o)
	h.code(id, issuance.CodeUnused, 0)
	d.subject = pkix.Name{CommonName: "sam"}
	i := c.collect(c.finalize(o, d.csr(clientAuth)))
	if i.leaf.Subject.String() != "CN=sam" {
		t.Errorf("the subject is %s", i.leaf.Subject)
	}
}

// Without evidence the request's own key is certified, if the profile certifies its kind.
func TestUnattestedKeysAreThoseOfTheProfile(t *testing.T) {
	h := newHarness(t)
	rsaKey := func(bits int) crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	for name, test := range map[string]struct {
		key         crypto.Signer
		kind, check string
	}{
		"P-256": {newKey(t), "", ""}, "P-521": {newCurveKey(t, elliptic.P521()), "", ""}, "RSA 2048": {rsaKey(2048), "", ""},
		"RSA 1024": {rsaKey(1024), "badPublicKey", "profile-key"}, "P-224": {newCurveKey(t, elliptic.P224()), "badPublicKey", csr.CheckKey},
	} {
		h.subtest(name, func(t *testing.T) {
			d := h.device()
			d.key = test.key
			value, id := h.mint(issuance.Mint{AllowUnattested: true})
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, []byte(`{}`)).want(http.StatusOK)
			r := c.finalize(o, d.csr())
			if test.kind == "" {
				if i := c.collect(r); !d.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(i.leaf.PublicKey) {
					t.Error("another key was certified")
				}
				return
			}
			r.refused(http.StatusBadRequest, test.kind, test.check)
			h.isReady(o)
			h.noCertificate(o)
			h.code(id, issuance.CodeUnused, 0)
		})
	}
}

// A CSR may name a permanent identifier, if it is the attested one.
func TestRequestedIdentifierMustBeTheAttestedOne(t *testing.T) {
	h := newHarness(t)
	for name, test := range map[string]struct{ value, check string }{
		"attested": {h.device().serial, ""}, "another": {"C39XX0AB12CE", ca.CheckAttestedPermanentID},
	} {
		h.subtest(name, func(*testing.T) {
			general, err := deviceid.PermanentIdentifier{Value: test.value}.GeneralName()
			if err != nil {
				t.Fatal(err)
			}
			names, err := asn1.Marshal([]asn1.RawValue{{FullBytes: general}})
			if err != nil {
				t.Fatal(err)
			}
			d := h.device()
			value, _ := h.mint(issuance.Mint{Directory: dirOther})
			c := h.client(dirOther)
			o := c.ready(value, d)
			r := c.finalize(o, d.csr(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}))
			if test.check == "" {
				c.collect(r)
				return
			}
			r.refused(http.StatusBadRequest, "badCSR", test.check)
			h.isReady(o)
		})
	}
}

func TestEachDirectoryHasItsOwnIssuerAndProfile(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{Directory: dirOther})
	d := h.device()
	_, i := h.client(dirOther).enrol(value, d)
	if i.row.Issuer != h.other || i.row.Profile != "generous" || i.row.ProfileVersion != 3 || i.row.Directory != dirOther {
		t.Errorf("the row says issuer %s, profile %s %d, directory %s", i.row.Issuer, i.row.Profile, i.row.ProfileVersion, i.row.Directory)
	}
	if err := i.leaf.CheckSignatureFrom(h.config.Issuers[h.other].Certificate); err != nil {
		t.Error(err)
	}
	if got := i.leaf.NotAfter.Sub(epoch); got != 30*24*time.Hour {
		t.Errorf("the certificate lives %v from now", got)
	}
	if !bytes.Contains(i.leaf.Raw, []byte(d.serial)) {
		t.Error("the profile says that the attested serial is in the certificate")
	}
	if bytes.Contains(i.leaf.Raw, []byte(value)) {
		t.Error("the certificate holds the code")
	}
}

func TestFailedSignatureLeavesTheCodeGood(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.caKey.hook(func() error { return errors.New("the HSM is on fire") })
	r := c.finalize(o, d.csr())
	r.refused(http.StatusInternalServerError, "serverInternal", "internal")
	if bytes.Contains(r.body, []byte("HSM")) {
		t.Errorf("the client learns of the cause: %s", r.body)
	}
	if lines := h.logs.lines(t, "internal error"); len(lines) != 1 || !strings.Contains(lines[0]["error"].(string), "HSM is on fire") {
		t.Errorf("the log says %v", lines)
	}
	h.refusedOrder(o, "issuing")
	h.code(id, issuance.CodeUnused, 0)
	if n := h.count(`certificates WHERE status = 'abandoned' AND der IS NULL`); n != 1 {
		t.Errorf("%d serials are abandoned, want 1", n)
	}
	h.caKey.hook(func() error { return nil })
	h.stillGood(dirDefault, value, d)
}

func TestCertificateOfAnUndoneClaimIsNotDelivered(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.caKey.hook(func() error {
		undone, err := h.store.UndoDeadClaims(h.ctx(), issuance.Call{Now: h.clock.Now()}, h.clock.Now().Add(time.Second))
		if undone != 1 {
			t.Errorf("%d claims undone", undone)
		}
		return err
	})
	c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "state")
	h.caKey.hook(func() error { return nil })
	h.refusedOrder(o, "claim-died")
	h.code(id, issuance.CodeUnused, 0)
	if n := h.count(`certificates WHERE der IS NOT NULL`); n != 0 {
		t.Errorf("%d certificates are stored", n)
	}
	abandoned := h.rows(`SELECT id FROM certificates WHERE status = 'abandoned'`)
	c.get(c.url("certificate", abandoned[0][0])).refused(http.StatusNotFound, "malformed", "certificate-exists")
	h.stillGood(dirDefault, value, d)
}

func TestSignatureFailureOfAnUndoneClaimIsInternal(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	h.caKey.hook(func() error {
		_, err := h.store.UndoDeadClaims(h.ctx(), issuance.Call{Now: h.clock.Now()}, h.clock.Now().Add(time.Second))
		return errors.Join(err, errors.New("the HSM is on fire"))
	})
	c.finalize(o, d.csr()).refused(http.StatusInternalServerError, "serverInternal", "internal")
	h.caKey.hook(func() error { return nil })
	h.refusedOrder(o, "claim-died")
	h.code(id, issuance.CodeUnused, 0)
}
