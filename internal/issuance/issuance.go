// Package issuance holds the things that the server keeps while it issues: accounts, orders with
// their authorization and challenge, codes, certificates; their states and the legal transitions
// between them; and the values that the store's transactions take and return.
//
// An order names exactly one identifier, so it has exactly one authorization with exactly one
// challenge. The three are one row: a challenge cannot belong to another order.
//
// It refuses nothing itself: the store does, by the errors that stand here, in conditional writes of
// the transitions that stand here.
package issuance

import (
	"maps"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/policy"
)

// AccountStatus is the status of an ACME account (RFC 8555, section 7.1.6).
type AccountStatus string

// Account statuses.
const (
	AccountValid       AccountStatus = "valid"
	AccountDeactivated AccountStatus = "deactivated"
)

// Account is an ACME account. It belongs to one directory.
type Account struct {
	ID          AccountID
	Directory   string
	Status      AccountStatus
	Contacts    []string
	TermsAgreed bool
	JWK         []byte // the public key as canonical JSON (RFC 7638 member order)
	Thumbprint  string // RFC 7638, base64url; unique within the directory among all accounts
	CreatedAt   time.Time
}

// OrderStatus is the status of an order (RFC 8555, section 7.1.6). OrderPending and OrderReady
// are derived on the wire as invalid once ExpiresAt has passed: see Order.StatusAt.
type OrderStatus string

// Order statuses.
const (
	OrderPending    OrderStatus = "pending"
	OrderReady      OrderStatus = "ready"
	OrderProcessing OrderStatus = "processing"
	OrderValid      OrderStatus = "valid"
	OrderInvalid    OrderStatus = "invalid"
)

// AuthorizationStatus is the status of an order's authorization.
type AuthorizationStatus string

// Authorization statuses.
const (
	AuthorizationPending     AuthorizationStatus = "pending"
	AuthorizationValid       AuthorizationStatus = "valid"
	AuthorizationInvalid     AuthorizationStatus = "invalid"
	AuthorizationDeactivated AuthorizationStatus = "deactivated"
)

// ChallengeStatus is the status of an order's challenge.
type ChallengeStatus string

// Challenge statuses. Challenges are answered within the request, so none is ever "processing".
const (
	ChallengePending ChallengeStatus = "pending"
	ChallengeValid   ChallengeStatus = "valid"
	ChallengeInvalid ChallengeStatus = "invalid"
)

// Identifier is an order's identifier as the client sent it.
type Identifier struct {
	Type  string // "permanent-identifier"
	Value string // a code, or a serial or UDID where the directory allows it. Secret while the code lives
	Kind  policy.IdentifierKind
}

// Order is an order with its authorization and challenge.
type Order struct {
	ID            OrderID
	Account       AccountID
	Directory     string
	Identifier    Identifier
	Code          CodeID // "" where the identifier is a serial or UDID
	Status        OrderStatus
	Authorization AuthorizationStatus
	Challenge     Challenge
	Refusal       *Refusal // why the order is invalid; nil otherwise
	Tries         int      // finalize requests whose CSR was refused
	Evidence      EvidenceID
	Certificate   CertificateID // set when the order is valid
	CreatedAt     time.Time
	ExpiresAt     time.Time
}

// Challenge is an order's device-attest-01 challenge.
type Challenge struct {
	Token       string
	Status      ChallengeStatus
	ValidatedAt time.Time // zero until valid
	Refusal     *Refusal  // why it is invalid
}

// Refusal says why something was refused: to the client a problem, to the operator a named check.
type Refusal struct {
	Problem string `json:"problem"` // ACME problem type without its prefix, e.g. "badAttestationStatement"
	Check   string `json:"check"`   // stable kebab-case name of the failed check
	Detail  string `json:"detail"`  // safe to show to the client: no personal values, no secrets
}

func (r *Refusal) Error() string { return r.Problem + " (" + r.Check + "): " + r.Detail }

// Evidence is what a device sent, as received, with the facts it established.
type Evidence struct {
	ID          EvidenceID
	Order       OrderID
	ReceivedAt  time.Time
	Kind        attest.Kind
	Format      string
	Object      []byte        // attestation object as received; nil if none
	DeviceError string        // untrusted text from the device; personal
	Token       string        // the challenge's token that it must be fresh for
	KeyAuth     string        // the key authorization at that time
	Facts       *attest.Facts // nil unless verified
	FactsSchema int
	Failed      string    // the check it failed; "" if verified or none
	RemovedAt   time.Time // when retention or forgetting the device removed something of it; zero: never
}

// Enrolment is an order with the code that it names and the evidence that answered its challenge. Either is zero
// where there is none. The evidence's object is left out.
type Enrolment struct {
	Order    Order
	Code     Code
	Evidence Evidence
}

// CodeStatus is the stored state of a code. Expiry is a time, not a state: see Code.StatusAt.
type CodeStatus string

// Code statuses. Legal transitions: unused→issuing→consumed, issuing→unused (claim undone),
// unused→revoked. Expired and exhausted are only ever derived.
const (
	CodeUnused    CodeStatus = "unused"
	CodeIssuing   CodeStatus = "issuing"
	CodeConsumed  CodeStatus = "consumed"
	CodeRevoked   CodeStatus = "revoked"
	CodeExpired   CodeStatus = "expired"
	CodeExhausted CodeStatus = "exhausted" // unused after MaxTriesPerCode refusals
)

