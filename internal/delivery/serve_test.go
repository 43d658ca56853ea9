package delivery

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// serving is a document handler at its path.
func serving(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /credential/{secret}", h)
	return mux
}

func (d *desk) clock() time.Time { return d.now }

func (d *desk) main(store Documents) http.Handler {
	return serving(Handler(store, slog.New(slog.NewTextHandler(&d.log, nil)), d.clock, nil))
}

// get fetches a document by its URL, whatever its host.
func get(h http.Handler, method, url string) (*http.Response, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, url, nil))
	return w.Result(), w.Body.String()
}

// unmarkable finds that the first fetch cannot be noted.
type unmarkable struct {
	Documents
	err error
}

func (s unmarkable) MarkFetched(context.Context, issuance.Call, issuance.DocumentID) error {
	return s.err
}

func TestNothingIsServedThatIsNotNoted(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
	}{
		"the note fails":          {errDisk, http.StatusServiceUnavailable},
		"the code died meanwhile": {issuance.ErrConflict, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			declared := d.declared(sams())
			url := urlOf(t, declared.Delivery)
			response, text := get(d.main(unmarkable{d.store, c.err}), "GET", url)
			if response.StatusCode != c.status || strings.Contains(text, "ClientIdentifier") || response.Header.Get("ETag") != "" ||
				strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
				t.Errorf("got %d %v: %s", response.StatusCode, response.Header, text)
			}
			if c.status == http.StatusNotFound {
				_, never := get(d.main(d.store), "GET", "https://id.example.com/credential/never")
				if text != never {
					t.Errorf("a document that just died says %q", text)
				}
			}
			if head, _ := get(d.main(unmarkable{d.store, c.err}), "HEAD", url); head.StatusCode != http.StatusOK {
				t.Errorf("HEAD, which notes nothing, got %d", head.StatusCode)
			}
		})
	}
}

func TestFirstFetchStartsTheCodesLife(t *testing.T) {
	d := newDesk(t)
	declared := d.declared(sams())
	url, h := urlOf(t, declared.Delivery), d.main(d.store)
	if head, _ := get(h, "HEAD", url); head.StatusCode != http.StatusOK || !d.delivery(declared.Credential.ID).Document.FetchedAt.IsZero() {
		t.Error("HEAD counted as a fetch")
	}
	if response, text := get(h, "GET", url); response.StatusCode != http.StatusOK || text != string(declared.Document.Body) {
		t.Fatalf("got %d: %s", response.StatusCode, text)
	}
	if got := d.delivery(declared.Credential.ID); !got.Code.ExpiresAt.Equal(testNow.Add(time.Hour)) {
		t.Errorf("code ends at %s", got.Code.ExpiresAt)
	}
	d.now = testNow.Add(59 * time.Minute)
	if response, text := get(h, "GET", url); response.StatusCode != http.StatusOK || text != string(declared.Document.Body) {
		t.Errorf("a second fetch got %d", response.StatusCode)
	}
	d.now = testNow.Add(time.Hour)
	if response, _ := get(h, "GET", url); response.StatusCode != http.StatusNotFound {
		t.Errorf("after its life it got %d", response.StatusCode)
	}
}

func TestFetchInVainIsNotedWithTheDevice(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(*desk, issuance.Delivery)
		check string
	}{
		"consumed": {func(d *desk, got issuance.Delivery) { d.enrol(got) }, "code-consumed"},
		"expired":  {func(d *desk, got issuance.Delivery) { d.now = got.Code.ExpiresAt }, "code-expired"},
		"revoked":  {func(d *desk, got issuance.Delivery) { d.revoke(got.Code.ID) }, "code-revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			declared := d.declared(sams())
			url, h := urlOf(t, declared.Delivery), d.main(d.store)
			c.end(d, declared.Delivery)
			for range 3 { // within a minute
				response, text := get(h, "GET", url)
				_, never := get(h, "GET", "https://id.example.com/credential/never")
				if response.StatusCode != http.StatusNotFound || text != never {
					t.Fatalf("got %d %q", response.StatusCode, text)
				}
			}
			got := d.delivery(declared.Credential.ID)
			if got.Document.RefusedCheck != c.check || !got.Document.RefusedAt.Equal(d.now) {
				t.Errorf("refused at %s by %s", got.Document.RefusedAt, got.Document.RefusedCheck)
			}
			lines := d.log.String()
			if strings.Count(lines, "document refused") != 1 || !strings.Contains(lines, "check="+c.check) || !strings.Contains(lines, "device="+testSerial) ||
				!strings.Contains(lines, "hint=") || !strings.Contains(lines, string(declared.Credential.ID)) {
				t.Errorf("log: %s", lines)
			}
			d.now = d.now.Add(2 * refusalPause)
			get(h, "GET", url)
			if n := strings.Count(d.log.String(), "document refused"); n != 2 {
				t.Errorf("%d log lines after a while, want 2", n)
			}
			refused := 0
			for _, row := range d.trail(audit.DocumentFetched) {
				if row.Outcome == audit.Refused && row.Check == c.check && row.Device == string(declared.Device.ID) {
					refused++
				}
			}
			if refused != 2 {
				t.Errorf("%d audit rows, want 2", refused)
			}
		})
	}
}

