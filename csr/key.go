package csr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // for crypto.Hash.New
	_ "crypto/sha512" // for crypto.Hash.New
	"crypto/x509"
	"fmt"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// RSA modulus sizes that are read, in bits: the range that Apple's client can make. What is certified
// is narrower: that is the certificate profile's to say.
const (
	MinRSABits = 1024
	MaxRSABits = 4096
)

// readKey sets PublicKey, KeyType and KeySize from SPKI.
func (r *Request) readKey() error {
	bad := func(format string, args ...any) error {
		return &Error{Problem: BadPublicKey, Check: CheckKey, Detail: fmt.Sprintf(format, args...)}
	}
	key, err := x509.ParsePKIXPublicKey(r.SPKI)
	if err != nil {
		return bad("public key cannot be read: it is of an unknown kind, off its curve or malformed")
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		r.KeyType, r.KeySize = EC, key.Curve.Params().BitSize
		if r.KeySize != 256 && r.KeySize != 384 && r.KeySize != 521 {
			return bad("curve is none of P-256, P-384 and P-521")
		}
	case *rsa.PublicKey:
		r.KeyType, r.KeySize = RSA, key.N.BitLen()
		if r.KeySize < MinRSABits || r.KeySize > MaxRSABits {
			return bad("RSA key has %d bits, not %d to %d", r.KeySize, MinRSABits, MaxRSABits)
		}
		// An even modulus or a tiny exponent never comes from a sound generator.
		if key.N.Bit(0) == 0 || key.E < 65537 || key.E%2 == 0 {
			return bad("RSA key has an even modulus, or an exponent that is even or below 65537")
		}
	default:
		return bad("public key is neither RSA nor EC")
	}
	// A second encoding of the same key would let "the certified key is the attested key" fail or
	// succeed by its encoding.
	if canonical, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(canonical, r.SPKI) {
		return bad("public key is not in its canonical encoding")
	}
	r.PublicKey = key
	return nil
}

// signatureAlgorithm is a kind of key and the hash that it signs.
type signatureAlgorithm struct {
	keyType string
	hash    crypto.Hash
}

// signatureAlgorithms are the ones that are verified: no SHA-1 and no MD5.
var signatureAlgorithms = map[string]signatureAlgorithm{
	"1.2.840.10045.4.3.2":   {EC, crypto.SHA256},
	"1.2.840.10045.4.3.3":   {EC, crypto.SHA384},
	"1.2.840.10045.4.3.4":   {EC, crypto.SHA512},
	"1.2.840.113549.1.1.11": {RSA, crypto.SHA256},
	"1.2.840.113549.1.1.12": {RSA, crypto.SHA384},
	"1.2.840.113549.1.1.13": {RSA, crypto.SHA512},
}

// verify checks the proof of possession: the request is signed by the key that it names.
func verify(key crypto.PublicKey, parts *outer) error {
	oid, ok := readOID(&parts.algorithm)
	if !ok {
		return refuse(CheckSyntax, "signature algorithm has no object identifier")
	}
	algorithm, known := signatureAlgorithms[oid]
	if !known {
		return refuse(CheckAlgorithm, "signature algorithm %s is not ECDSA or RSA (PKCS #1 v1.5) with SHA-256, SHA-384 or SHA-512", oid)
	}
	// RSA takes a NULL parameter (RFC 4055, section 5) that some leave out; ECDSA takes none (RFC 5758).
	if !parts.algorithm.Empty() {
		var null []byte
		if algorithm.keyType != RSA || !parts.algorithm.ReadASN1Bytes(&null, cbasn1.NULL) || len(null) != 0 || !parts.algorithm.Empty() {
			return refuse(CheckAlgorithm, "signature algorithm %s has parameters", oid)
		}
	}
	hash := algorithm.hash.New()
	hash.Write(parts.info)
	digest := hash.Sum(nil)
	valid := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		valid = algorithm.keyType == EC && ecdsa.VerifyASN1(key, digest, parts.signature)
	case *rsa.PublicKey:
		valid = algorithm.keyType == RSA && rsa.VerifyPKCS1v15(key, algorithm.hash, digest, parts.signature) == nil
	}
	if !valid {
		return refuse(CheckSignature, "request is not signed by the key in it")
	}
	return nil
}