// Code is a one-time ClientIdentifier. Its value is not here: only its SHA-256 is stored.
type Code struct {
	ID              CodeID
	Directory       string
	Status          CodeStatus
	Device          DeviceID
	Serial          string // bound serial, "" if unbound
	UDID            string // bound UDID, "" if unbound
	Labels          map[string]string
	AllowUnattested bool
	Minted          *csr.Request // what the code's document asks for; nil without one
	Order           OrderID      // the order that claimed or consumed it
	Certificate     CertificateID
	Tries           int // refused challenges and refused decisions
	LastRefusal     string
	CreatedAt       time.Time
	ExpiresAt       time.Time
	UsedAt          time.Time
	RevokedAt       time.Time
}

// StatusAt is the code's status at a time: CodeExpired for an unused code whose time is over, and
// CodeExhausted for one that was refused too often.
func (c *Code) StatusAt(now time.Time) CodeStatus {
	switch {
	case c.Status != CodeUnused:
		return c.Status
	case !now.Before(c.ExpiresAt):
		return CodeExpired
	case c.Tries >= MaxTriesPerCode:
		return CodeExhausted
	}
	return CodeUnused
}

// StatusAt is the order's status at a time: a pending or ready order whose time is over is invalid.
func (o *Order) StatusAt(now time.Time) OrderStatus {
	if (o.Status == OrderPending || o.Status == OrderReady) && !now.Before(o.ExpiresAt) {
		return OrderInvalid
	}
	return o.Status
}

// Device is what issuance knows of a device: a serial and UDID that an operator expects or that
// evidence attested.
type Device struct {
	ID       DeviceID
	Serial   string
	UDID     string
	Labels   map[string]string
	Attested bool // whether evidence ever established Serial and UDID
	// MDMFingerprint is the SHA-256 (lower-case hex) of the certificate that the device shows to its MDM,
	// where the MDM registered it.
	MDMFingerprint string
	State          policy.State      // "": nobody lists it
	Sources        map[string]Source // where each value came from, by the names of values
	SeenAt         time.Time         // last certificate that it got on its evidence; zero: never
	Revision       int               // raised by every change
	CreatedAt      time.Time
}

// Listed reports whether somebody lists the device: an operator, a list, Apple Business Manager.
func (d *Device) Listed() bool { return d.State != "" }

// Barred reports whether the device gets nothing, whatever a policy says: it is lost or retired.
func (d *Device) Barred() bool { return d.State == policy.Lost || d.State == policy.Retired }

// ForPolicy is the device as a decision knows it. proven says that the request's evidence names it.
func (d *Device) ForPolicy(proven bool) *policy.Device {
	return &policy.Device{ID: string(d.ID), Proven: proven, Known: d.Listed(), State: d.State, Labels: d.Labels,
		Attested: d.Attested, CreatedAt: d.CreatedAt, LastSeen: d.SeenAt}
}

// Limits on the labels of one device or code: how many there are, and LabelBytes of them.
const (
	MaxLabels     = 64
	MaxLabelBytes = 16 << 10
)

// LabelBytes is how much labels hold, names and values together.
func LabelBytes(labels map[string]string) int {
	n := 0
	for name, value := range labels {
		n += len(name) + len(value)
	}
	return n
}

// MergeLabels are labels with others added, or put in the place of those of the same name. An empty
// value changes nothing: it is an empty cell of somebody's list.
func MergeLabels(labels, with map[string]string) map[string]string {
	merged := make(map[string]string, len(labels)+len(with))
	maps.Copy(merged, labels)
	for name, value := range with {
		if value != "" {
			merged[name] = value
		}
	}
	return merged
}

// CertificateStatus is the stored state of a certificate row.
type CertificateStatus string

// Certificate statuses. A row begins as reserved, before the key signs; it becomes valid, or
// abandoned when its claim died. "Expired" is derived from NotAfter.
const (
	CertificateReserved  CertificateStatus = "reserved"
	CertificateValid     CertificateStatus = "valid"
	CertificateRevoked   CertificateStatus = "revoked"
	CertificateAbandoned CertificateStatus = "abandoned"
)

// Certificate is an issued certificate, or a serial reserved for one.
type Certificate struct {
	ID              CertificateID
	Serial          string // lower-case hex, 40 digits
	Status          CertificateStatus
	Directory       string
	Issuer          IssuerID
	Profile         string
	ProfileVersion  int
	CRLShard        int
	Account         AccountID
	Order           OrderID
	Code            CodeID
	Device          DeviceID
	Decision        DecisionID
	Evidence        EvidenceID
	DeviceSerial    string // attested; "" if unattested
	DeviceUDID      string // attested; "" if unattested
	ExpectedSerial  string // the code's binding, where the device was not attested
	ExpectedUDID    string
	AttestationRoot string // SHA-256 of the root that anchored the evidence, lower-case hex; "" if unattested
	SPKISHA256      string // lower-case hex
	NotBefore       time.Time
	NotAfter        time.Time
	DER             []byte // nil while reserved or abandoned
	ReservedAt      time.Time
	IssuedAt        time.Time
	CollectedAt     time.Time // first download of the chain; zero: never collected
	RevokedAt       time.Time
	RevokedReason   int // RFC 5280, section 5.3.1
	SupersededBy    CertificateID
}

// Decision is a stored decision with what it rested on.
type Decision struct {
	ID        DecisionID
	Order     OrderID
	Directory string
	Code      CodeID
	Evidence  EvidenceID
	Device    DeviceID // that the input was about; "" for none that is known
	Hold      HoldID   // that it made or used; "" for none
	Time      time.Time
	Schema    int // policy.Schema at that time
	Decision  policy.Decision
	Input     *policy.Input // nil once retention removed it
}

// Issuer is an issuing CA: a row, so that a CA is rotated by adding one.
type Issuer struct {
	ID        IssuerID
	Name      string
	Chain     [][]byte // DER, issuing certificate first, root not included
	Key       string   // key URI: file:…
	Active    bool     // the one that new certificates of directories naming no issuer use
	CreatedAt time.Time
}
