package enroll

import (
	"crypto"
	"crypto/x509"
	"time"

	"assay/acme"
	"assay/attest"
)

// Event is something that happened in a run: one of the types below, in the order of the steps.
type Event interface{ event() }

// KeyMade: the device has its key pair.
type KeyMade struct {
	Spec       KeySpec
	Protection Protection
	Public     crypto.PublicKey
	Took       time.Duration
}

// RequestBuilt: the certificate request is ready, before any contact with the server.
type RequestBuilt struct {
	DER  []byte
	Took time.Duration
}

// Exchanged: a request got a reply, or none (Status 0).
type Exchanged struct {
	Step    Step
	Method  string
	URL     string
	Status  int
	Took    time.Duration
	Problem *acme.Problem // what the device throws away
}

// AccountMade: the server has registered this run's account.
type AccountMade struct{ URL, Thumbprint string }

// OrderMade: the server has accepted the order for the document's ClientIdentifier.
type OrderMade struct{ URL string }

// ChallengeFound: the challenge that the device is going to answer.
type ChallengeFound struct{ Type, URL, Token string }

// EvidenceMade: what the device answers the challenge with.
type EvidenceMade struct {
	Kind   attest.Kind
	Object []byte // the CBOR attestation object; nil unless Kind is attest.Attested
	Err    error  // why attestation failed; its text is sent
	Took   time.Duration
}

// ChallengeAnswered: the challenge's status in the reply.
type ChallengeAnswered struct{ Status string }

// Waited: the device slept because the server had not decided yet.
type Waited struct {
	Step Step
	For  time.Duration
}

// Finalized: the order's status in the reply to finalize.
type Finalized struct{ Status string }

// CertificateReceived: the run has succeeded.
type CertificateReceived struct {
	Certificate *x509.Certificate
	Took        time.Duration // from the first contact
}

func (KeyMade) event()             {}
func (RequestBuilt) event()        {}
func (Exchanged) event()           {}
func (AccountMade) event()         {}
func (OrderMade) event()           {}
func (ChallengeFound) event()      {}
func (EvidenceMade) event()        {}
func (ChallengeAnswered) event()   {}
func (Waited) event()              {}
func (Finalized) event()           {}
func (CertificateReceived) event() {}
