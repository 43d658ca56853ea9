package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const (
	testURL   = "https://id.example.com/acme/default/new-order"
	testKID   = "https://id.example.com/acme/default/account/1"
	testNonce = "bm9uY2UtZm9yLXRlc3Rz"
)

// testKeys are one key of each kind that may sign.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{
		"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521(),
	} {
		keys[name] = must(ecdsa.GenerateKey(curve, rand.Reader))
	}
	keys["RS256"] = must(rsa.GenerateKey(rand.Reader, 2048))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	keys["EdDSA"] = ed
	must(0, err)
	return keys
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func publicJWK(key crypto.Signer) *jose.JSONWebKey { return &jose.JSONWebKey{Key: key.Public()} }

func wantProblem(t *testing.T, p *Problem, kind, check string) {
	t.Helper()
	if p == nil {
		t.Fatalf("accepted, want %s (%s)", kind, check)
	}
	if p.Kind() != kind || p.Check != check {
		t.Fatalf("got %v, want %s (%s)", p, kind, check)
	}
}

func TestSignedRequestVerifiesWithEveryAlgorithm(t *testing.T) {
	for alg, key := range testKeys() {
		for _, kid := range []string{"", testKID} {
			body := must(Sign(key, kid, testNonce, testURL, []byte(`{"a":1}`)))
			m, p := ParseMessage(body)
			if p != nil {
				t.Fatalf("%s kid %q: %v", alg, kid, p)
			}
			h := m.Header
			if h.Algorithm != alg || h.KeyID != kid || h.Nonce != testNonce || h.URL != testURL || (h.JWK == nil) != (kid != "") {
				t.Errorf("%s: header %+v", alg, h)
			}
			payload, p := m.Verify(publicJWK(key))
			if p != nil || string(payload) != `{"a":1}` {
				t.Errorf("%s: payload %q, problem %v", alg, payload, p)
			}
			if kid == "" {
				if _, p := m.Verify(h.JWK); p != nil {
					t.Errorf("%s: embedded key: %v", alg, p)
				}
			}
		}
	}
}

func TestPS256IsAccepted(t *testing.T) {
	key := testKeys()["RS256"]
	body := joseSign(t, jose.PS256, key, map[jose.HeaderKey]any{"url": testURL, "nonce": testNonce}, true)
	m, p := ParseMessage(body)
	if p != nil {
		t.Fatal(p)
	}
	if _, p := m.Verify(publicJWK(key)); p != nil {
		t.Fatal(p)
	}
}

// joseSign signs with go-jose's own signer, as an independent second opinion.
func joseSign(t *testing.T, alg jose.SignatureAlgorithm, key any, extra map[jose.HeaderKey]any, embed bool) []byte {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{EmbedJWK: embed, ExtraHeaders: extra})
	if err != nil {
		t.Fatal(err)
	}
	return []byte(must(signer.Sign([]byte("{}"))).FullSerialize())
}

