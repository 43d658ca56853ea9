package delivery

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
	"github.com/micromdm/plist"
	"github.com/smallstep/pkcs7"
)

// delivered is a credential as it is delivered, of a template and a device.
func delivered(t testing.TB, one *Template, d issuance.Device) issuance.Delivery {
	t.Helper()
	body := must(must(one.Render(d, testDirectoryURL, testCode)).Encode())
	pair := must(one.Declarations(testID, testReference))
	return issuance.Delivery{
		Credential:    issuance.DeviceCredential{ID: testID, Revision: 1, Template: one.Name},
		Device:        d,
		Document:      issuance.Document{Body: body},
		Asset:         pair.Asset,
		Configuration: pair.Configuration,
	}
}

// signing is a certificate with its key: self-signed, or by an issuer.
type signing struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSigning(t testing.TB, name string, issuer *signing) signing {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	start := time.Now().Add(-time.Hour)
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: start, NotAfter: start.Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	parent, signer := form, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der := must(x509.CreateCertificate(rand.Reader, form, parent, key.Public(), signer))
	return signing{must(x509.ParseCertificate(der)), key}
}

// readProfile is a profile as a device reads it: its own keys and its payloads.
func readProfile(t interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}, data []byte) (own map[string]any, payloads []map[string]any) {
	t.Helper()
	if err := plist.Unmarshal(data, &own); err != nil {
		t.Fatal(err)
	}
	content, ok := own["PayloadContent"].([]any)
	if !ok {
		t.Fatalf("no payloads in %s", data)
	}
	for _, one := range content {
		payloads = append(payloads, one.(map[string]any))
	}
	delete(own, "PayloadContent")
	return own, payloads
}

