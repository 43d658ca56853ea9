package standin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"assay/attest"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Device is what the evidence says of the device. What is empty or nil is left out, as Apple does
// with serial and UDID under User Enrollment.
type Device struct {
	Serial       string
	UDID         string
	ProductType  string
	OSVersion    string
	SepOSVersion string
	LLBVersion   string
	SecureBoot   string // Full Security, Reduced Security, Permissive Security
	SIP          *bool  // whether System Integrity Protection is enabled
	Kexts        *bool  // whether kernel extensions of third parties are allowed
}

// Subject is what to attest.
type Subject struct {
	PublicKey crypto.PublicKey // the device's key; the CSR must be for the same
	Token     string           // the challenge's token, as sent in JSON
	// KeyAuthorization is used by one mutation alone; made up from the token if empty.
	KeyAuthorization string
	Device           Device
	Now              time.Time
	Mutation         Mutation // the zero value changes nothing
}

// Attest makes the CBOR attestation object for a subject, with its mutation applied.
func (a *Authority) Attest(s Subject) ([]byte, error) {
	if sound, unsound := isEnclaveKey(s.PublicKey), s.Mutation.NewKey != nil; sound == unsound {
		if unsound {
			return nil, fmt.Errorf("attest with mutation %s: the key is not one of its NewKey", s.Mutation.Name)
		}
		return nil, errors.New("attest: the key is not on the curve P-256 or P-384, as a Secure Enclave's is")
	}
	p, err := a.plan(s)
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	m := s.Mutation
	if m.plan != nil {
		if err := m.plan(a, s, p); err != nil {
			return nil, fmt.Errorf("attest with mutation %s: %w", m.Name, err)
		}
	}
	x5c, err := p.sign(a)
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	if m.chain != nil {
		if x5c, err = m.chain(a, s, x5c); err != nil {
			return nil, fmt.Errorf("attest with mutation %s: %w", m.Name, err)
		}
	}
	if m.encode != nil {
		return m.encode(x5c), nil
	}
	return encodeObject(attest.FormatApple, x5c), nil
}

// isEnclaveKey reports whether a Secure Enclave can hold a key of this type.
func isEnclaveKey(key crypto.PublicKey) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && (k.Curve == elliptic.P256() || k.Curve == elliptic.P384())
}

// plan is evidence before it is signed: what a mutation may change.
type plan struct {
	leaf       *x509.Certificate // template; everything but the key
	key        crypto.PublicKey
	commonName string
	extensions []pkix.Extension  // of the leaf, in order
	issuer     issuer            // signs the leaf; its certificate follows in x5c
	root       *x509.Certificate // sent last; nil, as from devices, if it is not
}

var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// appleOID is an OID of Apple's attestation properties.
func appleOID(group, property int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, group, property}
}

// The properties that evidence carries.
var (
	oidSerial       = appleOID(9, 1)
	oidUDID         = appleOID(9, 2)
	oidProductType  = appleOID(9, 4)
	oidOSVersion    = appleOID(10, 1)
	oidSepOSVersion = appleOID(10, 2)
	oidLLBVersion   = appleOID(10, 3)
	oidFreshness    = appleOID(11, 1)
	oidSIP          = appleOID(13, 1)
	oidSecureBoot   = appleOID(13, 2)
	oidKexts        = appleOID(13, 3)
)

// plan describes the leaf that Apple would issue: extensions in Apple's order, values raw.
func (a *Authority) plan(s Subject) (*plan, error) {
	serial, err := randomSerial(a.random, 6)
	if err != nil {
		return nil, err
	}
	name, err := keyName(s.PublicKey)
	if err != nil {
		return nil, err
	}
	p := &plan{
		leaf: &x509.Certificate{
			SerialNumber:       serial,
			NotBefore:          s.Now.Add(-backdate).UTC(),
			NotAfter:           s.Now.Add(leafLifetime).UTC(),
			SignatureAlgorithm: x509.ECDSAWithSHA384,
		},
		key:        s.PublicKey,
		commonName: name,
		extensions: []pkix.Extension{
			{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 0x00}},
			{Id: oidKeyUsage, Critical: true, Value: []byte{0x03, 0x02, 0x04, 0xf0}},
		},
		issuer: a.subCA,
	}
	d := s.Device
	p.addText(oidSepOSVersion, d.SepOSVersion)
	p.addText(oidLLBVersion, d.LLBVersion)
	p.addText(oidOSVersion, d.OSVersion)
	p.addText(oidProductType, d.ProductType)
	p.addText(oidSecureBoot, d.SecureBoot)
	if d.SIP != nil {
		p.addInteger(oidSIP, !*d.SIP) // 0 is enabled
	}
	if d.Kexts != nil {
		p.addInteger(oidKexts, *d.Kexts)
	}
	p.addText(oidSerial, d.Serial)
	p.addText(oidUDID, d.UDID)
	freshness := sha256.Sum256([]byte(s.Token))
	p.extensions = append(p.extensions, pkix.Extension{Id: oidFreshness, Value: freshness[:]}, marker())
	return p, nil
}

