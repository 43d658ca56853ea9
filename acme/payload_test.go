package acme

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeStrictReadsPayloads(t *testing.T) {
	var order NewOrder
	p := DecodeStrict([]byte(` {"identifiers":[{"type":"permanent-identifier","value":"A/B\u00e9"}],"notBefore":"0001-01-01T00:00:00Z","x":{"y":[1,2.5e-3,true,null]}} `), &order)
	if p != nil {
		t.Fatal(p)
	}
	if diff := cmp.Diff([]Identifier{{PermanentIdentifier, "A/Bé"}}, order.Identifiers); diff != "" {
		t.Error(diff)
	}
	if order.NotBefore == nil || !order.NotBefore.IsZero() {
		t.Errorf("notBefore %v", order.NotBefore)
	}
}

func TestDecodeStrictComparesNamesWithCase(t *testing.T) {
	var update StatusUpdate
	if p := DecodeStrict([]byte(`{"Status":"deactivated"}`), &update); p != nil || update.Status != "" {
		t.Errorf("status %q, problem %v", update.Status, p)
	}
}

func TestDecodeStrictKeepsRawMembers(t *testing.T) {
	var change KeyChange
	if p := DecodeStrict([]byte(`{"account":"x","oldKey":{"kty":"EC"}}`), &change); p != nil || string(change.OldKey) != `{"kty":"EC"}` {
		t.Errorf("%s, %v", change.OldKey, p)
	}
}

func TestDecodeStrictRefuses(t *testing.T) {
	for name, bad := range map[string]string{
		"nothing":            "",
		"null":               "null",
		"array":              "[]",
		"trailing data":      `{} {}`,
		"trailing comma":     `{"a":1,}`,
		"duplicate":          `{"status":"a","status":"b"}`,
		"duplicate unknown":  `{"x":1,"x":1}`,
		"duplicate inside":   `{"x":[{"y":1,"y":2}]}`,
		"wrong type":         `{"status":1}`,
		"too deep":           strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17),
		"too many members":   `{` + manyMembers(65) + `}`,
		"not UTF-8":          "{\"status\":\"\xc3\"}",
		"control character":  "{\"status\":\"a\nb\"}",
		"bad escape":         `{"status":"\x41"}`,
		"leading zero":       `{"a":01}`,
		"byte order mark":    "\ufeff{}",
		"unfinished":         `{"a":"`,
		"unfinished literal": `{"a":tru}`,
	} {
		var update StatusUpdate
		if p := DecodeStrict([]byte(bad), &update); p == nil || p.Kind() != Malformed || p.Check != "payload" {
			t.Errorf("%s: %v", name, p)
		}
	}
	for _, good := range []string{
		strings.Repeat(`{"a":`, 16) + "1" + strings.Repeat("}", 16),
		`{` + manyMembers(64) + `}`,
	} {
		if p := DecodeStrict([]byte(good), new(StatusUpdate)); p != nil {
			t.Errorf("refused at the limit: %v", p)
		}
	}
	wantProblem(t, DecodeStrict(make([]byte, MaxRequestSize+1), new(StatusUpdate)), Malformed, "jws-size")
}

func TestScanObjectAgreesWithTheGrammar(t *testing.T) {
	for _, good := range []string{
		"{}", " { } ", `{"a":[]}`, `{"a":[ ]}`, `{"a":[[],{}]}`, `{"a":-0}`, `{"a":1.5E-7}`, `{"a":"\"\\\/\b\f\n\r\t\u00e9\ud834\udd1e"}`,
		`{"a":true,"b":false,"c":null}`, "{\"a\"\t:\r\n1 , \"b\":2}", "{\"\x7f\":1}",
	} {
		if _, err := scanObject([]byte(good)); err != nil || !json.Valid([]byte(good)) {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		`["a":1}`, `{"a":1]`, `{"a":[1}}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":"\u00g0"}`, `{"a":"\u00"}`, `{"a":"\`,
		`{"a":"\a"}`, `{"\a":1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":+1}`, `{"a":-}`, `{"a":nul}`, `{"a":True}`, `{a:1}`,
		`{"a"}`, `{"a":}`, `{"a":1,,"b":2}`, `{,}`, `{"a":1`, `{`, "{\"a\x00\":1}", "{\"a\":1}\x00",
	} {
		if members, err := scanObject([]byte(bad)); err == nil || json.Valid([]byte(bad)) {
			t.Errorf("%q: %v", bad, members)
		}
	}
}

func TestScanObjectDecodesNames(t *testing.T) {
	members, err := scanObject([]byte(`{"\u0061\/":1,"b":"c"}`))
	if err != nil || len(members) != 2 || members[0].name != "a/" || members[1].name != "b" {
		t.Errorf("%v, %v", members, err)
	}
	if _, err := scanObject([]byte(`{"a":1,"\u0061":2}`)); err == nil {
		t.Error("duplicate in another spelling accepted")
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"m` + strings.Repeat("x", i) + `":1`)
	}
	return b.String()
}

// FuzzScanObject holds the scanner against encoding/json: what the scanner accepts is valid JSON
// with the members that encoding/json sees.
func FuzzScanObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"b":[true,false,null,-0.5e+10],"c":{"d":"\u00e9\n"}}`, `{"a":1,"a":2}`, `{"a":01}`,
		`{"termsOfServiceAgreed":true}`, `{"identifiers":[{"type":"permanent-identifier","value":"x"}]}`,
		`{"attObj":"omNmbXRlYXBwbGVnYXR0U3RtdKFjeDVjgA","error":"e"}`, rfc7638Key,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		members, err := scanObject(data)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("accepted invalid JSON %q: %v", data, err)
		}
		if len(want) != len(members) || !utf8.Valid(data) {
			t.Fatalf("%q: %d members, want %d", data, len(members), len(want))
		}
		for _, m := range members {
			if string(want[m.name]) != string(m.value) {
				t.Fatalf("%q: member %q is %q, want %q", data, m.name, m.value, want[m.name])
			}
		}
	})
}

// FuzzParseMessage: no input panics, and what parses keeps its promises before Verify.
func FuzzParseMessage(f *testing.F) {
	seeds := 0
	for _, key := range testKeys() {
		for _, kid := range []string{"", testKID} {
			f.Add(must(Sign(key, kid, testNonce, testURL, []byte(`{"termsOfServiceAgreed":true}`))))
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, p := ParseMessage(body)
		if (m == nil) == (p == nil) {
			t.Fatal("neither message nor problem")
		}
		if p != nil {
			if p.Check == "" || p.Status == 0 {
				t.Fatalf("problem without check or status: %v", p)
			}
			return
		}
		h := m.Header
		if !allowed(h.Algorithm) || h.URL == "" || h.Nonce == "" || (h.JWK == nil) == (h.KeyID == "") {
			t.Fatalf("header %+v", h)
		}
		if h.JWK != nil {
			m.Verify(h.JWK)
		}
	})
}