func TestProfileHoldsTheFrozenDocumentAndTheCAs(t *testing.T) {
	one := parseTemplate(t, rendered+"keyIsExtractable: false\nallowAllAppsAccess: true\n")
	d := delivered(t, one, issuance.Device{Serial: "FAKE1", Labels: map[string]string{"owner": "sam"}})
	root := newSigning(t, "Root <&> CA", nil)
	intermediate := newSigning(t, "Sub CA", &root)
	data, err := Profile(d, `Example "Inc" ]]>`, [][]byte{root.cert.Raw, intermediate.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	own, payloads := readProfile(t, data)
	uuids := map[string]bool{}
	for _, payload := range append([]map[string]any{own}, payloads...) {
		uuid, _ := payload["PayloadUUID"].(string)
		if !regexp.MustCompile(`^[0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}$`).MatchString(uuid) || uuids[uuid] {
			t.Errorf("UUID %q", uuid)
		}
		uuids[uuid] = true
		delete(payload, "PayloadUUID")
	}
	if diff := cmp.Diff(map[string]any{"PayloadType": "Configuration", "PayloadVersion": uint64(1), "PayloadIdentifier": "assay." + string(testID),
		"PayloadDisplayName": "Identity test", "PayloadOrganization": `Example "Inc" ]]>`, "PayloadDescription": "Has the device ask for its certificate."}, own); diff != "" {
		t.Errorf("profile -want +got:\n%s", diff)
	}
	want := []map[string]any{
		{"PayloadType": "com.apple.security.acme", "PayloadVersion": uint64(1), "PayloadIdentifier": "assay." + string(testID) + ".acme", "PayloadDisplayName": "ACME certificate test",
			"DirectoryURL": testDirectoryURL, "ClientIdentifier": testCode, "KeySize": uint64(384), "KeyType": "ECSECPrimeRandom", "HardwareBound": true, "Attest": true,
			"Subject":        []any{[]any{[]any{"O", "Example {Inc}"}}, []any{[]any{"CN", "device-FAKE1"}}},
			"SubjectAltName": map[string]any{"rfc822Name": "sam@example.com", "ntPrincipalName": "sam@corp"},
			"UsageFlags":     uint64(1), "ExtendedKeyUsage": []any{"1.3.6.1.5.5.7.3.2"}, "KeyIsExtractable": false, "AllowAllAppsAccess": true},
		{"PayloadType": "com.apple.security.root", "PayloadVersion": uint64(1), "PayloadDisplayName": "Root <&> CA", "PayloadContent": root.cert.Raw},
		{"PayloadType": "com.apple.security.pkcs1", "PayloadVersion": uint64(1), "PayloadDisplayName": "Sub CA", "PayloadContent": intermediate.cert.Raw},
	}
	for i := range want[1:] {
		identifier, _ := payloads[i+1]["PayloadIdentifier"].(string)
		if !strings.HasPrefix(identifier, "assay."+string(testID)+".ca.") {
			t.Errorf("identifier %q", identifier)
		}
		delete(payloads[i+1], "PayloadIdentifier")
	}
	if diff := cmp.Diff(want, payloads); diff != "" {
		t.Errorf("payloads -want +got:\n%s", diff)
	}
}

func TestProfileHoldsToApplesSchema(t *testing.T) {
	keys := appleSchema(t, "mdm.profiles.com.apple.security.acme")
	for _, more := range []string{"", "keyIsExtractable: false\nallowAllAppsAccess: true\n"} {
		for _, data := range []string{small, rendered} {
			one := parseTemplate(t, data+more)
			_, payloads := readProfile(t, must(Profile(delivered(t, one, fullDevice(one)), "", nil)))
			for name := range payloads[0] {
				if strings.HasPrefix(name, "Payload") { // what every payload has
					delete(payloads[0], name)
				}
			}
			if found := breaches(payloads[0], keys, ""); found != nil {
				t.Errorf("%s", strings.Join(found, "\n"))
			}
		}
	}
}

func TestProfileChangesWithTheRenderingOnly(t *testing.T) {
	d := delivered(t, parseTemplate(t, small), issuance.Device{Serial: "FAKE1"})
	first := must(Profile(d, "", nil))
	if !bytes.Equal(first, must(Profile(d, "", nil))) {
		t.Error("two profiles of one rendering differ")
	}
	firstOwn, firstPayloads := readProfile(t, first)
	d.Credential.Revision++
	own, payloads := readProfile(t, must(Profile(d, "", nil)))
	if own["PayloadIdentifier"] != firstOwn["PayloadIdentifier"] || payloads[0]["PayloadIdentifier"] != firstPayloads[0]["PayloadIdentifier"] {
		t.Error("an identifier changed with the rendering")
	}
	if own["PayloadUUID"] == firstOwn["PayloadUUID"] || payloads[0]["PayloadUUID"] == firstPayloads[0]["PayloadUUID"] {
		t.Error("a UUID outlived its rendering")
	}
}

func TestProfileRefuses(t *testing.T) {
	good := func() issuance.Delivery {
		return delivered(t, parseTemplate(t, small), issuance.Device{Serial: "FAKE1"})
	}
	dead, withdrawn, faulty := good(), good(), good()
	dead.Document.Body = nil
	withdrawn.Configuration = nil
	faulty.Document.Body = []byte("{}")
	if _, err := Profile(dead, "", nil); !errors.Is(err, ErrDocumentOver) {
		t.Errorf("dead code: %v", err)
	}
	if _, err := Profile(withdrawn, "", nil); !errors.Is(err, ErrDocumentOver) {
		t.Errorf("withdrawn: %v", err)
	}
	if _, err := Profile(faulty, "", nil); err == nil {
		t.Error("a faulty document was taken")
	}
	if _, err := Profile(good(), "", [][]byte{{1}}); err == nil {
		t.Error("a faulty CA certificate was taken")
	}
	// XML has no NUL: the encoder would put U+FFFD in its place.
	if _, err := Profile(good(), "Example\x00", nil); !errors.Is(err, errNoXML) {
		t.Errorf("an organisation that XML cannot carry: %v", err)
	}
	if _, err := Profile(good(), "", [][]byte{newSigning(t, "CA\x00", nil).cert.Raw}); !errors.Is(err, errNoXML) {
		t.Errorf("a CA's name that XML cannot carry: %v", err)
	}
	nul := delivered(t, parseTemplate(t, strings.Replace(small, "{device.serial}", `a\0b`, 1)), issuance.Device{})
	if _, err := Profile(nul, "", nil); !errors.Is(err, errNoXML) {
		t.Errorf("a subject that XML cannot carry: %v", err)
	}
}

func TestSignedProfileCarriesProfileAndChain(t *testing.T) {
	root := newSigning(t, "root", nil)
	signer := newSigning(t, "signer", &root)
	profile := []byte("a profile")
	data, err := SignProfile(profile, []*x509.Certificate{signer.cert, root.cert}, signer.key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	read, err := pkcs7.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	if err := read.VerifyWithChain(roots); err != nil || !bytes.Equal(read.Content, profile) || len(read.Certificates) != 2 || !read.GetOnlySigner().Equal(signer.cert) {
		t.Errorf("verify: %v; content %q, %d certificates", err, read.Content, len(read.Certificates))
	}
	read.Content = []byte("b profile")
	if err := read.VerifyWithChain(roots); err == nil {
		t.Error("the signature does not cover the profile")
	}
}

func TestSignProfileRefuses(t *testing.T) {
	signer, other := newSigning(t, "signer", nil), newSigning(t, "other", nil)
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		key   crypto.Signer
		now   time.Time
	}{
		"no certificate":             {nil, signer.key, time.Now()},
		"the key of another":         {[]*x509.Certificate{signer.cert}, other.key, time.Now()},
		"a certificate that is over": {[]*x509.Certificate{signer.cert}, signer.key, signer.cert.NotAfter.Add(time.Second)},
		"one that has not begun":     {[]*x509.Certificate{signer.cert}, signer.key, signer.cert.NotBefore.Add(-time.Second)},
		"a chain that is none":       {[]*x509.Certificate{signer.cert, other.cert}, signer.key, time.Now()},
	} {
		if _, err := SignProfile([]byte("a profile"), c.chain, c.key, c.now); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
