package attest_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"assay/attest"
	"assay/deviceid"

	"github.com/google/go-cmp/cmp"
)

// property is an extension under Apple's arc for attestation.
func property(value string, arcs ...int) pkix.Extension {
	return pkix.Extension{Id: append(asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8}, arcs...), Value: []byte(value)}
}

func TestAppleProperties(t *testing.T) {
	for what, c := range map[string]struct {
		extensions []pkix.Extension
		want       attest.Facts
		refused    bool
	}{
		"nothing":         {},
		"blank is absent": {extensions: []pkix.Extension{property("", 9, 1), property("", 9, 2), property("", 13, 1), property("", 13, 3), property("", 7, 7)}},
		"attestation public key is raw": {extensions: []pkix.Extension{property("\x04\xff", 9, 3)},
			want: attest.Facts{Posture: attest.Posture{AttestationPublicKey: []byte{4, 255}}}},
		"SIP disabled":   {extensions: []pkix.Extension{property("\x02\x01\x01", 13, 1)}, want: attest.Facts{Posture: attest.Posture{SIPEnabled: new(false)}}},
		"SIP negative":   {extensions: []pkix.Extension{property("\x02\x01\xff", 13, 1)}, refused: true},
		"SIP twice":      {extensions: []pkix.Extension{property("\x02\x01\x00\x02\x01\x00", 13, 1)}, refused: true},
		"kexts any kind": {extensions: []pkix.Extension{property("\x02\x01\x07", 13, 3)}, want: attest.Facts{Posture: attest.Posture{ThirdPartyKexts: new(true)}}},
		"kexts large": {extensions: []pkix.Extension{property("\x02\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00", 13, 3)},
			want: attest.Facts{Posture: attest.Posture{ThirdPartyKexts: new(true)}}},
		"permissive": {extensions: []pkix.Extension{property("Permissive Security", 13, 2)}, want: attest.Facts{Posture: attest.Posture{SecureBoot: "Permissive Security"}}},
		"serial is not trimmed": {extensions: []pkix.Extension{property(" C02X ", 9, 1)},
			want: attest.Facts{Identifiers: []deviceid.Identifier{{Kind: deviceid.Serial, Value: " C02X "}}}},
		"text at its limit": {extensions: []pkix.Extension{property(strings.Repeat("1", 256), 10, 1)},
			want: attest.Facts{Posture: attest.Posture{OSVersion: strings.Repeat("1", 256)}}},
		"text over its limit":     {extensions: []pkix.Extension{property(strings.Repeat("1", 257), 10, 1)}, refused: true},
		"text direction override": {extensions: []pkix.Extension{property("C02\u202eX", 9, 1)}, refused: true},
		"unknown is opaque": {extensions: []pkix.Extension{property("\xff\x00", 13, 4), property("x", 99)},
			want: attest.Facts{Opaque: map[string][]byte{"1.2.840.113635.100.8.13.4": {0xff, 0}, "1.2.840.113635.100.8.99": []byte("x")}}},
		"other arcs are not Apple's": {extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 80, 1}, Value: []byte("x")}}},
	} {
		got, err := attest.ReadAppleProperties(&x509.Certificate{Extensions: c.extensions})
		if c.refused {
			refusal, ok := errors.AsType[*attest.Refusal](err)
			if !ok || refusal.Check != attest.CheckPropertyEncoding {
				t.Errorf("%s: got %v, want a refusal by %s", what, err, attest.CheckPropertyEncoding)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(&c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", what, diff)
		}
	}
}

func FuzzAppleProperties(f *testing.F) {
	leaf := realLeaf(f)
	seeds := 0
	for _, e := range leaf.Extensions {
		if len(e.Id) == 8 && e.Id[5] == 8 {
			f.Add(e.Id[6], e.Id[7], e.Value)
			seeds++
		}
	}
	if seeds < 10 {
		f.Fatalf("only %d seeds in the real leaf", seeds)
	}
	f.Fuzz(func(t *testing.T, group, number int, value []byte) {
		if group < 0 || number < 0 {
			return
		}
		facts, err := attest.ReadAppleProperties(&x509.Certificate{Extensions: []pkix.Extension{property(string(value), group, number)}})
		if err != nil {
			if _, ok := errors.AsType[*attest.Refusal](err); !ok {
				t.Errorf("error is no refusal: %v", err)
			}
			return
		}
		for _, text := range []string{facts.Identifier(deviceid.Serial), facts.Identifier(deviceid.UDID), facts.Posture.OSVersion, facts.Posture.SecureBoot} {
			if !utf8.ValidString(text) || len(text) > 256 || strings.ContainsAny(text, "\x00\r\n") {
				t.Errorf("unsafe text %q", text)
			}
		}
		if len(value) == 0 && !cmp.Equal(facts, &attest.Facts{}) {
			t.Errorf("a blank value became %+v", facts)
		}
	})
}
