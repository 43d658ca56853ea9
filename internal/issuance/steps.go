package issuance

import (
	"errors"
	"time"

	"assay/csr"
)

// Errors that the store's transactions return; callers branch on them.
var (
	ErrNotFound  = errors.New("not found")
	ErrNonceUsed = errors.New("nonce was used before")
	// ErrConflict: the row is no longer in the state that the change needs (another request, another
	// process or an operator was first). Nothing was changed but the nonce, which stays spent.
	ErrConflict = errors.New("state changed meanwhile")
	// ErrCodeTaken: another order claimed the code, or it was revoked or expired meanwhile.
	ErrCodeTaken = errors.New("code is no longer usable")
	// ErrApprovalTaken: the approval was used, taken back or expired between the decision and the claim.
	ErrApprovalTaken = errors.New("approval is no longer usable")
	// ErrDeviceBarred: the inventory says that the device is lost or retired, since the decision was taken.
	ErrDeviceBarred = errors.New("device is lost or retired")
	// ErrOverloaded: too many changes wait already. Nothing was changed; asked again a little later, it
	// may be.
	ErrOverloaded = errors.New("store is overloaded")
)

// CodeUnusableError says why a code cannot be ordered with. The client learns none of it.
type CodeUnusableError struct {
	Code   CodeID     // "" for an unknown code
	Status CodeStatus // "" for an unknown code
}

func (e *CodeUnusableError) Error() string {
	if e.Code == "" {
		return "no such code in this directory"
	}
	return "code " + string(e.Code) + " is " + string(e.Status)
}

// TooManyOrdersError: as many live orders name the code as may.
type TooManyOrdersError struct {
	Code  CodeID
	Limit int
}

func (e *TooManyOrdersError) Error() string {
	return "too many live orders name code " + string(e.Code)
}

// KeyInUseError: the new key of a rollover belongs to another account.
type KeyInUseError struct{ Account AccountID }

func (e *KeyInUseError) Error() string { return "key belongs to account " + string(e.Account) }

// FingerprintInUseError: the MDM certificate that a device shall have belongs to another device.
type FingerprintInUseError struct{ Device DeviceID }

func (e *FingerprintInUseError) Error() string {
	return "MDM certificate belongs to device " + string(e.Device)
}

// Limits on what is kept for clients.
const (
	MaxLiveOrdersPerCode = 64
	MaxTriesPerCode      = 32 // refused challenges and decisions: each keeps its evidence for a while
	MaxTries             = 8  // finalize requests with a faulty CSR, per order
	OrderLifetime        = time.Hour
	NonceLifetime        = time.Hour
	NonceKeyLead         = time.Minute // how long a nonce key exists before nonces are made under it: every server has read it by then
	IdleAccountLifetime  = time.Hour   // an account that never ordered leaves after it
)

// Nonce is an authenticated nonce that a request spends. The zero Nonce spends none (operators).
type Nonce struct {
	ID        [16]byte  // its random part, unique
	ExpiresAt time.Time // after which nobody accepts it and its row may leave; fixed when it was minted
}

// IsZero reports whether there is no nonce to spend.
func (n Nonce) IsZero() bool { return n == Nonce{} }

// NonceKey is a key under which nonces are authenticated. A newest key mints; all live ones verify.
type NonceKey struct {
	ID        uint32
	Secret    []byte // 32 bytes
	CreatedAt time.Time
}

// Call says when and for whom a change is made. Every change takes one; its audit row keeps it.
type Call struct {
	Now   time.Time
	Nonce Nonce
	From  string // remote address, "operator:NAME" or "token:ID"; personal
	Once  *Once  // an operator's change that happens once; nil for all others
}

// NewOrder asks for an order. The store looks the code up, and refuses with *CodeUnusableError or
// *TooManyOrdersError: both spend the nonce, and leave an audit row where the code is known.
type NewOrder struct {
	Account    AccountID
	Directory  string
	Identifier Identifier
	Token      string // for the challenge
}

// Answer is the outcome of a challenge response: evidence, and a refusal or none. The change is
// conditional on the challenge being pending and the order live (else ErrConflict). A refusal makes
// challenge, authorization and order invalid and counts a try on the code.
type Answer struct {
	Account  AccountID
	Order    OrderID
	Evidence Evidence // ID, Order and ReceivedAt are set by the store
	Refusal  *Refusal // nil: challenge and authorization become valid, the order ready
}

