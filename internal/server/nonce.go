package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"assay/internal/base64url"
	"assay/internal/issuance"
)

// A nonce is 54 base64url characters: key id (4 bytes), minted-at in Unix seconds (4), a random
// part (16) and a truncated HMAC-SHA256 over the three (16). Minting writes nothing; any server
// that knows the key accepts it, before and after a restart.
const (
	nonceTagged = 4 + 4 + 16
	nonceSize   = nonceTagged + 16

	nonceKeyLifetime = 24 * time.Hour   // after which a new key mints
	nonceMaxSkew     = time.Minute      // minted in the future by another server's clock
	nonceKeyRefresh  = 20 * time.Second // how often minting reads the keys: sooner than a new one comes into use
	nonceKeyReload   = 5 * time.Second  // how often an unknown key id may cost a read
)

var (
	errNonceForm    = errors.New("nonce was not minted here")
	errNonceExpired = errors.New("nonce is older than an hour")
)

// nonces mints and authenticates nonces. It does not know which were spent: the store does.
type nonces struct {
	store  Nonces
	random io.Reader

	mu       sync.RWMutex
	keys     map[uint32]issuance.NonceKey
	newest   issuance.NonceKey
	minting  issuance.NonceKey // that nonces are minted under
	reloaded time.Time
}

// mint returns a fresh nonce. It fails only if no key can be had.
func (n *nonces) mint(ctx context.Context, now time.Time) (string, error) {
	key, err := n.mintingKey(ctx, now)
	if err != nil {
		return "", fmt.Errorf("mint nonce: %w", err)
	}
	raw := make([]byte, nonceTagged, nonceSize)
	binary.BigEndian.PutUint32(raw, key.ID)
	binary.BigEndian.PutUint32(raw[4:], uint32(now.Unix()))
	if _, err := io.ReadFull(n.random, raw[8:]); err != nil {
		return "", fmt.Errorf("mint nonce: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(nonceTag(key, raw)), nil
}

// authenticate checks that a nonce was minted under a live key and is in time.
func (n *nonces) authenticate(ctx context.Context, now time.Time, value string) (issuance.Nonce, error) {
	raw, err := base64url.Decode(value)
	if err != nil || len(raw) != nonceSize {
		return issuance.Nonce{}, errNonceForm
	}
	key, ok, err := n.key(ctx, now, binary.BigEndian.Uint32(raw))
	if err != nil {
		return issuance.Nonce{}, err
	}
	if !ok || !hmac.Equal(raw, nonceTag(key, raw[:nonceTagged:nonceTagged])) {
		return issuance.Nonce{}, errNonceForm
	}
	minted := time.Unix(int64(binary.BigEndian.Uint32(raw[4:])), 0)
	if minted.After(now.Add(nonceMaxSkew)) || !now.Before(minted.Add(issuance.NonceLifetime)) {
		return issuance.Nonce{}, errNonceExpired
	}
	return issuance.Nonce{ID: [16]byte(raw[8:nonceTagged]), ExpiresAt: minted.Add(issuance.NonceLifetime)}, nil
}

// nonceTag appends the authentication tag to the tagged part.
func nonceTag(key issuance.NonceKey, tagged []byte) []byte {
	mac := hmac.New(sha256.New, key.Secret)
	mac.Write(tagged)
	return append(tagged, mac.Sum(nil)[:nonceSize-nonceTagged]...)
}

// mintingKey is the key to mint under. Once the newest is a day old, another one is made, by whichever server
// is first; it comes into use when every server has had time to read it.
func (n *nonces) mintingKey(ctx context.Context, now time.Time) (issuance.NonceKey, error) {
	n.mu.RLock()
	key, fresh := n.minting, now.Sub(n.reloaded).Abs() < nonceKeyRefresh
	n.mu.RUnlock()
	if key.Secret != nil && fresh {
		return key, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.minting.Secret != nil && now.Sub(n.reloaded).Abs() < nonceKeyRefresh {
		return n.minting, nil
	}
	if err := n.load(ctx, now); err != nil {
		return issuance.NonceKey{}, err
	}
	if n.newest.Secret == nil || !now.Before(n.newest.CreatedAt.Add(nonceKeyLifetime)) {
		secret := make([]byte, 32)
		if _, err := io.ReadFull(n.random, secret); err != nil {
			return issuance.NonceKey{}, err
		}
		if _, err := n.store.AddNonceKey(ctx, now, n.newest.ID, secret); err != nil {
			return issuance.NonceKey{}, err
		}
		if err := n.load(ctx, now); err != nil {
			return issuance.NonceKey{}, err
		}
	}
	return n.minting, nil
}

// key finds a key by id; an unknown id costs a read of the store at most every few seconds.
func (n *nonces) key(ctx context.Context, now time.Time, id uint32) (issuance.NonceKey, bool, error) {
	n.mu.RLock()
	key, ok := n.keys[id]
	fresh := now.Sub(n.reloaded).Abs() < nonceKeyReload
	n.mu.RUnlock()
	if ok || fresh {
		return key, ok, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.load(ctx, now); err != nil {
		return issuance.NonceKey{}, false, err
	}
	key, ok = n.keys[id]
	return key, ok, nil
}

// load reads the keys; the caller holds the lock.
func (n *nonces) load(ctx context.Context, now time.Time) error {
	keys, err := n.store.NonceKeys(ctx)
	if err != nil {
		return fmt.Errorf("load nonce keys: %w", err)
	}
	n.reloaded = now
	n.keys = make(map[uint32]issuance.NonceKey, len(keys))
	n.newest, n.minting = issuance.NonceKey{}, issuance.NonceKey{}
	for _, k := range keys { // oldest first
		n.keys[k.ID], n.newest = k, k
		if n.minting.Secret == nil || !now.Before(k.CreatedAt.Add(issuance.NonceKeyLead)) {
			n.minting = k
		}
	}
	return nil
}
