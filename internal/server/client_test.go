package server_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"assay/acme"
	"assay/internal/issuance"

	"github.com/go-jose/go-jose/v4"
)

var b64 = base64.RawURLEncoding

// client is an ACME client with an account key. Unlike Apple's it can do each step wrongly.
type client struct {
	h   *harness
	t   *testing.T
	dir string
	key crypto.Signer
	kid string
}

// stranger makes a client whose key nobody knows.
func (h *harness) stranger(dir string) *client {
	h.t.Helper()
	return &client{h: h, t: h.t, dir: dir, key: newKey(h.t)}
}

// client makes a client with an account.
func (h *harness) client(dir string) *client {
	h.t.Helper()
	c := h.stranger(dir)
	c.register()
	return c
}

func (c *client) register() *reply {
	c.t.Helper()
	r := c.post(c.url("new-account"), []byte(`{"termsOfServiceAgreed":true}`), withJWK).want(http.StatusCreated)
	c.kid = r.header.Get("Location")
	return r
}

func (c *client) url(parts ...string) string {
	return baseURL + "/acme/" + c.dir + "/" + strings.Join(parts, "/")
}

func (c *client) accountID() issuance.AccountID { return idIn[issuance.AccountID](c.t, c.kid) }

// message is a signed request in the making; each option spoils something of it.
type message struct {
	method      string
	target      string // where the request goes
	header      map[string]any
	payload     []byte // nil: POST-as-GET
	jwk         bool
	noNonce     bool
	key         crypto.Signer
	sign        func(input []byte) []byte // nil: by key and alg
	body        func([]byte) []byte
	contentType string
	host        string
}

type option func(*message)

func withJWK(m *message)               { m.jwk = true }
func withoutNonce(m *message)          { m.noNonce = true }
func withNonce(nonce string) option    { return func(m *message) { m.header["nonce"] = nonce } }
func withURL(url string) option        { return func(m *message) { m.header["url"] = url } }
func withKid(kid string) option        { return func(m *message) { m.header["kid"] = kid } }
func withAlg(alg string) option        { return func(m *message) { m.header["alg"] = alg } }
func withKey(key crypto.Signer) option { return func(m *message) { m.key = key } }
func withHost(host string) option      { return func(m *message) { m.host = host } }
func withType(kind string) option      { return func(m *message) { m.contentType = kind } }
func withHeader(name string, value any) option {
	return func(m *message) {
		m.header[name] = value
	}
}
func withBody(change func([]byte) []byte) option { return func(m *message) { m.body = change } }
func withSignature(sign func([]byte) []byte) option {
	return func(m *message) { m.sign = sign }
}

// nonce asks for a nonce.
func (c *client) nonce() string {
	c.t.Helper()
	r := c.h.do(c.t, http.MethodHead, c.url("new-nonce"), nil, nil)
	if r.status != http.StatusOK || r.header.Get("Replay-Nonce") == "" {
		c.t.Fatalf("HEAD new-nonce: status %d, nonce %q", r.status, r.header.Get("Replay-Nonce"))
	}
	return r.header.Get("Replay-Nonce")
}

// get is POST-as-GET.
func (c *client) get(url string, options ...option) *reply { return c.post(url, nil, options...) }

// post sends a signed request; every reply must carry a fresh nonce.
func (c *client) post(url string, payload []byte, options ...option) *reply {
	c.t.Helper()
	return c.send(c.message(url, payload, options...))
}

// message makes a request that is right but for what the options spoil.
func (c *client) message(url string, payload []byte, options ...option) *message {
	c.t.Helper()
	m := &message{method: http.MethodPost, target: url, payload: payload, key: c.key, contentType: "application/jose+json"}
	m.header = map[string]any{"alg": algorithm(c.t, c.key), "url": url}
	for _, o := range options {
		o(m)
	}
	if _, has := m.header["nonce"]; !has && !m.noNonce {
		m.header["nonce"] = c.nonce()
	}
	if _, has := m.header["jwk"]; !has && m.jwk {
		m.header["jwk"] = jwkOf(c.t, m.key)
	} else if _, has := m.header["kid"]; !has && !m.jwk {
		m.header["kid"] = c.kid
	}
	return m
}

