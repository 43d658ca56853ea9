package attest

import "crypto/x509"

// ReadAppleProperties reads a leaf's properties without verifying anything.
func ReadAppleProperties(leaf *x509.Certificate) (*Facts, error) {
	f := &Facts{}
	err := readAppleProperties(leaf, f)
	return f, err
}

// Remembered counts the intermediates that a verifier remembers.
func (v *Verifier) Remembered() int { return len(v.intermediates.known) }

// RememberForTest remembers a certificate as if its signature had been verified.
func (v *Verifier) RememberForTest(c, issuer *x509.Certificate) { v.intermediates.remember(c, issuer) }

const (
	MaxIntermediates = maxIntermediates
	MaxDeviceError   = maxDeviceError
)
