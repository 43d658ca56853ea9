package main

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"

	"assay/internal/delivery"
)

// signer signs profiles with the flags' certificate; nil where none is named.
func (f *profileFlags) signer(term *terminal) (func([]byte) ([]byte, error), error) {
	if f.SignCertificate == "" {
		return nil, nil
	}
	certificates, err := readFile(f.SignCertificate, maxCAFile)
	if err != nil {
		return nil, err
	}
	secret, err := readPrivate(f.SignKey, maxCAFile)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(secret); block != nil && (block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "") {
		return nil, withHint(fmt.Errorf("--sign-key %s is encrypted: it is read without a passphrase", f.SignKey), "openssl pkey -in %s -out FILE writes it without one", f.SignKey)
	}
	pair, err := tls.X509KeyPair(certificates, secret)
	if err != nil {
		return nil, fmt.Errorf("--sign-certificate %s with --sign-key %s: %w", f.SignCertificate, f.SignKey, err)
	}
	chain, key, err := delivery.ProfileSigner(pair)
	if err != nil {
		return nil, fmt.Errorf("--sign-certificate %s with --sign-key %s: %w", f.SignCertificate, f.SignKey, err)
	}
	return func(profile []byte) ([]byte, error) { return delivery.SignProfile(profile, chain, key, term.Now()) }, nil
}
