package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/csr"
	"assay/deviceid"
)

// testNow is the time of every test.
var testNow = time.Date(2026, 3, 1, 12, 30, 15, 500, time.UTC)

const (
	testID  = "cert_06b4x0d1m8k2q6v4y7z9w3r5t1"
	testURL = "http://id.example.com"
)

// Device keys are made once: RSA keys are slow to make.
var (
	p256Key    = sync.OnceValue(func() crypto.Signer { return deviceKey(elliptic.P256()) })
	p384Key    = sync.OnceValue(func() crypto.Signer { return deviceKey(elliptic.P384()) })
	p521Key    = sync.OnceValue(func() crypto.Signer { return deviceKey(elliptic.P521()) })
	rsa2048Key = sync.OnceValue(func() crypto.Signer { return deviceRSA(2048) })
	rsa1024Key = sync.OnceValue(func() crypto.Signer { return deviceRSA(1024) })
	issuerRSA  = sync.OnceValue(func() crypto.Signer { return deviceRSA(2048) })
)

func deviceKey(curve elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func deviceRSA(bits int) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// testAuthority is a root and an issuer under it.
func testAuthority(t testing.TB, algorithm KeyAlgorithm) (*Root, *Issuer) {
	t.Helper()
	rootKey := must(GenerateKey(algorithm))(t)
	key := must(GenerateKey(algorithm))(t)
	root := must(NewRoot("Example Inc.", rootKey, testNow))(t)
	certificate := must(root.NewIssuing("Example Inc.", key.Public(), testNow))(t)
	return root, must(NewIssuer("issuer_1", [][]byte{certificate.Raw}, key, testURL))(t)
}

// asking is a request in the making.
type asking struct {
	key      crypto.Signer // nil: P-256
	subject  csr.Name
	altNames []csr.AltName
	keyUsage csr.KeyUsage
	ext      []string // nil: clientAuth, as a device does
	other    []pkix.Extension
}

// parsed builds the PKCS#10 request as a device does and reads it back.
func (a asking) parsed(t testing.TB) *csr.Request {
	t.Helper()
	if a.key == nil {
		a.key = p256Key()
	}
	if a.ext == nil {
		a.ext = []string{csr.ClientAuth}
	}
	template := &x509.CertificateRequest{RawSubject: must(encodeName(a.subject))(t), ExtraExtensions: a.other}
	if a.altNames != nil {
		der := must(encodeAltNames(a.altNames))(t)
		if der == nil {
			der = emptySequence
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidSubjectAltName, Value: der})
	}
	if a.keyUsage != 0 {
		bits := asn1.BitString{Bytes: make([]byte, 2), BitLength: 9}
		for bit := range 9 {
			if a.keyUsage&(1<<bit) != 0 {
				bits.Bytes[bit/8] |= 0x80 >> (bit % 8)
			}
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidKeyUsage, Critical: true, Value: must(asn1.Marshal(bits))(t)})
	}
	template.ExtraExtensions = append(template.ExtraExtensions, must(extKeyUsageExtension(a.ext))(t))
	return must(csr.Parse(must(x509.CreateCertificateRequest(rand.Reader, template, a.key))(t)))(t)
}

// minted is what the credential says that makes a device ask so.
func (a asking) minted(t testing.TB) *csr.Request {
	t.Helper()
	parsed := a.parsed(t)
	parsed.PublicKey, parsed.SPKI, parsed.OtherExtensions = nil, nil, nil
	parsed.ExtKeyUsage = a.ext
	return parsed
}

// appleAsking asks for all that a credential can say.
func appleAsking() asking {
	return asking{
		subject: csr.Name{one("2.5.4.6", "US"), one("2.5.4.10", "Example Inc."), one("2.5.4.3", "Anna's iPhone"),
			one("1.2.840.113635.100.6.99999.99999", "test custom OID välue")},
		altNames: []csr.AltName{
			{Kind: csr.AltEmail, Value: "anna@example.com"}, {Kind: csr.AltDNS, Value: "site.example.com"},
			{Kind: csr.AltURI, Value: "https://www.example.com/"}, {Kind: csr.AltUPN, Value: "anna@corp.example.com"},
		},
		keyUsage: 1, ext: []string{csr.ClientAuth},
	}
}

