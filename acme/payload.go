package acme

import (
	"net/http"

	"github.com/go-jose/go-jose/v4/json"
)

// DecodeStrict reads the payload of a request, which must be one JSON object, into a struct.
// Member names compare with case (encoding/json would let "Status" set status), unknown members
// are ignored as RFC 8555, section 6.1, wants; duplicate members, trailing data, deep nesting and
// text that is not UTF-8 are refused as malformed, check "payload".
func DecodeStrict(payload []byte, into any) *Problem {
	if len(payload) > MaxRequestSize {
		return tooLarge()
	}
	if _, err := scanObject(payload); err != nil {
		return NewProblem(Malformed, checkPayload, "request payload: "+err.Error())
	}
	if err := json.Unmarshal(payload, into); err != nil {
		return NewProblem(Malformed, checkPayload, "request payload has a member of the wrong type")
	}
	return nil
}

func tooLarge() *Problem {
	p := NewProblem(Malformed, checkSize, "request is larger than 128 KiB")
	p.Status = http.StatusRequestEntityTooLarge
	return p
}