func TestGoJoseVerifiesWhatSignMakes(t *testing.T) {
	for alg, key := range testKeys() {
		jws, err := jose.ParseSignedJSON(string(must(Sign(key, testKID, testNonce, testURL, []byte("{}")))), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jws.Verify(key.Public()); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestPostAsGetHasAnEmptyPayload(t *testing.T) {
	key := testKeys()["ES256"]
	for name, want := range map[string]struct {
		payload []byte
		size    int
	}{"POST-as-GET": {nil, 0}, "empty object": {[]byte("{}"), 2}} {
		m, p := ParseMessage(must(Sign(key, testKID, testNonce, testURL, want.payload)))
		if p != nil {
			t.Fatal(p)
		}
		payload, p := m.Verify(publicJWK(key))
		if p != nil || len(payload) != want.size {
			t.Errorf("%s: payload %q, problem %v", name, payload, p)
		}
	}
}

// rewrap replaces the protected header of a valid request by the JSON text and signs it anew, so
// that the header alone is at fault.
func rewrap(header string) []byte {
	b64 := base64.RawURLEncoding
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte("{}"))
	signature := must(signInput(testKeys()["ES256"], crypto.SHA256, []byte(input)))
	protected, payload, _ := strings.Cut(input, ".")
	return must(json.Marshal(map[string]string{
		"protected": protected, "payload": payload, "signature": b64.EncodeToString(signature),
	}))
}

func TestParseRefusesHeaderFaults(t *testing.T) {
	const tail = `"nonce":"bm9uY2U","url":"https://x/y"`
	jwk := string(must(CanonicalJWK(publicJWK(testKeys()["ES256"]))))
	weak := must(rsa.GenerateKey(rand.Reader, 2048)).Public().(*rsa.PublicKey)
	short := jose.JSONWebKey{Key: &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Rsh(weak.N, 1), 0, 1), E: weak.E}}
	long := jose.JSONWebKey{Key: &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 8192, 1), E: 65537}}
	even := jose.JSONWebKey{Key: &rsa.PublicKey{N: weak.N, E: 65536}}
	private := jose.JSONWebKey{Key: testKeys()["ES256"]}
	for name, test := range map[string]struct{ header, kind, check string }{
		"control":               {`{"alg":"ES256","kid":"k",` + tail + `}`, "", ""},
		"control with jwk":      {`{"alg":"ES256","jwk":` + jwk + `,` + tail + `}`, "", ""},
		"unknown member":        {`{"alg":"ES256","kid":"k","typ":"x",` + tail + `}`, "", ""},
		"not an object":         {`["ES256"]`, Malformed, "jws-header"},
		"trailing data":         {`{"alg":"ES256","kid":"k",` + tail + `}{}`, Malformed, "jws-header"},
		"not UTF-8":             {"{\"alg\":\"ES256\",\"kid\":\"\xff\"," + tail + "}", Malformed, "jws-header"},
		"duplicate alg":         {`{"alg":"ES256","alg":"ES256","kid":"k",` + tail + `}`, Malformed, "jws-header"},
		"duplicate, escaped":    {`{"alg":"ES256","\u0061lg":"ES256","kid":"k",` + tail + `}`, Malformed, "jws-header"},
		"duplicate in jwk":      {`{"alg":"ES256","jwk":{"kty":"EC","kty":"EC"},` + tail + `}`, Malformed, "jws-header"},
		"crit":                  {`{"alg":"ES256","kid":"k","crit":["url"],` + tail + `}`, Malformed, "jws-header"},
		"b64":                   {`{"alg":"ES256","kid":"k","b64":false,` + tail + `}`, Malformed, "jws-header"},
		"b64 true":              {`{"alg":"ES256","kid":"k","b64":true,` + tail + `}`, Malformed, "jws-header"},
		"no alg":                {`{"kid":"k",` + tail + `}`, Malformed, "jws-algorithm"},
		"alg not a string":      {`{"alg":256,"kid":"k",` + tail + `}`, Malformed, "jws-algorithm"},
		"alg in other case":     {`{"Alg":"ES256","kid":"k",` + tail + `}`, Malformed, "jws-algorithm"},
		"alg none":              {`{"alg":"none","kid":"k",` + tail + `}`, BadSignatureAlgorithm, "jws-algorithm"},
		"alg HS256":             {`{"alg":"HS256","kid":"k",` + tail + `}`, BadSignatureAlgorithm, "jws-algorithm"},
		"alg RS512":             {`{"alg":"RS512","kid":"k",` + tail + `}`, BadSignatureAlgorithm, "jws-algorithm"},
		"alg es256":             {`{"alg":"es256","kid":"k",` + tail + `}`, BadSignatureAlgorithm, "jws-algorithm"},
		"neither jwk nor kid":   {`{"alg":"ES256",` + tail + `}`, Malformed, "jws-header"},
		"both jwk and kid":      {`{"alg":"ES256","kid":"k","jwk":` + jwk + `,` + tail + `}`, Malformed, "jws-header"},
		"jwk and empty kid":     {`{"alg":"ES256","kid":"","jwk":` + jwk + `,` + tail + `}`, Malformed, "jws-header"},
		"empty kid":             {`{"alg":"ES256","kid":"",` + tail + `}`, Malformed, "jws-header"},
		"kid not a string":      {`{"alg":"ES256","kid":1,` + tail + `}`, Malformed, "jws-header"},
		"kid null":              {`{"alg":"ES256","kid":null,` + tail + `}`, Malformed, "jws-header"},
		"jwk null":              {`{"alg":"ES256","jwk":null,` + tail + `}`, BadPublicKey, "jws-key"},
		"jwk empty":             {`{"alg":"ES256","jwk":{},` + tail + `}`, BadPublicKey, "jws-key"},
		"jwk private":           {`{"alg":"ES256","jwk":` + string(must(private.MarshalJSON())) + `,` + tail + `}`, BadPublicKey, "jws-key"},
		"jwk symmetric":         {`{"alg":"ES256","jwk":{"kty":"oct","k":"AAAA"},` + tail + `}`, BadPublicKey, "jws-key"},
		"jwk for encryption":    {`{"alg":"ES256","jwk":{"use":"enc",` + jwk[1:] + `,` + tail + `}`, BadPublicKey, "jws-key"},
		"jwk off the curve":     {`{"alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 42) + `E","y":"` + strings.Repeat("A", 42) + `E"},` + tail + `}`, BadPublicKey, "jws-key"},
		"jwk on another curve":  {`{"alg":"ES256","jwk":{"kty":"EC","crv":"secp256k1","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"},` + tail + `}`, BadPublicKey, "jws-key"},
		"RSA below 2048 bits":   {`{"alg":"RS256","jwk":` + string(must(short.MarshalJSON())) + `,` + tail + `}`, BadPublicKey, "jws-key"},
		"RSA above 8192 bits":   {`{"alg":"RS256","jwk":` + string(must(long.MarshalJSON())) + `,` + tail + `}`, BadPublicKey, "jws-key"},
		"RSA with even e":       {`{"alg":"RS256","jwk":` + string(must(even.MarshalJSON())) + `,` + tail + `}`, BadPublicKey, "jws-key"},
		"no nonce":              {`{"alg":"ES256","kid":"k","url":"u"}`, BadNonce, "jws-nonce"},
		"empty nonce":           {`{"alg":"ES256","kid":"k","nonce":"","url":"u"}`, BadNonce, "jws-nonce"},
		"nonce not a string":    {`{"alg":"ES256","kid":"k","nonce":5,"url":"u"}`, Malformed, "jws-nonce"},
		"nonce with padding":    {`{"alg":"ES256","kid":"k","nonce":"bm8=","url":"u"}`, Malformed, "jws-nonce"},
		"nonce in base64":       {`{"alg":"ES256","kid":"k","nonce":"+/+/","url":"u"}`, Malformed, "jws-nonce"},
		"nonce with line break": {`{"alg":"ES256","kid":"k","nonce":"bm8\n","url":"u"}`, Malformed, "jws-nonce"},
		"nonce of 128":          {`{"alg":"ES256","kid":"k","nonce":"` + strings.Repeat("A", 128) + `","url":"u"}`, "", ""},
		"nonce of 130":          {`{"alg":"ES256","kid":"k","nonce":"` + strings.Repeat("A", 130) + `","url":"u"}`, Malformed, "jws-nonce"},
		"no url":                {`{"alg":"ES256","kid":"k","nonce":"bm9uY2U"}`, Malformed, "jws-url"},
		"url not a string":      {`{"alg":"ES256","kid":"k","nonce":"bm9uY2U","url":{}}`, Malformed, "jws-url"},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := ParseMessage(rewrap(test.header))
			if test.kind == "" {
				if p != nil {
					t.Fatalf("refused: %v", p)
				}
				return
			}
			wantProblem(t, p, test.kind, test.check)
			if (test.kind == BadSignatureAlgorithm) != (len(p.Algorithms) > 0) {
				t.Errorf("algorithms offered: %v", p.Algorithms)
			}
			if p.Status != http.StatusBadRequest {
				t.Errorf("status %d", p.Status)
			}
		})
	}
}

