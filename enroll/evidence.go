package enroll

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"

	"assay/acme"
	"assay/attest"
)

// Attester makes the evidence that answers a device-attest-01 challenge.
type Attester interface {
	// Attest returns the CBOR attestation object for the key. An error means that attestation
	// failed: its text goes to the server, and the run goes on without evidence, as on a device.
	Attest(ctx context.Context, r AttestRequest) (attObj []byte, err error)
}

// AttestRequest is what evidence is asked for.
type AttestRequest struct {
	Token            string // as sent in the challenge
	KeyAuthorization string // RFC 8555, section 8.1, with this run's account key
	Key              Key    // the key to attest
	Device           Device // the device that the key is on
}

// emptyStatement is base64url of CBOR {"fmt": "apple", "attStmt": {"x5c": []}}: what a device sends
// when attestation failed.
const emptyStatement = "omNmbXRlYXBwbGVnYXR0U3RtdKFjeDVjgA"

var (
	errNotHardwareBound = errors.New("only a hardware-bound key can be attested")
	errNoAttester       = errors.New("no attestation service can be reached")
)

// evidence is the answer to a challenge.
type evidence struct {
	kind    attest.Kind
	object  []byte // CBOR; nil if kind is attest.None
	err     error  // why attestation failed
	payload []byte // the challenge response
}

// makeEvidence answers a challenge in one of three ways: with an attestation, with the error and the
// empty statement when attestation failed, and with {} when the document does not want attestation
// or the chip ignores the wish.
func (r *run) makeEvidence(ctx context.Context, token string) (*evidence, error) {
	if !r.credential.Attest || !r.client.Device.Attests() {
		return &evidence{kind: attest.None, payload: []byte("{}")}, nil
	}
	keyAuthorization, err := acme.KeyAuthorization(token, r.accountJWK())
	if err != nil {
		return nil, err
	}
	object, err := r.attest(ctx, token, keyAuthorization)
	if err != nil {
		payload, encodeErr := json.Marshal(struct {
			AttObj string `json:"attObj"`
			Error  string `json:"error"` // present even if empty
		}{emptyStatement, err.Error()})
		if encodeErr != nil {
			return nil, encodeErr
		}
		return &evidence{kind: attest.Failed, err: err, payload: payload}, nil
	}
	payload := `{"attObj":"` + base64.RawURLEncoding.EncodeToString(object) + `"}`
	return &evidence{kind: attest.Attested, object: object, payload: []byte(payload)}, nil
}

func (r *run) attest(ctx context.Context, token, keyAuthorization string) ([]byte, error) {
	if !r.credential.HardwareBound {
		return nil, errNotHardwareBound
	}
	if r.client.Attester == nil {
		return nil, errNoAttester
	}
	return r.client.Attester.Attest(ctx, AttestRequest{
		Token: token, KeyAuthorization: keyAuthorization, Key: r.key, Device: *r.client.Device,
	})
}
