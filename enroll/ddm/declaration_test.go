package ddm

import (
	"strings"
	"testing"
)

const (
	assetJSON         = `{"Type":"com.apple.asset.credential.acme","Identifier":"a","ServerToken":"1","Payload":{}}`
	configurationJSON = `{"Type":"com.apple.configuration.security.identity","Identifier":"c","ServerToken":"1","Payload":{"CredentialAssetReference":"a"}}`
)

func TestDeclarationsOfAFileAreBounded(t *testing.T) {
	for want, text := range map[string]string{
		"not a JSON array":          `{}`,
		"two declarations":          "[" + assetJSON + "," + assetJSON + "]",
		"more than 1000 decl":       "[1" + strings.Repeat(",1", maxDeclarations) + "]",
		"more than 1048576 bytes":   "[" + strings.Repeat(" ", maxFile) + "]",
		"unknown type":              `[{"Type":"com.example","Identifier":"a","ServerToken":"1","Payload":{}}]`,
		"1 to 64 octets":            `[` + strings.Replace(assetJSON, `"ServerToken":"1"`, `"ServerToken":"`+strings.Repeat("1", 65)+`"`, 1) + `]`,
		"ServerToken is not of its": `[` + strings.Replace(assetJSON, `"ServerToken":"1"`, `"ServerToken":1`, 1) + `]`,
		// encoding/json would take the name in another case for the same.
		`"" has the unknown type`: `[` + strings.Replace(strings.Replace(assetJSON, "Type", "type", 1), "Identifier", "identifier", 1) + `]`,
	} {
		if _, err := ParseDeclarations([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestACMEAssetsAreThoseThatAConfigurationReferences(t *testing.T) {
	for text, want := range map[string]int{
		"[" + assetJSON + "," + configurationJSON + "]":                                                1,
		"[" + configurationJSON + "," + assetJSON + "]":                                                1,
		"[" + assetJSON + "]":                                                                          0,
		"[" + configurationJSON + "]":                                                                  0,
		"[" + assetJSON + "," + strings.Replace(configurationJSON, `"a"`, `"b"`, 1) + "]":              0,
		"[" + strings.Replace(assetJSON, "credential.acme", "data", 1) + "," + configurationJSON + "]": 0,
	} {
		declarations, err := ParseDeclarations([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := ACMEAssets(declarations); len(got) != want {
			t.Errorf("%s: %d assets, want %d", text, len(got), want)
		}
	}
}

func TestReferencesAreFoundToABoundedDepth(t *testing.T) {
	deep := any("a")
	deep = map[string]any{"CredentialAssetReference": deep}
	for range maxPayloadDepth {
		deep = []any{deep}
	}
	if got := assetReferences(deep, 0); len(got) != 1 {
		t.Errorf("found %v", got)
	}
	if got := assetReferences([]any{deep}, 0); len(got) != 0 {
		t.Errorf("found %v", got)
	}
}
