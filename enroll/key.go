package enroll

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"assay/credential"
)

// Protection says what holds a private key.
type Protection string

// The protections that this package offers itself; other key makers name their own.
const (
	InSoftware     Protection = "software"
	EnclaveStandIn Protection = "secure-enclave-stand-in"
)

// KeySpec is the key pair that a credential document asks for.
type KeySpec struct {
	Type          credential.KeyType `json:"keyType"`
	Size          int                `json:"keySize"` // bits
	HardwareBound bool               `json:"hardwareBound"`
}

// Key is a device key.
type Key interface {
	crypto.Signer

	// Protection names what holds the private key.
	Protection() Protection

	// Handle is what the identity store keeps so that KeyMaker.OpenKey finds the key again: the
	// private key itself if it is in software, a reference or wrapped blob if hardware has it.
	Handle() (*pem.Block, error)
}

// KeyMaker makes device keys and finds them again. MakeKey returns an error for a specification
// that it cannot honour and never makes a weaker key instead.
type KeyMaker interface {
	MakeKey(ctx context.Context, spec KeySpec) (Key, error)
	OpenKey(handle *pem.Block, protection Protection) (Key, error)
}

// Keys makes a simulated device's keys: software keys, and stand-ins for the Secure Enclave's where
// the device's chip has one.
//
// WARNING: a stand-in is an ordinary key in memory. It has the Secure Enclave's limits (P-256 and
// P-384 only, the private key is given to nobody but the identity store), not its protection.
func Keys(device *Device) KeyMaker { return simulatedKeys{device} }

type simulatedKeys struct{ device *Device }

func (k simulatedKeys) MakeKey(ctx context.Context, spec KeySpec) (Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if spec.HardwareBound && !k.device.HasEnclave() {
		return nil, fmt.Errorf("make key: a %s with chip %s cannot hold hardware-bound keys", k.device.Class, k.device.Chip)
	}
	if spec.HardwareBound && (spec.Type != credential.EC || spec.Size != 256 && spec.Size != 384) {
		return nil, errors.New("make key: hardware-bound keys are P-256 or P-384")
	}
	private, err := generate(spec)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if spec.HardwareBound {
		return enclaveKey{private}, nil
	}
	return softwareKey{private}, nil
}

func generate(spec KeySpec) (crypto.Signer, error) {
	switch spec.Type {
	case credential.RSA:
		if spec.Size < 1024 || spec.Size > 4096 || spec.Size%8 != 0 {
			return nil, errors.New("RSA keys have 1024 to 4096 bits, a multiple of 8")
		}
		return rsa.GenerateKey(rand.Reader, spec.Size)
	case credential.EC:
		switch spec.Size {
		case 256:
			return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case 384:
			return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		case 521:
			return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		}
		return nil, errors.New("elliptic curve keys have 256, 384 or 521 bits")
	}
	return nil, fmt.Errorf("unknown key type %.40q", spec.Type)
}

func (k simulatedKeys) OpenKey(handle *pem.Block, protection Protection) (Key, error) {
	if handle == nil || handle.Type != "PRIVATE KEY" {
		return nil, errors.New("open key: not a PKCS#8 private key")
	}
	private, err := x509.ParsePKCS8PrivateKey(handle.Bytes)
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("open key: a %T cannot sign", private)
	}
	switch protection {
	case InSoftware:
		return softwareKey{signer}, nil
	case EnclaveStandIn:
		return enclaveKey{signer}, nil
	}
	return nil, fmt.Errorf("open key: protection %.40q is not a simulated one", protection)
}

// softwareKey is a key that the system keeps in its keychain.
type softwareKey struct{ crypto.Signer }

func (softwareKey) Protection() Protection { return InSoftware }

func (k softwareKey) Handle() (*pem.Block, error) { return pkcs8(k.Signer) }

// enclaveKey stands in for a key in the Secure Enclave. The private key is in an unexported field,
// so that no caller can convert the crypto.Signer back and export it by accident.
type enclaveKey struct{ private crypto.Signer }

func (k enclaveKey) Public() crypto.PublicKey { return k.private.Public() }

func (k enclaveKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.private.Sign(random, digest, opts)
}

func (enclaveKey) Protection() Protection { return EnclaveStandIn }

func (k enclaveKey) Handle() (*pem.Block, error) { return pkcs8(k.private) }

func pkcs8(private crypto.Signer) (*pem.Block, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("save key: %w", err)
	}
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}, nil
}
