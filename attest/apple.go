package attest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"strings"
)

// FormatApple is the fmt of Apple's managed device attestations. What ACME clients of Apple send under
// this name is not the "apple" format of the WebAuthn registry: there is no authData, and the
// certificate's extensions are others.
const FormatApple = "apple"

var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidAppleFreshness = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 11, 1}
)

// failedApple: a device whose attestation failed sends an empty x5c beside its error text.
func failedApple(statement []byte) bool {
	certificates, err := decodeX5C(statement)
	return err == nil && len(certificates) == 0
}

// verifyApple verifies a statement of Apple's attestation servers: chain, leaf, key, freshness,
// properties, in the order in which Apple advises.
//
// WARNING: there is no revocation source for these certificates, so none is asked.
func verifyApple(v *Verifier, statement []byte, p Params) (*Facts, error) {
	ders, err := decodeX5C(statement)
	if err != nil {
		return nil, refuse(CheckStatementWellFormed, "the statement has no x5c that is an array of byte strings", err)
	}
	chain, err := v.verifyChain(ders, p)
	if err != nil {
		return nil, err
	}
	leaf := chain.certificates[0]
	if err := checkAppleLeaf(leaf); err != nil {
		return nil, err
	}
	if err := checkAppleFreshness(leaf, p.Token); err != nil {
		return nil, err
	}
	facts := &Facts{
		Format:     FormatApple,
		PublicKey:  leaf.RawSubjectPublicKeyInfo,
		KeyType:    curveName(leaf.PublicKey),
		Protection: SecureEnclave,
		Fresh:      true,
		NotBefore:  leaf.NotBefore,
		NotAfter:   leaf.NotAfter,
		Root:       RootFact{Name: chain.root.Name, SHA256: chain.root.SHA256, StandIn: isMarked(chain.root.Certificate)},
	}
	if err := readAppleProperties(leaf, facts); err != nil {
		return nil, err
	}
	return facts, nil
}

// checkAppleLeaf checks what every attestation leaf of Apple's has: constraints, usage, and a key
// that its common name vouches for.
func checkAppleLeaf(leaf *x509.Certificate) error {
	constraints := findExtension(leaf, oidBasicConstraints)
	if constraints == nil || !constraints.Critical || leaf.IsCA {
		return refuse(CheckLeafNotCA, "the leaf does not say, critically, that it is no CA", nil)
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(CheckLeafUsage, "the leaf's key usage does not allow digital signatures", nil)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !acceptableKey(key) {
		return refuse(CheckKeyType, "the attested key is not on the curve P-256 or P-384", nil)
	}
	point, err := key.Bytes()
	if err != nil {
		return refuse(CheckKeyType, "the attested key is no point of its curve", err)
	}
	name := sha256.Sum256(point)
	if got, single := commonName(leaf); !single || got != hex.EncodeToString(name[:]) {
		return refuse(CheckKeyName, "the leaf's common name is not the SHA-256 of the attested key", nil)
	}
	return nil
}

// checkAppleFreshness compares the freshness code with the SHA-256 of the token, as the string that
// JSON carried: neither decoded nor made a key authorization. Blank is absent, as everywhere.
func checkAppleFreshness(leaf *x509.Certificate, token string) error {
	code := findExtension(leaf, oidAppleFreshness)
	if code == nil || len(code.Value) == 0 {
		return refuse(CheckFreshnessPresent, "the evidence carries no freshness code", nil)
	}
	want := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(code.Value, want[:]) != 1 {
		return refuse(CheckFreshness, "the freshness code is not the SHA-256 of this challenge's token", nil)
	}
	return nil
}

// commonName returns the subject's common name, and whether there is exactly one.
func commonName(c *x509.Certificate) (name string, single bool) {
	count := 0
	for _, attribute := range c.Subject.Names {
		if attribute.Type.Equal(oidCommonName) {
			count++
			name, _ = attribute.Value.(string)
		}
	}
	return name, count == 1
}

// curveName is the name of an elliptic curve key's curve, "" for other keys.
func curveName(key any) string {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return ""
	}
	return k.Curve.Params().Name
}

// appleArc is where Apple's attestation properties lie.
const appleArc = "1.2.840.113635.100.8."

func isAppleProperty(oid string) bool { return strings.HasPrefix(oid, appleArc) }
