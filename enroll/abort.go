package enroll

import (
	"fmt"

	"assay/acme"
)

// Step is a part of a run.
type Step string

// The steps in their order. The first two need no server.
const (
	StepKey           Step = "key"           // make the key pair
	StepCSR           Step = "csr"           // build the certificate request
	StepDirectory     Step = "directory"     // GET the directory
	StepNonce         Step = "nonce"         // HEAD newNonce
	StepAccount       Step = "account"       // newAccount
	StepOrder         Step = "order"         // newOrder
	StepAuthorization Step = "authorization" // POST-as-GET of the first authorization
	StepEvidence      Step = "evidence"      // attest the key
	StepChallenge     Step = "challenge"     // answer the challenge
	StepFinalize      Step = "finalize"      // send the certificate request
	StepStatus        Step = "status"        // POST-as-GET of the order, once
	StepCertificate   Step = "certificate"   // POST-as-GET of the chain
)

// Reason says in a stable word why a run ended.
type Reason string

// The reasons for which a device ends a run.
const (
	ReasonKey         Reason = "key-generation"  // the key that the document asks for cannot be made
	ReasonCSR         Reason = "csr"             // the request cannot be built
	ReasonEvidence    Reason = "evidence"        // the response to the challenge cannot be built
	ReasonTransport   Reason = "transport"       // connection, TLS or a time limit
	ReasonHTTPStatus  Reason = "http-status"     // neither 200, 201 with Location nor 204 with a nonce
	ReasonNoLocation  Reason = "no-location"     // a Location header is missing
	ReasonNoNonce     Reason = "no-replay-nonce" // a success without Replay-Nonce
	ReasonReply       Reason = "reply"           // not the JSON object that it must be, or too large
	ReasonMissing     Reason = "missing-member"  // a member that the device needs is absent
	ReasonStatus      Reason = "object-status"   // account, order or authorization has the wrong status
	ReasonChallenge   Reason = "challenge-invalid"
	ReasonCertificate Reason = "certificate" // no certificate, or not for our key
)

// Abort is a run that ended as it would have ended on a device. It also holds what a device would
// have thrown away.
type Abort struct {
	Step    Step
	Reason  Reason
	Detail  string
	URL     string        // of the request whose reply ended the run; "" if there was none
	Status  int           // HTTP status of that reply; 0 if there was none
	Problem *acme.Problem // the server's problem document; nil if it sent none
	Err     error         // the cause, if there is one
}

func (a *Abort) Error() string {
	text := fmt.Sprintf("enrolment ended at %s: %s", a.Step, a.Detail)
	if a.Problem != nil {
		text += ": " + a.Problem.Error()
	}
	if a.Err != nil {
		text += ": " + a.Err.Error()
	}
	return text
}

func (a *Abort) Unwrap() error { return a.Err }

// Cause is the shortest stable text that tells refusals apart, for counting: the step with the
// problem's type and check if the server gave one, else with the reason.
func (a *Abort) Cause() string {
	if a.Problem == nil {
		return string(a.Step) + ": " + string(a.Reason)
	}
	cause := string(a.Step) + ": " + a.Problem.Kind()
	if a.Problem.Check != "" {
		cause += " (" + a.Problem.Check + ")"
	}
	return cause
}
