package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// protectedHeader is the protected header as it is written.
type protectedHeader struct {
	Algorithm string          `json:"alg"`
	JWK       json.RawMessage `json:"jwk,omitempty"`
	KeyID     string          `json:"kid,omitempty"`
	Nonce     string          `json:"nonce,omitempty"`
	URL       string          `json:"url"`
}

// Sign makes the body of a signed request. With an empty kid the public key is embedded; with a
// nil payload the request is a POST-as-GET. The algorithm is the key's: ES256, ES384 or ES512 by
// curve, RS256, or EdDSA.
func Sign(key crypto.Signer, kid, nonce, url string, payload []byte) ([]byte, error) {
	if nonce == "" {
		return nil, errors.New("sign request: no nonce")
	}
	return sign(key, kid, nonce, url, payload)
}

// SignKeyChange makes the inner JWS of a keyChange request, signed by the new key, which it embeds
// (RFC 8555, section 7.3.5).
func SignKeyChange(newKey crypto.Signer, url string, payload []byte) ([]byte, error) {
	return sign(newKey, "", "", url, payload)
}

func sign(key crypto.Signer, kid, nonce, url string, payload []byte) ([]byte, error) {
	alg, hash, err := algorithmOf(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	header := protectedHeader{Algorithm: string(alg), KeyID: kid, Nonce: nonce, URL: url}
	if kid == "" {
		if header.JWK, err = CanonicalJWK(&jose.JSONWebKey{Key: key.Public()}); err != nil {
			return nil, fmt.Errorf("sign request: %w", err)
		}
	}
	protected, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	b64 := base64.RawURLEncoding
	parts := flattened{protected: b64.EncodeToString(protected), payload: b64.EncodeToString(payload)}
	signature, err := signInput(key, hash, []byte(parts.protected+"."+parts.payload))
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	return json.Marshal(struct {
		Protected string `json:"protected"`
		Payload   string `json:"payload"`
		Signature string `json:"signature"`
	}{parts.protected, parts.payload, b64.EncodeToString(signature)})
}

// algorithmOf is the algorithm that Sign uses with a key; the hash is 0 for EdDSA.
func algorithmOf(public crypto.PublicKey) (jose.SignatureAlgorithm, crypto.Hash, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, crypto.SHA256, nil
		case elliptic.P384():
			return jose.ES384, crypto.SHA384, nil
		case elliptic.P521():
			return jose.ES512, crypto.SHA512, nil
		}
	case *rsa.PublicKey:
		return jose.RS256, crypto.SHA256, nil
	case ed25519.PublicKey:
		return jose.EdDSA, 0, nil
	}
	return "", 0, fmt.Errorf("no algorithm for a key of type %T", public)
}

// signInput signs in the form that JWS wants: for ECDSA that is r and s side by side, each as long
// as the curve's order (RFC 7518, section 3.4), not the DER that a crypto.Signer returns.
func signInput(key crypto.Signer, hash crypto.Hash, input []byte) ([]byte, error) {
	digest := input
	if hash != 0 {
		h := hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	signature, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return signature, nil
	}
	var r, s big.Int
	der, inner := cryptobyte.String(signature), cryptobyte.String(nil)
	if !der.ReadASN1(&inner, asn1.SEQUENCE) || !der.Empty() ||
		!inner.ReadASN1Integer(&r) || !inner.ReadASN1Integer(&s) || !inner.Empty() {
		return nil, errors.New("key returned a signature that is no ECDSA signature")
	}
	size := (public.Curve.Params().N.BitLen() + 7) / 8
	raw := make([]byte, 2*size)
	if r.Sign() < 0 || s.Sign() < 0 || r.BitLen() > size*8 || s.BitLen() > size*8 {
		return nil, errors.New("key returned a signature that is out of range")
	}
	r.FillBytes(raw[:size])
	s.FillBytes(raw[size:])
	return raw, nil
}
