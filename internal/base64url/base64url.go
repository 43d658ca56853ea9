// Package base64url decodes base64url without padding (RFC 4648, section 5; RFC 8555, section 6.1) as one
// spelling for each value.
package base64url

import (
	"encoding/base64"
	"errors"
	"strings"
)

var errLineBreak = errors.New("line break in base64url")

// Decode decodes s. It refuses the other spellings of a value that encoding/base64 takes: with line
// breaks, or with stray bits at the end.
func Decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errLineBreak
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}
