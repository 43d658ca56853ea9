// The suite of hostile clients: real server, real SQLite store, real CA, a stand-in attestation
// authority, and a client that can do every step wrongly. After each test the harness verifies what
// must hold whatever clients did: see invariants_test.go.
package server_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
	"assay/deviceid"
	"assay/internal/ca"
	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/server"
	"assay/internal/store"
	"assay/policy"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// baseURL is what the server is configured with. The listener's own address is another, so a URL
// that was made from the Host header or the connection shows.
const baseURL = "https://example.com"

// epoch is when every test begins: time passes only where a test says so.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// authority is made once: its keys cost time, and it keeps no state.
var authority = sync.OnceValue(func() *standin.Authority {
	a, err := standin.New(rand.Reader, epoch)
	if err != nil {
		panic(err)
	}
	return a
})

// emptyDatabase is a database with its schema, which takes a while to make under the race detector.
var emptyDatabase = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "assay-server-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "assay.db")
	s, err := store.Open(context.Background(), path, store.Options{Key: make([]byte, 32)})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		panic(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return data
})

// The directories of the harness.
const (
	dirDefault    = "default" // codes only
	dirSerial     = "serial"  // codes, serial numbers and UDIDs
	dirUDID       = "udid"    // UDIDs only
	dirSerialOnly = "serial-only"
	dirOther      = "other"  // another issuer and profile, terms of service
	dirApple      = "apple"  // Apple's own root only
	dirClosed     = "closed" // no attestation format at all
)

const termsURL = "https://example.com/terms"

// clock is the server's clock.
type clock struct{ nanoseconds atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Unix(0, c.nanoseconds.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

// signerHook is a CA key that calls a hook before it signs; the hook's error is the signature's.
type signerHook struct {
	crypto.Signer
	before atomic.Pointer[func() error]
}

func (s *signerHook) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if hook := s.before.Load(); hook != nil {
		if err := (*hook)(); err != nil {
			return nil, err
		}
	}
	return s.Signer.Sign(random, digest, opts)
}

func (s *signerHook) hook(f func() error) { s.before.Store(&f) }

// hookedStore lets a test act between what the server read and what it writes.
type hookedStore struct {
	*store.Store
	beforeBegin, beforePutCRL func()
	refusalError              error        // of RecordRefusal
	completeError             error        // of CompleteIssue
	keyReads                  atomic.Int64 // how often the nonce keys were read
}

func (s *hookedStore) RecordRefusal(ctx context.Context, call issuance.Call, r issuance.ClientRefusal) (bool, error) {
	if s.refusalError != nil {
		return false, s.refusalError
	}
	return s.Store.RecordRefusal(ctx, call, r)
}

func (s *hookedStore) CompleteIssue(ctx context.Context, call issuance.Call, c issuance.Completion) (issuance.Order, error) {
	if s.completeError != nil {
		return issuance.Order{}, s.completeError
	}
	return s.Store.CompleteIssue(ctx, call, c)
}

func (s *hookedStore) NonceKeys(ctx context.Context) ([]issuance.NonceKey, error) {
	s.keyReads.Add(1)
	return s.Store.NonceKeys(ctx)
}

func (s *hookedStore) PutCRL(ctx context.Context, call issuance.Call, crl issuance.CRL) error {
	if hook := s.beforePutCRL; hook != nil {
		s.beforePutCRL = nil
		hook()
	}
	return s.Store.PutCRL(ctx, call, crl)
}

func (s *hookedStore) BeginIssue(ctx context.Context, call issuance.Call, c issuance.Claim) (issuance.Certificate, error) {
	if s.beforeBegin != nil {
		s.beforeBegin()
	}
	return s.Store.BeginIssue(ctx, call, c)
}

// harness is one server with everything around it.
type harness struct {
	t         *testing.T
	clock     *clock
	store     *store.Store
	hooked    *hookedStore
	path      string  // of the database
	beside    *sql.DB // reads the database beside the server
	config    server.Config
	caKey     *signerHook // of the issuer of all directories but dirOther
	root      *ca.Root
	issuer    issuance.IssuerID
	other     issuance.IssuerID
	listener  *httptest.Server
	serving   atomic.Pointer[server.Server]
	http      *http.Client
	from      atomic.Pointer[string] // the address that requests come from; nil: the connection's
	logs      *logBook
	secrets   secrets
	policies  sync.Map // directory to the policy that it uses, where that is not the built-in one
	opinion   func(context.Context, policy.Input) *policy.Opinion
	leavesRow bool // the test itself leaves a claim behind: reserved serials are not verified
}

// secrets are the values that no log and no audit row may hold.
type secrets struct {
	mu     sync.Mutex
	values map[string]string // value to what it is
}

func (s *secrets) add(what, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string]string{}
	}
	if len(value) >= 16 {
		s.values[value] = what
	}
}

