package store

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sync"
)

// KeySize is the length of Options.Key in bytes.
const KeySize = 32

// sealer encrypts values that must not be readable from a stolen database.
type sealer struct {
	aead   cipher.AEAD
	random io.Reader
}

func newSealer(key []byte, random io.Reader) (*sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("database key has %d bytes, not %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead: aead, random: &lockedReader{r: randomOrDefault(random)}}, nil
}

// seal encrypts a value that belongs to the row named by about: copied to another row, it does not
// open. Form: nonce (12 bytes) ‖ AES-256-GCM ciphertext.
func (s *sealer) seal(value []byte, about string) ([]byte, error) {
	out := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(value)+s.aead.Overhead())
	if _, err := io.ReadFull(s.random, out); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return s.aead.Seal(out, out, value, []byte(about)), nil
}

// unseal decrypts what seal made for the same row.
func (s *sealer) unseal(sealed []byte, about string) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("sealed value is too short")
	}
	value, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(about))
	if err != nil {
		return nil, fmt.Errorf("sealed value of %s does not open with this database key: %w", about, err)
	}
	return value, nil
}

// lockedReader lets several goroutines share one source of randomness.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}
