// Package storetest is the suite that every store of Assay runs: what its transactions promise, put
// to the test by sequences, by races and by a random walk beside a model.
package storetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/policy"
)

// Store is what a store does for the server and for operators.
type Store interface {
	NonceKeys(context.Context) ([]issuance.NonceKey, error)
	AddNonceKey(context.Context, time.Time, uint32, []byte) (issuance.NonceKey, error)
	SpendNonce(context.Context, issuance.Nonce) error
	RecordRefusal(context.Context, issuance.Call, issuance.ClientRefusal) (bool, error)
	RecordStrangers(context.Context, time.Time, map[string]int) error

	RegisterAccount(context.Context, issuance.Call, issuance.Account) (issuance.Account, bool, error)
	Account(context.Context, issuance.AccountID) (issuance.Account, error)
	AccountByKey(ctx context.Context, directory, thumbprint string) (issuance.Account, error)
	UpdateContacts(context.Context, issuance.Call, issuance.AccountID, []string) (issuance.Account, error)
	DeactivateAccount(context.Context, issuance.Call, issuance.AccountID) (issuance.Account, error)
	ChangeKey(ctx context.Context, call issuance.Call, id issuance.AccountID, oldThumbprint string, jwk []byte, thumbprint string) (issuance.Account, error)

	CreateOrder(context.Context, issuance.Call, issuance.NewOrder) (issuance.Order, error)
	Order(context.Context, issuance.OrderID) (issuance.Order, error)
	ReadOrder(context.Context, issuance.Call, issuance.OrderID) (issuance.Order, error)
	OrdersOf(context.Context, issuance.AccountID, issuance.OrderID, int) ([]issuance.OrderID, error)
	AnswerChallenge(context.Context, issuance.Call, issuance.Answer) (issuance.Order, error)
	DeactivateAuthorization(context.Context, issuance.Call, issuance.AccountID, issuance.OrderID) (issuance.Order, error)
	Evidence(context.Context, issuance.EvidenceID) (issuance.Evidence, error)
	EvidenceList(context.Context, issuance.EvidenceFilter) iter.Seq2[issuance.EvidenceLine, error]

	RejectCSR(context.Context, issuance.Call, issuance.CSRRejection) (issuance.Order, error)
	RefuseOrder(context.Context, issuance.Call, issuance.OrderRefusal) (issuance.Order, error)
	BeginIssue(context.Context, issuance.Call, issuance.Claim) (issuance.Certificate, error)
	CompleteIssue(context.Context, issuance.Call, issuance.Completion) (issuance.Order, error)
	Decision(context.Context, issuance.DecisionID) (issuance.Decision, error)
	Decisions(context.Context, issuance.DecisionFilter) iter.Seq2[issuance.Decision, error]
	Circumstances(context.Context, time.Time, issuance.Subject) (issuance.Circumstances, error)
	Hold(context.Context, issuance.HoldID) (issuance.Hold, error)
	Holds(context.Context, issuance.HoldFilter) iter.Seq2[issuance.Hold, error]
	SayOfHold(ctx context.Context, call issuance.Call, id issuance.HoldID, ifRevision int, w issuance.Word) (issuance.Hold, error)
	UsePolicy(ctx context.Context, call issuance.Call, directory string, v policy.Version, text string) error
	Policy(ctx context.Context, sha256 string) (issuance.StoredPolicy, error)
	PolicyUses(context.Context) iter.Seq2[issuance.PolicyUse, error]
	AbandonIssue(context.Context, issuance.Call, issuance.OrderID, issuance.Refusal) error
	UndoDeadClaims(context.Context, issuance.Call, time.Time) (int, error)

	Certificate(context.Context, issuance.CertificateID) (issuance.Certificate, error)
	CertificateBySerial(context.Context, string) (issuance.Certificate, error)
	Certificates(context.Context, issuance.CertificateFilter) iter.Seq2[issuance.Certificate, error]
	CollectCertificate(context.Context, issuance.Call, issuance.CertificateID, func(issuance.Certificate) error) (issuance.Certificate, error)
	RevokeCertificate(context.Context, issuance.Call, issuance.Revocation) (issuance.Certificate, error)
	CRL(context.Context, issuance.IssuerID, int) (issuance.CRL, error)
	RevokedSerials(context.Context, issuance.IssuerID, int, time.Time) ([]issuance.RevokedSerial, error)
	PutCRL(context.Context, issuance.Call, issuance.CRL) error
	Issuers(context.Context) ([]issuance.Issuer, error)
	AddIssuer(context.Context, issuance.Call, issuance.Issuer) (issuance.Issuer, error)
	ActivateIssuer(context.Context, issuance.Call, issuance.IssuerID) (issuance.Issuer, error)

	MintCodes(context.Context, issuance.Call, []issuance.Mint) ([]issuance.Code, error)
	Code(context.Context, issuance.CodeID) (issuance.Code, error)
	CodeByValue(ctx context.Context, directory, value string) (issuance.Code, error)
	Codes(context.Context, issuance.CodeFilter) iter.Seq2[issuance.Code, error]
	RevokeCode(context.Context, issuance.Call, issuance.CodeID) (issuance.Code, error)
	DocumentByPath(context.Context, [32]byte, time.Time) (issuance.FetchedDocument, error)
	MarkFetched(context.Context, issuance.Call, issuance.DocumentID) error
	RefuseFetch(ctx context.Context, call issuance.Call, id issuance.DocumentID, check string) error
	Device(context.Context, issuance.DeviceID) (issuance.Device, error)
	DeviceLike(ctx context.Context, serial, udid string) (issuance.Device, error)
	Devices(context.Context, issuance.DeviceFilter) iter.Seq2[issuance.Device, error]
	UpdateDevice(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, labels map[string]string, mdmFingerprint *string) (issuance.Device, error)

	ImportDevices(context.Context, issuance.Call, issuance.Import) ([]issuance.ImportResult, error)
	SetDeviceState(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, change issuance.StateChange) (issuance.Device, int, error)
	Conflicts(context.Context, issuance.ConflictFilter) iter.Seq2[issuance.Conflict, error]
	ResolveConflict(context.Context, issuance.Call, issuance.ConflictID) (issuance.Conflict, error)
	SyncState(ctx context.Context, source string) (issuance.Sync, error)
	Syncs(context.Context) ([]issuance.Sync, error)
	PutSyncState(context.Context, issuance.Call, issuance.Sync) error

	Delivery(context.Context, issuance.CredentialID) (issuance.Delivery, error)
	DeliveryOf(context.Context, issuance.DeviceID, string) (issuance.Delivery, error)
	RenderCredentials(context.Context, issuance.Call, []issuance.Rendering) ([]issuance.RenderResult, error)
	DeviceCredentials(context.Context, issuance.CredentialFilter) iter.Seq2[issuance.DeviceCredential, error]
	WithdrawCredential(ctx context.Context, call issuance.Call, id issuance.CredentialID, ifRevision int) (issuance.DeviceCredential, error)
	MarkPushed(ctx context.Context, call issuance.Call, id issuance.CredentialID, o issuance.PushOutcome) error
	RecordReports(context.Context, issuance.Call, []issuance.CredentialReport) ([]issuance.CredentialID, error)

	AddToken(ctx context.Context, call issuance.Call, k issuance.Token, hash [32]byte) (issuance.Token, error)
	TokenByHash(context.Context, [32]byte) (issuance.Token, error)
	Tokens(context.Context, issuance.Page) iter.Seq2[issuance.Token, error]
	RevokeToken(context.Context, issuance.Call, issuance.TokenID) (issuance.Token, error)
	RecordTokenUse(context.Context, issuance.Call, issuance.TokenUse) error

	Lease(ctx context.Context, now time.Time, name, holder string, lifetime time.Duration) (bool, error)
	ReleaseLeases(ctx context.Context, holder string) error
	CleanUp(context.Context, time.Time) (store.Cleaned, error)
	DoubtClock(context.Context, time.Time) (time.Time, bool, error)
	MarkRestored(context.Context, issuance.Call, store.Restoring) (store.Ended, error)
	ApplyRetention(context.Context, time.Time, issuance.Retention) (issuance.Removed, error)
	Audit(context.Context, audit.Filter) iter.Seq2[audit.Row, error]
}

