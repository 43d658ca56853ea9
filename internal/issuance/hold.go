package issuance

import (
	"time"

	"assay/policy"
)

// HoldStatus is where a hold stands.
type HoldStatus string

// Hold statuses. Legal transitions: held→approved, held→declined, declined→approved,
// approved→declined, approved→claimed (an order begins to issue), claimed→approved (its claim was
// undone), claimed→used, and approved→held, when a device is held again after the approval expired.
// Expired is only ever derived.
const (
	HoldHeld     HoldStatus = "held"
	HoldApproved HoldStatus = "approved"
	HoldDeclined HoldStatus = "declined"
	HoldClaimed  HoldStatus = "claimed"
	HoldUsed     HoldStatus = "used"
	HoldExpired  HoldStatus = "expired" // approved, and the time of the approval is over
)

// Hold is a device that a policy held back until a person says whether it may have a certificate. It
// is about an attested device, else about the credential that the code belongs to, else about the code;
// an approval is good for that alone, and for one certificate.
type Hold struct {
	ID         HoldID
	Directory  string
	Status     HoldStatus
	Decision   DecisionID // the newest that held it
	Device     DeviceID   // attested, or expected by the code; "" for none that is known
	Code       CodeID     // of the newest order
	Credential CredentialID
	Tries      int // how often it was held
	Revision   int
	CreatedAt  time.Time
	HeldAt     time.Time // last
	DecidedBy  string    // who approved or declined; "" while nobody did
	DecidedAt  time.Time
	ExpiresAt  time.Time     // of the approval
	Lifetime   time.Duration // of an approval, as the policy has it
	Order      OrderID       // that claims or used it
}

// StatusAt is the hold's status at a time: HoldExpired for an approval whose time is over.
func (h *Hold) StatusAt(now time.Time) HoldStatus {
	if h.Status == HoldApproved && !now.Before(h.ExpiresAt) {
		return HoldExpired
	}
	return h.Status
}

// HoldFilter selects holds; zero fields select all.
type HoldFilter struct {
	Page
	Status    HoldStatus // as stored; never HoldExpired
	Directory string
	Device    DeviceID
}

// Word is what a person says about a hold.
type Word struct {
	Approve bool // else decline
	By      string
	// Lifetime is how long an approval lives; 0: as the policy has it.
	Lifetime time.Duration
}

// Subject is what is known of a request before the decision, to find what else is known.
type Subject struct {
	Directory  string
	Serial     string // attested; "" if the evidence has none
	UDID       string // attested
	Verified   bool   // whether evidence was verified; it may still name no device
	Code       CodeID
	CodeDevice DeviceID // that the code is bound to
	SPKISHA256 string   // of the CSR's key, lower-case hex
}

// Attested reports whether evidence names the device.
func (s *Subject) Attested() bool { return s.Serial != "" || s.UDID != "" }

// Circumstances are what the store knows around a request.
type Circumstances struct {
	Device     *Device // nil: no row is about it
	Credential CredentialID
	Template   string
	History    policy.History
	Approval   *policy.Approval // live
}

// StoredPolicy is a policy as it was written.
type StoredPolicy struct {
	policy.Version
	Text      string
	CreatedAt time.Time
}

// PolicyUse says since when a directory used a policy.
type PolicyUse struct {
	Directory string
	Since     time.Time
	policy.Version
}

// DecisionFilter selects decisions; zero fields select all.
type DecisionFilter struct {
	Page
	Since     time.Time
	Outcome   policy.Outcome
	Directory string
	Device    DeviceID
	Code      CodeID
	Evidence  EvidenceID // only what kept a request on it back: a certificate names its own decision
}
