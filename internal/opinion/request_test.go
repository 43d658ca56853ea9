package opinion

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/internal/issuance"
	"assay/policy"

	"github.com/google/go-cmp/cmp"
)

func encoded(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// documented is the indented block of docs/opinion.md that begins with a line.
func documented(t *testing.T, first string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/opinion.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n"+first)
	if !found {
		t.Fatalf("docs/opinion.md has no block that begins with %q", first)
	}
	var block strings.Builder
	for line := range strings.Lines(first + rest) {
		text, indented := strings.CutPrefix(line, "    ")
		if !indented && strings.TrimSpace(line) != "" {
			break
		}
		block.WriteString(text)
	}
	return block.String()
}

func TestRequestIsAsDocumented(t *testing.T) {
	random := make([]byte, 16)
	for i := range random {
		random[i] = byte(i)
	}
	id, err := newID(bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	body, err := encode(id, Sample(start), true)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(documented(t, "    {\n      \"schema\"")), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/opinion.md shows another request (-documented +sent):\n%s", diff)
	}
	if a, err := parseAnswer([]byte(documented(t, "    {\"id\": "))); err != nil || a.id != id {
		t.Errorf("the documented answer: %+v, %v", a, err)
	}
	if p, err := policy.Parse("documented", []byte(documented(t, "    version: 1\n"))); err != nil || !p.UsesOpinion() {
		t.Errorf("the documented policy: %v", err)
	}
	if !strings.Contains(strings.Join(strings.Fields(documented(t, "    opinion:\n")), " "), "timeout: 3s # at most 5s") || DefaultTimeout != 3*time.Second || MaxTimeout != 5*time.Second {
		t.Error("the documented timeouts are others")
	}
}

// filled is an input in which everything has a value: texts are the path that leads to them.
func filled(t *testing.T) policy.Input {
	t.Helper()
	var in policy.Input
	fill(reflect.ValueOf(&in).Elem(), "in")
	in.Now, in.Code.CreatedAt = start, start.Add(-time.Hour)
	return in
}

func fill(v reflect.Value, path string) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(start))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "PublicKey" || v.Field(i).Kind() == reflect.Slice {
				fill(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(path))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value, path)
		v.SetMapIndex(reflect.ValueOf(path+".key"), value)
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	}
}

// TestNothingElseIsSent holds every text of an input against what leaves the house: a new field of the
// input is seen here.
func TestNothingElseIsSent(t *testing.T) {
	in := filled(t)
	body, err := encode("opinion_1", in, false)
	if err != nil {
		t.Fatal(err)
	}
	secret := map[string]string{
		"public key of the facts": encoded(in.Facts.PublicKey),
		"attestation public key":  encoded(in.Facts.Posture.AttestationPublicKey),
		"opaque property":         encoded([]byte("in.Facts.Opaque")),
		"SPKI":                    encoded(in.Request.SPKI),
		"raw attribute":           encoded(in.Request.Subject[0][0].Raw),
		"accepted roots":          "in.Roots",
		"accepted formats":        "in.Formats",
		"who approved":            "in.Approval",
		"an opinion":              "in.Opinion",
		"the property's OID":      "in.Facts.Opaque.key",
	}
	for what, value := range secret {
		if bytes.Contains(body, []byte(value)) {
			t.Errorf("%s is sent: %s", what, body)
		}
	}
	for _, value := range []string{"in.Claimed", "in.Facts.Identifiers.Value", "in.Facts.Posture.SecureBoot", "in.Request.Subject.Value", "in.Request.AltNames.Value",
		"in.Device.Labels.key", "in.Code.ID", "in.Code.Labels", "in.Code.Serial", "in.Code.Template", `"ageSeconds":3600`, `"keySHA256":"`} {
		if !bytes.Contains(body, []byte(value)) {
			t.Errorf("%s is not sent: %s", value, body)
		}
	}
	if bytes.Contains(body, []byte(`"test"`)) {
		t.Error("a real request is marked as a test")
	}
}

func TestCodesAreNeverSent(t *testing.T) {
	for range 200 {
		code, err := issuance.NewCodeValue(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		in := Sample(start)
		in.Identifier, in.Claimed = policy.BySerial, code
		in.Request.Subject = csr.Name{{{Type: "2.5.4.3", Value: code}, {Type: "2.5.4.10", Value: "x " + code + "/y"}}}
		in.Request.AltNames = []csr.AltName{
			{Kind: csr.AltPermanentIdentifier, Value: code + "/1.2.3"}, {Kind: csr.AltURI, Value: "https://example.com/" + code + "?x"},
			{Kind: csr.AltDNS, Value: code + ".example.com"}, {Kind: csr.AltOther, Value: code + "0"},
		}
		body, err := encode("opinion_1", in, false)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(body, []byte(code)) {
			t.Fatalf("%s is sent: %s", code, body)
		}
		if n := bytes.Count(body, []byte(hidden)); n != 6 {
			t.Fatalf("hidden %d times in %s", n, body)
		}
	}
	for _, text := range []string{
		"C02XEXAMPLE1", "00008150-0000000000000001", "0123456789abcdef0123456789abcdef01234567", "sam@example.com",
		"0123456789abcdef0123456789abcdef", "0123456789ABCDEF0123456789ABCDEF", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", strings.Repeat("x", 33),
	} {
		if got := hideCodes(text); got != text {
			t.Errorf("%s becomes %s", text, got)
		}
	}
	if len(must(issuance.NewCodeValue(rand.Reader))) != codeLength {
		t.Error("codes have another length")
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// TestWhateverTheServerTakesCanBeSent: no device escapes the service by what it writes.
func TestWhateverTheServerTakesCanBeSent(t *testing.T) {
	in := filled(t)
	in.Facts = Sample(start).Facts
	// The worst that MaxSize bytes of a CSR can hold: control characters, which JSON writes in six.
	in.Request.Subject = csr.Name{{{Type: "2.5.4.3", Value: strings.Repeat("\x01", csr.MaxSize)}}}
	labels := map[string]string{}
	each := issuance.MaxLabelBytes / issuance.MaxLabels
	for i := range issuance.MaxLabels {
		labels[string(rune('A'+i))] = strings.Repeat("\x01", each-1)
	}
	in.Code.Labels, in.Device.Labels = labels, labels
	body, err := encode("opinion_1", in, false)
	if err != nil {
		t.Fatal(err)
	}
	// As many small attributes and OIDs as fit into a CSR: their frames weigh more than they do.
	in.Request.Subject = nil
	for range csr.MaxSize / 10 {
		in.Request.Subject = append(in.Request.Subject, []csr.Attribute{{Type: "2.5.4.3", Value: "\x01"}})
	}
	other, err := encode("opinion_1", in, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d and %d bytes", len(body), len(other))
	in.Code.Labels = map[string]string{"a": strings.Repeat("a", maxRequest)}
	if _, err := encode("opinion_1", in, false); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("beyond the limit: %v", err)
	}
}

func TestOnlyWhatIsKnownIsSent(t *testing.T) {
	body, err := encode("opinion_1", policy.Input{Now: start, Directory: "d", Identifier: policy.BySerial, Claimed: "C02XEXAMPLE1", Evidence: attest.None}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"schema":"assay.opinion.request/1","id":"opinion_1","time":"2026-11-28T09:00:00Z","directory":"d","order":{"kind":"serial","claimed":"C02XEXAMPLE1"},"evidence":"none"}`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}