func (c *client) send(m *message) *reply {
	c.t.Helper()
	body := signJWS(c.t, m)
	if m.body != nil {
		body = m.body(body)
	}
	r := c.h.do(c.t, m.method, m.target, body, m)
	if r.header.Get("Replay-Nonce") == "" {
		c.t.Errorf("POST %s: reply %d carries no nonce", m.target, r.status)
	}
	if link := r.header.Get("Link"); link != `<`+c.url("directory")+`>;rel="index"` {
		c.t.Errorf("POST %s: first Link is %q, not the directory", m.target, link)
	}
	return r
}

func (h *harness) do(t *testing.T, method, url string, body []byte, m *message) *reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if m != nil {
		request.Header.Set("Content-Type", m.contentType)
		request.Host = m.host
	}
	response, err := h.http.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	data, err := io.ReadAll(response.Body)
	if err := response.Body.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &reply{t: t, what: method + " " + strings.TrimPrefix(url, baseURL), status: response.StatusCode, header: response.Header, body: data}
}

// signJWS makes the body of a signed request as the message says, however wrong that is.
func signJWS(t *testing.T, m *message) []byte {
	t.Helper()
	header, err := json.Marshal(m.header)
	if err != nil {
		t.Fatal(err)
	}
	protected, payload := b64.EncodeToString(header), b64.EncodeToString(m.payload)
	input := []byte(protected + "." + payload)
	var signature []byte
	if m.sign != nil {
		signature = m.sign(input)
	} else {
		signature = rawSignature(t, m.key, input)
	}
	body, err := json.Marshal(map[string]string{"protected": protected, "payload": payload, "signature": b64.EncodeToString(signature)})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func algorithm(t *testing.T, key crypto.Signer) string {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ES256"
		case elliptic.P384():
			return "ES384"
		}
		return "ES512"
	case *rsa.PublicKey:
		return "RS256"
	case ed25519.PublicKey:
		return "EdDSA"
	}
	t.Fatalf("no algorithm for a %T", key.Public())
	return ""
}

// rawSignature signs as JWS wants it: r and s side by side.
func rawSignature(t *testing.T, key crypto.Signer, input []byte) []byte {
	t.Helper()
	hash := map[string]crypto.Hash{"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512, "RS256": crypto.SHA256}[algorithm(t, key)]
	digest := input
	if hash != 0 {
		sum := hash.New()
		sum.Write(input)
		digest = sum.Sum(nil)
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			t.Fatal(err)
		}
		return joinRS(k.Curve, r, s)
	}
	signature, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func joinRS(curve elliptic.Curve, r, s *big.Int) []byte {
	size := (curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*size)
	r.FillBytes(out[:size])
	s.FillBytes(out[size:])
	return out
}

// hmacSignature is what HS256 with a known key gives.
func hmacSignature(key []byte) func([]byte) []byte {
	return func(input []byte) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write(input)
		return mac.Sum(nil)
	}
}

func jwkOf(t *testing.T, key crypto.Signer) json.RawMessage {
	t.Helper()
	jwk, err := acme.CanonicalJWK(&jose.JSONWebKey{Key: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	return jwk
}

// reply is an HTTP reply.
type reply struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// want demands a success of this status.
func (r *reply) want(status int) *reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s: status %d, want %d: %s", r.what, r.status, status, r.body)
	}
	return r
}

// refused demands this refusal: the exact problem type, HTTP status and check name.
func (r *reply) refused(status int, kind, check string) *acme.Problem {
	r.t.Helper()
	var p acme.Problem
	if err := json.Unmarshal(r.body, &p); err != nil {
		r.t.Fatalf("%s: status %d with a body that is no problem document: %q", r.what, r.status, r.body)
	}
	if r.status != status || p.Type != "urn:ietf:params:acme:error:"+kind || p.Check != check {
		r.t.Errorf("%s: got %d %s (%s), want %d %s (%s)", r.what, r.status, p.Type, p.Check, status, kind, check)
	}
	if p.Status != r.status || p.Detail == "" {
		r.t.Errorf("%s: problem has status %d and detail %q", r.what, p.Status, p.Detail)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		r.t.Errorf("%s: a problem's content type is %q", r.what, got)
	}
	return &p
}

// into reads a JSON reply.
func into[T any](r *reply) T {
	r.t.Helper()
	var v T
	if got := r.header.Get("Content-Type"); got != "application/json" {
		r.t.Errorf("%s: content type %q", r.what, got)
	}
	if err := json.Unmarshal(r.body, &v); err != nil {
		r.t.Fatalf("%s: %v in %q", r.what, err, r.body)
	}
	return v
}
