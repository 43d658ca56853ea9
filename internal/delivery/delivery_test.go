package delivery

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/credential"
	"assay/csr"
	"assay/internal/issuance"
	"assay/internal/store"

	"github.com/google/go-cmp/cmp"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const testDirectory = "https://id.example.com/acme/default/directory"

// shop is a publisher and its handler on a real store, with a clock to turn.
type shop struct {
	store     *store.Store
	publisher *Publisher
	handler   http.Handler
	now       time.Time
	log       bytes.Buffer
}

func newShop(t testing.TB) *shop {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "assay.db"), store.Options{Key: make([]byte, store.KeySize), Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &shop{store: db, now: testNow}
	s.publisher = &Publisher{Store: db, BaseURL: "https://id.example.com", DirectoryURL: testDirectory}
	mux := http.NewServeMux()
	mux.Handle("GET /credential/{secret}", Handler(db, slog.New(slog.NewTextHandler(&s.log, nil)), func() time.Time { return s.now }, nil))
	s.handler = mux
	return s
}

func template() *credential.Credential {
	c := credential.New("https://replaced.example.com/", "replaced", credential.Subject{{{"O", "Example Inc."}}, {{"CN", "phone"}}})
	c.SubjectAltName = &credential.SubjectAltName{RFC822Name: "sam@example.com"}
	return c
}

func (s *shop) publish(t *testing.T) *Publication {
	t.Helper()
	p, err := s.publisher.Publish(t.Context(), issuance.Call{Now: s.now, From: "operator:test"}, template(),
		issuance.Mint{Directory: "default", Serial: "FAKE1", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *shop) fetch(method, url string, header ...string) *http.Response {
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPublishPutsAFreshCodeIntoTheDocument(t *testing.T) {
	s := newShop(t)
	given := template()
	p := s.publish(t)
	document, findings := credential.Parse(p.Body)
	if err := findings.Err(); err != nil {
		t.Fatal(err)
	}
	if document.DirectoryURL != testDirectory || !issuance.IsCode(document.ClientIdentifier) {
		t.Errorf("document says %s and %q", document.DirectoryURL, document.ClientIdentifier)
	}
	code, err := s.store.CodeByValue(t.Context(), "default", document.ClientIdentifier)
	if err != nil || code.ID != p.Code.ID || code.Serial != "FAKE1" {
		t.Errorf("the code in the document is not the minted one: %+v, %v", code, err)
	}
	if diff := cmp.Diff(requested(document), code.Minted); diff != "" {
		t.Errorf("the code does not remember what its document asks for (-document +code):\n%s", diff)
	}
	document.DirectoryURL, document.ClientIdentifier = given.DirectoryURL, given.ClientIdentifier
	if !document.Equal(given) {
		t.Error("publishing changed more than directory and code")
	}
	if sum := sha256.Sum256(p.Body); p.SHA256 != hex.EncodeToString(sum[:]) || p.Size != len(p.Body) || p.ContentType != "application/json" {
		t.Errorf("reference %+v does not describe the body", p)
	}
	if second := s.publish(t); second.URL == p.URL || bytes.Equal(second.Body, p.Body) {
		t.Error("two publications share a URL or a code")
	}
}

func TestPublishRefusesATemplateThatBreaksARule(t *testing.T) {
	s := newShop(t)
	broken := template()
	broken.KeySize = 521 // never hardware-bound
	_, err := s.publisher.Publish(t.Context(), issuance.Call{Now: s.now}, broken, issuance.Mint{Directory: "default", Lifetime: time.Hour})
	if _, ok := errors.AsType[*credential.InvalidError](err); !ok {
		t.Fatalf("got %v", err)
	}
	for code := range s.store.Codes(t.Context(), issuance.CodeFilter{}) {
		t.Errorf("a code was minted all the same: %s", code.ID)
	}
}

func TestDocumentIsServedAsDevicesDemandIt(t *testing.T) {
	s := newShop(t)
	p := s.publish(t)
	first := s.fetch("GET", p.URL)
	if first.StatusCode != http.StatusOK || first.Header.Get("Content-Type") != "application/json" || body(t, first) != string(p.Body) {
		t.Fatalf("got %d %s", first.StatusCode, first.Header.Get("Content-Type"))
	}
	if first.ContentLength != int64(p.Size) || first.Header.Get("ETag") != `"`+p.SHA256+`"` || first.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", first.Header)
	}
	if again := s.fetch("GET", p.URL); body(t, again) != string(p.Body) {
		t.Error("the bytes changed between two fetches")
	}
	if known := s.fetch("GET", p.URL, "If-None-Match", `"`+p.SHA256+`"`); known.StatusCode != http.StatusNotModified || body(t, known) != "" {
		t.Errorf("a known ETag got %d", known.StatusCode)
	}
	if head := s.fetch("HEAD", p.URL); head.StatusCode != http.StatusOK || head.Header.Get("ETag") == "" || body(t, head) != "" {
		t.Errorf("HEAD got %d", head.StatusCode)
	}
}

func TestFirstFetchIsNotedOnce(t *testing.T) {
	s := newShop(t)
	p := s.publish(t)
	secret := strings.TrimPrefix(p.URL, "https://id.example.com/credential/")
	fetched := func() time.Time {
		doc, err := s.store.DocumentByPath(t.Context(), sha256.Sum256([]byte(secret)), s.now)
		if err != nil {
			t.Fatal(err)
		}
		return doc.FetchedAt
	}
	s.fetch("HEAD", p.URL)
	if at := fetched(); !at.IsZero() {
		t.Errorf("HEAD counted as a fetch at %s", at)
	}
	s.fetch("GET", p.URL)
	s.now = s.now.Add(time.Minute)
	s.fetch("GET", p.URL)
	if at := fetched(); !at.Equal(testNow) {
		t.Errorf("first fetch at %s, want %s", at, testNow)
	}
}

func TestDocumentStopsWithItsCode(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *shop, *Publication){
		"expired": func(_ *testing.T, s *shop, p *Publication) { s.now = p.Code.ExpiresAt },
		"revoked": func(t *testing.T, s *shop, p *Publication) {
			if _, err := s.store.RevokeCode(t.Context(), issuance.Call{Now: s.now}, p.Code.ID); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			p := s.publish(t)
			end(t, s, p)
			gone := s.fetch("GET", p.URL)
			never := s.fetch("GET", "https://id.example.com/credential/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
			if gone.StatusCode != http.StatusNotFound || body(t, gone) != body(t, never) {
				t.Errorf("got %d; a document that is over must look like one that never was", gone.StatusCode)
			}
		})
	}
}

func TestHandlerKeepsSecretsAndCausesToItself(t *testing.T) {
	s := newShop(t)
	p := s.publish(t)
	document, _ := credential.Parse(p.Body)
	s.fetch("GET", p.URL)
	secret := strings.TrimPrefix(p.URL, "https://id.example.com/credential/")
	if logged := s.log.String(); strings.Contains(logged, secret) || strings.Contains(logged, document.ClientIdentifier) || !strings.Contains(logged, string(p.Code.ID)) {
		t.Errorf("log: %s", logged)
	}
	w := httptest.NewRecorder()
	failing := Handler(failingStore{}, slog.New(slog.NewTextHandler(&s.log, nil)), time.Now, nil)
	failing.ServeHTTP(w, httptest.NewRequest("GET", "/credential/x", nil))
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "disk") || !strings.Contains(s.log.String(), "disk") {
		t.Errorf("got %d %q, log %s", w.Code, w.Body, s.log.String())
	}
}

