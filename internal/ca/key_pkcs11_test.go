//go:build pkcs11

package ca

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"assay/internal/counterpart"
	"assay/internal/hsm"
)

// tokenKeys prepares SoftHSM with a token "assay", and a folder with its PIN.
func tokenKeys(t testing.TB) (s *counterpart.Tokens, dir string) {
	t.Helper()
	s = counterpart.SoftHSM(t)
	s.Init(t, "assay")
	t.Cleanup(hsm.Close)
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hsm.pin"), []byte(counterpart.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// tokenIssuer is an issuer whose key is in the token.
func tokenIssuer(t testing.TB, s *counterpart.Tokens, dir string, algorithm KeyAlgorithm, id byte) *Issuer {
	t.Helper()
	s.Import(t, "assay", string(algorithm), id, must(GenerateKey(algorithm))(t))
	key := must(OpenKey(s.URI("assay", string(algorithm), "hsm.pin"), dir))(t)
	root := must(NewRoot("Example Inc.", must(GenerateKey(P256))(t), testNow))(t)
	certificate := must(root.NewIssuing("Example Inc.", key.Public(), testNow))(t)
	return must(NewIssuer("issuer_1", [][]byte{certificate.Raw}, key, testURL))(t)
}

func TestModuleKeysSign(t *testing.T) {
	s, dir := tokenKeys(t)
	for n, algorithm := range []KeyAlgorithm{P256, P384, RSA3072} {
		issuer := tokenIssuer(t, s, dir, algorithm, byte(n+1))
		certificate, _ := issued(t, issuer, profile(t, nil), GrantInput{Request: appleAsking().parsed(t)})
		if err := certificate.CheckSignatureFrom(issuer.Certificate); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		list := must(x509.ParseRevocationList(must(issuer.SignCRL(t.Context(), testCRL()))(t)))(t)
		if err := list.CheckSignatureFrom(issuer.Certificate); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		request := must(x509.ParseCertificateRequest(must(NewSigningRequest("Example Inc.", issuer.key))(t)))(t)
		if err := request.CheckSignature(); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestModuleKeyIssuesToManyAtOnce(t *testing.T) {
	s, dir := tokenKeys(t)
	issuer := tokenIssuer(t, s, dir, P256, 1)
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			certificate, _ := issued(t, issuer, profile(t, nil), GrantInput{Request: appleAsking().parsed(t)})
			if err := certificate.CheckSignatureFrom(issuer.Certificate); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestModuleKeyNeedsItsPIN(t *testing.T) {
	s, dir := tokenKeys(t)
	s.Import(t, "assay", "issuing", 1, must(GenerateKey(P256))(t))
	for name, content := range map[string]string{"wrong.pin": "000000", "empty.pin": "\n", "long.pin": strings.Repeat("1", maxPIN+1), "open.pin": counterpart.PIN} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open.pin"), 0o640); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"wrong.pin": "the token refused the PIN of file:wrong.pin", "empty.pin": "does not hold a PIN", "long.pin": "does not hold a PIN",
		"open.pin": "used by others than its owner (mode 0640)", "missing.pin": "no such file", "//host/hsm.pin": "not file:PATH",
	} {
		if _, err := OpenKey(s.URI("assay", "issuing", file), dir); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), counterpart.PIN) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}

func BenchmarkIssueWithModuleKey(b *testing.B) {
	s, dir := tokenKeys(b)
	for n, algorithm := range []KeyAlgorithm{P256, P384, RSA3072} {
		inToken := tokenIssuer(b, s, dir, algorithm, byte(n+1))
		_, inFile := testAuthority(b, algorithm)
		for where, issuer := range map[string]*Issuer{"module": inToken, "file": inFile} {
			b.Run(string(algorithm)+"/"+where, func(b *testing.B) {
				p := profile(b, nil)
				grant := must(p.Grant(GrantInput{Request: appleAsking().parsed(b), IdentityID: testID}))(b)
				for b.Loop() {
					signed(b, issuer, p, grant, p256Key().Public())
				}
			})
		}
	}
}
