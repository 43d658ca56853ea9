//go:build !pkcs11

package hsm

import (
	"crypto"
	"errors"
)

// Open refuses: this program cannot load modules.
func Open(*URI, func() (string, error)) (crypto.Signer, error) {
	return nil, errors.New("this program was built without PKCS#11: build it with -tags pkcs11")
}

// Close has nothing to end.
func Close() {}
