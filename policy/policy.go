// Package policy turns what is known of a request (facts, code, device, CSR) into a decision with
// its reasons. It is pure: no clock, no store, no network. What it does not know it refuses by name.
//
// It trusts its caller for what it is told: that facts were verified, that the code is as the store
// has it. It believes nothing that a device says of itself.
package policy

import (
	"time"

	"assay/attest"
	"assay/csr"
)

// Schema is the version of the JSON forms of Input and Decision, which are stored together. Version 1
// kept of the input the request alone.
const Schema = 2

// IdentifierKind says what an order's permanent-identifier stands for.
type IdentifierKind string

// What an order's identifier can be.
const (
	ByCode   IdentifierKind = "code"
	BySerial IdentifierKind = "serial"
	ByUDID   IdentifierKind = "udid"
)

// Input is everything that a decision rests on. It is stored with the decision, so that the same policy
// decides the same on it, and another can be tried on it.
type Input struct {
	Now        time.Time      `json:"now"`
	Directory  string         `json:"directory"`
	Formats    []string       `json:"formats"` // attestation formats that the directory accepts
	Roots      []string       `json:"roots"`   // SHA-256 of the roots that the directory accepts now, lower-case hex
	Identifier IdentifierKind `json:"identifier"`
	Claimed    string         `json:"claimed,omitempty"` // the serial or UDID that the order named; "" for a code
	Evidence   attest.Kind    `json:"evidence"`
	Facts      *attest.Facts  `json:"facts,omitempty"`   // nil unless Evidence is attest.Attested and verified
	Code       *Code          `json:"code,omitempty"`    // nil unless Identifier is ByCode
	Device     *Device        `json:"device,omitempty"`  // nil: no row is about it
	Request    *csr.Request   `json:"request,omitempty"` // nil while the challenge is being answered
	History    *History       `json:"history,omitempty"` // nil while the challenge is being answered
	Opinion    *Opinion       `json:"opinion,omitempty"` // nil: nobody outside was asked
	Approval   *Approval      `json:"approval,omitempty"`
}

// Code is what a decision may know of the code.
type Code struct {
	ID              string            `json:"id"`
	Live            bool              `json:"live"` // unused, not revoked, not expired at Now
	Serial          string            `json:"serial,omitempty"`
	UDID            string            `json:"udid,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	AllowUnattested bool              `json:"allowUnattested,omitempty"`
	Credential      string            `json:"credential,omitempty"` // id of the device's credential that it belongs to
	Template        string            `json:"template,omitempty"`   // of that credential
	Tries           int               `json:"tries,omitempty"`      // refused challenges and decisions so far
	CreatedAt       time.Time         `json:"createdAt"`
}

// State is where a device stands in the inventory.
type State string

// States of a device. A device that evidence or a request alone named has none.
const (
	Expected State = "expected" // listed, no attested certificate yet
	Active   State = "active"   // listed, and has had an attested certificate
	Lost     State = "lost"
	Retired  State = "retired"
)

// Device is what the inventory knows of the device: of the one that the evidence names, else of the
// one that the code names.
type Device struct {
	ID string `json:"id"`
	// Proven is whether this request's evidence names the device; else the code alone does.
	Proven bool `json:"proven,omitempty"`
	// Known is whether somebody lists it: an operator, a list, Apple Business Manager. A device that
	// only attested itself is not known.
	Known     bool              `json:"known,omitempty"`
	State     State             `json:"state,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Attested  bool              `json:"attested,omitempty"` // evidence established serial and UDID before
	CreatedAt time.Time         `json:"createdAt"`
	LastSeen  time.Time         `json:"lastSeen,omitzero"` // last certificate collected; zero: never
}

// History is what happened before.
type History struct {
	DeviceCertificates int       `json:"deviceCertificates"` // issued to the device, whatever became of them
	DeviceValid        int       `json:"deviceValid"`        // of these, neither revoked nor expired now
	DeviceLastIssued   time.Time `json:"deviceLastIssued,omitzero"`
	KeyCertificates    int       `json:"keyCertificates"` // issued for this very key
	KeyOtherDevices    int       `json:"keyOtherDevices"` // of these, to another device or to none that is known
	Refusals           int       `json:"refusals"`        // of this code or device within RefusalWindow
}

// RefusalWindow is how far back History.Refusals looks.
const RefusalWindow = 24 * time.Hour