// CSRRejection counts a finalize request whose CSR was refused. The order stays ready until
// MaxTries, then becomes invalid with check "too-many-tries".
type CSRRejection struct {
	Account AccountID
	Order   OrderID
	Refusal Refusal
}

// OrderRefusal makes a ready order invalid because the decision was to refuse or to hold, and counts a
// try. A decision to hold makes a hold, or is one more try of the one that there is.
type OrderRefusal struct {
	Account  AccountID
	Order    OrderID
	Decision Decision
	Refusal  Refusal
	Attested Device // attested serial and UDID: a hold is about that device; zero if unattested, with Attested alone if it has no name
}

// Claim is the exclusive step before the CA key signs: it takes the order from ready to
// processing, its code from unused to issuing, the approval that the decision rests on from approved to
// claimed, stores the decision and reserves the serial. It fails with ErrConflict (the order), or
// ErrCodeTaken, ErrApprovalTaken or ErrDeviceBarred (the order becomes invalid).
type Claim struct {
	Account     AccountID
	Order       OrderID
	Decision    Decision    // ID and Order are set by the store
	Certificate Certificate // with its ID, which the profile may have put into it; everything known before signing; status, Order and Decision are set by the store
}

// Completion makes a claim's certificate valid, its order valid and its code consumed, and erases
// the code's document. ErrConflict: the claim was undone meanwhile; ErrDeviceBarred: the device became
// lost or retired. The certificate must not be delivered.
type Completion struct {
	Order       OrderID
	Certificate CertificateID
	DER         []byte
	Attested    Device // attested serial and UDID, to find or make the device's row; zero if unattested
	Approval    HoldID // that the claim's decision rests on, and the certificate uses up; "" for none
}

// ClientRefusal is a refusal that changed nothing. The store keeps an audit row where the account
// holds an order or the code, order or certificate is known; else it reports false and the caller
// counts it among the strangers.
type ClientRefusal struct {
	Directory   string
	Account     AccountID
	Order       OrderID
	Code        CodeID
	Certificate CertificateID
	Refusal     Refusal
}

// Mint asks for a code.
type Mint struct {
	Directory       string
	Value           string // the code itself; only its SHA-256 is stored
	Serial          string
	UDID            string
	Labels          map[string]string
	AllowUnattested bool
	Lifetime        time.Duration
	Minted          *csr.Request // what its document asks for; nil without one
	Document        *Document    // the document that delivers it; nil if the operator does
}

// Document is a credential document that delivers a code. Its body holds the code, so the store
// keeps it encrypted under a key outside the database and erases it when the code is consumed,
// revoked or expired. Its fetches stay on record: when it was first fetched, and last asked for in vain.
type Document struct {
	ID         DocumentID
	Code       CodeID
	Credential CredentialID // the device's credential that it belongs to; "" for one published by hand
	PathHash   [32]byte     // SHA-256 of the secret part of its URL
	Body       []byte       // the exact bytes to serve; nil once its code is dead
	SHA256     string       // of Body, lower-case hex
	// MDM says that only the device's MDM identity certificate opens it (Authentication MDM).
	MDM bool
	// FetchLifetime is how long the code lives after the first fetch; 0: to its own end.
	FetchLifetime time.Duration
	CreatedAt     time.Time
	FetchedAt     time.Time // first fetch; zero: never
	RefusedAt     time.Time // last fetch that was refused; zero: none
	RefusedCheck  string    // which check refused it
}

// FetchedDocument is a document that somebody asks for, with what decides whether he gets it.
type FetchedDocument struct {
	Document
	CodeStatus CodeStatus // as of the time of the fetch
	Device     Device     // zero for a code that names no device
}

// Revocation asks to revoke a certificate.
type Revocation struct {
	Certificate CertificateID
	Account     AccountID // who asks, if an ACME account
	Reason      int       // RFC 5280, section 5.3.1
}

// RevokedSerial is one line of a CRL.
type RevokedSerial struct {
	Serial    string // lower-case hex
	RevokedAt time.Time
	Reason    int
}

// CRL is the newest CRL of one issuer and shard.
type CRL struct {
	Issuer     IssuerID
	Shard      int
	Number     int64
	DER        []byte
	ThisUpdate time.Time
	NextUpdate time.Time
	Stale      bool // a certificate of this shard was revoked since
	// Revision counts the shard's revocations. A new CRL carries the revision that was read before the
	// revoked certificates were listed.
	Revision int64
}
