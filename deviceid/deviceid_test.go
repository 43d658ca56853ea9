package deviceid

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"pgregory.net/rapid"
)

func TestPermanentIdentifierGrammar(t *testing.T) {
	for _, c := range []struct {
		in      string
		want    PermanentIdentifier
		wantErr string // part of the error; "" if the value is inside the grammar
	}{
		{in: "ABCDEF123456", want: PermanentIdentifier{Value: "ABCDEF123456"}},
		{in: "ABCDEF123456/1.2.3.4", want: PermanentIdentifier{Value: "ABCDEF123456", Assigner: "1.2.3.4"}},
		{in: "a\x00b", want: PermanentIdentifier{Value: "a\x00b"}},
		{in: " ", want: PermanentIdentifier{Value: " "}},
		{in: "gerät", want: PermanentIdentifier{Value: "gerät"}},
		{in: "a/0.0", want: PermanentIdentifier{Value: "a", Assigner: "0.0"}},
		{in: "a/1.39", want: PermanentIdentifier{Value: "a", Assigner: "1.39"}},
		{in: "a/2.999.0", want: PermanentIdentifier{Value: "a", Assigner: "2.999.0"}},
		{in: "a/2.25.329800735698586629295641978511506172918", want: PermanentIdentifier{Value: "a", Assigner: "2.25.329800735698586629295641978511506172918"}},
		{in: strings.Repeat("a", MaxValue), want: PermanentIdentifier{Value: strings.Repeat("a", MaxValue)}},

		{in: "", wantErr: "empty"},
		{in: "/1.2.3", wantErr: "empty"},
		{in: "a/", wantErr: "nothing follows"},
		{in: "a/b/1.2.3", wantErr: "not a decimal"},
		{in: "a/1.2.3/4", wantErr: "not a decimal"},
		{in: "a/1", wantErr: "one component"},
		{in: "a/3.1", wantErr: "begin with 0, 1 or 2"},
		{in: "a/0.40", wantErr: "over 39"},
		{in: "a/1.100", wantErr: "over 39"},
		{in: "a/1.02", wantErr: "leading zero"},
		{in: "a/1.2.03", wantErr: "leading zero"},
		{in: "a/1..2", wantErr: "empty component"},
		{in: "a/1.2.", wantErr: "empty component"},
		{in: "a/.1.2", wantErr: "empty component"},
		{in: "a/1.2.-3", wantErr: "not a decimal"},
		{in: "a/1.2.３", wantErr: "not a decimal"},
		{in: "a\xff", wantErr: "UTF-8"},
		{in: "\xc0\xaf", wantErr: "UTF-8"},
		{in: strings.Repeat("a", MaxValue+1), wantErr: "over the limit"},
		{in: strings.Repeat("a", MaxValue-4) + "/1.2.3", wantErr: "over the limit"},
	} {
		got, err := ParsePermanentIdentifier(c.in)
		checkOutcome(t, c.in, err, c.wantErr)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", c.in, diff)
		}
	}
}

func TestHardwareModuleGrammar(t *testing.T) {
	for _, c := range []struct {
		in      string
		want    HardwareModule
		wantErr string
	}{
		{in: "ABCD/1.2.3.4", want: HardwareModule{SerialNumber: "ABCD", Type: "1.2.3.4"}},
		{in: "ABCD", wantErr: "no '/'"},
		{in: "/1.2.3", wantErr: "empty"},
		{in: "ABCD/", wantErr: "is empty"},
		{in: "AB/CD/1.2", wantErr: "not a decimal"},
		{in: "A\xffB/1.2", wantErr: "UTF-8"},
		{in: strings.Repeat("a", MaxValue) + "/1.2", wantErr: "over the limit"},
	} {
		got, err := ParseHardwareModule(c.in)
		checkOutcome(t, c.in, err, c.wantErr)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", c.in, diff)
		}
	}
}

func checkOutcome(t *testing.T, in string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%q: %v", in, err)
	case want != "" && err == nil:
		t.Errorf("%q: accepted, want error with %q", in, want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("%q: error %q, want %q in it", in, err, want)
	}
}