type failingStore struct{ Documents }

func (failingStore) DocumentByPath(context.Context, [32]byte, time.Time) (issuance.FetchedDocument, error) {
	return issuance.FetchedDocument{}, errors.New("disk on fire")
}

type panickingStore struct{ Documents }

func (panickingStore) DocumentByPath(context.Context, [32]byte, time.Time) (issuance.FetchedDocument, error) {
	panic("a bug in here")
}

func TestPanicCostsOneDocument(t *testing.T) {
	for name, of := range map[string]func(*slog.Logger, *Metrics) http.Handler{
		"main": func(log *slog.Logger, m *Metrics) http.Handler { return Handler(panickingStore{}, log, time.Now, m) },
		"MDM": func(log *slog.Logger, m *Metrics) http.Handler {
			return MDMHandler(panickingStore{}, nil, log, time.Now, m)
		},
	} {
		var log strings.Builder
		m := NewMetrics()
		w := httptest.NewRecorder()
		of(slog.New(slog.NewTextHandler(&log, nil)), m).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/credential/x", nil))
		if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "bug") || !strings.Contains(log.String(), "a bug in here") {
			t.Errorf("%s: got %d %q, log %s", name, w.Code, w.Body, log.String())
		}
	}
}

func TestRequestedIsWhatADeviceAsksFor(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*credential.Credential)
		want   func(*csr.Request)
	}{
		"as it is": {func(*credential.Credential) {}, func(*csr.Request) {}},
		"only the first pair of an RDN": {
			func(c *credential.Credential) {
				c.Subject[0] = append(c.Subject[0], credential.Attribute{"OU", "lost"})
			},
			func(*csr.Request) {},
		},
		"clientAuth where no usage is named": {
			func(c *credential.Credential) { c.ExtendedKeyUsage = nil }, func(*csr.Request) {},
		},
		"RSA": {
			func(c *credential.Credential) {
				c.KeyType, c.KeySize, c.HardwareBound, c.Attest = credential.RSA, 3072, false, false
			},
			func(r *csr.Request) { r.KeyType, r.KeySize = "RSA", 3072 },
		},
		"every kind of name": {
			func(c *credential.Credential) {
				c.SubjectAltName = &credential.SubjectAltName{DNSName: "a.example.com", RFC822Name: "sam@example.com",
					UniformResourceIdentifier: "https://example.com/", NTPrincipalName: "sam@corp"}
			},
			func(r *csr.Request) {
				r.AltNames = append(r.AltNames, csr.AltName{Kind: csr.AltDNS, Value: "a.example.com"},
					csr.AltName{Kind: csr.AltURI, Value: "https://example.com/"}, csr.AltName{Kind: csr.AltUPN, Value: "sam@corp"})
			},
		},
		"no names":        {func(c *credential.Credential) { c.SubjectAltName = nil }, func(r *csr.Request) { r.AltNames = nil }},
		"an empty object": {func(c *credential.Credential) { c.SubjectAltName = &credential.SubjectAltName{} }, func(r *csr.Request) { r.AltNames = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			document := template()
			c.change(document)
			want := &csr.Request{
				Subject:  csr.Name{{{Type: "2.5.4.10", Value: "Example Inc."}}, {{Type: "2.5.4.3", Value: "phone"}}},
				AltNames: []csr.AltName{{Kind: csr.AltEmail, Value: "sam@example.com"}},
				KeyUsage: 1, ExtKeyUsage: []string{"1.3.6.1.5.5.7.3.2"}, KeyType: "EC", KeySize: 384,
			}
			c.want(want)
			if diff := cmp.Diff(want, requested(document)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
