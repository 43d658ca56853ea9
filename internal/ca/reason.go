package ca

import (
	"fmt"
	"slices"
)

// Reason is a revocation reason (RFC 5280, section 5.3.1).
type Reason int

// The reasons that a certificate may be revoked for. 7 is unused, and 8 (removeFromCRL) only ever
// stands in delta CRLs.
const (
	Unspecified          Reason = 0
	KeyCompromise        Reason = 1
	CACompromise         Reason = 2
	AffiliationChanged   Reason = 3
	Superseded           Reason = 4
	CessationOfOperation Reason = 5
	CertificateHold      Reason = 6
	PrivilegeWithdrawn   Reason = 9
	AACompromise         Reason = 10
)

// reasonNames has RFC 5280's name of each reason at its number, "" where there is none.
var reasonNames = []string{
	"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
	"cessationOfOperation", "certificateHold", "", "", "privilegeWithdrawn", "aACompromise",
}

// ReasonOf is the reason of a number. Those that no certificate may be revoked for are errors
// (badRevocationReason: RFC 8555, section 7.6).
func ReasonOf(number int) (Reason, error) {
	if number < 0 || number >= len(reasonNames) || reasonNames[number] == "" {
		return 0, fmt.Errorf("revocation reason %d is not one of 0 to 6, 9 and 10", number)
	}
	return Reason(number), nil
}

// ParseReason is the reason of a name, such as keyCompromise.
func ParseReason(name string) (Reason, error) {
	number := slices.Index(reasonNames, name)
	if name == "" || number < 0 {
		return 0, fmt.Errorf("revocation reason %q is unknown", name)
	}
	return Reason(number), nil
}

// String is the reason's name in RFC 5280.
func (r Reason) String() string {
	if _, err := ReasonOf(int(r)); err != nil {
		return fmt.Sprintf("reason %d", int(r))
	}
	return reasonNames[r]
}
