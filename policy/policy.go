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

// Schema is the version of the JSON form of Decision.
const Schema = 1

// IdentifierKind says what an order's permanent-identifier stands for.
type IdentifierKind string

// What an order's identifier can be.
const (
	ByCode   IdentifierKind = "code"
	BySerial IdentifierKind = "serial"
	ByUDID   IdentifierKind = "udid"
)

// Input is everything that a decision may rest on; today's rules read a part of it.
type Input struct {
	Now        time.Time
	Directory  string
	Formats    []string // attestation formats that the directory accepts
	Roots      []string // SHA-256 of the roots that the directory accepts now, lower-case hex
	Identifier IdentifierKind
	Claimed    string // the serial or UDID that the order named; "" for a code
	Evidence   attest.Kind
	Facts      *attest.Facts // nil unless Evidence is attest.Attested and verified
	Code       *Code         // nil unless Identifier is ByCode
	Request    *csr.Request  // nil while the challenge is being answered
}

// Code is what a decision may know of the code.
type Code struct {
	ID              string
	Live            bool // unused, not revoked, not expired at Now
	Serial          string
	UDID            string
	AllowUnattested bool
	Tries           int
}

// Outcome is what is to be done.
type Outcome string

// Outcomes.
const (
	Issue  Outcome = "issue"
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

// Reason is one rule with its result.
type Reason struct {
	Check  string `json:"check"` // stable kebab-case name
	Passed bool   `json:"passed"`
	Detail string `json:"detail"` // one sentence for people; no personal values
}

// Decision is the answer.
type Decision struct {
	Outcome Outcome    `json:"outcome"`
	Reasons []Reason   `json:"reasons"`
	Key     KeyBinding `json:"key"`
	StandIn bool       `json:"standIn,omitempty"` // the evidence was anchored by a stand-in root
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
