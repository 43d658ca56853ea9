//go:build pkcs11

package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"assay/internal/counterpart"

	"github.com/miekg/pkcs11"
)

// soft prepares SoftHSM with a token "assay"; the module is loaded anew for each test.
func soft(t testing.TB) *counterpart.Tokens {
	t.Helper()
	s := counterpart.SoftHSM(t)
	s.Init(t, "assay")
	t.Cleanup(Close)
	return s
}

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// parsed is a URI of a key in a token.
func parsed(t testing.TB, s *counterpart.Tokens, token, object string) *URI {
	t.Helper()
	u, err := Parse(s.URI(token, object, "unread"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func thePIN() (string, error) { return counterpart.PIN, nil }

// openedKey opens a key, which must succeed.
func openedKey(t testing.TB, u *URI) *Key {
	t.Helper()
	key, err := Open(u, thePIN)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*Key)
}

// signs checks that a key signs a digest as it should.
func signs(t testing.TB, key crypto.Signer, hash crypto.Hash) {
	t.Helper()
	h := hash.New()
	h.Write([]byte("hello"))
	digest := h.Sum(nil)
	signature, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Error(err)
		return
	}
	ok := false
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(public, digest, signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil
	}
	if !ok {
		t.Errorf("%T, %s: the signature does not verify", key.Public(), hash)
	}
}

func TestKeysSign(t *testing.T) {
	s := soft(t)
	big, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for n, c := range []struct {
		name string
		key  crypto.Signer
	}{{"p256", newEC(t, elliptic.P256())}, {"p384", newEC(t, elliptic.P384())}, {"rsa", big}} {
		s.Import(t, "assay", c.name, byte(n+1), c.key)
	}
	for _, name := range []string{"p256", "p384", "rsa"} {
		key := openedKey(t, parsed(t, s, "assay", name))
		for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			signs(t, key, hash)
		}
		if _, err := key.Sign(rand.Reader, make([]byte, 31), crypto.SHA256); err == nil || !strings.Contains(err.Error(), "31 bytes, not the 32") {
			t.Errorf("%s signs a short digest: %v", name, err)
		}
	}
	digest := sha256.Sum256(nil)
	rsaKey := openedKey(t, parsed(t, s, "assay", "rsa"))
	for _, opts := range []crypto.SignerOpts{&rsa.PSSOptions{Hash: crypto.SHA256}, crypto.SHA3_256} {
		if _, err := rsaKey.Sign(rand.Reader, digest[:], opts); err == nil || !strings.Contains(err.Error(), "only PKCS #1 v1.5") {
			t.Errorf("signs %v: %v", opts, err)
		}
	}
}

func TestKeyIsFoundByID(t *testing.T) {
	s := soft(t)
	first, second := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	s.Import(t, "assay", "issuing", 1, first)
	s.Import(t, "assay", "issuing", 2, second)
	u := parsed(t, s, "assay", "issuing")
	u.ID = []byte{2}
	if key := openedKey(t, u); !second.PublicKey.Equal(key.Public()) {
		t.Error("it is the other key")
	}
	u.Object = ""
	if key := openedKey(t, u); !second.PublicKey.Equal(key.Public()) {
		t.Error("without its label it is the other key")
	}
}