// Run runs the suite. Every test opens an empty store, which open closes by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, group := range []map[string]func(*testing.T, *Bench){
		nonceTests, accountTests, orderTests, issuingTests, codeTests, certificateTests, upkeepTests,
		renderingTests, withdrawingTests, fetchTests, supersedingTests, tokenTests, onceTests, pageTests, holdTests, inventoryTests, retentionTests, restoringTests,
	} {
		for _, name := range slices.Sorted(maps.Keys(group)) {
			t.Run(name, func(t *testing.T) { group[name](t, NewBench(t, open(t))) })
		}
	}
	t.Run("RandomWalkKeepsToTheModel", func(t *testing.T) { randomWalk(t, open) })
}

// Start is when every test begins.
var Start = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

// Directory is where the bench works.
const Directory = "default"

// Bench is a store with an issuer, an account, and short ways to the states that tests begin in.
// Its clock only moves when a test moves it.
type Bench struct {
	Store
	T       testing.TB
	Now     time.Time
	Issuer  issuance.IssuerID
	Account issuance.AccountID
}

// NewBench prepares a store.
func NewBench(t testing.TB, s Store) *Bench {
	b := &Bench{Store: s, T: t, Now: Start}
	issuer, err := s.AddIssuer(t.Context(), b.Operator(), issuance.Issuer{Name: "Test CA", Chain: [][]byte{{1, 2, 3}}, Key: "file:ca.key", Active: true})
	b.ok(err)
	b.Issuer = issuer.ID
	b.Account = b.NewAccount()
	return b
}

