package csr

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"pgregory.net/rapid"

	"assay/deviceid"
)

// seeds are real requests: Apple's form, those of crypto/x509 with each kind of key, and one that
// says everything that is read.
func seeds(f *testing.F) [][]byte {
	f.Helper()
	permanent := must(deviceid.PermanentIdentifier{Value: "C02XG0ZZ"}.GeneralName())(f)
	everything := appleLike()
	everything.attributes = requesting(san(permanent, ia5(7, "\x7f\x00\x00\x01"), ia5(2, "a.example.com")),
		critical("2.5.29.19", seq()), extension(oidExtKeyUsage, seq(oid(ClientAuth))))
	everything.subject = seq(tlv(cbasn1.SET,
		attribute("2.5.4.3", cbasn1.UTF8String, "ä"), attribute("2.5.4.5", tagBMPString, "\x00A")))
	list := [][]byte{appleLike().der(f), everything.der(f), draft{key: rsaKey()}.der(f)}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"a.example.com"}}
	list = append(list, must(x509.CreateCertificateRequest(rand.Reader, template, newEC(elliptic.P521())))(f))
	return list
}

func FuzzParse(f *testing.F) {
	list := seeds(f)
	for _, der := range list {
		if _, err := Parse(der); err != nil {
			f.Fatalf("seed is refused: %v", err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := Parse(der)
		if err != nil {
			return
		}
		requireSane(t, r)
	})
}

// FuzzParseNames reaches past the signature, which a mutation never satisfies.
func FuzzParseNames(f *testing.F) {
	f.Add([]byte(seq(rdn("2.5.4.3", cbasn1.UTF8String, "x"))), seq(ia5(1, "a@example.com"), otherName(oidUPN, tlv(cbasn1.UTF8String, []byte("u")))))
	f.Add([]byte(seq(rdn("2.5.4.3", tagBMPString, "\x00x"))), seq(must(deviceid.PermanentIdentifier{Value: "C02XG0ZZ"}.GeneralName())(f)))
	f.Fuzz(func(t *testing.T, subject, names []byte) {
		r := &Request{KeyType: EC, KeySize: 256}
		var err error
		if r.Subject, err = parseName(subject); err != nil {
			return
		}
		if r.AltNames, err = parseAltNames(names); err != nil {
			return
		}
		requireSane(t, r)
	})
}

// requireSane holds what every accepted request promises.
func requireSane(t *testing.T, r *Request) {
	t.Helper()
	for _, set := range r.Subject {
		for _, a := range set {
			if a.Value == "" || !utf8.ValidString(a.Value) || strings.ContainsAny(a.Value, "\x00\n\r") || len(a.Raw) == 0 {
				t.Errorf("attribute %+v", a)
			}
		}
	}
	for _, name := range r.AltNames {
		if name.Value == "" || len(name.Raw) == 0 {
			t.Errorf("alternative name %+v", name)
		}
		if name.Kind == AltOther && name.Value != hex.EncodeToString(name.Raw) {
			t.Errorf("alternative name %+v is not its own bytes", name)
		}
	}
}

func TestNamesSurviveParse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		types := rapid.SampledFrom([]string{"2.5.4.3", "2.5.4.10", "1.2.840.113635.100.6.99999.99999"})
		value := rapid.StringMatching(`[a-zA-Z0-9 äß€.@_*-]{1,40}`)
		var want Name
		var der [][]byte
		for range rapid.IntRange(0, 6).Draw(rt, "rdns") {
			var set []Attribute
			var parts [][]byte
			for range rapid.IntRange(1, 3).Draw(rt, "attributes") {
				a := Attribute{Type: types.Draw(rt, "type"), Value: value.Draw(rt, "value")}
				tag := cbasn1.UTF8String
				if IsPrintableString(a.Value) {
					tag = cbasn1.PrintableString
				}
				set, parts = append(set, a), append(parts, attribute(a.Type, tag, a.Value))
			}
			want, der = append(want, set), append(der, tlv(cbasn1.SET, parts...))
		}
		var content cryptobyte.String
		sequence := cryptobyte.String(seq(der...))
		sequence.ReadASN1(&content, cbasn1.SEQUENCE)
		got, err := parseName(content)
		if err != nil {
			rt.Fatal(err)
		}
		if !got.Equal(want) {
			rt.Fatalf("%v became %v", want, got)
		}
	})
}
