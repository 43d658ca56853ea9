package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"
)

const testID issuance.CredentialID = "cred_0123456789abcdefghjkmnpqrs"

var testReference = Reference{DataURL: "https://id.example.com/credential/AAAA", Size: 700, SHA256: strings.Repeat("0123456789abcdef", 4)}

func TestDeclarationsAreWhatAnMDMTakes(t *testing.T) {
	one := parseTemplate(t, small+"authentication: MDM\naccessible: AfterFirstUnlock\nkeyIsExtractable: false\n")
	pair, err := one.Declarations(testID, testReference)
	if err != nil {
		t.Fatal(err)
	}
	asset := `{"Type":"com.apple.asset.credential.acme","Identifier":"assay.cred_0123456789abcdefghjkmnpqrs.asset","ServerToken":"` + pair.AssetToken + `",` +
		`"Payload":{"Reference":{"DataURL":"https://id.example.com/credential/AAAA","ContentType":"application/json","Size":700,` +
		`"Hash-SHA-256":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},` +
		`"Authentication":{"Type":"MDM"},"Accessible":"AfterFirstUnlock"}}`
	if diff := cmp.Diff(asset, string(pair.Asset)); diff != "" {
		t.Errorf("asset -want +got:\n%s", diff)
	}
	configuration := `{"Type":"com.apple.configuration.security.identity","Identifier":"assay.cred_0123456789abcdefghjkmnpqrs.identity","ServerToken":"` + pair.ConfigurationToken + `",` +
		`"Payload":{"CredentialAssetReference":"assay.cred_0123456789abcdefghjkmnpqrs.asset","KeyIsExtractable":false}}`
	if diff := cmp.Diff(configuration, string(pair.Configuration)); diff != "" {
		t.Errorf("configuration -want +got:\n%s", diff)
	}
	activation := string(Activation(testID))
	if !strings.Contains(activation, `"Payload":{"StandardConfigurations":["assay.cred_0123456789abcdefghjkmnpqrs.identity"]}`) ||
		!strings.HasPrefix(activation, `{"Type":"com.apple.activation.simple","Identifier":"assay.cred_0123456789abcdefghjkmnpqrs.activation","ServerToken":"`) {
		t.Errorf("activation %s", activation)
	}
}

func TestDeclarationsStayTheSameInsideOtherJSON(t *testing.T) {
	pair := must(parseTemplate(t, small).Declarations(testID, Reference{DataURL: "https://id.example.com/credential/A?a=<&b=>\u2028", Size: 1, SHA256: testReference.SHA256}))
	wrapped, err := json.Marshal([]json.RawMessage{pair.Asset})
	if err != nil || string(wrapped) != "["+string(pair.Asset)+"]" {
		t.Errorf("%s became %s, %v", pair.Asset, wrapped, err)
	}
}

func TestServerTokenIsTheHashOfTheDeclarationWithoutIt(t *testing.T) {
	pair := must(parseTemplate(t, small).Declarations(testID, testReference))
	for token, data := range map[string][]byte{pair.AssetToken: pair.Asset, pair.ConfigurationToken: pair.Configuration} {
		sum := sha256.Sum256(bytes.Replace(data, []byte(`"ServerToken":"`+token+`",`), nil, 1))
		if want := base64.RawURLEncoding.EncodeToString(sum[:]); token != want || len(token) != 43 {
			t.Errorf("token %s, want %s", token, want)
		}
	}
}

func TestServerTokenChangesExactlyWithTheBytes(t *testing.T) {
	templates := []*Template{parseTemplate(t, small), parseTemplate(t, small+"authentication: MDM\n"), parseTemplate(t, small+"accessible: AfterFirstUnlock\n"),
		parseTemplate(t, small+"allowAllAppsAccess: true\n"), parseTemplate(t, small+"keyIsExtractable: true\n"), parseTemplate(t, small+"renewBefore: 1d\n")}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(which string) Pair {
			id := issuance.CredentialID(rapid.SampledFrom([]string{string(testID), "cred_00000000000000000000000000"}).Draw(t, which+" id"))
			return must(rapid.SampledFrom(templates).Draw(t, which+" template").Declarations(id, Reference{
				DataURL: "https://id.example.com/credential/" + rapid.SampledFrom([]string{"a", "b"}).Draw(t, which+" path"),
				Size:    rapid.IntRange(1, 2).Draw(t, which+" size"),
				SHA256:  strings.Repeat(rapid.SampledFrom([]string{"0", "f"}).Draw(t, which+" hash"), 64),
			}))
		}
		a, b := draw("first"), draw("second")
		if bytes.Equal(a.Asset, b.Asset) != (a.AssetToken == b.AssetToken) {
			t.Errorf("tokens %s and %s of\n%s\n%s", a.AssetToken, b.AssetToken, a.Asset, b.Asset)
		}
		if bytes.Equal(a.Configuration, b.Configuration) != (a.ConfigurationToken == b.ConfigurationToken) {
			t.Errorf("tokens %s and %s of\n%s\n%s", a.ConfigurationToken, b.ConfigurationToken, a.Configuration, b.Configuration)
		}
		if a.AssetToken == a.ConfigurationToken {
			t.Error("asset and configuration share a token")
		}
	})
}