func (b *Bench) ok(err error) {
	b.T.Helper()
	if err != nil {
		b.T.Fatal(err)
	}
}

func (b *Bench) ctx() context.Context { return context.Background() }

// Call is a device's request now, with a fresh nonce.
func (b *Bench) Call() issuance.Call {
	c := issuance.Call{Now: b.Now, From: "192.0.2.7", Nonce: issuance.Nonce{ExpiresAt: b.Now.Add(issuance.NonceLifetime)}}
	_, _ = rand.Read(c.Nonce.ID[:])
	return c
}

// Operator is an operator's command now.
func (b *Bench) Operator() issuance.Call { return issuance.Call{Now: b.Now, From: "operator:test"} }

// NewAccount registers an account with a fresh key.
func (b *Bench) NewAccount() issuance.AccountID {
	b.T.Helper()
	a, created, err := b.RegisterAccount(b.ctx(), b.Call(), issuance.Account{Directory: Directory, JWK: []byte(`{"kty":"EC"}`), Thumbprint: rand.Text()})
	b.ok(err)
	if !created {
		b.T.Fatal("a fresh key has an account already")
	}
	return a.ID
}

// Mint mints one code for a day and returns it with its value.
func (b *Bench) Mint(change ...func(*issuance.Mint)) (issuance.Code, string) {
	b.T.Helper()
	m := issuance.Mint{Directory: Directory, Value: rand.Text(), Lifetime: 24 * time.Hour}
	for _, f := range change {
		f(&m)
	}
	codes, err := b.MintCodes(b.ctx(), b.Operator(), []issuance.Mint{m})
	b.ok(err)
	return codes[0], m.Value
}

// WithDocument gives a minted code a document at a path.
func WithDocument(path string) func(*issuance.Mint) {
	return func(m *issuance.Mint) {
		m.Document = &issuance.Document{PathHash: sha256.Sum256([]byte(path)), Body: []byte("document with " + m.Value), SHA256: "ab"}
	}
}

// OrderFor asks for an order by a code.
func (b *Bench) OrderFor(account issuance.AccountID, value string) (issuance.Order, error) {
	return b.CreateOrder(b.ctx(), b.Call(), issuance.NewOrder{
		Account: account, Directory: Directory, Token: rand.Text(),
		Identifier: issuance.Identifier{Type: "permanent-identifier", Value: value, Kind: policy.ByCode},
	})
}

// Pending is a pending order for a code.
func (b *Bench) Pending(value string) issuance.Order {
	b.T.Helper()
	o, err := b.OrderFor(b.Account, value)
	b.ok(err)
	return o
}

// AnswerFor is a good answer to an order's challenge.
func AnswerFor(o issuance.Order) issuance.Answer {
	return issuance.Answer{Account: o.Account, Order: o.ID, Evidence: issuance.Evidence{
		Kind: attest.Attested, Format: "apple", Object: []byte{0xa3}, Token: o.Challenge.Token, KeyAuth: o.Challenge.Token + ".x",
		FactsSchema: attest.FactsSchema, Facts: &attest.Facts{
			Format: "apple", PublicKey: []byte{1}, Fresh: true,
			Identifiers: []deviceid.Identifier{{Kind: deviceid.Serial, Value: "C02XK1"}, {Kind: deviceid.UDID, Value: "00008110-000A"}},
		},
	}}
}

// Ready is an order whose challenge is answered.
func (b *Bench) Ready(value string) issuance.Order {
	b.T.Helper()
	o, err := b.AnswerChallenge(b.ctx(), b.Call(), AnswerFor(b.Pending(value)))
	b.ok(err)
	return o
}

// ClaimFor is a claim for an order, with a serial of its own.
func (b *Bench) ClaimFor(o issuance.Order) issuance.Claim {
	var serial [20]byte
	_, _ = rand.Read(serial[:])
	id, err := issuance.NewID[issuance.CertificateID](b.Now, rand.Reader)
	b.ok(err)
	return issuance.Claim{
		Account: o.Account, Order: o.ID,
		Decision: issuance.Decision{Schema: policy.Schema, Decision: policy.Decision{Outcome: policy.Issue}, Input: &policy.Input{Request: &csr.Request{KeyType: "EC", KeySize: 384}}},
		Certificate: issuance.Certificate{
			ID: id, Serial: hex.EncodeToString(serial[:]), Issuer: b.Issuer, Profile: "device", ProfileVersion: 1, CRLShard: 3,
			DeviceSerial: "C02XK1", DeviceUDID: "00008110-000A", SPKISHA256: hex.EncodeToString(serial[:]),
			NotBefore: b.Now.Add(-time.Hour), NotAfter: b.Now.Add(90 * 24 * time.Hour),
		},
	}
}

