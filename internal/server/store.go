package server

import (
	"context"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// Store is what the ACME server needs kept. Each method that takes a Call is one transaction: it
// spends the nonce first (issuance.ErrNonceUsed), changes state by conditional writes and adds its
// audit row. Nothing of a failed change stays but the spent nonce and the audit of a refusal.
type Store interface {
	Nonces
	Accounts
	Orders
	Issuing
	Certificates
}

// Nonces keeps nonce keys and spent nonces.
type Nonces interface {
	NonceKeys(ctx context.Context) ([]issuance.NonceKey, error)
	// AddNonceKey stores a new key behind the newest one that the caller knows (0 for none) and returns
	// it, or the newest one if another server was first; keys that no live nonce can name any more leave.
	AddNonceKey(ctx context.Context, now time.Time, newest uint32, secret []byte) (issuance.NonceKey, error)
	// SpendNonce spends the nonce of a request that changes nothing. Committed, but not fsynced,
	// when it returns.
	SpendNonce(ctx context.Context, nonce issuance.Nonce) error
	// RecordRefusal spends the call's nonce and keeps an audit row if the refusal is tied to
	// something known; known is false if it is a stranger's. A nonce spent before is no error here.
	RecordRefusal(ctx context.Context, call issuance.Call, r issuance.ClientRefusal) (known bool, err error)
	// RecordStrangers adds one audit row for all refusals of strangers in a period, by check.
	RecordStrangers(ctx context.Context, now time.Time, byCheck map[string]int) error
}

// Accounts keeps ACME accounts.
type Accounts interface {
	// RegisterAccount stores the account, or returns the one that has the key already.
	RegisterAccount(ctx context.Context, call issuance.Call, a issuance.Account) (account issuance.Account, created bool, err error)
	Account(ctx context.Context, id issuance.AccountID) (issuance.Account, error)
	AccountByKey(ctx context.Context, directory, thumbprint string) (issuance.Account, error)
	// UpdateContacts replaces the contacts of a valid account.
	UpdateContacts(ctx context.Context, call issuance.Call, id issuance.AccountID, contacts []string) (issuance.Account, error)
	// DeactivateAccount also makes its pending and ready orders invalid (RFC 8555, section 7.3.6).
	DeactivateAccount(ctx context.Context, call issuance.Call, id issuance.AccountID) (issuance.Account, error)
	// ChangeKey is conditional on the old thumbprint; *issuance.KeyInUseError if another account has the new one.
	ChangeKey(ctx context.Context, call issuance.Call, id issuance.AccountID, oldThumbprint string, jwk []byte, thumbprint string) (issuance.Account, error)
}

// Orders keeps orders with their authorization and challenge.
type Orders interface {
	CreateOrder(ctx context.Context, call issuance.Call, n issuance.NewOrder) (issuance.Order, error)
	Order(ctx context.Context, id issuance.OrderID) (issuance.Order, error)
	// Enrolment returns an order with its code and its evidence.
	Enrolment(ctx context.Context, id issuance.OrderID) (issuance.Enrolment, error)
	// ReadOrder spends the nonce (without fsync) and returns an order.
	ReadOrder(ctx context.Context, call issuance.Call, id issuance.OrderID) (issuance.Order, error)
	// OrdersOf lists an account's orders, oldest first, after the cursor ("" for the start).
	OrdersOf(ctx context.Context, account issuance.AccountID, after issuance.OrderID, limit int) ([]issuance.OrderID, error)
	// CodeByValue returns a directory's code, in whatever status, by its value.
	CodeByValue(ctx context.Context, directory, value string) (issuance.Code, error)
	AnswerChallenge(ctx context.Context, call issuance.Call, a issuance.Answer) (issuance.Order, error)
	DeactivateAuthorization(ctx context.Context, call issuance.Call, account issuance.AccountID, order issuance.OrderID) (issuance.Order, error)
}

// Issuing is the spine: gather what is known, reject, refuse, or begin and complete.
type Issuing interface {
	// UsePolicy keeps a policy, and that a directory uses it; nothing if that is so already.
	UsePolicy(ctx context.Context, call issuance.Call, directory string, v policy.Version, text string) error
	// Circumstances is what is known around a request as of now.
	Circumstances(ctx context.Context, now time.Time, subject issuance.Subject) (issuance.Circumstances, error)
	RejectCSR(ctx context.Context, call issuance.Call, r issuance.CSRRejection) (issuance.Order, error)
	RefuseOrder(ctx context.Context, call issuance.Call, r issuance.OrderRefusal) (issuance.Order, error)
	BeginIssue(ctx context.Context, call issuance.Call, c issuance.Claim) (issuance.Certificate, error)
	CompleteIssue(ctx context.Context, call issuance.Call, c issuance.Completion) (issuance.Order, error)
	// AbandonIssue undoes a claim that cannot be completed: order invalid, code unused, serial abandoned.
	AbandonIssue(ctx context.Context, call issuance.Call, order issuance.OrderID, why issuance.Refusal) error
}

// Certificates keeps certificates and CRLs.
type Certificates interface {
	Certificate(ctx context.Context, id issuance.CertificateID) (issuance.Certificate, error)
	CertificateBySerial(ctx context.Context, serial string) (issuance.Certificate, error)
	// CollectCertificate spends the nonce (without fsync), asks may, and notes the first download.
	// issuance.ErrConflict if the certificate was never signed.
	CollectCertificate(ctx context.Context, call issuance.Call, id issuance.CertificateID, may func(issuance.Certificate) error) (issuance.Certificate, error)
	// RevokeCertificate returns issuance.ErrConflict if it is not valid (revoked already, abandoned).
	RevokeCertificate(ctx context.Context, call issuance.Call, r issuance.Revocation) (issuance.Certificate, error)
	CRL(ctx context.Context, issuer issuance.IssuerID, shard int) (issuance.CRL, error)
	RevokedSerials(ctx context.Context, issuer issuance.IssuerID, shard int, now time.Time) ([]issuance.RevokedSerial, error)
	// PutCRL stores a CRL whose number is the stored one's plus one (else issuance.ErrConflict), as stale
	// if a certificate was revoked since its revision was read.
	PutCRL(ctx context.Context, call issuance.Call, crl issuance.CRL) error
}
