//go:build pkcs11

package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/miekg/pkcs11"
)

// Key is a private key in a module. It may be used by many goroutines.
type Key struct {
	public crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
	pool   *pool
}

// Open finds the key, and lets it sign once to prove that it can, and that the public key beside it is its
// own. pin reads the PIN of the token's user; it is called whenever a session must be logged in.
func Open(u *URI, pin func() (string, error)) (crypto.Signer, error) {
	o := &opener{uri: u, pin: pin}
	p := newPool(func() (session, error) { s, _, err := o.open(); return s, err }, maxSessions, answerTime)
	public, err := within(p, func() (crypto.PublicKey, error) {
		var err error
		if o.module, err = load(u.Module); err != nil {
			return nil, err
		}
		s, public, err := o.open()
		if err != nil {
			return nil, err
		}
		o.module.keep(p)
		p.idle <- s
		return public, nil
	})
	if err != nil {
		return nil, fmt.Errorf("PKCS#11: %w", err)
	}
	k := &Key{public: public, pool: p}
	if err := k.prove(); err != nil {
		return nil, fmt.Errorf("the key cannot be used: %w", err)
	}
	return k, nil
}

// prove signs something and verifies it.
func (k *Key) prove() error {
	digest := sha256.Sum256([]byte("Assay opens this key"))
	signature, err := k.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	ok := false
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(public, digest[:], signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	if !ok {
		return errors.New("its signature does not verify under the public key or certificate that stands beside it in the token: they are of different keys")
	}
	return nil
}

// Public is the *ecdsa.PublicKey or *rsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign signs a digest, with ECDSA (in ASN.1) or RSASSA-PKCS1-v1_5. The randomness is the module's own.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if len(digest) != opts.HashFunc().Size() {
		return nil, fmt.Errorf("PKCS#11: the digest has %d bytes, not the %d of %s", len(digest), opts.HashFunc().Size(), opts.HashFunc())
	}
	var signature []byte
	var err error
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		size := (public.Curve.Params().BitSize + 7) / 8
		signature, err = k.pool.sign(pkcs11.CKM_ECDSA, digest[:min(len(digest), size)])
		if err == nil {
			signature, err = ecdsaASN1(signature, size)
		}
	case *rsa.PublicKey:
		var info []byte
		if info, err = digestInfo(digest, opts); err == nil {
			signature, err = k.pool.sign(pkcs11.CKM_RSA_PKCS, info)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("PKCS#11: sign: %w", err)
	}
	return signature, nil
}

// ecdsaASN1 encodes r and s, which PKCS#11 writes one after the other.
func ecdsaASN1(raw []byte, size int) ([]byte, error) {
	if len(raw) != 2*size {
		return nil, fmt.Errorf("the module's signature has %d bytes, not %d", len(raw), 2*size)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])})
}

var digestOIDs = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}

// digestInfo is what RSASSA-PKCS1-v1_5 pads (RFC 8017, section 9.2).
func digestInfo(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	oid, known := digestOIDs[opts.HashFunc()]
	if _, pss := opts.(*rsa.PSSOptions); pss || !known {
		return nil, fmt.Errorf("with RSA only PKCS #1 v1.5 over SHA-256, SHA-384 or SHA-512 is signed, not %T over %s", opts, opts.HashFunc())
	}
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}{pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue}, digest})
}

// equal compares public keys.
func equal(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}