func TestDeclarationsRefuseAReferenceThatDevicesRefuse(t *testing.T) {
	for name, change := range map[string]func(*Reference){
		"http":             func(r *Reference) { r.DataURL = "http://id.example.com/" },
		"nothing to fetch": func(r *Reference) { r.Size = 0 },
		"short hash":       func(r *Reference) { r.SHA256 = r.SHA256[2:] },
		"capital hash":     func(r *Reference) { r.SHA256 = strings.ToUpper(r.SHA256) },
		"no hash":          func(r *Reference) { r.SHA256 = strings.Repeat("g", 64) },
	} {
		ref := testReference
		change(&ref)
		if _, err := parseTemplate(t, small).Declarations(testID, ref); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestParseIdentifierTakesItsOwnOnly(t *testing.T) {
	for want, identifier := range map[DeclarationKind]string{AssetKind: AssetIdentifier(testID), ConfigurationKind: ConfigurationIdentifier(testID), ActivationKind: ActivationIdentifier(testID)} {
		if id, kind, ok := ParseIdentifier(identifier); !ok || id != testID || kind != want || len(identifier) > 64 {
			t.Errorf("%s: got %s, %s, %t", identifier, id, kind, ok)
		}
	}
	for _, identifier := range []string{"", "assay.", "assay.cred_0123456789abcdefghjkmnpqrs", "assay.cred_0123456789abcdefghjkmnpqrs.", "assay.cred_0123456789abcdefghjkmnpqrs.profile",
		"assay.code_0123456789abcdefghjkmnpqrs.asset", "other.cred_0123456789abcdefghjkmnpqrs.asset", "cred_0123456789abcdefghjkmnpqrs.asset", "assay.cred_0123456789abcdefghjkmnpqr.asset",
		"assay.cred_0123456789ABCDEFGHJKMNPQRS.asset", "assay.cred_0123456789abcdefghjkmnpqrs.asset.asset", "assay.cred_0123456789abcdefghjkmnpqr'.asset", "ASSAY.cred_0123456789abcdefghjkmnpqrs.asset"} {
		if id, kind, ok := ParseIdentifier(identifier); ok || id != "" || kind != "" {
			t.Errorf("%q was taken: %s, %s", identifier, id, kind)
		}
	}
}

// appleKey is a key of Apple's schema.
type appleKey struct {
	Key       string
	Type      string
	Presence  string
	Rangelist []string
	Subkeys   []appleKey
}

// appleSchema reads one of Apple's schemas.
func appleSchema(t testing.TB, name string) []appleKey {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "apple-schema", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Payloadkeys []appleKey }
	if err := yaml.Load(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Payloadkeys) == 0 {
		t.Fatalf("%s has no keys", name)
	}
	return file.Payloadkeys
}

// breaches says what a dictionary holds against the schema: keys that it does not name, required ones
// that are missing, and values of other types or beyond the range list.
func breaches(dictionary map[string]any, keys []appleKey, path string) (out []string) {
	for name := range dictionary {
		if !slices.ContainsFunc(keys, func(k appleKey) bool { return k.Key == name }) {
			out = append(out, path+name+" is not in the schema")
		}
	}
	for _, k := range keys {
		if value, ok := dictionary[k.Key]; ok {
			out = append(out, breach(value, k, path+k.Key)...)
		} else if k.Presence == "required" {
			out = append(out, path+k.Key+" is missing")
		}
	}
	return out
}

func breach(value any, k appleKey, path string) (out []string) {
	ok := false
	switch v := value.(type) {
	case string:
		ok = k.Type == "<string>" && (len(k.Rangelist) == 0 || slices.Contains(k.Rangelist, v))
	case bool:
		ok = k.Type == "<boolean>"
	case float64:
		ok = k.Type == "<integer>" && v == float64(int(v))
	case uint64, int64:
		ok = k.Type == "<integer>"
	case map[string]any:
		ok = k.Type == "<dictionary>"
		out = breaches(v, k.Subkeys, path+".")
	case []any:
		ok = k.Type == "<array>" && len(k.Subkeys) == 1
		for i, item := range v {
			if ok {
				out = append(out, breach(item, k.Subkeys[0], fmt.Sprintf("%s[%d]", path, i))...)
			}
		}
	}
	if !ok {
		out = append(out, fmt.Sprintf("%s: %v is no %s of %v", path, value, k.Type, k.Rangelist))
	}
	return out
}

func TestDeclarationsHoldToApplesSchema(t *testing.T) {
	asset := appleSchema(t, "declarative.declarations.assets.credential.acme")
	configuration := appleSchema(t, "declarative.declarations.configurations.security.identity")
	for _, more := range []string{"", "authentication: MDM\naccessible: AfterFirstUnlock\nkeyIsExtractable: false\nallowAllAppsAccess: true\n"} {
		pair := must(parseTemplate(t, small+more).Declarations(testID, testReference))
		for _, c := range []struct {
			data []byte
			keys []appleKey
		}{{pair.Asset, asset}, {pair.Configuration, configuration}} {
			var declaration struct{ Payload map[string]any }
			if err := json.Unmarshal(c.data, &declaration); err != nil {
				t.Fatal(err)
			}
			if found := breaches(declaration.Payload, c.keys, ""); found != nil {
				t.Errorf("%s\n%s", strings.Join(found, "\n"), c.data)
			}
		}
	}
	// The check itself finds what is wrong.
	wrong := map[string]any{"Reference": map[string]any{"Size": 1.5, "X": true}, "Accessible": "Always"}
	if found := breaches(wrong, asset, ""); len(found) != 4 {
		t.Errorf("found %q", found)
	}
}
