package delivery

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"assay/credential"
	"assay/csr"
	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// hostile draws values that would change something if any step took them for more than data.
func hostile() *rapid.Generator[string] {
	pieces := []string{
		`"`, `'`, `\`, `{`, `}`, `{{`, `}}`, `{device.serial}`, `{device.labels.unit?}`, `","ClientIdentifier":"x`, "\\u0022", "\n", "\r", "\t", "\x00", "\x7f",
		"<", ">", "&", "]]>", "</string><key>Attest</key><false/>", "<!--", "&amp;", "&#10;", "=cmd|' /C calc'!A0", "+", "-", "@", ",", ";", ", CN=admin", "/CN=admin", "#", "#0c0161",
		"\xff", "\xc3", "\xed\xa0\x80", "\u202e", "\u200f", "שלום", "مرحبا", "é", "e\u0301", "\u2028", "\ufeff", "\ufffe", "\ufffd", "😀", "𝒳", " ", "a", "Sam", "7", "null", "true", "$SERIAL", "%s", "*",
	}
	// Values that break no rule of text, so that most get through to every form.
	visible := []string{`"`, `'`, `\`, `{`, `}`, `{device.serial}`, `","ClientIdentifier":"x`, "\\u0022", "<", ">", "&", "]]>", "</string><key>Attest</key><false/>", "&#10;", "=cmd|'/C calc'!A0",
		"+", "-", ",", ";", ", CN=admin", "/CN=admin", "#0c0161", "שלום", "مرحبا", "é", "e\u0301", "😀", "Sam", "7", "true"}
	return rapid.OneOf(
		rapid.SampledFrom(visible),
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom(visible), 1, 3), func(s []string) string { return strings.Join(s, "") }),
		rapid.SampledFrom([]string{"FAKE1", "Sam"}),
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 5), func(s []string) string { return strings.Join(s, "") }),
		rapid.String(),
		rapid.StringOfN(rapid.SampledFrom([]rune("ab\ufffd\ufffe\uffff\U0010ffff")), 1, 3, -1),
		rapid.StringMatching(`[A-Za-z0-9"{}<>&=+,;\\'\]\[(). -]{1,40}`),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 8), func(b []byte) string { return string(b) }),
	)
}

// propertyTemplate has each kind of place for a value: alone, within a literal, twice, optional.
const propertyTemplate = `version: 1
allowUnattested: true
authentication: MDM
document:
  KeyType: ECSECPrimeRandom
  KeySize: 256
  HardwareBound: true
  Attest: true
  Subject:
    - [["O", "Example {{Inc}}"]]
    - [["2.5.4.42", "{device.labels.unit?}"]]
    - [["2.5.4.41", "<{device.serial}>{device.udid}"]]
    - [["CN", "{device.serial}"]]
  SubjectAltName: {ntPrincipalName: "{device.labels.user?}@corp", dNSName: device.example.com}
  UsageFlags: 1
`

// expected is the rendered document of propertyTemplate as JSON and property lists have it.
func expected(d issuance.Device) map[string]any {
	subject := []any{[]any{[]any{"O", "Example {Inc}"}}}
	if unit := d.Labels["unit"]; unit != "" {
		subject = append(subject, []any{[]any{"2.5.4.42", unit}})
	}
	subject = append(subject, []any{[]any{"2.5.4.41", "<" + d.Serial + ">" + d.UDID}}, []any{[]any{"CN", d.Serial}})
	names := map[string]any{"dNSName": "device.example.com"}
	if user := d.Labels["user"]; user != "" {
		names["ntPrincipalName"] = user + "@corp"
	}
	return map[string]any{"DirectoryURL": testDirectoryURL, "ClientIdentifier": testCode, "KeySize": 256, "KeyType": "ECSECPrimeRandom", "HardwareBound": true, "Attest": true,
		"Subject": subject, "SubjectAltName": names, "UsageFlags": 1}
}

func hostileDevice(t *rapid.T) issuance.Device {
	return issuance.Device{Serial: hostile().Draw(t, "serial"), UDID: hostile().Draw(t, "udid"),
		Labels: map[string]string{"unit": hostile().Draw(t, "unit"), "user": hostile().Draw(t, "user")}}
}

