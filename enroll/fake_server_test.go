package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"assay/acme"
	"assay/credential"
)

const testToken = "dG9rZW4tb2YtdGhlLXRlc3Q"

// request is what the fake server saw.
type request struct {
	Step        string // the path's last element
	Method      string
	Protocol    string
	UserAgent   string
	ContentType string
	Body        string
	Signature   int            // bytes of the JWS signature
	Header      acme.Header    // of a signed request
	Payload     string         // of a signed request
	fields      map[string]any // of the payload
}

// answer is what the fake server is about to say; a test's script changes it.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// fakeServer answers as a sound server does, unless its script changes an answer. It checks every
// signature, nonce and URL.
type fakeServer struct {
	t      *testing.T
	server *httptest.Server
	script func(step string, a *answer)

	mu       sync.Mutex
	requests []request
	nonce    string
	account  *jose.JSONWebKey
	issuer   *ecdsa.PrivateKey
	chain    string
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{t: t, issuer: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.EnableHTTP2 = true
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeServer) url(step string) string { return f.server.URL + "/" + step }

func (f *fakeServer) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(f.server.Certificate())
	return pool
}

func (f *fakeServer) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body := string(must(io.ReadAll(r.Body)))
	seen := request{
		Step: strings.TrimPrefix(r.URL.Path, "/"), Method: r.Method, Protocol: r.Proto, Body: body,
		UserAgent: r.UserAgent(), ContentType: r.Header.Get("Content-Type"),
	}
	if r.Method == http.MethodPost {
		f.verify(&seen, "https://"+r.Host+r.URL.Path)
	}
	f.requests = append(f.requests, seen)
	a := f.answer(&seen)
	f.nonce = fmt.Sprintf("nonce-%d", len(f.requests))
	a.Header.Set("Replay-Nonce", f.nonce)
	if seen.Step == "directory" { // as real servers do, which promise a nonce to signed requests only
		a.Header.Del("Replay-Nonce")
	}
	if f.script != nil {
		f.script(seen.Step, a)
	}
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	io.WriteString(w, a.Body)
}

// verify checks a signed request.
func (f *fakeServer) verify(seen *request, url string) {
	m, p := acme.ParseMessage([]byte(seen.Body))
	if p != nil {
		f.t.Errorf("%s: %v", seen.Step, p)
		return
	}
	key := f.account
	if seen.Step == "new-account" {
		key = m.Header.JWK
		f.account = key
	}
	payload, p := m.Verify(key)
	if p != nil {
		f.t.Errorf("%s: %v", seen.Step, p)
	}
	if m.Header.URL != url {
		f.t.Errorf("%s: signed for %s", seen.Step, m.Header.URL)
	}
	if m.Header.Nonce != f.nonce {
		f.t.Errorf("%s: nonce %s, want the last one, %s", seen.Step, m.Header.Nonce, f.nonce)
	}
	var jws map[string]string
	must(0, json.Unmarshal([]byte(seen.Body), &jws))
	seen.Signature = len(must(base64.RawURLEncoding.DecodeString(jws["signature"])))
	seen.Header, seen.Payload = m.Header, string(payload)
	if len(payload) > 0 {
		must(0, json.Unmarshal(payload, &seen.fields))
	}
}

func (f *fakeServer) answer(seen *request) *answer {
	a := &answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}}
	body := map[string]any{}
	switch seen.Step {
	case "directory":
		body = map[string]any{"newNonce": f.url("new-nonce"), "newAccount": f.url("new-account"), "newOrder": f.url("new-order")}
	case "new-nonce":
		a.Status = http.StatusNoContent
		if seen.Method == http.MethodHead {
			a.Status = http.StatusOK
		}
		return a
	case "new-account":
		a.Status = http.StatusCreated
		a.Header.Set("Location", f.url("account"))
		body = map[string]any{"status": "valid", "orders": f.url("orders")}
	case "new-order":
		a.Status = http.StatusCreated
		a.Header.Set("Location", f.url("order"))
		body = map[string]any{"status": "pending", "authorizations": []string{f.url("authorization"), f.url("never")}, "finalize": f.url("finalize")}
	case "authorization":
		body = map[string]any{"status": "pending", "challenges": []any{
			map[string]string{"type": "dns-01", "url": f.url("never"), "token": "other", "status": "pending"},
			map[string]string{"type": "device-attest-01", "url": f.url("challenge"), "token": testToken, "status": "pending"},
			map[string]string{"type": "http-01", "url": f.url("never"), "token": "other", "status": "pending"},
		}}
	case "challenge":
		body = map[string]any{"type": "device-attest-01", "url": f.url("challenge"), "token": testToken, "status": "valid"}
	case "finalize":
		f.chain = f.issue(seen.fields["csr"].(string))
		body = map[string]any{"status": "valid", "certificate": f.url("certificate")}
	case "order":
		body = map[string]any{"status": "valid", "certificate": f.url("certificate")}
	case "certificate":
		a.Header.Set("Content-Type", "application/pem-certificate-chain")
		a.Body = f.chain
		return a
	default:
		f.t.Errorf("unexpected request %s %s", seen.Method, seen.Step)
	}
	a.Body = string(must(json.Marshal(body)))
	return a
}

func (f *fakeServer) issue(encoded string) string {
	csr, err := x509.ParseCertificateRequest(must(base64.RawURLEncoding.DecodeString(encoded)))
	if err != nil {
		f.t.Errorf("CSR: %v", err)
		return ""
	}
	return f.certify(csr.PublicKey) + f.certify(f.issuer.Public())
}

func (f *fakeServer) certify(key any) string {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x0abc), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key, f.issuer))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// steps are the steps that the server saw, in order.
func (f *fakeServer) steps() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var steps []string
	for _, r := range f.requests {
		steps = append(steps, r.Method+" "+r.Step)
	}
	return steps
}

func (f *fakeServer) seen(step string) request {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if r.Step == step {
			return r
		}
	}
	f.t.Fatalf("server saw no request %s", step)
	return request{}
}

// document is a credential for the fake server.
func (f *fakeServer) document() *credential.Credential {
	return &credential.Credential{
		DirectoryURL: f.url("directory"), ClientIdentifier: "one-time/code", KeyType: credential.EC, KeySize: 256,
		HardwareBound: true, Attest: true, Subject: credential.Subject{{{"CN", "device"}}},
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
