package attest

import (
	"crypto/x509"
	"sync"
)

// maxIntermediates bounds what is remembered. Only certificates that a configured root issued,
// directly or not, get this far, and manufacturers have a handful.
const maxIntermediates = 64

// intermediates remembers CA certificates whose signature verified, by their exact bytes. That a
// key made a signature stays true for ever; validity, constraints and roots do not, and are
// checked at every use. The zero value remembers nothing yet.
type intermediates struct {
	mu    sync.RWMutex
	known map[string]*intermediate // by DER
}

type intermediate struct {
	certificate *x509.Certificate
	issuerKey   string // DER SubjectPublicKeyInfo of the key that made the signature
}

// find returns the parsed form of a remembered certificate, or nil.
func (m *intermediates) find(der []byte) *x509.Certificate {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if known := m.known[string(der)]; known != nil {
		return known.certificate
	}
	return nil
}

// isSignedBy reports whether the certificate's signature was verified with this issuer's key.
func (m *intermediates) isSignedBy(c, issuer *x509.Certificate) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	known := m.known[string(c.Raw)]
	return known != nil && known.issuerKey == string(issuer.RawSubjectPublicKeyInfo)
}

// remember notes that the certificate's signature was verified with this issuer's key. When full
// it forgets any one other: that costs a verification, never a wrong answer.
func (m *intermediates) remember(c, issuer *x509.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[string]*intermediate{}
	}
	if len(m.known) >= maxIntermediates {
		for der := range m.known {
			delete(m.known, der)
			break
		}
	}
	m.known[string(c.Raw)] = &intermediate{certificate: c, issuerKey: string(issuer.RawSubjectPublicKeyInfo)}
}
