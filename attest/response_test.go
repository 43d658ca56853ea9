package attest_test

import (
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"assay/attest"
	"assay/attest/standin"

	"github.com/google/go-cmp/cmp"
)

// failedAttObj is what every Apple device sends whose attestation failed.
const failedAttObj = "omNmbXRlYXBwbGVnYXR0U3RtdKFjeDVjgA"

func TestParseResponseTellsTheKindsApart(t *testing.T) {
	honest := attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{})
	statement := honest[len("\xa2\x63fmt\x65apple\x67attStmt"):]
	failed, err := base64.RawURLEncoding.DecodeString(failedAttObj)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		payload string
		want    attest.Response
	}{
		"none":                {`{}`, attest.Response{Kind: attest.None}},
		"none with error":     {`{"error":"No network"}`, attest.Response{Kind: attest.None, DeviceError: "No network"}},
		"unknown members":     {` {"a":[1,{"attObj":"x"}],"attobj":"y","b":null}` + "\n", attest.Response{Kind: attest.None}},
		"error of other type": {`{"error":{"code":1}}`, attest.Response{Kind: attest.None}},
		"failed": {`{"attObj":"` + failedAttObj + `","error":"Attestation failed"}`,
			attest.Response{Kind: attest.Failed, Format: "apple", Statement: failed[len(failed)-6:], Object: failed, DeviceError: "Attestation failed"}},
		"failed without error": {`{"attObj":"` + failedAttObj + `"}`,
			attest.Response{Kind: attest.Failed, Format: "apple", Statement: failed[len(failed)-6:], Object: failed}},
		"attested": {string(standin.AttestedResponse(honest)),
			attest.Response{Kind: attest.Attested, Format: "apple", Statement: statement, Object: honest}},
		"other format with an empty x5c": {`{"attObj":"` + base64.RawURLEncoding.EncodeToString([]byte("\xa2\x63fmt\x63tpm\x67attStmt\xa1\x63x5c\x80")) + `"}`,
			attest.Response{Kind: attest.Attested, Format: "tpm", Statement: []byte("\xa1\x63x5c\x80"), Object: []byte("\xa2\x63fmt\x63tpm\x67attStmt\xa1\x63x5c\x80")}},
	} {
		got, err := attest.ParseResponse([]byte(c.payload))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if diff := cmp.Diff(&c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", what, diff)
		}
	}
}