// A value is refused, or it is exactly itself in exactly its field: in the document, in the profile and
// in the certificate request, with nothing else changed.
func TestValuesOfADeviceAreData(t *testing.T) {
	one := parseTemplate(t, propertyTemplate)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	taken, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		d := hostileDevice(t)
		c, err := one.Render(d, testDirectoryURL, testCode)
		if err != nil {
			if _, ok := errors.AsType[*RenderError](err); !ok || c != nil {
				t.Fatalf("got %v, %v", c, err)
			}
			refused++
			return
		}
		taken++
		var document map[string]any
		if err := json.Unmarshal(must(c.Encode()), &document); err != nil {
			t.Fatal(err)
		}
		want := expected(d)
		if diff := cmp.Diff(numbers(want), numbers(document)); diff != "" {
			t.Fatalf("document -want +got:\n%s", diff)
		}
		pair := must(one.Declarations(testID, testReference))
		data, err := Profile(issuance.Delivery{Credential: issuance.DeviceCredential{ID: testID, Revision: 1, Template: one.Name},
			Document: issuance.Document{Body: must(c.Encode())}, Configuration: pair.Configuration}, "", nil)
		if err != nil { // what renders, XML can carry
			t.Fatal(err)
		}
		_, payloads := readProfile(t, data)
		for name := range payloads[0] {
			if strings.HasPrefix(name, "Payload") {
				delete(payloads[0], name)
			}
		}
		if diff := cmp.Diff(numbers(want), numbers(payloads[0])); diff != "" {
			t.Fatalf("profile -want +got:\n%s", diff)
		}
		checkRequest(t, c, key)
	})
	if taken == 0 || refused == 0 {
		t.Errorf("%d taken, %d refused: the values are not hostile enough, or too much so", taken, refused)
	}
}

// numbers makes values comparable that decoders give other types to.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, one := range v {
			out[name] = numbers(one)
		}
		return out
	case []any:
		out := []any{}
		for _, one := range v {
			out = append(out, numbers(one))
		}
		return out
	case int:
		return strconv.Itoa(v)
	case uint64:
		return strconv.FormatUint(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return v
}

// checkRequest holds the subject of a certificate request to the document's, attribute by attribute.
func checkRequest(t *rapid.T, c *credential.Credential, key *ecdsa.PrivateKey) {
	var name pkix.RDNSequence
	for _, rdn := range c.Subject {
		oid := must(x509.ParseOID(rdn[0].OID()))
		var short asn1.ObjectIdentifier
		for arc := range strings.SplitSeq(oid.String(), ".") {
			short = append(short, must(strconv.Atoi(arc)))
		}
		name = append(name, pkix.RelativeDistinguishedNameSET{{Type: short, Value: rdn[0].Value()}})
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: must(asn1.Marshal(name))}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := csr.Parse(der)
	if err != nil {
		t.Fatalf("the request of a rendered document is refused: %v", err)
	}
	if diff := cmp.Diff(requested(c).Subject, request.Subject); diff != "" {
		t.Fatalf("subject -want +got:\n%s", diff)
	}
}

// Braces in a value are braces: it is not looked at again.
func TestAValueIsNeverExpandedAgain(t *testing.T) {
	one := parseTemplate(t, propertyTemplate)
	for _, value := range []string{"{device.serial}", "{device.labels.unit}", "{device.labels.user?}", "{x", "}}", "{device.serial"} {
		c, err := one.Render(issuance.Device{Serial: "FAKE1", UDID: "U", Labels: map[string]string{"unit": value}}, testDirectoryURL, testCode)
		if err != nil {
			t.Errorf("%s: %v", value, err)
		} else if got := c.Subject[1][0].Value(); got != value {
			t.Errorf("%s became %s", value, got)
		}
	}
}

// Any text can be written into a template as a literal, and comes out as itself.
func TestLiteralTextSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := hostile().Draw(t, "value")
		parsed, err := parseText(escapeBraces(value))
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.fill(func(placeholder) string { return "expanded" }); got != value {
			t.Fatalf("%q became %q", value, got)
		}
		if got := parsed.raw(); got != escapeBraces(value) {
			t.Fatalf("%q is shown as %q", escapeBraces(value), got)
		}
	})
}

func TestRenderingTwiceIsTheSame(t *testing.T) {
	one := parseTemplate(t, propertyTemplate)
	rapid.Check(t, func(t *rapid.T) {
		d := hostileDevice(t)
		first, err := one.Render(d, testDirectoryURL, testCode)
		second, errAgain := one.Render(d, testDirectoryURL, testCode)
		if diff := cmp.Diff(first, second); diff != "" || (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("%s%v\n%v", diff, err, errAgain)
		}
		if err == nil && string(must(first.Encode())) != string(must(second.Encode())) {
			t.Fatal("the bytes differ")
		}
	})
}
