package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"assay/internal/base64url"
)

const (
	tokenPrefix = "assay_"
	tokenSize   = 32 // random bytes
)

// NewToken makes the value of a bearer token, which is shown once, and the hash that is stored of it.
func NewToken(random io.Reader) (value string, hash [sha256.Size]byte, err error) {
	raw := make([]byte, tokenSize)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", hash, fmt.Errorf("make token: %w", err)
	}
	value = tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
	return value, sha256.Sum256([]byte(value)), nil
}

// hashToken is the stored hash of a token's value; false for what has not the form of one, so that
// nothing of any size is hashed or looked up.
func hashToken(value string) (hash [sha256.Size]byte, ok bool) {
	encoded, ok := strings.CutPrefix(value, tokenPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return hash, false
	}
	if _, err := base64url.Decode(encoded); err != nil {
		return hash, false
	}
	return sha256.Sum256([]byte(value)), true
}