func TestStandInsFailureIsApples(t *testing.T) {
	if got, want := string(standin.FailedResponse("why")), `{"attObj":"`+failedAttObj+`","error":"why"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseResponseRefusesFaultyRequests(t *testing.T) {
	for what, payload := range map[string]string{
		"empty":                  ``,
		"not JSON":               `attObj`,
		"null":                   `null`,
		"array":                  `[]`,
		"string":                 `"` + failedAttObj + `"`,
		"trailing data":          `{} {}`,
		"cut short":              `{"attObj":"oA"`,
		"not UTF-8":              "{\"error\":\"\xff\"}",
		"attObj null":            `{"attObj":null}`,
		"attObj number":          `{"attObj":1}`,
		"attObj object":          `{"attObj":{}}`,
		"attObj array":           `{"attObj":["oA"]}`,
		"attObj twice":           `{"attObj":"` + failedAttObj + `","attObj":"` + failedAttObj + `"}`,
		"error twice":            `{"error":"a","error":"b"}`,
		"padding":                `{"attObj":"oA=="}`,
		"standard alphabet":      `{"attObj":"o+/A"}`,
		"line break":             `{"attObj":"oA\r\n"}`,
		"stray bits":             `{"attObj":"oB"}`,
		"blank":                  `{"attObj":"o A"}`,
		"impossible length":      `{"attObj":"oAoAo"}`,
		"deep nesting":           `{"a":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`,
		"deeper than the parser": `{"a":` + strings.Repeat("[", 60000) + strings.Repeat("]", 60000) + `}`,
		"oversize":               `{"a":"` + strings.Repeat("a", 128<<10) + `"}`,
	} {
		r, err := attest.ParseResponse([]byte(payload))
		if _, ok := errors.AsType[*attest.ResponseError](err); !ok || r != nil {
			t.Errorf("%s: got %+v, %v; want a *ResponseError alone", what, r, err)
		}
	}
}

func TestParseResponseKeepsRefusedObjects(t *testing.T) {
	for what, c := range map[string]struct{ object, check string }{
		"nothing inside": {"", attest.CheckObjectWellFormed},
		"not CBOR":       {"\xff", attest.CheckObjectWellFormed},
		"NUL in fmt":     {"\xa3cfmtbx\x00gattStmt\xa0hauthData@", attest.CheckObjectWellFormed},
		"too large":      {strings.Repeat("a", attest.MaxObject+1), attest.CheckObjectSize},
	} {
		r, err := attest.ParseResponse([]byte(`{"attObj":"` + base64.RawURLEncoding.EncodeToString([]byte(c.object)) + `","error":"e"}`))
		wantRefusal(t, nil, err, c.check)
		if r == nil || r.Kind != attest.Attested || string(r.Object) != c.object || r.DeviceError != "e" || r.Format != "" {
			t.Errorf("%s: response %+v does not hold what was sent", what, r)
		}
	}
}

func TestDeviceErrorIsMadeHarmless(t *testing.T) {
	for in, want := range map[string]string{
		`La vérification a échoué`:     "La vérification a échoué",
		`a\u0000b\u001b[31mc\u007fd`:   "ab[31mcd",
		`line\r\nbreak\ttab`:           "line  break tab",
		`\u202egnp.exe`:                "gnp.exe",
		`\ud800`:                       "\ufffd",
		strings.Repeat("ä", 600):       strings.Repeat("ä", 512),
		"a" + strings.Repeat("ä", 600): "a" + strings.Repeat("ä", 511),
	} {
		r, err := attest.ParseResponse([]byte(`{"error":"` + in + `"}`))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if r.DeviceError != want {
			t.Errorf("%q became %q, want %q", in, r.DeviceError, want)
		}
	}
}

// seedResponses are real and hostile challenge responses.
func seedResponses(f *testing.F) [][]byte {
	seeds := [][]byte{standin.NoneResponse(), standin.FailedResponse("failed"), standin.AttestedResponse(realObject(f, false))}
	for _, object := range seedObjects(f) {
		seeds = append(seeds, standin.AttestedResponse(object))
	}
	return seeds
}

// seedObjects are the real leaf's object, an honest stand-in's and those of every mutation.
func seedObjects(f *testing.F) [][]byte {
	key := newKey(f, elliptic.P384()).Public()
	seeds := [][]byte{realObject(f, false), realObject(f, true), attested(f, key, mac, standin.Mutation{})}
	for _, m := range standin.Mutations() {
		if m.NewKey == nil && m.Check != attest.CheckObjectSize {
			seeds = append(seeds, attested(f, key, mac, m))
		}
	}
	if len(seeds) < 50 {
		f.Fatalf("only %d seeds", len(seeds))
	}
	return seeds
}

func FuzzParseResponse(f *testing.F) {
	for _, seed := range seedResponses(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := attest.ParseResponse(payload)
		_, faulty := errors.AsType[*attest.ResponseError](err)
		_, refused := errors.AsType[*attest.Refusal](err)
		switch {
		case err != nil && !faulty && !refused:
			t.Errorf("unnamed error: %v", err)
		case faulty != (r == nil):
			t.Errorf("response %+v beside error %v", r, err)
		case r != nil && (len(r.DeviceError) > attest.MaxDeviceError || !utf8.ValidString(r.DeviceError)):
			t.Errorf("unsafe error text %q", r.DeviceError)
		}
	})
}

// FuzzAttestationObject: whatever an object holds, reading, verifying and explaining it ends in a
// named refusal or a result, and nothing but the seeds' own keys is ever believed.
func FuzzAttestationObject(f *testing.F) {
	for _, seed := range seedObjects(f) {
		f.Add(seed)
	}
	v := attest.NewVerifier()
	p := params(authority().Root(), attest.AppleRoot())
	p.Token = "a token that no seed was made for"
	f.Fuzz(func(t *testing.T, object []byte) {
		facts, err := verifyObject(v, object, p)
		if _, ok := errors.AsType[*attest.Refusal](err); !ok {
			t.Errorf("facts %+v, error %v; want a refusal", facts, err)
		}
		i, err := attest.Inspect(object)
		if _, ok := errors.AsType[*attest.Refusal](err); err != nil && !ok {
			t.Errorf("unnamed error: %v", err)
		}
		if err == nil && len(i.Warnings) == 0 {
			t.Error("an inspection without a warning")
		}
	})
}