func TestDocumentsAreServedByTheirListenerOnly(t *testing.T) {
	d := newDesk(t)
	ca := newMDMCA(t, "MDM CA")
	identity := ca.identity(testUDID)
	server := d.mdmServer(newIdentity(t, ca, "", ""))
	plain := d.declared(sams())
	guarded := d.declared(Request{Template: "mdm", Serial: testSerial})
	if response, _ := get(d.main(d.store), "GET", urlOf(t, guarded.Delivery)); response.StatusCode != http.StatusNotFound {
		t.Errorf("the main listener answered an MDM document with %d", response.StatusCode)
	}
	if status, _ := d.fetchAs(server, &identity, plain.Delivery); status != http.StatusNotFound {
		t.Errorf("the MDM listener answered a plain document with %d", status)
	}
	for _, declared := range []*Declared{plain, guarded} {
		if got := d.delivery(declared.Credential.ID).Document; got.RefusedCheck != CheckListener || !got.FetchedAt.IsZero() {
			t.Errorf("noted %q, fetched at %s", got.RefusedCheck, got.FetchedAt)
		}
	}
}

// mdmServer is the MDM listener over real TLS.
func (d *desk) mdmServer(identity *MDMIdentity) *httptest.Server {
	server := httptest.NewUnstartedServer(serving(MDMHandler(d.store, identity, slog.New(slog.NewTextHandler(&d.log, nil)), d.clock, nil)))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	d.Cleanup(server.Close)
	return server
}

