package attest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"assay/internal/base64url"
)

// Limits on challenge responses.
const (
	maxResponse      = 128 << 10 // bytes of JSON
	maxResponseDepth = 16        // levels of nesting inside unrecognized members
	maxDeviceError   = 1 << 10   // bytes of a device's error text that are kept
)

// ResponseError is a challenge response that is no proper JSON or whose attObj is no base64url
// string: a faulty request ("malformed" in RFC 8555), not bad evidence. Nothing changes because of it.
type ResponseError struct {
	Detail string // safe to show to the client
	Err    error  // the cause for the log; may be nil
}

func (e *ResponseError) Error() string {
	if e.Err != nil {
		return "parse challenge response: " + e.Detail + ": " + e.Err.Error()
	}
	return "parse challenge response: " + e.Detail
}

func (e *ResponseError) Unwrap() error { return e.Err }

// ParseResponse reads the JSON that answers a device-attest-01 challenge (draft-ietf-acme-device-
// attest, section 5). Members other than attObj and error are ignored, as the draft demands.
//
// The error is a *ResponseError for a faulty request, or a *Refusal for anything wrong inside attObj;
// with a *Refusal the response is not nil and holds the object as received.
//
// A response without attObj is None, whatever error text stands beside it: only an empty x5c proves
// that a device tried.
func ParseResponse(payload []byte) (*Response, error) {
	members, err := readMembers(payload)
	if err != nil {
		return nil, err
	}
	deviceError := cleanText(members.deviceError)
	if members.attObj == nil {
		return &Response{Kind: None, DeviceError: deviceError}, nil
	}
	data, err := base64url.Decode(*members.attObj)
	if err != nil {
		return nil, &ResponseError{Detail: "attObj is not base64url without padding", Err: err}
	}
	r, err := ParseObject(data)
	r.DeviceError = deviceError
	return r, err
}

type members struct {
	attObj      *string
	deviceError string
}

// readMembers walks the JSON object by tokens: encoding/json's structs would take attobj for attObj
// and the last of two.
func readMembers(payload []byte) (members, error) {
	switch {
	case len(payload) > maxResponse:
		return members{}, &ResponseError{Detail: fmt.Sprintf("payload of %d bytes is over the limit of %d", len(payload), maxResponse)}
	case !utf8.Valid(payload):
		return members{}, &ResponseError{Detail: "payload is not UTF-8"}
	case !json.Valid(payload):
		return members{}, &ResponseError{Detail: "payload is not JSON"}
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return members{}, &ResponseError{Detail: "payload is not a JSON object", Err: err}
	}
	var m members
	seen := map[string]bool{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return members{}, &ResponseError{Detail: "payload is not JSON", Err: err}
		}
		key, _ := name.(string) // a member's name is always a string
		if (key == "attObj" || key == "error") && seen[key] {
			return members{}, &ResponseError{Detail: key + " occurs twice"}
		}
		seen[key] = true
		value, isString, err := readValue(dec)
		if err != nil {
			return members{}, err
		}
		switch {
		case key == "attObj" && !isString:
			return members{}, &ResponseError{Detail: "attObj is not a string"}
		case key == "attObj":
			m.attObj = &value
		case key == "error" && isString: // unknown to the draft, so of another type it is ignored
			m.deviceError = value
		}
	}
	return m, nil
}

// readValue reads one value; of anything but a string only the extent.
func readValue(dec *json.Decoder) (text string, isString bool, err error) {
	for depth := 0; ; {
		token, err := dec.Token()
		if err != nil {
			return "", false, &ResponseError{Detail: "payload is not JSON", Err: err}
		}
		if s, ok := token.(string); ok && depth == 0 {
			return s, true, nil
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxResponseDepth {
				return "", false, &ResponseError{Detail: fmt.Sprintf("payload is nested deeper than %d levels", maxResponseDepth)}
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return "", false, nil
		}
	}
}

// cleanText makes a device's localized error text harmless to logs and consoles: printable
// characters only, white space as blanks, bounded.
func cleanText(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case unicode.IsPrint(r):
		case unicode.IsSpace(r):
			r = ' '
		default:
			continue
		}
		if b.Len()+utf8.RuneLen(r) > maxDeviceError {
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
