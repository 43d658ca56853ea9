package counterpart

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Tokens are tokens of SoftHSM, a PKCS#11 module without hardware, in a folder of their own. A module that
// this process loads finds them by the environment, so tests that use it cannot run side by side.
type Tokens struct {
	Module string // its path
	util   string
}

// PIN is the user's PIN of every token.
const PIN = "314159"

// SoftHSM prepares for tokens, until the test ends; it skips or fails the test where SoftHSM is missing.
func SoftHSM(t testing.TB) *Tokens {
	t.Helper()
	s := &Tokens{util: Require(t, "softhsm2-util")}
	for _, pattern := range []string{"/usr/lib/softhsm", "/usr/lib/*/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm", "/opt/homebrew/lib/softhsm"} {
		if found, err := filepath.Glob(pattern + "/libsofthsm2.so"); err == nil && len(found) > 0 {
			s.Module = found[0]
		}
	}
	if s.Module == "" {
		missing(t, "softhsm2-util", os.ErrNotExist)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "softhsm2.conf")
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, "directories.tokendir = %s\nlog.level = ERROR\n", tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", config)
	return s
}

// Init makes a token.
func (s *Tokens) Init(t testing.TB, label string) {
	t.Helper()
	s.run(t, "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "271828")
}

// Import puts a key pair into a token.
func (s *Tokens) Import(t testing.TB, token, label string, id byte, key crypto.Signer, flags ...string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--import", file, "--token", token, "--label", label, "--id", hex.EncodeToString([]byte{id}), "--pin", PIN}
	s.run(t, append(args, flags...)...)
}

// URI names a key by label, with the PIN in a file.
func (s *Tokens) URI(token, label, pinFile string) string {
	return fmt.Sprintf("pkcs11:token=%s;object=%s?module-path=%s&pin-source=file:%s", url.PathEscape(token), url.PathEscape(label), s.Module, pinFile)
}

func (s *Tokens) run(t testing.TB, args ...string) {
	t.Helper()
	if said, err := exec.CommandContext(t.Context(), s.util, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", s.util, args, err, said)
	}
}
