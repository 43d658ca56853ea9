// Package audit holds the rows of the audit trail: who changed or was refused what, and when.
//
// A row names things by opaque ids only. Personal values (serial numbers, UDIDs, names, addresses,
// a device's error text) live beside it, so that they can be erased while the trail stays whole:
// the row commits to them by a salted hash. Without the salt, which is erased with the values, a
// short value such as a serial number could be guessed from the commitment.
//
// Rows are sealed in batches soon after they were committed: a Merkle tree over each batch, and a signed seal
// that names the one before. VerifyPersonal refuses values that are not those that a row was written with,
// and Seal.Check finds rows that were changed, deleted or put in another order. Rows that are not sealed yet
// rest on the store, which only appends.
package audit

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"time"
)

// Action names what was attempted.
type Action string

// Actions.
const (
	AccountUpdated           Action = "account.updated"
	AccountDeactivated       Action = "account.deactivated"
	AccountKeyChanged        Action = "account.key-changed"
	OrderCreated             Action = "order.created"
	ChallengeAnswered        Action = "challenge.answered"
	AuthorizationDeactivated Action = "authorization.deactivated"
	CSRChecked               Action = "csr.checked"    // only ever refused
	DecisionTaken            Action = "decision.taken" // only ever refused: a decision to issue is part of IssueBegun
	HoldApproved             Action = "hold.approved"
	HoldDeclined             Action = "hold.declined"
	PolicyActivated          Action = "policy.activated"
	IssueBegun               Action = "issue.begun"
	IssueCompleted           Action = "issue.completed"
	IssueAbandoned           Action = "issue.abandoned"
	CertificateCollected     Action = "certificate.collected"
	CertificateRevoked       Action = "certificate.revoked"
	CodeMinted               Action = "code.minted"
	CodeRevoked              Action = "code.revoked"
	DocumentFetched          Action = "document.fetched" // refused: asked for in vain
	CredentialRendered       Action = "credential.rendered"
	CredentialPushed         Action = "credential.pushed"
	CredentialReported       Action = "credential.reported" // refused: the device says that it failed
	CredentialWithdrawn      Action = "credential.withdrawn"
	CertificateSuperseded    Action = "certificate.superseded"
	DeviceUpdated            Action = "device.updated"
	DeviceListed             Action = "device.listed" // by a list: new, or with other values
	DeviceStateChanged       Action = "device.state-changed"
	DeviceForgotten          Action = "device.forgotten"
	ConflictResolved         Action = "conflict.resolved"
	TokenMinted              Action = "token.minted"
	TokenRevoked             Action = "token.revoked"
	TokenUsed                Action = "token.used"
	DeviceConflict           Action = "device.conflict" // something contradicts the inventory
	IssuerAdded              Action = "issuer.added"
	IssuerActivated          Action = "issuer.activated"
	CRLPublished             Action = "crl.published"
	InstallationRestored     Action = "installation.restored" // from a backup
	RequestRefused           Action = "request.refused"       // a refusal that changed nothing
	StrangersRefused         Action = "strangers.refused"     // refusals tied to nothing known, counted
)

// Outcome tells what was done from what was refused.
type Outcome string

// Outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused"
)

// Row is one row of the trail. Empty ids mean that the row concerns no such thing.
type Row struct {
	ID          string            `json:"id"`
	Time        time.Time         `json:"time"`
	Action      Action            `json:"action"`
	Outcome     Outcome           `json:"outcome"`
	Directory   string            `json:"directory,omitempty"`
	Account     string            `json:"account,omitempty"`
	Order       string            `json:"order,omitempty"`
	Code        string            `json:"code,omitempty"`
	Certificate string            `json:"certificate,omitempty"`
	Device      string            `json:"device,omitempty"`
	Issuer      string            `json:"issuer,omitempty"`
	Check       string            `json:"check,omitempty"`  // the failed check of a refusal
	Detail      map[string]string `json:"detail,omitempty"` // nothing personal, nothing secret

	// Commitment is Commit of the row's salt and personal values; nil if it never had any.
	Commitment []byte `json:"commitment,omitempty"`
	// Salt and Personal are nil if the row never had personal values, or if they were erased.
	Salt     []byte    `json:"salt,omitempty"`
	Personal *Personal `json:"personal,omitempty"`
}

// Personal is what a row knows of people and their devices.
type Personal struct {
	Serial      string   `json:"serial,omitempty"`
	UDID        string   `json:"udid,omitempty"`
	Names       []string `json:"names,omitempty"`
	From        string   `json:"from,omitempty"`        // remote address, or "operator:NAME"
	DeviceError string   `json:"deviceError,omitempty"` // untrusted text
}

// IsZero reports whether there is nothing personal to keep.
func (p *Personal) IsZero() bool {
	return p.Serial == "" && p.UDID == "" && len(p.Names) == 0 && p.From == "" && p.DeviceError == ""
}

// SaltSize is the length of a salt in bytes.
const SaltSize = 16

// canonical is the form that is hashed: each set value as tag, length and bytes, in fixed order, so
// that no two different sets of values share one form.
func (p *Personal) canonical() []byte {
	out := []byte("assay audit personal values 1\x00")
	add := func(tag byte, value string) {
		if value != "" {
			out = append(out, tag)
			out = binary.BigEndian.AppendUint32(out, uint32(len(value)))
			out = append(out, value...)
		}
	}
	add('s', p.Serial)
	add('u', p.UDID)
	add('f', p.From)
	add('e', p.DeviceError)
	out = append(out, 'n')
	out = binary.BigEndian.AppendUint32(out, uint32(len(p.Names)))
	for _, name := range p.Names {
		out = binary.BigEndian.AppendUint32(out, uint32(len(name)))
		out = append(out, name...)
	}
	return out
}

// Commit is SHA-256 over the salt (SaltSize random bytes, never used twice) and the canonical form
// of the values.
func Commit(salt []byte, p Personal) [sha256.Size]byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(p.canonical())
	return [sha256.Size]byte(h.Sum(nil))
}

// Errors of VerifyPersonal.
var (
	// ErrErased: the row had personal values, and they were erased.
	ErrErased = errors.New("personal values were erased")
	// ErrAltered: the personal values are not those that the row commits to.
	ErrAltered = errors.New("personal values are not those that the audit row commits to")
)

// VerifyPersonal checks that a row's personal values are the ones that it was written with. A row
// that never had any verifies; ErrErased and ErrAltered tell what is wrong with others.
func VerifyPersonal(r Row) error {
	if r.Commitment == nil {
		if r.Personal != nil || r.Salt != nil {
			return ErrAltered
		}
		return nil
	}
	if r.Personal == nil && r.Salt == nil {
		return ErrErased
	}
	if r.Personal == nil || len(r.Salt) != SaltSize {
		return ErrAltered
	}
	want := Commit(r.Salt, *r.Personal)
	if subtle.ConstantTimeCompare(want[:], r.Commitment) != 1 {
		return ErrAltered
	}
	return nil
}
