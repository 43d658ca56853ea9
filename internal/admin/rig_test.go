package admin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/logbook"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

const base = "https://admin.example.com"

// wifi is the template that tests declare.
const wifi = `version: 1
targets: [ios]
document:
  KeyType: ECSECPrimeRandom
  KeySize: 384
  HardwareBound: true
  Attest: true
  Subject: [[["O", "Example Inc."]], [["CN", "{device.serial}"]]]
  SubjectAltName: {rfc822Name: "{device.labels.owner?}@example.com"}
`

// rig is the API on a real store and real delivery, with a clock to turn.
type rig struct {
	t      *testing.T
	store  *store.Store
	bench  *storetest.Bench
	api    *admin.API
	config admin.Config
	log    *logbook.Book

	document *document

	mu  sync.Mutex
	now time.Time
}

// newRig makes a rig; change, if not nil, changes its configuration.
func newRig(t *testing.T, change func(*admin.Config)) *rig {
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
	r := &rig{t: t, store: db, log: &logbook.Book{}}
	r.bench = storetest.NewBench(t, db)
	r.now = r.bench.Now
	templates := t.TempDir()
	for name, text := range map[string]string{"wifi": wifi, "wired": strings.Replace(wifi, "Inc.", "Ltd.", 1)} {
		if err := os.WriteFile(filepath.Join(templates, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	loaded, err := delivery.LoadTemplates(templates, []string{"default"}, r.Now, log)
	if err != nil {
		t.Fatal(err)
	}
	r.config = admin.Config{
		Store: db, Directories: []string{"default"}, Log: log, Now: r.Now, Version: "test",
		Declarer: &delivery.Declarer{Store: db, Templates: loaded, BaseURL: "https://id.example.com", Log: log,
			DirectoryURL: func(name string) (string, error) {
				if name != "default" {
					return "", errors.New("no such directory")
				}
				return "https://id.example.com/acme/" + name + "/directory", nil
			}},
	}
	if change != nil {
		change(&r.config)
	}
	if r.api, err = admin.New(r.config); err != nil {
		t.Fatal(err)
	}
	r.document = documentOf(t, r.api)
	return r
}

func (r *rig) Now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) wait(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
	r.bench.Now = r.now
}

// token mints a token with the scopes, and returns its value and id.
func (r *rig) token(scopes ...admin.Scope) (string, issuance.TokenID) {
	r.t.Helper()
	value, hash, err := admin.NewToken(rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	token, err := r.store.AddToken(r.t.Context(), r.bench.Operator(), issuance.Token{Name: "test", Scopes: names, ExpiresAt: r.Now().Add(90 * 24 * time.Hour)}, hash)
	if err != nil {
		r.t.Fatal(err)
	}
	return value, token.ID
}

// client is a client with a token of these scopes (none given: all), each of whose answers is held
// against the document.
func (r *rig) client(scopes ...admin.Scope) *client.Client {
	r.t.Helper()
	if len(scopes) == 0 {
		scopes = admin.Scopes()
	}
	value, _ := r.token(scopes...)
	return client.New(base, r.transport(), value)
}

func (r *rig) transport() http.RoundTripper {
	return checked{r.t, client.InProcess(r.api.Handler()), r.document}
}

// do sends a request as it is and returns the answer with its body.
func (r *rig) do(method, path, token, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	q, err := http.NewRequestWithContext(r.t.Context(), method, base+admin.Prefix+path, reader)
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	answer, err := r.transport().RoundTrip(q)
	if err != nil {
		r.t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer, string(text)
}

// wantProblem checks that an answer refuses with a status and a check.
func (r *rig) wantProblem(answer *http.Response, body string, status int, check string) {
	r.t.Helper()
	var p admin.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		r.t.Fatalf("answer %d %q is no problem: %v", answer.StatusCode, body, err)
	}
	if answer.StatusCode != status || p.Status != status || p.Check != check || p.Title != http.StatusText(status) || p.Detail == "" ||
		answer.Header.Get("Content-Type") != "application/problem+json" {
		r.t.Fatalf("got %d %s, want %d with check %s", answer.StatusCode, body, status, check)
	}
}

// wantRefused checks that an error of the client is a problem with a status and a check.
func wantRefused(t *testing.T, err error, status int, check string) *client.Problem {
	t.Helper()
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != status || p.Check != check {
		t.Fatalf("got %v, want a problem %d with check %s", err, status, check)
	}
	return p
}

// uses are the audit rows of a token's uses.
func (r *rig) uses(id issuance.TokenID) []audit.Row {
	r.t.Helper()
	var rows []audit.Row
	for _, row := range collect(r.t, r.store.Audit(r.t.Context(), audit.Filter{Action: audit.TokenUsed})) {
		if row.Detail["token"] == string(id) {
			rows = append(rows, row)
		}
	}
	return rows
}

func collect[T any](t *testing.T, list iter.Seq2[T, error]) []T {
	t.Helper()
	var all []T
	for one, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// declare declares the template wifi for a serial number.
func (r *rig) declare(c *client.Client, serial string) admin.Credential {
	r.t.Helper()
	credential, fresh, err := c.Declare(r.t.Context(), admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: serial}}, "")
	if err != nil || !fresh {
		r.t.Fatalf("declare %s: fresh %t, %v", serial, fresh, err)
	}
	return credential
}

// codeIn fetches a credential's document and returns the code in it.
func (r *rig) codeIn(c admin.Credential) string {
	r.t.Helper()
	var asset struct {
		Payload struct{ Reference struct{ DataURL string } }
	}
	if err := json.Unmarshal(c.Declarations[0], &asset); err != nil {
		r.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /credential/{secret}", delivery.Handler(r.store, r.config.Log, r.Now, nil))
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", asset.Payload.Reference.DataURL, nil))
	var document struct{ ClientIdentifier string }
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || document.ClientIdentifier == "" {
		r.t.Fatalf("fetch %s: %d %s", asset.Payload.Reference.DataURL, w.Code, w.Body)
	}
	return document.ClientIdentifier
}

// enrol makes a certificate with a code and has the device collect it.
func (r *rig) enrol(code string) issuance.Certificate {
	r.t.Helper()
	_, cert := r.bench.Claimed(code)
	if _, err := r.store.CompleteIssue(r.t.Context(), r.bench.Operator(), storetest.CompletionFor(cert)); err != nil {
		r.t.Fatal(err)
	}
	got, err := r.store.CollectCertificate(r.t.Context(), r.bench.Call(), cert.ID, func(issuance.Certificate) error { return nil })
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// standInObject is an attestation object of a stand-in authority.
func standInObject(t *testing.T) []byte {
	t.Helper()
	now := time.Now()
	authority, err := standin.New(rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	object, err := authority.Attest(standin.Subject{PublicKey: key.Public(), Token: "token", Now: now, Device: standin.Device{Serial: "FAKE00000001"}})
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// answeredWith is an order whose challenge an attestation object answered.
func (r *rig) answeredWith(object []byte) issuance.Order {
	r.t.Helper()
	_, value := r.bench.Mint()
	answer := storetest.AnswerFor(r.bench.Pending(value))
	answer.Evidence.Object = object
	o, err := r.store.AnswerChallenge(r.t.Context(), r.bench.Call(), answer)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// issuedOn is a certificate issued on an attestation object.
func (r *rig) issuedOn(object []byte) issuance.Certificate {
	r.t.Helper()
	cert, err := r.store.BeginIssue(r.t.Context(), r.bench.Call(), r.bench.ClaimFor(r.answeredWith(object)))
	if err == nil {
		_, err = r.store.CompleteIssue(r.t.Context(), r.bench.Operator(), storetest.CompletionFor(cert))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return cert
}

// failing is a store whose parts fail as a test wants.
type failing struct {
	admin.Store
	code func() error
	use  error
}

func (f failing) Code(ctx context.Context, id issuance.CodeID) (issuance.Code, error) {
	if f.code != nil {
		return issuance.Code{}, f.code()
	}
	return f.Store.Code(ctx, id)
}

func (f failing) RecordTokenUse(ctx context.Context, call issuance.Call, use issuance.TokenUse) error {
	if f.use != nil {
		return fmt.Errorf("record: %w", f.use)
	}
	return f.Store.RecordTokenUse(ctx, call, use)
}
