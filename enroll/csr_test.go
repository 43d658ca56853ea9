package enroll

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/credential"
	"assay/internal/counterpart"
)

// makeCSR builds a request with a software key and reads it back, signature checked.
func makeCSR(t *testing.T, document *credential.Credential) *x509.CertificateRequest {
	t.Helper()
	if document.KeyType == "" {
		document.KeyType, document.KeySize = credential.EC, 256
	}
	device := must(NewDevice(IPhone, "", zeros{}))
	key, err := Keys(device).MakeKey(t.Context(), KeySpec{Type: document.KeyType, Size: document.KeySize})
	if err != nil {
		t.Fatal(err)
	}
	der, err := buildCSR(document, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	if !sameKey(request.PublicKey, key.Public()) {
		t.Fatal("request is for another key")
	}
	return request
}

// zeros is a source of randomness that has none.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// extensions lists a request's extensions as "oid critical hex".
func extensions(request *x509.CertificateRequest) []string {
	var all []string
	for _, e := range request.Extensions {
		critical := ""
		if e.Critical {
			critical = "critical "
		}
		all = append(all, e.Id.String()+" "+critical+hex.EncodeToString(e.Value))
	}
	return all
}

const clientAuthDER = "2.5.29.37 300a06082b06010505070302"

func TestRequestIsAlwaysSignedWithSHA256(t *testing.T) {
	for _, test := range []struct {
		kind credential.KeyType
		size int
		want x509.SignatureAlgorithm
	}{
		{credential.EC, 256, x509.ECDSAWithSHA256},
		{credential.EC, 384, x509.ECDSAWithSHA256},
		{credential.EC, 521, x509.ECDSAWithSHA256},
		{credential.RSA, 1024, x509.SHA256WithRSA},
		{credential.RSA, 2048, x509.SHA256WithRSA},
	} {
		request := makeCSR(t, &credential.Credential{KeyType: test.kind, KeySize: test.size})
		if request.SignatureAlgorithm != test.want {
			t.Errorf("%s %d: %v", test.kind, test.size, request.SignatureAlgorithm)
		}
	}
}

func TestRequestExtensions(t *testing.T) {
	all := &credential.SubjectAltName{
		RFC822Name: "a@b.c", DNSName: "d.e", UniformResourceIdentifier: "f:g", NTPrincipalName: "hé",
	}
	for name, test := range map[string]struct {
		document credential.Credential
		want     []string
	}{
		"nothing asked for":    {credential.Credential{}, []string{clientAuthDER}},
		"empty names":          {credential.Credential{SubjectAltName: &credential.SubjectAltName{}}, []string{"2.5.29.17 3000", clientAuthDER}},
		"one name":             {credential.Credential{SubjectAltName: &credential.SubjectAltName{DNSName: "d.e"}}, []string{"2.5.29.17 30058203642e65", clientAuthDER}},
		"all names":            {credential.Credential{SubjectAltName: all}, []string{"2.5.29.17 3026810561" + "40622e638203642e658603663a67a013060a2b060104018237140203a0050c0368c3a9", clientAuthDER}},
		"digital signature":    {credential.Credential{UsageFlags: 1}, []string{clientAuthDER, "2.5.29.15 critical 03020780"}},
		"and encipherment":     {credential.Credential{UsageFlags: 5}, []string{clientAuthDER, "2.5.29.15 critical 030205a0"}},
		"key encipherment":     {credential.Credential{UsageFlags: 4}, []string{clientAuthDER, "2.5.29.15 critical 03020520"}},
		"decipher only":        {credential.Credential{UsageFlags: 0x100}, []string{clientAuthDER, "2.5.29.15 critical 0303070080"}},
		"all nine":             {credential.Credential{UsageFlags: 0x1FF}, []string{clientAuthDER, "2.5.29.15 critical 030307ff80"}},
		"bits beyond the nine": {credential.Credential{UsageFlags: 0x200}, []string{clientAuthDER}},
	} {
		t.Run(name, func(t *testing.T) {
			got := extensions(makeCSR(t, &test.document))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRequestCarriesUsagesInOrder(t *testing.T) {
	const large = "1.2.840.113635.100.4.99999999999999999999"
	request := makeCSR(t, &credential.Credential{ExtendedKeyUsage: []string{"1.3.6.1.5.5.7.3.4", large}})
	der := must(must(x509.ParseOID(large)).MarshalBinary())
	want := fmt.Sprintf("2.5.29.37 30%02x06082b0601050507030406%02x%x", 10+2+len(der), len(der), der)
	if diff := cmp.Diff([]string{want}, extensions(request)); diff != "" {
		t.Error(diff)
	}
}

func TestRequestSubject(t *testing.T) {
	for name, test := range map[string]struct {
		subject credential.Subject
		want    string
	}{
		"empty":               {nil, "3000"},
		"printable":           {credential.Subject{{{"C", "US"}}}, "300d310b3009060355040613025553"},
		"first pair only":     {credential.Subject{{{"C", "US"}, {"O", "x"}}}, "300d310b3009060355040613025553"},
		"not printable":       {credential.Subject{{{"CN", "a@b"}}}, "300e310c300a06035504030c03614062"},
		"beyond ASCII":        {credential.Subject{{{"CN", "é"}}}, "300d310b300906035504030c02c3a9"},
		"every printable":     {credential.Subject{{{"2.5.4.3", "a '()+,-./:=?"}}}, "3018311630140603550403130d612027" + "28292b2c2d2e2f3a3d3f"},
		"asterisk, underline": {credential.Subject{{{"CN", "*_"}}}, "300d310b300906035504030c022a5f"},
		"order is kept":       {credential.Subject{{{"O", "b"}}, {{"C", "US"}}}, "3019310a300806035504" + "0a130162310b3009060355040613025553"},
	} {
		request := makeCSR(t, &credential.Credential{Subject: test.subject})
		if got := hex.EncodeToString(request.RawSubject); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestRequestNeverNamesTheDeviceOrTheCode(t *testing.T) {
	request := makeCSR(t, &credential.Credential{
		ClientIdentifier: "CLIENT-IDENTIFIER", Attest: true,
		Subject: credential.Subject{{{"CN", "x"}}}, SubjectAltName: &credential.SubjectAltName{DNSName: "d.e"},
	})
	if strings.Contains(string(request.Raw), "CLIENT-IDENTIFIER") {
		t.Error("request has the ClientIdentifier")
	}
	permanentIdentifier := must(must(x509.ParseOID("1.3.6.1.5.5.7.8.3")).MarshalBinary())
	if strings.Contains(string(request.Raw), string(permanentIdentifier)) {
		t.Error("request has a PermanentIdentifier")
	}
}

func TestRequestRefusesWhatCannotBeEncoded(t *testing.T) {
	key := must(Keys(must(NewDevice(IPhone, "", zeros{}))).MakeKey(t.Context(), KeySpec{Type: credential.EC, Size: 256}))
	for name, document := range map[string]*credential.Credential{
		"attribute type": {Subject: credential.Subject{{{"X", "a"}}}},
		"empty RDN":      {Subject: credential.Subject{{}}},
		"usage":          {ExtendedKeyUsage: []string{"clientAuth"}},
		"email":          {SubjectAltName: &credential.SubjectAltName{RFC822Name: "é@b.c"}},
		"host":           {SubjectAltName: &credential.SubjectAltName{DNSName: "é.c"}},
		"URI":            {SubjectAltName: &credential.SubjectAltName{UniformResourceIdentifier: "é:c"}},
	} {
		if _, err := buildCSR(document, key); err == nil {
			t.Errorf("%s: built", name)
		}
	}
}

func TestOpenSSLReadsTheRequest(t *testing.T) {
	openssl := counterpart.Require(t, "openssl")
	for _, kind := range []credential.KeyType{credential.EC, credential.RSA} {
		request := makeCSR(t, &credential.Credential{
			KeyType: kind, KeySize: map[credential.KeyType]int{credential.EC: 384, credential.RSA: 2048}[kind], UsageFlags: 5,
			Subject:        credential.Subject{{{"C", "US"}}, {{"CN", "Zoë"}}},
			SubjectAltName: &credential.SubjectAltName{RFC822Name: "a@b.c", NTPrincipalName: "a@corp"},
		})
		path := filepath.Join(t.TempDir(), "csr.pem")
		must(0, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request.Raw}), 0o600))
		out, err := exec.CommandContext(t.Context(), openssl, "req", "-in", path, "-verify", "-noout", "-text").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range []string{"verify OK", "email:a@b.c", "TLS Web Client Authentication", "Digital Signature, Key Encipherment", "X509v3 Key Usage: critical"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: openssl does not say %q: %s", kind, want, out)
			}
		}
	}
}
