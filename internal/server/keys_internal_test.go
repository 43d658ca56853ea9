package server

import (
	"crypto/ecdsa"
	"fmt"
	"testing"

	"assay/acme"
)

const exampleJWK = `{"crv":"P-256","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`

func TestAccountKeyIsParsedOnce(t *testing.T) {
	var keys accountKeys
	if _, err := keys.parse([]byte(exampleJWK)); err != nil {
		t.Fatal(err)
	}
	first := keys.parsed[exampleJWK]
	if again, err := keys.parse([]byte(exampleJWK)); err != nil || again != first {
		t.Errorf("parsed again: %v", err)
	}
	for range 2 {
		if _, err := keys.parse([]byte(`{"kty":"EC"}`)); err == nil {
			t.Error("took what is no key")
		}
	}
}

func TestRememberedKeyIsWhatItsFormParsesTo(t *testing.T) {
	parsed, err := acme.ParseJWK([]byte(exampleJWK))
	if err != nil {
		t.Fatal(err)
	}
	registered := *parsed
	registered.Algorithm, registered.KeyID = "ES256", "of a request" // came beside the key
	var keys accountKeys
	keys.remember([]byte(exampleJWK), &registered)
	got, err := keys.parse([]byte(exampleJWK))
	if err != nil || !parsed.Key.(*ecdsa.PublicKey).Equal(got.Key) || got.Algorithm != "" || got.KeyID != "" {
		t.Errorf("remembered %+v, %v", got, err)
	}
}

func TestRememberedKeysAreBounded(t *testing.T) {
	var keys accountKeys
	for n := range maxAccountKeys + 10 {
		if _, err := keys.parse(fmt.Appendf(nil, `{"kid":"%d",%s`, n, exampleJWK[1:])); err != nil {
			t.Fatal(err)
		}
	}
	if len(keys.parsed) > maxAccountKeys {
		t.Errorf("%d keys are remembered, more than %d", len(keys.parsed), maxAccountKeys)
	}
}
