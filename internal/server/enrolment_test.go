package server_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"testing"

	"assay/acme"
	"assay/attest/standin"
	"assay/internal/issuance"
)

// device is a device with a key to be certified.
type device struct {
	t       *testing.T
	key     crypto.Signer
	serial  string
	udid    string
	subject pkix.Name
}

func (h *harness) device() *device {
	h.t.Helper()
	return &device{t: h.t, key: newCurveKey(h.t, elliptic.P384()), serial: "C39XX0AB12CD", udid: "00008120-001A2B3C4D5E6F70"}
}

// attest makes honest evidence for a token, in a challenge response.
func (d *device) attest(token string) []byte {
	d.t.Helper()
	return standin.AttestedResponse(d.object(token, standin.Mutation{}))
}

// object makes an attestation object, spoilt by a mutation.
func (d *device) object(token string, m standin.Mutation) []byte {
	d.t.Helper()
	object, err := authority().Attest(standin.Subject{
		PublicKey: d.key.Public(), Token: token, Now: epoch, Mutation: m,
		Device: standin.Device{Serial: d.serial, UDID: d.udid, ProductType: "iPhone15,2", OSVersion: "18.4", SepOSVersion: "18.4"},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return object
}

// csr makes a request for the device's key.
func (d *device) csr(extensions ...pkix.Extension) []byte {
	d.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: d.subject, ExtraExtensions: extensions}, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

// order is an order as its client knows it.
type order struct {
	url, authorization, challenge, token, finalize string
	id                                             issuance.OrderID
}

func newOrder(kind, value string) []byte {
	payload, err := json.Marshal(acme.NewOrder{Identifiers: []acme.Identifier{{Type: kind, Value: value}}})
	if err != nil {
		panic(err)
	}
	return payload
}

// order orders with a permanent-identifier and reads the challenge.
func (c *client) order(value string) *order {
	c.t.Helper()
	r := c.post(c.url("new-order"), newOrder("permanent-identifier", value)).want(http.StatusCreated)
	made := into[acme.Order](r)
	o := &order{url: r.header.Get("Location"), authorization: made.Authorizations[0], finalize: made.Finalize}
	o.id = idIn[issuance.OrderID](c.t, o.url)
	authorization := into[acme.Authorization](c.get(o.authorization).want(http.StatusOK))
	if made.Status != "pending" || authorization.Status != "pending" || len(authorization.Challenges) != 1 {
		c.t.Fatalf("new order is %q, its authorization %q with %d challenges", made.Status, authorization.Status, len(authorization.Challenges))
	}
	challenge := authorization.Challenges[0]
	o.challenge, o.token = challenge.URL, challenge.Token
	c.h.secrets.add("token", o.token)
	return o
}

// ready makes an order and answers its challenge with honest evidence.
func (c *client) ready(code string, d *device) *order {
	c.t.Helper()
	o := c.order(code)
	answered := into[acme.Challenge](c.post(o.challenge, d.attest(o.token)).want(http.StatusOK))
	if answered.Status != "valid" {
		c.t.Fatalf("challenge is %q", answered.Status)
	}
	return o
}

func finalizeWith(csr []byte) []byte {
	payload, err := json.Marshal(acme.Finalize{CSR: b64.EncodeToString(csr)})
	if err != nil {
		panic(err)
	}
	return payload
}

// finalize sends a CSR.
func (c *client) finalize(o *order, csr []byte, options ...option) *reply {
	c.t.Helper()
	return c.post(o.finalize, finalizeWith(csr), options...)
}

// identity is an issued certificate.
type identity struct {
	leaf *x509.Certificate
	url  string
	id   issuance.CertificateID
	row  issuance.Certificate
}

// enrol runs everything as it should be.
func (c *client) enrol(code string, d *device) (*order, *identity) {
	c.t.Helper()
	o := c.ready(code, d)
	return o, c.collect(c.finalize(o, d.csr()))
}

// collect downloads the certificate of a finalized order.
func (c *client) collect(r *reply) *identity {
	c.t.Helper()
	done := into[acme.Order](r.want(http.StatusOK))
	if done.Status != "valid" || done.Certificate == "" {
		c.t.Fatalf("finalized order is %q with certificate %q", done.Status, done.Certificate)
	}
	chain := c.get(done.Certificate).want(http.StatusOK)
	block, _ := pem.Decode(chain.body)
	if block == nil {
		c.t.Fatalf("certificate is no PEM: %q", chain.body)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	id := idIn[issuance.CertificateID](c.t, done.Certificate)
	row, err := c.h.store.Certificate(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	return &identity{leaf: leaf, url: done.Certificate, id: id, row: row}
}