func TestParseRefusesBodyFaults(t *testing.T) {
	body := string(must(Sign(testKeys()["ES256"], testKID, testNonce, testURL, []byte("{}"))))
	var f struct{ Protected, Payload, Signature string }
	must(0, json.Unmarshal([]byte(body), &f))
	object := func(members ...string) string { return "{" + strings.Join(members, ",") + "}" }
	protected, payload, signature := `"protected":"`+f.Protected+`"`, `"payload":"`+f.Payload+`"`, `"signature":"`+f.Signature+`"`
	if _, p := ParseMessage([]byte(object(signature, `"x":[1,{"y":null}]`, payload, protected))); p != nil {
		t.Fatalf("control: %v", p)
	}
	for name, bad := range map[string]string{
		"empty":                 "",
		"compact":               f.Protected + "." + f.Payload + "." + f.Signature,
		"array":                 "[" + body + "]",
		"trailing data":         body + body,
		"unprotected header":    object(protected, payload, signature, `"header":{}`),
		"several signatures":    object(protected, payload, signature, `"signatures":[]`),
		"general serialization": object(payload, `"signatures":[`+object(protected, signature)+`]`),
		"no payload":            object(protected, signature),
		"null payload":          object(protected, `"payload":null`, signature),
		"no protected":          object(payload, signature),
		"empty protected":       object(`"protected":""`, payload, signature),
		"no signature":          object(protected, payload),
		"empty signature":       object(protected, payload, `"signature":""`),
		"duplicate payload":     object(protected, payload, payload, signature),
		"members in other case": object(`"Protected":"`+f.Protected+`"`, payload, signature),
		"padded payload":        object(protected, `"payload":"e30="`, signature),
		"line break":            object(protected, `"payload":"e3\n0"`, signature),
		"standard base64":       object(protected, `"payload":"+/+/"`, signature),
		"impossible length":     object(protected, `"payload":"e30AA"`, signature),
		"too deep":              object(protected, payload, signature, `"x":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)),
		"not UTF-8":             object(protected, payload, signature, "\"x\":\"\xff\""),
	} {
		t.Run(name, func(t *testing.T) {
			_, p := ParseMessage([]byte(bad))
			wantProblem(t, p, Malformed, "jws-syntax")
		})
	}
}

func TestParseRefusesLargeBody(t *testing.T) {
	m, p := ParseMessage([]byte(strings.Repeat(" ", MaxRequestSize+1)))
	wantProblem(t, p, Malformed, "jws-size")
	if m != nil || p.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("message %v, status %d", m, p.Status)
	}
}

func TestVerifyRefusesChangedMessage(t *testing.T) {
	for alg, key := range testKeys() {
		body := must(Sign(key, testKID, testNonce, testURL, []byte(`{"a":1}`)))
		other := must(Sign(key, testKID, testNonce, testURL+"x", []byte(`{"a":2}`)))
		for _, part := range []string{"protected", "payload", "signature"} {
			var a, b map[string]string
			must(0, json.Unmarshal(body, &a))
			must(0, json.Unmarshal(other, &b))
			a[part] = b[part]
			m, p := ParseMessage(must(json.Marshal(a)))
			if p != nil {
				t.Fatal(p)
			}
			payload, p := m.Verify(publicJWK(key))
			wantProblem(t, p, Malformed, "jws-signature")
			if payload != nil {
				t.Errorf("%s, %s changed: payload given out", alg, part)
			}
		}
	}
}

func TestVerifyRefusesAlgorithmOfAnotherKey(t *testing.T) {
	for alg, key := range testKeys() {
		m, p := ParseMessage(must(Sign(key, testKID, testNonce, testURL, nil)))
		if p != nil {
			t.Fatal(p)
		}
		for other, otherKey := range testKeys() {
			if other != alg {
				_, p := m.Verify(publicJWK(otherKey))
				wantProblem(t, p, Malformed, "jws-algorithm")
			}
		}
		_, p = m.Verify(nil)
		wantProblem(t, p, Malformed, "jws-algorithm")
		_, p = m.Verify(&jose.JSONWebKey{Key: key.Public(), Algorithm: "ES999"})
		wantProblem(t, p, Malformed, "jws-algorithm")
	}
	m, _ := ParseMessage(must(Sign(testKeys()["ES256"], testKID, testNonce, testURL, nil)))
	_, p := m.Verify(publicJWK(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
	wantProblem(t, p, Malformed, "jws-signature")
}

// signatureOf makes an ES256 request whose r and s have exactly the given numbers of leading zero
// bytes, and returns the request's members with the raw signature.
func signatureOf(t *testing.T, zerosR, zerosS int) (map[string]string, []byte) {
	t.Helper()
	leading := func(half []byte) int {
		n := 0
		for n < len(half) && half[n] == 0 {
			n++
		}
		return n
	}
	for range 400_000 {
		var m map[string]string
		must(0, json.Unmarshal(must(Sign(testKeys()["ES256"], testKID, testNonce, testURL, nil)), &m))
		raw := must(base64.RawURLEncoding.DecodeString(m["signature"]))
		if leading(raw[:32]) == zerosR && leading(raw[32:]) == zerosS {
			return m, raw
		}
	}
	t.Fatal("no such signature found")
	return nil, nil
}

func parseWith(m map[string]string, signature []byte) (*Message, *Problem) {
	m["signature"] = base64.RawURLEncoding.EncodeToString(signature)
	return ParseMessage(must(json.Marshal(m)))
}

func TestVerifyRepairsDroppedZerosOfES256(t *testing.T) {
	key := publicJWK(testKeys()["ES256"])
	for _, zeros := range [][2]int{{1, 0}, {0, 1}} {
		m, raw := signatureOf(t, zeros[0], zeros[1])
		dropped := append(append([]byte{}, raw[zeros[0]:32]...), raw[32+zeros[1]:]...)
		if len(dropped) != 64-zeros[0]-zeros[1] {
			t.Fatal("test is wrong")
		}
		message, p := parseWith(m, dropped)
		if p != nil {
			t.Fatal(p)
		}
		if _, p := message.Verify(key); p != nil {
			t.Errorf("zeros %v: %v", zeros, p)
		}
		// The same signature with a byte lost at the end is not repaired.
		message, _ = parseWith(m, raw[:63])
		_, p = message.Verify(key)
		wantProblem(t, p, Malformed, "jws-signature")
		// Nor is one that grew.
		message, _ = parseWith(m, append(append([]byte{}, raw...), 0))
		_, p = message.Verify(key)
		wantProblem(t, p, Malformed, "jws-signature")
	}
}

func TestCandidatesPutLostZerosBackInEveryPlace(t *testing.T) {
	r, s := make([]byte, 32), make([]byte, 32)
	for i := range r {
		r[i], s[i] = byte(i+1), byte(i+101)
	}
	for _, zeros := range [][2]int{{0, 0}, {1, 0}, {0, 1}, {1, 1}, {2, 0}, {0, 2}} {
		clear(r[:2])
		clear(s[:2])
		full := append(append([]byte{}, r...), s...)
		sent := append(append([]byte{}, r[zeros[0]:]...), s[zeros[1]:]...)
		lost := zeros[0] + zeros[1]
		got := candidates(jose.ES256, sent)
		if len(got) != lost+1 {
			t.Errorf("zeros %v: %d candidates", zeros, len(got))
		}
		found := false
		for _, c := range got {
			found = found || cmp.Equal(c, full)
		}
		if !found {
			t.Errorf("zeros %v: the full signature is not among the candidates", zeros)
		}
	}
	// Three lost bytes and other algorithms are not repaired.
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.ES384} {
		if got := candidates(alg, make([]byte, 61)); len(got) != 1 || len(got[0]) != 61 {
			t.Errorf("%s: 61 bytes repaired", alg)
		}
	}
	if got := candidates(jose.ES384, make([]byte, 63)); len(got) != 1 || len(got[0]) != 63 {
		t.Error("ES384 signature repaired")
	}
}

func TestVerifyRefusesDegenerateSignatures(t *testing.T) {
	key := testKeys()["ES256"].Public().(*ecdsa.PublicKey)
	n := key.Params().N.FillBytes(make([]byte, 32))
	zero, one := make([]byte, 32), append(make([]byte, 31), 1)
	m, raw := signatureOf(t, 0, 0)
	for name, signature := range map[string][]byte{
		"r = s = 0":   append(append([]byte{}, zero...), zero...),
		"r = 0":       append(append([]byte{}, zero...), raw[32:]...),
		"s = 0":       append(append([]byte{}, raw[:32]...), zero...),
		"r = s = 1":   append(append([]byte{}, one...), one...),
		"r = n":       append(append([]byte{}, n...), raw[32:]...),
		"s = n":       append(append([]byte{}, raw[:32]...), n...),
		"swapped":     append(append([]byte{}, raw[32:]...), raw[:32]...),
		"DER":         must(ecdsa.SignASN1(rand.Reader, testKeys()["ES256"].(*ecdsa.PrivateKey), make([]byte, 32))),
		"one byte":    {1},
		"63 zeros":    make([]byte, 63),
		"62 zeros":    make([]byte, 62),
		"half":        raw[:32],
		"128 bytes":   append(append([]byte{}, raw...), raw...),
		"first 62":    raw[:62],
		"last 62":     raw[2:],
		"s one short": raw[:63],
	} {
		message, p := parseWith(m, signature)
		if p != nil {
			t.Fatal(p)
		}
		if _, p := message.Verify(publicJWK(testKeys()["ES256"])); p == nil || p.Check != "jws-signature" {
			t.Errorf("%s: %v", name, p)
		}
	}
}

func TestKeyChangeInnerMessage(t *testing.T) {
	key := testKeys()["ES384"]
	inner := must(SignKeyChange(key, testURL, []byte(`{"account":"x"}`)))
	m, p := ParseInner(inner)
	if p != nil {
		t.Fatal(p)
	}
	if payload, p := m.Verify(m.Header.JWK); p != nil || string(payload) != `{"account":"x"}` {
		t.Fatalf("payload %q, problem %v", payload, p)
	}
	_, p = ParseMessage(inner)
	wantProblem(t, p, BadNonce, "jws-nonce")
	_, p = ParseInner(must(Sign(key, "", testNonce, testURL, nil)))
	wantProblem(t, p, Malformed, "jws-nonce")
	_, p = ParseInner(must(sign(key, testKID, "", testURL, nil)))
	wantProblem(t, p, Malformed, "jws-header")
}

func TestSignRefusesEmptyNonce(t *testing.T) {
	if _, err := Sign(testKeys()["ES256"], "", "", testURL, nil); err == nil {
		t.Error("signed without a nonce")
	}
}

func TestSignRefusesKeysWithoutAlgorithm(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"P-224":        must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)),
		"not DER":      fixedSigner{testKeys()["ES256"], []byte("no signature")},
		"trailing":     fixedSigner{testKeys()["ES256"], []byte{0x30, 6, 2, 1, 1, 2, 1, 1, 0}},
		"three values": fixedSigner{testKeys()["ES256"], []byte{0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1}},
		"negative r":   fixedSigner{testKeys()["ES256"], []byte{0x30, 6, 2, 1, 0x81, 2, 1, 1}},
		"negative s":   fixedSigner{testKeys()["ES256"], []byte{0x30, 6, 2, 1, 1, 2, 1, 0x81}},
		"r too long":   fixedSigner{testKeys()["ES256"], append([]byte{0x30, 38, 2, 33, 1}, append(make([]byte, 32), 2, 1, 1)...)},
		"s too long":   fixedSigner{testKeys()["ES256"], append([]byte{0x30, 38, 2, 1, 1, 2, 33, 1}, make([]byte, 32)...)},
	} {
		if _, err := Sign(key, testKID, testNonce, testURL, nil); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// fixedSigner always returns the same signature.
type fixedSigner struct {
	crypto.Signer
	signature []byte
}

func (s fixedSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return s.signature, nil
}
