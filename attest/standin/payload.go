package standin

import (
	"encoding/base64"
	"encoding/json"

	"assay/attest"
)

// AttestedResponse is the challenge response payload that carries an attestation object.
func AttestedResponse(object []byte) []byte { return response(object, "") }

// FailedResponse is what a device sends when its attestation failed: an empty x5c, and why.
func FailedResponse(deviceError string) []byte {
	return response(encodeObject(attest.FormatApple, [][]byte{}), deviceError)
}

// NoneResponse is what a device sends that does not attest.
func NoneResponse() []byte { return []byte("{}") }

func response(object []byte, deviceError string) []byte {
	payload, err := json.Marshal(struct {
		AttObj string `json:"attObj"`
		Error  string `json:"error,omitempty"`
	}{base64.RawURLEncoding.EncodeToString(object), deviceError})
	if err != nil {
		panic("standin: encode JSON: " + err.Error()) // a struct of strings cannot fail
	}
	return payload
}