// Opinion is what a service outside answered about the request.
type Opinion struct {
	ID       string `json:"id,omitempty"` // of the request that the service got; "" if it was not asked
	Answered bool   `json:"answered"`     // false: it did not, or not understandably; Failure says why
	// Failure is a stable kebab-case name, such as "timeout" or "circuit-open"; package internal/opinion
	// lists them.
	Failure string `json:"failure,omitempty"`
	// Required is whether a missing answer refuses (fail closed); else it is unknown to the policy.
	Required bool     `json:"required,omitempty"`
	Verdict  string   `json:"verdict,omitempty"` // a word that the service and the policy agreed on
	Score    int      `json:"score,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	Reason   string   `json:"reason,omitempty"` // for people; untrusted, bounded
}

// Approval is a person's word that a held device may have one certificate.
type Approval struct {
	Hold      string    `json:"hold"` // id
	By        string    `json:"by"`
	At        time.Time `json:"at"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// Outcome is what is to be done.
type Outcome string

// Outcomes.
const (
	Issue Outcome = "issue"
	// Hold refuses for now: a person may approve, and the device's next try then succeeds.
	Hold   Outcome = "hold"
	Refuse Outcome = "refuse"
)

// KeyBinding says which key may be certified. The zero value permits none.
type KeyBinding struct {
	// Attested is the DER SubjectPublicKeyInfo that evidence vouches for. Only this very key may
	// be certified.
	Attested []byte `json:"attested,omitempty"`
	// Unattested is set when the decision names that no key was attested and that the CSR's own
	// key may be certified all the same.
	Unattested bool `json:"unattested,omitempty"`
}

// Reason is one built-in check or one requirement of the policy, with its result.
type Reason struct {
	Check  string `json:"check"` // stable kebab-case name; a requirement's is "require:" and its name
	Passed bool   `json:"passed"`
	Detail string `json:"detail"` // one sentence for people; no personal values
	// Unknown are the attributes for want of which a requirement could not be told, such as
	// "facts.osVersion": it is then not passed.
	Unknown []string `json:"unknown,omitempty"`
	Advice  string   `json:"advice,omitempty"` // what to do about it
}

// SignalValue is what a signal's condition came to.
type SignalValue string

// Values of signals.
const (
	True    SignalValue = "true"
	False   SignalValue = "false"
	Unknown SignalValue = "unknown" // something that it rests on is not known
)

// Signal is one signal of the policy with its value and the points that it gave.
type Signal struct {
	Name    string      `json:"name"`
	Value   SignalValue `json:"value"`
	Points  int         `json:"points"`
	Detail  string      `json:"detail,omitempty"`
	Unknown []string    `json:"unknown,omitempty"` // as in Reason
}

// Version says which policy decided.
type Version struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // of the policy's text, lower-case hex
}

// Decision is the answer.
type Decision struct {
	Outcome Outcome  `json:"outcome"`
	Policy  Version  `json:"policy"`
	Reasons []Reason `json:"reasons"` // the built-in checks, then the policy's requirements, then its outcome
	Signals []Signal `json:"signals,omitempty"`
	Score   int      `json:"score"` // the signals' points together
	// Profile and Lifetime are the certificate profile and the longest lifetime that the outcome chose;
	// "" and 0 leave them to the directory and its profile.
	Profile  string   `json:"profile,omitempty"`
	Lifetime Lifetime `json:"lifetime,omitempty"`
	// ApprovalLifetime is how long a person's approval of a Hold lives; 0: as the store has it.
	ApprovalLifetime Lifetime `json:"approvalLifetime,omitempty"`
	// Approval is the hold whose approval turned Hold into Issue; the certificate uses it up.
	Approval string     `json:"approval,omitempty"`
	Key      KeyBinding `json:"key"`
	StandIn  bool       `json:"standIn,omitempty"` // the evidence was anchored by a stand-in root
	// Verified is false for a device whose binding nothing attests.
	Verified bool `json:"verified"`
	// Dropped lists what was requested and the certificate profile leaves out; set by the issuer.
	Dropped []Dropped `json:"dropped,omitempty"`
}

// Dropped is something that was requested and will not be in the certificate.
type Dropped struct {
	Field string `json:"field"` // such as subjectAltName.rfc822Name; never a value
	Why   string `json:"why"`
}

// Refused returns the first failed reason, or nil if every rule passed.
func (d *Decision) Refused() *Reason {
	for i := range d.Reasons {
		if !d.Reasons[i].Passed {
			return &d.Reasons[i]
		}
	}
	return nil
}