func (d *desk) fetchAs(server *httptest.Server, identity *tls.Certificate, delivery issuance.Delivery) (int, string) {
	d.Helper()
	transport := server.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if identity != nil {
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity, nil }
	}
	secret := d.secrets(delivery)[1]
	request, err := http.NewRequestWithContext(d.Context(), "GET", server.URL+"/credential/"+secret, nil)
	if err != nil {
		d.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		d.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		d.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestMDMDocumentOpensToItsDeviceOnly(t *testing.T) {
	d := newDesk(t)
	ca := newMDMCA(t, "MDM CA")
	server := d.mdmServer(newIdentity(t, ca, "", ""))
	own, other, stranger := ca.identity(testUDID), ca.identity("00008110-000B"), newMDMCA(t, "MDM CA").identity(testUDID)
	declared := d.declared(Request{Template: "mdm", Serial: testSerial, UDID: testUDID})
	for _, c := range []struct {
		identity *tls.Certificate
		check    string
	}{{nil, CheckIdentityShown}, {&other, CheckIdentityField}, {&stranger, CheckIdentityChain}} {
		status, text := d.fetchAs(server, c.identity, declared.Delivery)
		if status != http.StatusForbidden || !strings.Contains(text, c.check) {
			t.Errorf("%s: got %d %q", c.check, status, text)
		}
		for _, secret := range append(d.secrets(declared.Delivery), testSerial, testUDID, string(declared.Device.ID)) {
			if strings.Contains(text, secret) {
				t.Errorf("the refusal says %q: %s", secret, text)
			}
		}
		if got := d.delivery(declared.Credential.ID).Document; got.RefusedCheck != c.check || !got.FetchedAt.IsZero() {
			t.Errorf("noted %q, fetched at %s", got.RefusedCheck, got.FetchedAt)
		}
		if lines := d.log.String(); !strings.Contains(lines, "check="+c.check) || !strings.Contains(lines, "device="+testSerial) {
			t.Errorf("log: %s", lines)
		}
		d.now = d.now.Add(2 * refusalPause)
	}
	if status, text := d.fetchAs(server, &own, declared.Delivery); status != http.StatusOK || text != string(declared.Document.Body) {
		t.Errorf("the device got %d %q", status, text)
	}
	d.revoke(declared.Code.ID)
	if status, text := d.fetchAs(server, nil, declared.Delivery); status != http.StatusNotFound || strings.TrimSpace(text) != noSuchDocument {
		t.Errorf("a dead one says %d %q", status, text)
	}
}

func TestRefusalsOfADocumentAreLoggedOnceAMinuteWhateverTheCheck(t *testing.T) {
	d := newDesk(t)
	ca := newMDMCA(t, "MDM CA")
	server := d.mdmServer(newIdentity(t, ca, "", ""))
	other := ca.identity("00008110-000B")
	declared := d.declared(Request{Template: "mdm", Serial: testSerial, UDID: testUDID})
	for want := 1; want <= 2; want++ {
		for range 3 {
			d.fetchAs(server, nil, declared.Delivery)
			d.fetchAs(server, &other, declared.Delivery)
			get(d.main(d.store), "GET", urlOf(t, declared.Delivery))
		}
		if n := strings.Count(d.log.String(), "document refused"); n != want {
			t.Errorf("%d log lines, want %d:\n%s", n, want, d.log.String())
		}
		d.now = d.now.Add(2 * refusalPause)
	}
}

func TestLogsNeverHoldSecrets(t *testing.T) {
	d := newDesk(t)
	ca := newMDMCA(t, "MDM CA")
	server := d.mdmServer(newIdentity(t, ca, "", ""))
	identity := ca.identity(testUDID)
	plain, guarded := d.declared(sams()), d.declared(Request{Template: "mdm", Serial: testSerial})
	secrets := append(d.secrets(plain.Delivery), d.secrets(guarded.Delivery)...)
	h := d.main(d.store)
	get(d.main(unmarkable{d.store, errDisk}), "GET", urlOf(t, plain.Delivery))
	get(h, "GET", urlOf(t, plain.Delivery))
	get(h, "GET", urlOf(t, guarded.Delivery))
	d.fetchAs(server, nil, guarded.Delivery)
	d.fetchAs(server, &identity, guarded.Delivery)
	d.now = d.now.Add(31 * 24 * time.Hour)
	get(h, "GET", urlOf(t, plain.Delivery))
	d.renderDue(10)
	for _, id := range []issuance.CredentialID{plain.Credential.ID, guarded.Credential.ID} {
		if current := d.delivery(id); current.Code.Status == issuance.CodeUnused {
			secrets = append(secrets, d.secrets(current)...)
		}
	}
	logged := d.log.String()
	if strings.Count(logged, "\n") < 5 {
		t.Fatalf("log: %s", logged)
	}
	for _, secret := range secrets {
		if strings.Contains(logged, secret) {
			t.Errorf("the log holds %q:\n%s", secret, logged)
		}
	}
}

// counted counts what a handler asks of its store.
type counted struct {
	Documents
	reads, notes int
}

func (c *counted) DocumentByPath(ctx context.Context, hash [32]byte, now time.Time) (issuance.FetchedDocument, error) {
	c.reads++
	return c.Documents.DocumentByPath(ctx, hash, now)
}

func (c *counted) MarkFetched(ctx context.Context, call issuance.Call, id issuance.DocumentID) error {
	c.notes++
	return c.Documents.MarkFetched(ctx, call, id)
}

func TestServingCostsOneRead(t *testing.T) {
	d := newDesk(t)
	url := urlOf(t, d.declared(sams()).Delivery)
	store := &counted{Documents: d.store}
	h := d.main(store)
	for range 3 {
		get(h, "GET", url)
	}
	if store.reads != 3 || store.notes != 1 {
		t.Errorf("3 fetches made %d reads and %d notes", store.reads, store.notes)
	}
}

// Serving costs one indexed read; the first fetch also a note.
func BenchmarkServeDocument(b *testing.B) {
	s := newShop(b)
	published, err := s.publisher.Publish(b.Context(), issuance.Call{Now: s.now}, template(), issuance.Mint{Directory: "default", Serial: "FAKE1", Lifetime: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	h := serving(Handler(s.store, slog.New(slog.DiscardHandler), func() time.Time { return s.now }, nil))
	b.ReportAllocs()
	for b.Loop() {
		if response, _ := get(h, "GET", published.URL); response.StatusCode != http.StatusOK {
			b.Fatal(response.StatusCode)
		}
	}
}

// fixed is a store that knows one document.
type fixed struct {
	Documents
	doc issuance.FetchedDocument
}

func (f fixed) DocumentByPath(context.Context, [32]byte, time.Time) (issuance.FetchedDocument, error) {
	return f.doc, nil
}

func (fixed) MarkFetched(context.Context, issuance.Call, issuance.DocumentID) error { return nil }

func (fixed) RefuseFetch(context.Context, issuance.Call, issuance.DocumentID, string) error {
	return nil
}

func TestADeadCodeIsNeverServedWhateverTheStoreHolds(t *testing.T) {
	d := newDesk(t)
	body := []byte(`{"ClientIdentifier": "x"}`)
	for name, c := range map[string]struct {
		body   []byte
		code   issuance.CodeStatus
		status int
	}{
		"alive":            {body, issuance.CodeUnused, http.StatusOK},
		"issuing":          {body, issuance.CodeIssuing, http.StatusNotFound},
		"consumed":         {body, issuance.CodeConsumed, http.StatusNotFound},
		"of no known code": {body, "", http.StatusNotFound},
		"erased":           {nil, issuance.CodeUnused, http.StatusNotFound},
	} {
		store := fixed{doc: issuance.FetchedDocument{Document: issuance.Document{ID: "doc_1", Body: c.body}, CodeStatus: c.code}}
		if response, _ := get(d.main(store), "GET", "https://id.example.com/credential/x"); response.StatusCode != c.status {
			t.Errorf("%s: got %d, want %d", name, response.StatusCode, c.status)
		}
	}
}
