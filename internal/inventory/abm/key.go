package abm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ParseKey reads an API account's private key: one unencrypted PEM key on P-256, PKCS#8 or SEC 1. The
// files that Apple hands out say EC PRIVATE KEY (SEC 1) around PKCS#8, so the label decides nothing.
func ParseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes them first
		block, rest = pem.Decode(rest)
	}
	switch {
	case block == nil:
		return nil, errors.New("read the account's key: no PEM; it is the file that Apple's page downloaded when the key was made")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, errors.New("read the account's key: it is encrypted")
	case block.Type != "PRIVATE KEY" && block.Type != "EC PRIVATE KEY":
		return nil, fmt.Errorf("read the account's key: %.40q is no private key", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("read the account's key: there is something behind the key")
	}
	key, err := parseEC(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the account's key: %w", err)
	}
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read the account's key: it is on %s, not on P-256", key.Curve.Params().Name)
	}
	return key, nil
}

func parseEC(der []byte) (*ecdsa.PrivateKey, error) {
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("neither PKCS#8 nor SEC 1")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T, not an elliptic curve key", parsed)
	}
	return key, nil
}
