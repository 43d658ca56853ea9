package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	"github.com/go-jose/go-jose/v4"
)

// verifies reports whether a signature is the key's own over the input (RFC 7518, section 3). The
// algorithm is known to fit the key. The keys are go-jose's; the signature is checked here, because
// its parser reads the header, which is known to be sound by now, three times more.
func verifies(alg jose.SignatureAlgorithm, key any, input, signature []byte) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		size := (k.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size { // r and s side by side, each as long as the curve's order
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(k, digest(hashOf(alg), input), r, s)
	case *rsa.PublicKey:
		if alg == jose.PS256 {
			return rsa.VerifyPSS(k, crypto.SHA256, digest(crypto.SHA256, input), signature, nil) == nil
		}
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest(crypto.SHA256, input), signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, input, signature)
	}
	return false
}

// hashOf is the hash of an ECDSA algorithm.
func hashOf(alg jose.SignatureAlgorithm) crypto.Hash {
	switch alg {
	case jose.ES384:
		return crypto.SHA384
	case jose.ES512:
		return crypto.SHA512
	}
	return crypto.SHA256
}

func digest(hash crypto.Hash, input []byte) []byte {
	h := hash.New()
	h.Write(input)
	return h.Sum(nil)
}