func TestOpenRefuses(t *testing.T) {
	s := soft(t)
	for range 2 {
		s.Init(t, "twin")
	}
	s.Import(t, "assay", "issuing", 1, newEC(t, elliptic.P256()))
	s.Import(t, "assay", "two", 2, newEC(t, elliptic.P256()))
	s.Import(t, "assay", "two", 3, newEC(t, elliptic.P256()))
	s.Import(t, "assay", "shared", 4, newEC(t, elliptic.P256()))
	s.Import(t, "assay", "same id", 4, newEC(t, elliptic.P256()), "--force")
	s.Import(t, "assay", "bare", 5, newEC(t, elliptic.P256()), "--no-public-key")
	s.Import(t, "assay", "curve", 6, newEC(t, elliptic.P521()))
	s.Import(t, "assay", "alien", 7, newEC(t, elliptic.P256()), "--no-public-key")
	certify(t, s, "alien", 7, newEC(t, elliptic.P256()))
	text := filepath.Join(t.TempDir(), "text.so")
	open := filepath.Join(t.TempDir(), "open.so")
	for _, name := range []string{text, open} {
		if err := os.WriteFile(name, []byte("no library"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o775); err != nil {
		t.Fatal(err)
	}
	slot := uint(12345)
	for name, c := range map[string]struct {
		token, object string
		change        func(*URI)
		want          string
	}{
		"token missing":        {"other", "issuing", nil, `there is no token "other" in /`},
		"token of another":     {"assay", "issuing", func(u *URI) { u.Manufacturer = "Acme" }, `there is no token "assay", manufacturer "Acme"`},
		"token in another":     {"assay", "issuing", func(u *URI) { u.Slot = &slot }, `there is no token "assay", slot-id 12345`},
		"two tokens":           {"twin", "issuing", nil, `2 tokens are token "twin": name one by its serial`},
		"key missing":          {"assay", "other", nil, `there is no private key with object "other"`},
		"key of another id":    {"assay", "issuing", func(u *URI) { u.ID = []byte{9} }, `there is no private key with object "issuing", id 09`},
		"two keys":             {"assay", "two", nil, `2 private keys are object "two": name one by both`},
		"public keys differ":   {"assay", "shared", nil, "with the id 04 of the private key differ"},
		"no public key":        {"assay", "bare", nil, "neither public key nor certificate with the id 05"},
		"curve":                {"assay", "curve", nil, "none of P-256, P-384 and RSA"},
		"another certificate":  {"assay", "alien", nil, "does not verify under the public key or certificate"},
		"module missing":       {"assay", "issuing", func(u *URI) { u.Module = "/nowhere/p11.so" }, "module-path: "},
		"module is a folder":   {"assay", "issuing", func(u *URI) { u.Module = "/" }, "no regular file"},
		"module is text":       {"assay", "issuing", func(u *URI) { u.Module = text }, "it is no PKCS#11 module"},
		"module is everyone's": {"assay", "issuing", func(u *URI) { u.Module = open }, "may be written by others than its owner (mode 0775)"},
	} {
		u := parsed(t, s, c.token, c.object)
		if c.change != nil {
			c.change(u)
		}
		if _, err := Open(u, thePIN); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// certify puts a certificate of a key into the token, with an id.
func certify(t testing.TB, s *counterpart.Tokens, label string, id byte, key crypto.Signer) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	m, err := load(s.Module)
	if err != nil {
		t.Fatal(err)
	}
	u := parsed(t, s, "assay", label)
	o := &opener{uri: u, pin: thePIN, module: m}
	slot, err := o.slot()
	if err != nil {
		t.Fatal(err)
	}
	handle, err := m.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	session := &tokenSession{ctx: m.ctx, handle: handle}
	defer session.close()
	if err := o.logIn(session); err != nil {
		t.Fatal(err)
	}
	_, err = m.ctx.CreateObject(handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE), pkcs11.NewAttribute(pkcs11.CKA_CERTIFICATE_TYPE, pkcs11.CKC_X_509),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, []byte{id}), pkcs11.NewAttribute(pkcs11.CKA_SUBJECT, []byte{0x30, 0}), pkcs11.NewAttribute(pkcs11.CKA_VALUE, der),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCertificateStandsForThePublicKey, which some modules do not keep.
func TestCertificateStandsForThePublicKey(t *testing.T) {
	s := soft(t)
	key := newEC(t, elliptic.P384())
	s.Import(t, "assay", "issuing", 1, key, "--no-public-key")
	for range 2 { // its first certificate and a renewed one
		certify(t, s, "issuing", 1, key)
	}
	signs(t, openedKey(t, parsed(t, s, "assay", "issuing")), crypto.SHA384)
}

// TestWrongPINIsTriedOnce: every try brings the token nearer to locking itself.
func TestWrongPINIsTriedOnce(t *testing.T) {
	s := soft(t)
	s.Import(t, "assay", "issuing", 1, newEC(t, elliptic.P256()))
	u := parsed(t, s, "assay", "issuing")
	m, err := load(u.Module)
	if err != nil {
		t.Fatal(err)
	}
	pin := "000000"
	o := &opener{uri: u, pin: func() (string, error) { return pin, nil }, module: m}
	for _, want := range []string{"the token refused the PIN of file:unread: pkcs11: 0xA0", "which is not tried again"} {
		if _, _, err := o.open(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	pin = counterpart.PIN // written to the file
	opened, _, err := o.open()
	if err != nil {
		t.Fatal(err)
	}
	opened.close()
}

func TestTheLastTryIsLeftToAPerson(t *testing.T) {
	const sound = pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_TOKEN_INITIALIZED
	if err := mayTry(sound); err != nil {
		t.Error(err)
	}
	for flag, want := range map[uint]string{pkcs11.CKF_USER_PIN_FINAL_TRY: "would lock the token", pkcs11.CKF_USER_PIN_LOCKED: "locked itself"} {
		if err := mayTry(sound | flag); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("flag %x: %v", flag, err)
		}
	}
}

// TestLostSessionsAreReplaced: a token that was taken out has neither sessions nor login when it is back.
func TestLostSessionsAreReplaced(t *testing.T) {
	s := soft(t)
	s.Import(t, "assay", "issuing", 1, newEC(t, elliptic.P256()))
	u := parsed(t, s, "assay", "issuing")
	key := openedKey(t, u)
	m, err := load(u.Module)
	if err != nil {
		t.Fatal(err)
	}
	slot, err := (&opener{uri: u, module: m}).slot()
	if err != nil {
		t.Fatal(err)
	}
	lose := map[string]func() error{
		"login": func() error {
			idle := <-key.pool.idle
			defer func() { key.pool.idle <- idle }()
			return m.ctx.Logout(idle.(*tokenSession).handle)
		},
		"sessions": func() error { return m.ctx.CloseAllSessions(slot) },
	}
	for name, lose := range lose {
		if err := lose(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		signs(t, key, crypto.SHA256)
	}
}

// TestManySignAtOnce, with two keys of one token.
func TestManySignAtOnce(t *testing.T) {
	s := soft(t)
	s.Import(t, "assay", "one", 1, newEC(t, elliptic.P256()))
	s.Import(t, "assay", "two", 2, newEC(t, elliptic.P256()))
	keys := []*Key{openedKey(t, parsed(t, s, "assay", "one")), openedKey(t, parsed(t, s, "assay", "two"))}
	var group sync.WaitGroup
	for n := range 2 * maxSessions {
		group.Go(func() {
			for range 5 {
				signs(t, keys[n%2], crypto.SHA256)
			}
		})
	}
	group.Wait()
	for _, key := range keys {
		if n := len(key.pool.idle); n == 0 || n > maxSessions {
			t.Errorf("%d sessions are open", n)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	s := soft(b)
	s.Import(b, "assay", "p256", 1, newEC(b, elliptic.P256()))
	s.Import(b, "assay", "p384", 2, newEC(b, elliptic.P384()))
	for _, name := range []string{"p256", "p384"} {
		key := openedKey(b, parsed(b, s, "assay", name))
		b.Run(name, func(b *testing.B) {
			digest := sha512.Sum384(nil)
			for b.Loop() {
				if _, err := key.Sign(nil, digest[:], crypto.SHA384); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
