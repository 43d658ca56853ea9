package acme

import (
	"net/http"
	"time"
)

// Problem types (RFC 8555, section 6.7; draft-ietf-acme-device-attest), without their URN prefix.
const (
	AccountDoesNotExist     = "accountDoesNotExist"
	AlreadyRevoked          = "alreadyRevoked"
	BadAttestationStatement = "badAttestationStatement"
	BadCSR                  = "badCSR"
	BadNonce                = "badNonce"
	BadPublicKey            = "badPublicKey"
	BadRevocationReason     = "badRevocationReason"
	BadSignatureAlgorithm   = "badSignatureAlgorithm"
	InvalidContact          = "invalidContact"
	Malformed               = "malformed"
	OrderNotReady           = "orderNotReady"
	RateLimited             = "rateLimited"
	RejectedIdentifier      = "rejectedIdentifier"
	ServerInternal          = "serverInternal"
	Unauthorized            = "unauthorized"
	UnsupportedContact      = "unsupportedContact"
	UnsupportedIdentifier   = "unsupportedIdentifier"
	UserActionRequired      = "userActionRequired"
)

const problemPrefix = "urn:ietf:params:acme:error:"

// Problem is a problem document (RFC 7807 as RFC 8555, section 6.7, uses it): wire form, error and
// log value in one.
type Problem struct {
	Type       string   `json:"type"` // with its URN prefix
	Detail     string   `json:"detail,omitempty"`
	Status     int      `json:"status,omitempty"`
	Algorithms []string `json:"algorithms,omitempty"` // with badSignatureAlgorithm
	// Check is ours: the stable name of the check that refused, for people and scripts.
	Check string `json:"check,omitempty"`
	// Location is sent as a header: the account that has the new key of a rollover (section 7.3.5).
	Location string `json:"-"`
	// RetryAfter is sent as a header, in whole seconds: when a rate limit lets the request pass (section 6.6).
	// 0: nothing is known.
	RetryAfter time.Duration `json:"-"`
}

// statusOf is the HTTP status for each problem type.
var statusOf = map[string]int{
	AccountDoesNotExist:     http.StatusBadRequest,
	BadAttestationStatement: http.StatusForbidden,
	OrderNotReady:           http.StatusForbidden,
	RateLimited:             http.StatusTooManyRequests,
	ServerInternal:          http.StatusInternalServerError,
	Unauthorized:            http.StatusForbidden,
	UserActionRequired:      http.StatusForbidden,
}

// NewProblem makes a problem of a type named without prefix, with the HTTP status that belongs to it.
func NewProblem(kind, check, detail string) *Problem {
	status := statusOf[kind]
	if status == 0 {
		status = http.StatusBadRequest
	}
	return &Problem{Type: problemPrefix + kind, Detail: detail, Status: status, Check: check}
}

// Kind is the problem type without its URN prefix, or the whole type if it has another.
func (p *Problem) Kind() string {
	if len(p.Type) > len(problemPrefix) && p.Type[:len(problemPrefix)] == problemPrefix {
		return p.Type[len(problemPrefix):]
	}
	return p.Type
}

func (p *Problem) Error() string {
	if p.Check != "" {
		return p.Kind() + " (" + p.Check + "): " + p.Detail
	}
	return p.Kind() + ": " + p.Detail
}