// Claimed is an order whose claim is held, with its reserved certificate.
func (b *Bench) Claimed(value string) (issuance.Order, issuance.Certificate) {
	b.T.Helper()
	o := b.Ready(value)
	c, err := b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(o))
	b.ok(err)
	return o, c
}

// CompletionFor completes a claim.
func CompletionFor(c issuance.Certificate) issuance.Completion {
	return issuance.Completion{
		Order: c.Order, Certificate: c.ID, DER: []byte{0x30, 1, 2},
		Attested: issuance.Device{Serial: c.DeviceSerial, UDID: c.DeviceUDID},
	}
}

// Issued is a certificate delivered for a fresh code.
func (b *Bench) Issued() issuance.Certificate {
	b.T.Helper()
	_, value := b.Mint()
	_, c := b.Claimed(value)
	_, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(c))
	b.ok(err)
	c, err = b.Certificate(b.ctx(), c.ID)
	b.ok(err)
	return c
}

func (b *Bench) wantError(err, want error) {
	b.T.Helper()
	if !errors.Is(err, want) {
		b.T.Fatalf("error is %v, want %v", err, want)
	}
}

func (b *Bench) wantOrder(id issuance.OrderID, status issuance.OrderStatus, check string) issuance.Order {
	b.T.Helper()
	o, err := b.Order(b.ctx(), id)
	b.ok(err)
	found := ""
	if o.Refusal != nil {
		found = o.Refusal.Check
	}
	if o.Status != status || found != check {
		b.T.Fatalf("order is %s with check %q, want %s with %q", o.Status, found, status, check)
	}
	return o
}

func (b *Bench) wantCode(id issuance.CodeID, status issuance.CodeStatus) issuance.Code {
	b.T.Helper()
	c, err := b.Code(b.ctx(), id)
	b.ok(err)
	if c.Status != status {
		b.T.Fatalf("code is %s, want %s", c.Status, status)
	}
	return c
}

func (b *Bench) wantCertificate(id issuance.CertificateID, status issuance.CertificateStatus) issuance.Certificate {
	b.T.Helper()
	c, err := b.Certificate(b.ctx(), id)
	b.ok(err)
	if c.Status != status {
		b.T.Fatalf("certificate is %s, want %s", c.Status, status)
	}
	return c
}

// trail returns the audit rows that a filter selects.
func (b *Bench) trail(f audit.Filter) []audit.Row {
	b.T.Helper()
	return all(b, b.Audit(b.ctx(), f))
}

// wantAudited checks that the rows of a filter hold exactly one with this action, outcome and check,
// and that its personal values are those that it commits to.
func (b *Bench) wantAudited(f audit.Filter, action audit.Action, outcome audit.Outcome, check string) audit.Row {
	b.T.Helper()
	var found []audit.Row
	for _, r := range b.trail(f) {
		b.ok(audit.VerifyPersonal(r))
		if r.Action == action && r.Outcome == outcome && r.Check == check {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		b.T.Fatalf("%d audit rows are %s %s %q, want 1", len(found), action, outcome, check)
	}
	return found[0]
}

func all[T any](b *Bench, seq iter.Seq2[T, error]) (values []T) {
	b.T.Helper()
	for v, err := range seq {
		b.ok(err)
		values = append(values, v)
	}
	return values
}

// race runs n calls at once and returns their errors.
func race(n int, call func(i int) error) []error {
	errs := make([]error, n)
	start, done := make(chan struct{}), make(chan struct{})
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }()
			<-start
			errs[i] = call(i)
		}()
	}
	close(start)
	for range n {
		<-done
	}
	return errs
}

// oneWinner checks that exactly one call succeeded and every other failed with lost.
func oneWinner(errs []error, lost error) (winner int, err error) {
	winner = -1
	for i, e := range errs {
		switch {
		case e == nil && winner >= 0:
			return winner, fmt.Errorf("calls %d and %d both won", winner, i)
		case e == nil:
			winner = i
		case !errors.Is(e, lost):
			return winner, fmt.Errorf("call %d failed with %w, want %v", i, e, lost)
		}
	}
	if winner < 0 {
		return winner, errors.New("nobody won")
	}
	return winner, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("unexpected error: %v", err))
	}
	return v
}