func (p *plan) addText(oid asn1.ObjectIdentifier, value string) {
	if value != "" {
		p.extensions = append(p.extensions, pkix.Extension{Id: oid, Value: []byte(value)})
	}
}

// addInteger adds a DER INTEGER of 0 or 1.
func (p *plan) addInteger(oid asn1.ObjectIdentifier, one bool) {
	value := []byte{0x02, 0x01, 0x00}
	if one {
		value[2] = 1
	}
	p.extensions = append(p.extensions, pkix.Extension{Id: oid, Value: value})
}

// set replaces the value of an extension, or adds the extension before the last if it is missing.
func (p *plan) set(oid asn1.ObjectIdentifier, value []byte) {
	for i := range p.extensions {
		if p.extensions[i].Id.Equal(oid) {
			p.extensions[i].Value = value
			return
		}
	}
	p.extensions = slices.Insert(p.extensions, len(p.extensions)-1, pkix.Extension{Id: oid, Value: value})
}

// remove takes an extension out.
func (p *plan) remove(oid asn1.ObjectIdentifier) {
	p.extensions = slices.DeleteFunc(p.extensions, func(e pkix.Extension) bool { return e.Id.Equal(oid) })
}

// sign issues the leaf and returns it with its issuer's certificate.
func (p *plan) sign(a *Authority) ([][]byte, error) {
	template := *p.leaf
	if template.RawSubject == nil {
		subject, err := leafSubject(p.commonName)
		if err != nil {
			return nil, err
		}
		template.RawSubject = subject
	}
	template.ExtraExtensions = p.extensions
	// A copy without key identifier, so that crypto/x509 adds no authorityKeyIdentifier: Apple's
	// leaves have none.
	by := *p.issuer.certificate
	by.SubjectKeyId, by.PublicKey = nil, nil
	leaf, err := x509.CreateCertificate(a.random, &template, &by, p.key, p.issuer.key)
	if err != nil {
		return nil, fmt.Errorf("issue leaf: %w", err)
	}
	x5c := [][]byte{leaf, p.issuer.certificate.Raw}
	if p.root != nil {
		x5c = append(x5c, p.root.Raw)
	}
	return x5c, nil
}

// leafUnit is the organizational unit of Apple's leaves.
const leafUnit = "AAA Certification"

// leafSubject is the name of a leaf in Apple's order and string type.
func leafSubject(commonNames ...string) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range commonNames {
			addRDN(b, 3, name)
		}
		addRDN(b, 11, leafUnit)
		addRDN(b, 10, organization)
		addRDN(b, 8, "California")
	})
	return b.Bytes()
}

// addRDN adds one attribute of the arc 2.5.4 as an RDN.
func addRDN(b *cryptobyte.Builder, attribute int, value string) {
	b.AddASN1(cryptobyteasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 4, attribute})
			b.AddASN1(cryptobyteasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
}

// keyName is the lower-case hex SHA-256 of a key's bit string: of an elliptic curve's the
// uncompressed point.
func keyName(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return "", err
	}
	sum := sha256.Sum256(spki.Key.Bytes)
	return hex.EncodeToString(sum[:]), nil
}

type appleStatement struct {
	X5C [][]byte `cbor:"x5c"`
}

// encodeObject encodes an attestation object with its members in Apple's order.
func encodeObject(format string, x5c [][]byte) []byte {
	return encode(struct {
		Format    string         `cbor:"fmt"`
		Statement appleStatement `cbor:"attStmt"`
	}{format, appleStatement{x5c}})
}

// encode encodes values that CBOR can always hold.
func encode(v any) []byte {
	data, err := cbor.Marshal(v)
	if err != nil {
		panic("standin: encode CBOR: " + err.Error()) // strings and bytes of our own cannot fail
	}
	return data
}
