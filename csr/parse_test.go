package csr

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/deviceid"
)

var ignoreRaw = cmp.Options{
	cmpopts.IgnoreFields(Attribute{}, "Raw"),
	cmpopts.IgnoreFields(AltName{}, "Raw"),
	cmpopts.IgnoreFields(Request{}, "PublicKey", "SPKI"),
}

func TestParseReadsAppleRequest(t *testing.T) {
	d := appleLike()
	der := d.der(t)
	got, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	want := &Request{
		Subject: Name{
			{{Type: "2.5.4.6", Value: "US"}},
			{{Type: "2.5.4.10", Value: "Example Inc."}},
			{{Type: "1.2.840.113635.100.6.99999.99999", Value: "test custom OID value"}},
		},
		AltNames: []AltName{
			{Kind: AltEmail, Value: "rfc822"},
			{Kind: AltDNS, Value: "site.example.com"},
			{Kind: AltURI, Value: "https://www.example.com/"},
			{Kind: AltUPN, Value: "Principal Example"},
		},
		KeyUsage:    5,
		ExtKeyUsage: []string{ClientAuth},
		KeyType:     EC,
		KeySize:     256,
	}
	if diff := cmp.Diff(want, got, ignoreRaw); diff != "" {
		t.Error(diff)
	}
	if spki := must(x509.MarshalPKIXPublicKey(ecKey().Public()))(t); !bytes.Equal(got.SPKI, spki) {
		t.Error("SPKI is not the key's")
	}
	if !got.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(ecKey().Public()) {
		t.Error("PublicKey is not the key")
	}
	if raw := attribute("2.5.4.6", cbasn1.PrintableString, "US"); !bytes.Equal(got.Subject[0][0].Raw, raw) {
		t.Errorf("Raw of the first attribute is %x, want %x", got.Subject[0][0].Raw, raw)
	}
	if raw := ia5(2, "site.example.com"); !bytes.Equal(got.AltNames[1].Raw, raw) {
		t.Errorf("Raw of the dNSName is %x, want %x", got.AltNames[1].Raw, raw)
	}
}

func TestParseKeepsNoReferenceToInput(t *testing.T) {
	der := appleLike().der(t)
	r, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	spki := bytes.Clone(r.SPKI)
	clear(der)
	if !bytes.Equal(r.SPKI, spki) || r.Subject[0][0].Raw[0] == 0 {
		t.Error("request changed with its input")
	}
}

func TestParseReadsRequestsOfCryptoX509(t *testing.T) {
	link, err := url.Parse("https://www.example.com/x")
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{
		Subject:        pkix.Name{CommonName: "a*b", Organization: []string{"Ä GmbH"}},
		DNSNames:       []string{"a.example.com", "b.example.com"},
		EmailAddresses: []string{"a@example.com"},
		URIs:           []*url.URL{link},
		IPAddresses:    []net.IP{net.IPv4(192, 0, 2, 1)},
	}
	for name, key := range map[string]crypto.Signer{
		"P-256": ecKey(), "P-384": newEC(elliptic.P384()), "P-521": newEC(elliptic.P521()),
		"RSA-2048": rsaKey(), "RSA-1024": newRSA(1024),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse(must(x509.CreateCertificateRequest(rand.Reader, template, key))(t))
			if err != nil {
				t.Fatal(err)
			}
			if got := len(r.AltNamesOf(AltDNS)); got != 2 {
				t.Errorf("%d dNSNames, want 2", got)
			}
			if got := r.AltNamesOf(AltOther); len(got) != 1 || got[0].Value != "8704c0000201" {
				t.Errorf("IP address is kept as %v", got)
			}
			want := Name{{{Type: "2.5.4.10", Value: "Ä GmbH"}}, {{Type: "2.5.4.3", Value: "a*b"}}}
			if !r.Subject.Equal(want) {
				t.Errorf("subject is %v", r.Subject)
			}
		})
	}
}

