package issuance

import (
	"encoding/base64"
	"fmt"
	"io"

	"assay/internal/base64url"
)

// codeSize is the number of random bytes in a code: 192 bits, 32 characters.
const codeSize = 24

// NewCodeValue makes a code: base64url, because "/" breaks the permanent-identifier grammar, and
// beginning with a letter or digit, so that no shell takes it for a flag.
func NewCodeValue(random io.Reader) (string, error) {
	raw := make([]byte, codeSize)
	for {
		if _, err := io.ReadFull(random, raw); err != nil {
			return "", fmt.Errorf("make code: %w", err)
		}
		if value := base64.RawURLEncoding.EncodeToString(raw); value[0] != '-' && value[0] != '_' {
			return value, nil
		}
	}
}

// IsCode reports whether a value has the form of a code.
func IsCode(value string) bool {
	raw, err := base64url.Decode(value)
	return err == nil && len(raw) == codeSize
}
