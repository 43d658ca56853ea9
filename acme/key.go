package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/go-jose/go-jose/v4"
)

// RSA account keys outside these sizes, in bits, are refused: smaller ones are weak, larger ones
// cost more to verify than a request is worth.
const (
	minRSABits = 2048
	maxRSABits = 4096 // what go-jose reads at most; not left to its setting, which any package may change
)

// Thumbprint is the base64url SHA-256 thumbprint of a public key (RFC 7638).
func Thumbprint(key *jose.JSONWebKey) (string, error) {
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("compute key thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// KeyAuthorization binds a challenge's token to an account key (RFC 8555, section 8.1).
func KeyAuthorization(token string, key *jose.JSONWebKey) (string, error) {
	thumbprint, err := Thumbprint(key)
	if err != nil {
		return "", err
	}
	return token + "." + thumbprint, nil
}

// CanonicalJWK is the public key in the one form that RFC 7638, section 3, hashes: required members
// only, in order, without space. Two keys are the same key if and only if these bytes are equal.
func CanonicalJWK(key *jose.JSONWebKey) ([]byte, error) {
	if !key.IsPublic() {
		return nil, errors.New("encode key: not a public key")
	}
	data, err := jose.JSONWebKey{Key: key.Key}.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	var members map[string]string // of public keys all members are strings; Marshal sorts them
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return json.Marshal(members)
}

// ParseJWK reads a public key and applies the same rules as to the key of a request: public, valid,
// RSA of 2048 to 4096 bits, P-256, P-384, P-521 or Ed25519.
func ParseJWK(data []byte) (*jose.JSONWebKey, error) {
	if len(data) > MaxRequestSize {
		return nil, errors.New("parse key: too large")
	}
	if _, err := scanObject(data); err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	key := new(jose.JSONWebKey)
	if err := key.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	return key, nil
}

// checkKey says why a key that go-jose has read, and so has on its curve, may not sign requests.
// Private and symmetric keys fall through its list of types. Its messages are safe to show.
func checkKey(key *jose.JSONWebKey) error {
	if key.Use != "" && key.Use != "sig" {
		return errors.New("key is not meant for signatures")
	}
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return errors.New("curve must be P-256, P-384 or P-521")
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key must have %d to %d bits", minRSABits, maxRSABits)
		}
		if k.E < 3 || k.E > math.MaxInt32 || k.E%2 == 0 || k.N.Bit(0) == 0 {
			return errors.New("RSA key has an invalid modulus or exponent")
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("key must be a public key of type EC, RSA or OKP (Ed25519)")
}

// fits reports whether an algorithm may be used with a key: each curve has exactly one.
func fits(alg jose.SignatureAlgorithm, key *jose.JSONWebKey) bool {
	if key == nil || key.Algorithm != "" && key.Algorithm != string(alg) {
		return false
	}
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey:
		switch alg {
		case jose.ES256:
			return k.Curve == elliptic.P256()
		case jose.ES384:
			return k.Curve == elliptic.P384()
		case jose.ES512:
			return k.Curve == elliptic.P521()
		}
	case *rsa.PublicKey:
		return alg == jose.RS256 || alg == jose.PS256
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}