// abnf is the draft's assigner-value, written as a regular expression a second time.
var abnf = regexp.MustCompile(`^(?:[01]\.[1-3]?[0-9]|2\.(?:0|[1-9][0-9]*))(?:\.(?:0|[1-9][0-9]*))*$`)

func TestOIDAgreesWithABNF(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[0-3]?(\.?[0-9]{0,3}){0,5}`).Draw(t, "oid")
		if got, want := checkOID(s) == nil, abnf.MatchString(s); got != want {
			t.Fatalf("%q: accepted %v, the ABNF says %v", s, got, want)
		}
	})
}

func drawText(t *rapid.T) string { return rapid.StringMatching(`[^/]{1,20}`).Draw(t, "value") }

func drawOID(t *rapid.T) string {
	return rapid.StringMatching(`([01]\.(0|[1-9]|[12][0-9]|3[0-9])|2\.(0|[1-9][0-9]{0,30}))(\.(0|[1-9][0-9]{0,24})){0,6}`).Draw(t, "oid")
}

func TestIdentifiersSurviveTextAndDER(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := PermanentIdentifier{Value: drawText(t)}
		if rapid.Bool().Draw(t, "assigned") {
			p.Assigner = drawOID(t)
		}
		again, err := ParsePermanentIdentifier(p.String())
		if err != nil || again != p {
			t.Fatalf("text: got %+v, %v; want %+v", again, err, p)
		}
		requireRoundTrip(t, p)

		h := HardwareModule{SerialNumber: drawText(t), Type: drawOID(t)}
		hAgain, err := ParseHardwareModule(h.String())
		if err != nil || hAgain != h {
			t.Fatalf("text: got %+v, %v; want %+v", hAgain, err, h)
		}
		requireRoundTrip(t, h)
	})
}

func requireRoundTrip(t *rapid.T, name OtherName) {
	der, err := name.GeneralName()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseOtherName(der)
	if err != nil || again != name {
		t.Fatalf("DER %x: got %+v, %v; want %+v", der, again, err, name)
	}
}

// TestOtherNameEncoding checks the encodings against a second encoder.
func TestOtherNameEncoding(t *testing.T) {
	type explicit struct {
		TypeID asn1.ObjectIdentifier
		Value  asn1.RawValue
	}
	wrap := func(last int, fields any) string {
		t.Helper()
		inner, err := asn1.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		der, err := asn1.MarshalWithParams(explicit{
			TypeID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, last},
			Value:  asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner},
		}, "tag:0")
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(der)
	}
	type value struct {
		V string `asn1:"utf8"`
	}
	type assigned struct {
		V string `asn1:"utf8"`
		A asn1.ObjectIdentifier
	}
	type module struct {
		T asn1.ObjectIdentifier
		S []byte
	}
	for _, c := range []struct {
		name OtherName
		want string
	}{
		{PermanentIdentifier{Value: "C02X"}, wrap(3, value{"C02X"})},
		{PermanentIdentifier{Value: "C02X", Assigner: "1.2.840.113635"}, wrap(3, assigned{"C02X", asn1.ObjectIdentifier{1, 2, 840, 113635}})},
		{HardwareModule{SerialNumber: "ABCD", Type: "1.2.3.4"}, wrap(4, module{asn1.ObjectIdentifier{1, 2, 3, 4}, []byte("ABCD")})},
	} {
		der, err := c.name.GeneralName()
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(der); got != c.want {
			t.Errorf("%v: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestGeneralNameRefusesValuesOutsideGrammar(t *testing.T) {
	for _, name := range []OtherName{
		PermanentIdentifier{},
		PermanentIdentifier{Value: "a/b"},
		PermanentIdentifier{Value: "a", Assigner: "1.2.x"},
		PermanentIdentifier{Value: strings.Repeat("a", MaxValue+1)},
		HardwareModule{SerialNumber: "a"},
		HardwareModule{SerialNumber: "", Type: "1.2"},
		HardwareModule{SerialNumber: "a\xff", Type: "1.2"},
	} {
		if der, err := name.GeneralName(); err == nil {
			t.Errorf("%#v: encoded as %x", name, der)
		}
	}
}

// tlv is a DER value of fewer than 128 bytes.
func tlv(tag byte, contents ...string) string {
	content := strings.Join(contents, "")
	return string([]byte{tag, byte(len(content))}) + content
}

// TestParseOtherNameRefuses: each encoding is wrong in the one way that its name says.
func TestParseOtherNameRefuses(t *testing.T) {
	const (
		context = 0xa0 // [0], constructed
		oid     = 0x06
		utf8    = 0x0c
		octets  = 0x04
		seq     = 0x30
	)
	permanent := tlv(oid, "\x2b\x06\x01\x05\x05\x07\x08\x03")
	module := tlv(oid, "\x2b\x06\x01\x05\x05\x07\x08\x04")
	assigner := tlv(oid, "\x2a\x03\x04")
	name := func(typeID string, fields ...string) string {
		return tlv(context, typeID, tlv(context, tlv(seq, fields...)))
	}
	for _, sound := range []string{name(permanent, tlv(utf8, "A")), name(permanent, tlv(utf8, "A"), assigner), name(module, assigner, tlv(octets, "A"))} {
		if _, err := ParseOtherName([]byte(sound)); err != nil {
			t.Fatalf("%x: %v", sound, err)
		}
	}
	for what, in := range map[string]string{
		"no identifierValue":       name(permanent),
		"assigner alone":           name(permanent, assigner),
		"PrintableString value":    name(permanent, tlv(0x13, "A")),
		"value with a slash":       name(permanent, tlv(utf8, "A/1.2")),
		"empty value":              name(permanent, tlv(utf8)),
		"value not UTF-8":          name(permanent, tlv(utf8, "\xff")),
		"assigner no OID":          name(permanent, tlv(utf8, "A"), tlv(utf8, "1.2")),
		"assigner padded":          name(permanent, tlv(utf8, "A"), tlv(oid, "\x2a\x80\x04")),
		"assigner cut short":       name(permanent, tlv(utf8, "A"), tlv(oid, "\x2a\x83")),
		"two assigners":            name(permanent, tlv(utf8, "A"), assigner, assigner),
		"module empty":             name(module),
		"module without type":      name(module, tlv(octets, "A")),
		"module without serial":    name(module, assigner),
		"module with a string":     name(module, assigner, tlv(utf8, "A")),
		"module with a third":      name(module, assigner, tlv(octets, "A"), tlv(octets, "A")),
		"module with a slash":      name(module, assigner, tlv(octets, "A/B")),
		"module serial not UTF-8":  name(module, assigner, tlv(octets, "\xff")),
		"no type-id":               tlv(context, tlv(context, tlv(seq, tlv(utf8, "A")))),
		"value in no SEQUENCE":     tlv(context, permanent, tlv(context, tlv(utf8, "A"))),
		"value not tagged":         tlv(context, permanent, tlv(seq, tlv(utf8, "A"))),
		"second value":             tlv(context, permanent, tlv(context, tlv(seq, tlv(utf8, "A")), tlv(seq))),
		"something behind a value": tlv(context, permanent, tlv(context, tlv(seq, tlv(utf8, "A"))), assigner),
		"trailing byte":            name(permanent, tlv(utf8, "A")) + "\x00",
		"cut short":                name(permanent, tlv(utf8, "A"))[:12],
		"long form of a length":    "\xa0\x81" + name(permanent, tlv(utf8, "A"))[1:],
	} {
		got, err := ParseOtherName([]byte(in))
		if err == nil || errors.Is(err, ErrNotDeviceName) {
			t.Errorf("%s: got %v, %v; want a refusal", what, got, err)
		}
	}
}

func TestParseOtherNameBoundsItsInput(t *testing.T) {
	der, err := otherName(permanentIdentifierOID, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyteasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, maxOtherName)) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseOtherName(der); err == nil || !strings.Contains(err.Error(), "over the limit of 512") {
		t.Errorf("got %v, want a refusal of the size", err)
	}
}

func TestParseOtherNameTellsOtherKindsApart(t *testing.T) {
	for what, in := range map[string]string{
		"dNSName":         "8201" + "61",
		"principal name":  "a01206 0a2b060104018237140203a0040c026162",
		"nothing":         "",
		"directory name":  "a4023000",
		"iPAddress":       "87047f000001",
		"primitive tag 0": "8000",
	} {
		der, err := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseOtherName(der); !errors.Is(err, ErrNotDeviceName) {
			t.Errorf("%s: got %v, %v; want ErrNotDeviceName", what, got, err)
		}
	}
}

func TestLooksLikeMacHardwareUUID(t *testing.T) {
	for udid, want := range map[string]bool{
		"2B1C8A4F-0A67-5D1E-9E5B-0C6A4E2F7D11":  true,
		"2b1c8a4f-0a67-5d1e-9e5b-0c6a4e2f7d11":  true,
		"00006030-000651690A84001C":             false, // a provisioning UDID
		"":                                      false,
		"2B1C8A4F0A675D1E9E5B0C6A4E2F7D11":      false,
		"2B1C8A4F-0A67-5D1E-9E5B-0C6A4E2F7D1G":  false,
		"2B1C8A4F-0A67-5D1E-9E5B0-C6A4E2F7D11":  false,
		"2B1C8A4F-0A67-5D1E-9E5B-0C6A4E2F7D11-": false,
	} {
		if got := LooksLikeMacHardwareUUID(udid); got != want {
			t.Errorf("%q: got %v, want %v", udid, got, want)
		}
	}
}

func FuzzParseIdentifiers(f *testing.F) {
	for _, seed := range []string{"ABCDEF123456", "ABCDEF123456/1.2.3.4", "a/2.25.1", "/", "a//1.2", "\xff/1.2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePermanentIdentifier(s); err == nil {
			if p.String() != s {
				t.Errorf("permanent-identifier %q became %q", s, p)
			}
			fuzzRoundTrip(t, p)
		}
		if h, err := ParseHardwareModule(s); err == nil {
			if h.String() != s {
				t.Errorf("hardware-module %q became %q", s, h)
			}
			fuzzRoundTrip(t, h)
		}
	})
}

func FuzzParseOtherName(f *testing.F) {
	for _, name := range []OtherName{
		PermanentIdentifier{Value: "C02X"},
		PermanentIdentifier{Value: "C02X", Assigner: "1.2.840.113635"},
		HardwareModule{SerialNumber: "ABCD", Type: "1.2.3.4"},
	} {
		der, err := name.GeneralName()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		name, err := ParseOtherName(der)
		if err != nil {
			return
		}
		again, err := name.GeneralName()
		if err != nil || string(again) != string(der) {
			t.Errorf("%x became %x, %v", der, again, err)
		}
	})
}

func fuzzRoundTrip(t *testing.T, name OtherName) {
	t.Helper()
	der, err := name.GeneralName()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseOtherName(der); err != nil || again != name {
		t.Errorf("%v: DER %x became %v, %v", name, der, again, err)
	}
}

func TestUDIDsCompareWholeWithoutCase(t *testing.T) {
	const udid = "00008110-000A1B2C3D4E5F60"
	for other, want := range map[string]bool{
		udid:                     true,
		strings.ToLower(udid):    true,
		udid[:len(udid)-1]:       false, // a prefix
		udid + "0":               false,
		udid[1:]:                 false,
		" " + udid:               false,
		"":                       false,
		udid[:len(udid)-1] + "1": false,
	} {
		if SameUDID(udid, other) != want || SameUDID(other, udid) != want {
			t.Errorf("%q: same as %q is not %t", other, udid, want)
		}
	}
}

func TestSerialsCompareExactly(t *testing.T) {
	const serial = "C02XG0ZZ"
	for other, want := range map[string]bool{serial: true, "c02xg0zz": false, "C02XG0Z": false, "C02XG0ZZZ": false, " C02XG0ZZ": false, "": false} {
		if SameSerial(serial, other) != want || SameSerial(other, serial) != want {
			t.Errorf("%q: same as %q is not %t", other, serial, want)
		}
	}
}
