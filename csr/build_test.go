package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"sync"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Keys are made once: RSA keys are slow to make.
var (
	ecKey  = sync.OnceValue(func() crypto.Signer { return newEC(elliptic.P256()) })
	rsaKey = sync.OnceValue(func() crypto.Signer { return newRSA(2048) })
)

func newEC(curve elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func newRSA(bits int) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

// draft is a request in the making; each field replaces the sound part. The signature is made over
// what results, so that a test reaches the check that it is about.
type draft struct {
	key        crypto.Signer
	version    int64
	subject    []byte // RDNSequence
	spki       []byte
	attributes [][]byte // Attribute elements
	algorithm  []byte   // AlgorithmIdentifier
	hash       crypto.Hash
	tail       []byte // after the request
	signedBy   crypto.Signer
}

// der encodes and signs the draft.
func (d draft) der(t testing.TB) []byte {
	t.Helper()
	if d.key == nil {
		d.key = ecKey()
	}
	if d.signedBy == nil {
		d.signedBy = d.key
	}
	if d.spki == nil {
		d.spki = must(x509.MarshalPKIXPublicKey(d.key.Public()))(t)
	}
	if d.subject == nil {
		d.subject = seq()
	}
	if d.hash == 0 {
		d.hash = crypto.SHA256
	}
	if d.algorithm == nil {
		d.algorithm = seq(oid("1.2.840.10045.4.3.2"))
		if _, isRSA := d.signedBy.(*rsa.PrivateKey); isRSA {
			d.algorithm = seq(oid("1.2.840.113549.1.1.11"), tlv(cbasn1.NULL))
		}
	}
	var version cryptobyte.Builder
	version.AddASN1Int64(d.version)
	info := seq(must(version.Bytes())(t), d.subject, d.spki,
		tlv(cbasn1.Tag(0).Constructed().ContextSpecific(), d.attributes...))
	hash := d.hash.New()
	hash.Write(info)
	signature := must(d.signedBy.Sign(rand.Reader, hash.Sum(nil), d.hash))(t)
	return append(seq(info, d.algorithm, tlv(cbasn1.BIT_STRING, []byte{0}, signature)), d.tail...)
}

// must unwraps a value that a test needs.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func tlv(tag cbasn1.Tag, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		for _, part := range parts {
			b.AddBytes(part)
		}
	})
	return b.BytesOrPanic()
}

func seq(parts ...[]byte) []byte { return tlv(cbasn1.SEQUENCE, parts...) }

func oid(dotted string) []byte {
	id, err := x509.ParseOID(dotted)
	if err != nil {
		panic(err)
	}
	content, err := id.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return tlv(cbasn1.OBJECT_IDENTIFIER, content)
}

// rdn is one RDN of one attribute.
func rdn(dotted string, tag cbasn1.Tag, value string) []byte {
	return tlv(cbasn1.SET, attribute(dotted, tag, value))
}

func attribute(dotted string, tag cbasn1.Tag, value string) []byte {
	return seq(oid(dotted), tlv(tag, []byte(value)))
}

// requesting is the attribute list with one extensionRequest.
func requesting(extensions ...[]byte) [][]byte {
	return [][]byte{seq(oid(oidExtensionRequest), tlv(cbasn1.SET, seq(extensions...)))}
}

func extension(dotted string, value []byte) []byte {
	return seq(oid(dotted), tlv(cbasn1.OCTET_STRING, value))
}

func critical(dotted string, value []byte) []byte {
	return seq(oid(dotted), tlv(cbasn1.BOOLEAN, []byte{0xff}), tlv(cbasn1.OCTET_STRING, value))
}

// san is a subjectAltName extension.
func san(names ...[]byte) []byte { return extension(oidAltName, seq(names...)) }

func ia5(tag uint8, value string) []byte {
	return tlv(cbasn1.Tag(tag).ContextSpecific(), []byte(value))
}

func otherName(dotted string, value []byte) []byte {
	return tlv(cbasn1.Tag(0).ContextSpecific().Constructed(), oid(dotted),
		tlv(cbasn1.Tag(0).ContextSpecific().Constructed(), value))
}

// appleLike is a request as Apple's client builds it from its documentation's own example.
func appleLike() draft {
	return draft{
		subject: seq(
			rdn("2.5.4.6", cbasn1.PrintableString, "US"),
			rdn("2.5.4.10", cbasn1.PrintableString, "Example Inc."),
			rdn("1.2.840.113635.100.6.99999.99999", cbasn1.PrintableString, "test custom OID value"),
		),
		attributes: requesting(
			san(ia5(1, "rfc822"), ia5(2, "site.example.com"), ia5(6, "https://www.example.com/"),
				otherName(oidUPN, tlv(cbasn1.UTF8String, []byte("Principal Example")))),
			extension(oidExtKeyUsage, seq(oid(ClientAuth))),
			critical(oidKeyUsage, tlv(cbasn1.BIT_STRING, []byte{5, 0xa0})),
		),
	}
}