func TestParseTakesEveryHashFromSHA256On(t *testing.T) {
	for _, c := range []struct {
		key       crypto.Signer
		algorithm []byte
		hash      crypto.Hash
	}{
		{ecKey(), seq(oid("1.2.840.10045.4.3.2")), crypto.SHA256},
		{ecKey(), seq(oid("1.2.840.10045.4.3.3")), crypto.SHA384},
		{ecKey(), seq(oid("1.2.840.10045.4.3.4")), crypto.SHA512},
		{rsaKey(), seq(oid("1.2.840.113549.1.1.11")), crypto.SHA256},
		{rsaKey(), seq(oid("1.2.840.113549.1.1.12"), tlv(cbasn1.NULL)), crypto.SHA384},
		{rsaKey(), seq(oid("1.2.840.113549.1.1.13"), tlv(cbasn1.NULL)), crypto.SHA512},
	} {
		if _, err := Parse(draft{key: c.key, algorithm: c.algorithm, hash: c.hash}.der(t)); err != nil {
			t.Errorf("%T with %v: %v", c.key, c.hash, err)
		}
	}
}

func TestParseReadsDeviceNames(t *testing.T) {
	permanent := must(deviceid.PermanentIdentifier{Value: "C02XG0ZZ", Assigner: "1.2.840.113635"}.GeneralName())(t)
	module := must(deviceid.HardwareModule{SerialNumber: "42", Type: "2.23.133.1.2"}.GeneralName())(t)
	unknown := otherName("1.2.3.4", tlv(cbasn1.INTEGER, []byte{7}))
	r, err := Parse(draft{attributes: requesting(san(permanent, module, unknown))}.der(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []AltName{
		{Kind: AltPermanentIdentifier, Value: "C02XG0ZZ/1.2.840.113635"},
		{Kind: AltHardwareModule, Value: "42/2.23.133.1.2"},
		{Kind: AltOther, Value: "a00a06032a0304a003020107"},
	}
	if diff := cmp.Diff(want, r.AltNames, ignoreRaw); diff != "" {
		t.Error(diff)
	}
}

func TestParseTakesEmptyAltNames(t *testing.T) {
	r, err := Parse(draft{attributes: requesting(san())}.der(t))
	if err != nil || len(r.AltNames) != 0 {
		t.Errorf("names %v, error %v", r, err)
	}
}

func TestParseTakesMissingAttributes(t *testing.T) {
	// RFC 2986 wants an empty [0]; some software leaves it out.
	key := ecKey()
	info := seq([]byte{2, 1, 0}, seq(), must(x509.MarshalPKIXPublicKey(key.Public()))(t))
	hash := crypto.SHA256.New()
	hash.Write(info)
	signature := must(key.Sign(rand.Reader, hash.Sum(nil), crypto.SHA256))(t)
	if _, err := Parse(seq(info, seq(oid("1.2.840.10045.4.3.2")), tlv(cbasn1.BIT_STRING, []byte{0}, signature))); err != nil {
		t.Error(err)
	}
}

func TestParseListsOtherExtensions(t *testing.T) {
	caTrue := critical("2.5.29.19", seq(tlv(cbasn1.BOOLEAN, []byte{0xff})))
	r, err := Parse(draft{attributes: requesting(caTrue, extension("2.25.329800735698586629295641978511506172918", nil))}.der(t))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"2.5.29.19", "2.25.329800735698586629295641978511506172918"}; !slices.Equal(r.OtherExtensions, want) {
		t.Errorf("other extensions %v, want %v", r.OtherExtensions, want)
	}
}

func TestParseReadsStringTypes(t *testing.T) {
	for _, c := range []struct {
		tag   cbasn1.Tag
		value string
		want  string // "" is a refusal
	}{
		{cbasn1.UTF8String, "Grüße", "Grüße"},
		{cbasn1.UTF8String, "\xff", ""},
		{cbasn1.UTF8String, "a\nb", ""},
		{cbasn1.UTF8String, "a\x00b", ""},
		{cbasn1.UTF8String, "", ""},
		{cbasn1.UTF8String, strings.Repeat("a", maxAttrBytes), strings.Repeat("a", maxAttrBytes)},
		{cbasn1.UTF8String, strings.Repeat("a", maxAttrBytes+1), ""},
		{cbasn1.PrintableString, "Example Inc.", "Example Inc."},
		{cbasn1.PrintableString, "a@b", ""},
		{tagNumericString, "12 3", "12 3"},
		{tagNumericString, "12a", ""},
		{cbasn1.IA5String, "a@b", "a@b"},
		{cbasn1.IA5String, "\xe4", ""},
		{tagVisibleString, "a_b", "a_b"},
		{cbasn1.T61String, "plain", "plain"},
		{cbasn1.T61String, "\xc4", ""},
		{tagBMPString, "\x00A\x20\xac", "A€"},
		{tagBMPString, "\x00A\x20", ""},
		{tagBMPString, "\xd8\x3d\xde\x00", ""},
		{tagUniversalString, "\x00\x00\x00A\x00\x01\xf6\x00", "A😀"},
		{tagUniversalString, "\x00\x11\x00\x00", ""},
		{tagUniversalString, "\x00\x00\x00", ""},
		{cbasn1.BIT_STRING, "\x00A", ""},
		{cbasn1.OCTET_STRING, "A", ""},
	} {
		r, err := Parse(draft{subject: seq(rdn("2.5.4.3", c.tag, c.value))}.der(t))
		switch {
		case c.want == "":
			requireCheck(t, err, CheckSubject, BadCSR)
		case err != nil:
			t.Errorf("tag %d %q: %v", c.tag, c.value, err)
		case r.Subject[0][0].Value != c.want:
			t.Errorf("tag %d %q is %q, want %q", c.tag, c.value, r.Subject[0][0].Value, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	ecInfo := seq(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"))
	name := func(b ...byte) []byte { return b }
	for label, c := range map[string]struct {
		draft draft
		check string
	}{
		"trailing bytes":        {draft{tail: []byte{0}}, CheckSyntax},
		"version 1":             {draft{version: 1}, CheckSyntax},
		"subject a set":         {draft{subject: tlv(cbasn1.SET)}, CheckSyntax},
		"another's key":         {draft{signedBy: newEC(elliptic.P256())}, CheckSignature},
		"RSA for EC":            {draft{signedBy: rsaKey()}, CheckSignature},
		"EC for RSA":            {draft{key: rsaKey(), signedBy: ecKey()}, CheckSignature},
		"ECDSA named, RSA made": {draft{key: rsaKey(), algorithm: seq(oid("1.2.840.10045.4.3.2"))}, CheckSignature},
		"RSA named, ECDSA made": {draft{algorithm: seq(oid("1.2.840.113549.1.1.11"), tlv(cbasn1.NULL))}, CheckSignature},
		"RSA even modulus":      {draft{spki: bytes.Replace(rsaSPKI(t, 2048, 65537), []byte{1, 2, 3, 1, 0, 1}, []byte{2, 2, 3, 1, 0, 1}, 1)}, CheckKey},
		"wrong hash":            {draft{hash: crypto.SHA384}, CheckSignature},
		"SHA-1 ECDSA":           {draft{algorithm: seq(oid("1.2.840.10045.4.1"))}, CheckAlgorithm},
		"SHA-1 RSA":             {draft{key: rsaKey(), algorithm: seq(oid("1.2.840.113549.1.1.5"), tlv(cbasn1.NULL))}, CheckAlgorithm},
		"MD5 RSA":               {draft{key: rsaKey(), algorithm: seq(oid("1.2.840.113549.1.1.4"), tlv(cbasn1.NULL))}, CheckAlgorithm},
		"PSS":                   {draft{key: rsaKey(), algorithm: seq(oid("1.2.840.113549.1.1.10"))}, CheckAlgorithm},
		"parameters":            {draft{algorithm: seq(oid("1.2.840.10045.4.3.2"), tlv(cbasn1.NULL))}, CheckAlgorithm},
		"RSA parameters":        {draft{key: rsaKey(), algorithm: seq(oid("1.2.840.113549.1.1.11"), seq())}, CheckAlgorithm},
		"no algorithm":          {draft{algorithm: seq()}, CheckSyntax},
		"P-224":                 {draft{key: newEC(elliptic.P224())}, CheckKey},
		"RSA 1016":              {draft{spki: rsaSPKI(t, 1016, 65537)}, CheckKey},
		"RSA 4104":              {draft{spki: rsaSPKI(t, 4104, 65537)}, CheckKey},
		"RSA exponent 3":        {draft{spki: rsaSPKI(t, 2048, 3)}, CheckKey},
		"RSA even e":            {draft{spki: rsaSPKI(t, 2048, 65538)}, CheckKey},
		"off the curve":         {draft{spki: seq(ecInfo, tlv(cbasn1.BIT_STRING, name(0, 4), bytes.Repeat(name(1), 64)))}, CheckKey},
		"Ed25519":               {draft{spki: seq(seq(oid("1.3.101.112")), tlv(cbasn1.BIT_STRING, name(0), bytes.Repeat(name(1), 32)))}, CheckKey},
		"non-canonical":         {draft{spki: spkiWithTrailingParameter(t)}, CheckKey},
		"subject control":       {draft{subject: seq(rdn("2.5.4.3", cbasn1.UTF8String, "a\x1bb"))}, CheckSubject},
		"subject zero width":    {draft{subject: seq(rdn("2.5.4.3", cbasn1.UTF8String, "a\u200bb"))}, CheckSubject},
		"subject right to left": {draft{subject: seq(rdn("2.5.4.3", cbasn1.UTF8String, "a\u202eb"))}, CheckSubject},
		"subject BMP invisible": {draft{subject: seq(rdn("2.5.4.3", tagBMPString, "\x00a\xfe\xff"))}, CheckSubject},
		"RDN no set":            {draft{subject: seq(seq())}, CheckSubject},
		"RDN empty":             {draft{subject: seq(tlv(cbasn1.SET))}, CheckSubject},
		"attribute short":       {draft{subject: seq(tlv(cbasn1.SET, seq(oid("2.5.4.3"))))}, CheckSubject},
		"33 RDNs":               {draft{subject: seq(slices.Repeat([][]byte{rdn("2.5.4.3", cbasn1.UTF8String, "a")}, 33)...)}, CheckSubject},
		"9 in an RDN":           {draft{subject: seq(tlv(cbasn1.SET, slices.Repeat([][]byte{attribute("2.5.4.3", cbasn1.UTF8String, "a")}, 9)...))}, CheckSubject},
		"two requests":          {draft{attributes: append(requesting(), requesting()...)}, CheckExtension},
		"two lists":             {draft{attributes: [][]byte{seq(oid(oidExtensionRequest), tlv(cbasn1.SET, seq(), seq()))}}, CheckExtension},
		"no list":               {draft{attributes: [][]byte{seq(oid(oidExtensionRequest), tlv(cbasn1.SET))}}, CheckExtension},
		"attribute":             {draft{attributes: [][]byte{tlv(cbasn1.SET)}}, CheckSyntax},
		"17 attributes":         {draft{attributes: manyAttributes(17)}, CheckSyntax},
		"two SANs":              {draft{attributes: requesting(san(), san())}, CheckExtension},
		"two unknown":           {draft{attributes: requesting(extension("1.2.3", nil), extension("1.2.3", nil))}, CheckExtension},
		"33 extensions":         {draft{attributes: requesting(manyExtensions(33)...)}, CheckExtension},
		"extension":             {draft{attributes: requesting(seq(oid(oidAltName)))}, CheckExtension},
		"SAN trailing":          {draft{attributes: requesting(extension(oidAltName, append(seq(), 0)))}, CheckAltName},
		"SAN no list":           {draft{attributes: requesting(extension(oidAltName, tlv(cbasn1.SET)))}, CheckAltName},
		"SAN unknown":           {draft{attributes: requesting(san(ia5(9, "a")))}, CheckAltName},
		"SAN NUL":               {draft{attributes: requesting(san(ia5(2, "a.example.com\x00.b")))}, CheckAltName},
		"SAN 8 bit":             {draft{attributes: requesting(san(ia5(1, "ä@example.com")))}, CheckAltName},
		"SAN empty name":        {draft{attributes: requesting(san(ia5(2, "")))}, CheckAltName},
		"SAN long name":         {draft{attributes: requesting(san(ia5(6, strings.Repeat("a", maxAltNameBytes))))}, CheckAltName},
		"65 names":              {draft{attributes: requesting(san(slices.Repeat([][]byte{ia5(2, "a")}, 65)...))}, CheckAltName},
		"UPN type":              {draft{attributes: requesting(san(otherName(oidUPN, tlv(cbasn1.IA5String, name('a')))))}, CheckAltName},
		"UPN control":           {draft{attributes: requesting(san(otherName(oidUPN, tlv(cbasn1.UTF8String, name('a', 7)))))}, CheckAltName},
		"UPN trailing":          {draft{attributes: requesting(san(otherName(oidUPN, append(tlv(cbasn1.UTF8String, name('a')), tlv(cbasn1.NULL)...))))}, CheckAltName},
		"UPN invisible":         {draft{attributes: requesting(san(otherName(oidUPN, tlv(cbasn1.UTF8String, []byte("a\u202eb")))))}, CheckAltName},
		"device name":           {draft{attributes: requesting(san(otherName("1.3.6.1.5.5.7.8.3", seq())))}, CheckAltName},
		"otherName":             {draft{attributes: requesting(san(tlv(cbasn1.Tag(0).ContextSpecific().Constructed(), oid("1.2.3"))))}, CheckAltName},
		"KU type":               {draft{attributes: requesting(extension(oidKeyUsage, tlv(cbasn1.OCTET_STRING, name(1))))}, CheckExtension},
		"KU bit 9":              {draft{attributes: requesting(extension(oidKeyUsage, tlv(cbasn1.BIT_STRING, name(6, 0, 0x40))))}, CheckExtension},
		"EKU empty":             {draft{attributes: requesting(extension(oidExtKeyUsage, seq()))}, CheckExtension},
		"EKU twice":             {draft{attributes: requesting(extension(oidExtKeyUsage, seq(oid(ClientAuth), oid(ClientAuth))))}, CheckExtension},
		"EKU no OID":            {draft{attributes: requesting(extension(oidExtKeyUsage, seq(tlv(cbasn1.NULL))))}, CheckExtension},
		"33 EKUs":               {draft{attributes: requesting(extension(oidExtKeyUsage, seq(manyOIDs(33)...)))}, CheckExtension},
	} {
		t.Run(label, func(t *testing.T) {
			_, err := Parse(c.draft.der(t))
			problem := BadCSR
			if c.check == CheckKey {
				problem = BadPublicKey
			}
			requireCheck(t, err, c.check, problem)
		})
	}
}

func TestParseRefusesOversize(t *testing.T) {
	_, err := Parse(draft{attributes: requesting(extension("1.2.3", make([]byte, MaxSize)))}.der(t))
	requireCheck(t, err, CheckSize, BadCSR)
}

func TestParseRefusesEveryChangedSignedByte(t *testing.T) {
	der := appleLike().der(t)
	for i := range der {
		changed := bytes.Clone(der)
		changed[i] ^= 0x01
		if _, err := Parse(changed); err == nil {
			t.Errorf("request with byte %d changed passes", i)
		}
	}
}

func TestParseRefusesEveryTruncation(t *testing.T) {
	der := appleLike().der(t)
	for i := range der {
		if _, err := Parse(der[:i]); err == nil {
			t.Errorf("first %d bytes of a request pass", i)
		}
	}
}

func requireCheck(t *testing.T, err error, check, problem string) {
	t.Helper()
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error is %v, want check %s", err, check)
	}
	if refusal.Check != check || refusal.Problem != problem {
		t.Errorf("refused as %s %s (%s), want %s %s", refusal.Problem, refusal.Check, refusal.Detail, problem, check)
	}
}

// rsaSPKI is an RSA key that nobody holds: the check is made before the signature's.
func rsaSPKI(t *testing.T, bits, exponent int) []byte {
	t.Helper()
	n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	key := seq(tlv(cbasn1.INTEGER, append([]byte{0}, n.Bytes()...)), tlv(cbasn1.INTEGER, big.NewInt(int64(exponent)).Bytes()))
	return seq(seq(oid("1.2.840.113549.1.1.1"), tlv(cbasn1.NULL)), tlv(cbasn1.BIT_STRING, []byte{0}, key))
}

// spkiWithTrailingParameter is the test key with something after its curve.
func spkiWithTrailingParameter(t *testing.T) []byte {
	t.Helper()
	point := must(ecKey().Public().(interface{ Bytes() ([]byte, error) }).Bytes())(t)
	return seq(seq(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"), tlv(cbasn1.NULL)), tlv(cbasn1.BIT_STRING, []byte{0}, point))
}

func manyOIDs(n int) (list [][]byte) {
	for i := range n {
		list = append(list, oid("1.2."+big.NewInt(int64(i)).String()))
	}
	return list
}

func manyExtensions(n int) (list [][]byte) {
	for _, id := range manyOIDs(n) {
		list = append(list, seq(id, tlv(cbasn1.OCTET_STRING)))
	}
	return list
}

func manyAttributes(n int) (list [][]byte) {
	for _, id := range manyOIDs(n) {
		list = append(list, seq(id, tlv(cbasn1.SET)))
	}
	return list
}

func TestParseRefusesObjectIdentifiersOverTheLimit(t *testing.T) {
	asking := func(size int) []byte {
		id := tlv(cbasn1.OBJECT_IDENTIFIER, bytes.Repeat([]byte{1}, size))
		return draft{attributes: requesting(seq(id, tlv(cbasn1.OCTET_STRING)))}.der(t)
	}
	if _, err := Parse(asking(maxOID)); err != nil {
		t.Errorf("%d bytes: %v", maxOID, err)
	}
	_, err := Parse(asking(maxOID + 1))
	requireCheck(t, err, CheckExtension, BadCSR)
}
