package server

import (
	"sync"

	"assay/acme"

	"github.com/go-jose/go-jose/v4"
)

// maxAccountKeys is how many parsed keys are remembered: about a megabyte. Beyond that all are
// forgotten and the ones in use parsed again.
const maxAccountKeys = 4096

// accountKeys remembers what stored account keys parse to, which never changes: a device signs half
// a dozen requests with its key.
type accountKeys struct {
	mu     sync.Mutex
	parsed map[string]*jose.JSONWebKey
}

func (k *accountKeys) parse(jwk []byte) (*jose.JSONWebKey, error) {
	k.mu.Lock()
	key, ok := k.parsed[string(jwk)]
	k.mu.Unlock()
	if ok {
		return key, nil
	}
	key, err := acme.ParseJWK(jwk)
	if err != nil {
		return nil, err
	}
	k.remember(jwk, key)
	return key, nil
}

// remember keeps what a canonical form parses to: the bare key, without what came beside it.
func (k *accountKeys) remember(jwk []byte, key *jose.JSONWebKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parsed == nil || len(k.parsed) == maxAccountKeys {
		k.parsed = make(map[string]*jose.JSONWebKey)
	}
	k.parsed[string(jwk)] = &jose.JSONWebKey{Key: key.Key}
}