// newHarness boots a server over HTTP/1.1.
func newHarness(t *testing.T) *harness { return bootHarness(t, false) }

func bootHarness(t *testing.T, http2 bool) *harness {
	t.Helper()
	h := &harness{t: t, clock: &clock{}, logs: &logBook{}, path: filepath.Join(t.TempDir(), "assay.db")}
	h.clock.nanoseconds.Store(epoch.UnixNano())
	if err := os.WriteFile(h.path, emptyDatabase(), 0o600); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.hooked = &hookedStore{Store: h.store}
	var err error
	if h.beside, err = sql.Open("sqlite", "file:"+h.path+"?_pragma=query_only(1)&_pragma=busy_timeout(10000)"); err != nil {
		t.Fatal(err)
	}
	h.makeConfig()
	h.restart()
	h.listener = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from := h.from.Load(); from != nil {
			r.RemoteAddr = *from
		}
		h.serving.Load().ServeHTTP(w, r)
	}))
	h.listener.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	h.listener.EnableHTTP2 = http2
	h.listener.StartTLS()
	h.http = h.listener.Client()
	transport := h.http.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", h.listener.Listener.Addr().String())
	}
	transport.MaxIdleConnsPerHost = 64
	transport.DisableCompression = true
	h.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() {
		h.listener.Close()
		h.verify()
		if err := errors.Join(h.beside.Close(), h.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// open opens the database, for the first time or again.
func (h *harness) open() {
	h.t.Helper()
	var err error
	if h.store, err = store.Open(h.t.Context(), h.path, store.Options{Key: make([]byte, 32)}); err != nil {
		h.t.Fatal(err)
	}
}

// makeConfig makes two issuing CAs under one root, and the directories.
func (h *harness) makeConfig() {
	now := h.clock.Now()
	var err error
	if h.root, err = ca.NewRoot("Hostile Test", newKey(h.t), now); err != nil {
		h.t.Fatal(err)
	}
	h.caKey = &signerHook{Signer: newKey(h.t)}
	issuers := map[issuance.IssuerID]*ca.Issuer{}
	h.issuer = h.addIssuer(issuers, "first", h.caKey)
	h.other = h.addIssuer(issuers, "second", newKey(h.t))

	generous := ca.DefaultProfile()
	generous.Name, generous.Version, generous.Lifetime = "generous", 3, 30*24*time.Hour
	generous.SubjectAltName.PermanentIdentifier = ca.PermanentIdentifierRule{Rule: ca.AsAttested, Source: deviceid.Serial}
	standIn := map[string][]attest.Root{attest.FormatApple: {authority().Root()}}
	code := []policy.IdentifierKind{policy.ByCode}
	log := slog.New(slog.NewJSONHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.config = server.Config{
		BaseURL:   baseURL + "/",
		Documents: delivery.Handler(h.store, log, h.clock.Now, nil),
		Issuers:   issuers,
		Directories: map[string]*server.Directory{
			dirDefault: {Name: dirDefault, Profile: ca.DefaultProfile(), Issuer: h.issuer, Roots: standIn, Identifiers: code, StandIn: true},
			dirSerial: {Name: dirSerial, Profile: ca.DefaultProfile(), Issuer: h.issuer, Roots: standIn, StandIn: true,
				Identifiers: []policy.IdentifierKind{policy.ByCode, policy.BySerial, policy.ByUDID}},
			dirUDID: {Name: dirUDID, Profile: ca.DefaultProfile(), Issuer: h.issuer, Roots: standIn, StandIn: true,
				Identifiers: []policy.IdentifierKind{policy.ByUDID}},
			dirSerialOnly: {Name: dirSerialOnly, Profile: ca.DefaultProfile(), Issuer: h.issuer, Roots: standIn, StandIn: true,
				Identifiers: []policy.IdentifierKind{policy.BySerial}},
			dirOther: {Name: dirOther, Profile: generous, Issuer: h.other, Roots: standIn, Identifiers: code, Terms: termsURL,
				Website: "https://example.com/", StandIn: true},
			dirApple: {Name: dirApple, Profile: ca.DefaultProfile(), Issuer: h.issuer, Identifiers: code,
				Roots: map[string][]attest.Root{attest.FormatApple: {attest.AppleRoot()}}},
			dirClosed: {Name: dirClosed, Profile: ca.DefaultProfile(), Issuer: h.issuer, Identifiers: code},
		},
		Opinion: func(ctx context.Context, in policy.Input) *policy.Opinion { return h.opinion(ctx, in) },
		Shards:  3,
		Store:   h.hooked, Verifier: attest.NewVerifier(), Now: h.clock.Now, Log: log,
	}
	h.openly(map[string]*ca.Profile{"generous": generous})
}

// openly gives every directory its policy and the profiles that policies may choose.
func (h *harness) openly(profiles map[string]*ca.Profile) {
	for name, d := range h.config.Directories {
		d.Policy, d.Profiles = h.policyOf(name), profiles
	}
}

func (h *harness) addIssuer(issuers map[issuance.IssuerID]*ca.Issuer, name string, key crypto.Signer) issuance.IssuerID {
	h.t.Helper()
	now := h.clock.Now()
	certificate, err := h.root.NewIssuing("Hostile Test", key.Public(), now)
	if err != nil {
		h.t.Fatal(err)
	}
	row, err := h.store.AddIssuer(h.t.Context(), issuance.Call{Now: now}, issuance.Issuer{
		Name: name, Chain: [][]byte{certificate.Raw}, Key: "file:" + name, Active: len(issuers) == 0,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if issuers[row.ID], err = ca.NewIssuer(string(row.ID), row.Chain, key, baseURL); err != nil {
		h.t.Fatal(err)
	}
	return row.ID
}

// restart puts a fresh server, which knows nothing but the store, in the place of the one before.
func (h *harness) restart() {
	h.t.Helper()
	s, err := server.New(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	h.serving.Store(s)
}

func newKey(t *testing.T) *ecdsa.PrivateKey { return newCurveKey(t, elliptic.P256()) }

func newCurveKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mint makes a code as an operator does, and returns its value and row.
func (h *harness) mint(m issuance.Mint) (string, issuance.CodeID) {
	h.t.Helper()
	value, err := issuance.NewCodeValue(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	m.Value = value
	if m.Directory == "" {
		m.Directory = dirDefault
	}
	if m.Lifetime == 0 {
		m.Lifetime = 24 * time.Hour
	}
	h.secrets.add("code", value)
	codes, err := h.store.MintCodes(h.t.Context(), issuance.Call{Now: h.clock.Now(), From: "operator:test"}, []issuance.Mint{m})
	if err != nil {
		h.t.Fatal(err)
	}
	return value, codes[0].ID
}

// list puts a device into the inventory.
func (h *harness) list(serial, udid string) issuance.DeviceID {
	h.t.Helper()
	results, err := h.store.ImportDevices(h.t.Context(), issuance.Call{Now: h.clock.Now(), From: "operator:test"}, issuance.Import{
		Source: "csv:test", Listings: []issuance.Listing{{Serial: serial, UDID: udid}}})
	if err != nil {
		h.t.Fatal(err)
	}
	return results[0].Device
}

// decideBy lets a directory decide by a policy from now on.
func (h *harness) decideBy(dir, text string) *policy.Policy {
	h.t.Helper()
	p, err := policy.Parse("test", []byte("version: 1\n"+text))
	if err != nil {
		h.t.Fatal(err)
	}
	h.policies.Store(dir, p)
	return p
}

// policyOf is the policy that a directory uses.
func (h *harness) policyOf(dir string) func() *policy.Policy {
	return func() *policy.Policy {
		if p, ok := h.policies.Load(dir); ok {
			return p.(*policy.Policy)
		}
		return policy.Builtin()
	}
}

// rowID finds the id of a row in a URL.
var rowID = regexp.MustCompile(`(acct|order|cert)_[0-9a-z]{26}`)

func idIn[T ~string](t *testing.T, url string) T {
	t.Helper()
	id := rowID.FindString(url)
	if id == "" {
		t.Fatalf("no id in %q", url)
	}
	return T(id)
}
