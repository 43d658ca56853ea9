package acme

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// The key and thumbprint of RFC 7638, section 3.1.
const (
	rfc7638Key = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	rfc7638Sum = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
)

func TestThumbprintOfRFC7638(t *testing.T) {
	key, err := ParseJWK([]byte(rfc7638Key))
	if err != nil {
		t.Fatal(err)
	}
	if got := must(Thumbprint(key)); got != rfc7638Sum {
		t.Errorf("thumbprint %s", got)
	}
	if got := must(KeyAuthorization("token", key)); got != "token."+rfc7638Sum {
		t.Errorf("key authorization %s", got)
	}
}

func TestCanonicalJWKIsWhatThumbprintHashes(t *testing.T) {
	for alg, signer := range testKeys() {
		key := publicJWK(signer)
		key.KeyID, key.Use = "some", "sig"
		canonical := must(CanonicalJWK(key))
		sum := sha256.Sum256(canonical)
		if got := base64.RawURLEncoding.EncodeToString(sum[:]); got != must(Thumbprint(key)) {
			t.Errorf("%s: %s hashes to %s", alg, canonical, got)
		}
		again, err := ParseJWK(canonical)
		if err != nil {
			t.Fatal(err)
		}
		if string(must(CanonicalJWK(again))) != string(canonical) {
			t.Errorf("%s: form changes when read again", alg)
		}
	}
}

func TestCanonicalJWKRefusesPrivateKey(t *testing.T) {
	key := publicJWK(testKeys()["ES256"])
	key.Key = testKeys()["ES256"]
	if got, err := CanonicalJWK(key); err == nil {
		t.Errorf("gave %s", got)
	}
}

func TestParseJWKRefuses(t *testing.T) {
	for name, bad := range map[string]string{
		"nothing":         "",
		"array":           "[]",
		"symmetric":       `{"kty":"oct","k":"AAAA"}`,
		"duplicates":      strings.Replace(rfc7638Key, `"kty":"RSA"`, `"kty":"RSA","kty":"RSA"`, 1),
		"duplicates deep": strings.Replace(rfc7638Key, `"kty"`, `"x":{"a":1,"a":2},"kty"`, 1),
		"private":         string(must(jose.JSONWebKey{Key: testKeys()["ES256"]}.MarshalJSON())),
		"not UTF-8":       strings.Replace(rfc7638Key, `"kty"`, "\"x\":\"\xff\",\"kty\"", 1),
		"trailing":        rfc7638Key + "1",
		"use enc":         strings.Replace(rfc7638Key, `"kty"`, `"use":"enc","kty"`, 1),
		"large":           rfc7638Key + strings.Repeat(" ", MaxRequestSize),
	} {
		if _, err := ParseJWK([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRSAKeysAreOf2048To4096Bits(t *testing.T) {
	for bits, want := range map[int]bool{2047: false, 2048: true, 4096: true, 4097: false, 8192: false} {
		n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
		// Asked without go-jose too: its limit can be changed by whoever imports it.
		n.SetBit(n, 0, 1)
		if err := checkKey(&jose.JSONWebKey{Key: &rsa.PublicKey{N: n, E: 65537}}); (err == nil) != want {
			t.Errorf("%d bits: error is %v", bits, err)
		}
		text := fmt.Sprintf(`{"kty":"RSA","e":"AQAB","n":%q}`, base64.RawURLEncoding.EncodeToString(n.Bytes()))
		if _, err := ParseJWK([]byte(text)); (err == nil) != want {
			t.Errorf("%d bits read: error is %v", bits, err)
		}
	}
}