func one(id, value string) []csr.Attribute { return []csr.Attribute{{Type: id, Value: value}} }

func attested() []deviceid.Identifier {
	return []deviceid.Identifier{{Kind: deviceid.Serial, Value: "C02XG0ZZ"}, {Kind: deviceid.UDID, Value: "00008110-001A2B3C4D5E6F70"}}
}

func permanent(t testing.TB, value string) csr.AltName {
	t.Helper()
	name := deviceid.PermanentIdentifier{Value: value}
	return csr.AltName{Kind: csr.AltPermanentIdentifier, Value: value, Raw: must(name.GeneralName())(t)}
}

func module(t testing.TB, serial, hwType string) csr.AltName {
	t.Helper()
	name := deviceid.HardwareModule{SerialNumber: serial, Type: hwType}
	return csr.AltName{Kind: csr.AltHardwareModule, Value: name.String(), Raw: must(name.GeneralName())(t)}
}

// profile is the default profile, changed and still valid.
func profile(t testing.TB, change func(*Profile)) *Profile {
	t.Helper()
	p := DefaultProfile()
	if change != nil {
		change(p)
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	return p
}

func pattern(t testing.TB, text string) Pattern {
	t.Helper()
	var p Pattern
	if err := p.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return p
}

// issued grants and issues, and returns the parsed certificate.
func issued(t testing.TB, issuer *Issuer, p *Profile, in GrantInput) (*x509.Certificate, *Grant) {
	t.Helper()
	if in.IdentityID == "" {
		in.IdentityID = testID
	}
	grant, err := p.Grant(in)
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, issuer, p, grant, in.Request.PublicKey), grant
}

func signed(t testing.TB, issuer *Issuer, p *Profile, grant *Grant, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	_, serial, err := NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	notBefore, notAfter, err := issuer.Window(p, testNow)
	if err != nil {
		t.Fatal(err)
	}
	der, err := issuer.Issue(t.Context(), IssueInput{Serial: serial, Grant: grant, PublicKey: key, NotBefore: notBefore, NotAfter: notAfter, Shard: ShardOf(serial, 4)})
	if err != nil {
		t.Fatal(err)
	}
	return must(x509.ParseCertificate(der))(t)
}

// namesIn are the alternative names of a certificate.
func namesIn(t testing.TB, certificate *x509.Certificate) []csr.AltName {
	t.Helper()
	value := extensionOf(certificate, oidSubjectAltName)
	if value == nil {
		return nil
	}
	// A request with the certificate's extension is read as any request is.
	template := &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: value.Value}}}
	return must(csr.Parse(must(x509.CreateCertificateRequest(rand.Reader, template, p256Key()))(t)))(t).AltNames
}

// subjectOf is the subject of a certificate with its string types.
func subjectOf(t testing.TB, certificate *x509.Certificate) csr.Name {
	t.Helper()
	template := &x509.CertificateRequest{RawSubject: certificate.RawSubject}
	return must(csr.Parse(must(x509.CreateCertificateRequest(rand.Reader, template, p256Key()))(t)))(t).Subject
}

func extensionOf(certificate *x509.Certificate, id asn1.ObjectIdentifier) *pkix.Extension {
	for n := range certificate.Extensions {
		if certificate.Extensions[n].Id.Equal(id) {
			return &certificate.Extensions[n]
		}
	}
	return nil
}

func requireRefusal(t testing.TB, err error, problem, check string) {
	t.Helper()
	refusal, ok := errors.AsType[*csr.Error](err)
	if !ok {
		t.Fatalf("error is %v, want a refusal %s", err, check)
	}
	if refusal.Problem != problem || refusal.Check != check {
		t.Errorf("refused with %s %s (%s), want %s %s", refusal.Problem, refusal.Check, refusal.Detail, problem, check)
	}
}

// rawAttribute is an attribute of a given string type.
func rawAttribute(id string, tag cbasn1.Tag, encoded, text string) csr.Attribute {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, id)
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(encoded)) })
	})
	return csr.Attribute{Type: id, Value: text, Raw: b.BytesOrPanic()}
}
