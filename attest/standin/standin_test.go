package standin_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const token = "dG9rZW4"

func newAuthority(t *testing.T) *standin.Authority {
	t.Helper()
	a, err := standin.New(rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificates reads the chain of an object.
func certificates(t *testing.T, object []byte) []*x509.Certificate {
	t.Helper()
	var o struct {
		Statement struct {
			X5C [][]byte `cbor:"x5c"`
		} `cbor:"attStmt"`
	}
	if err := cbor.Unmarshal(object, &o); err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, der := range o.Statement.X5C {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}

func verify(object []byte, root attest.Root) error {
	r, err := attest.ParseObject(object)
	if err != nil {
		return err
	}
	_, err = attest.NewVerifier().Verify(r.Format, r.Statement, attest.Params{Token: token, Roots: []attest.Root{root}, Now: now})
	return err
}

// TestLeafHasTheShapeOfApples compares the stand-in's leaf with a real one, field by field.
func TestLeafHasTheShapeOfApples(t *testing.T) {
	data, err := os.ReadFile("../testdata/mac-leaf.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	real, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	object, err := newAuthority(t).Attest(standin.Subject{PublicKey: real.PublicKey, Token: token, Now: real.NotBefore.Add(24 * time.Hour),
		Device: standin.Device{Serial: "TMWFWWWP67", UDID: "00006030-000651690A84001C", ProductType: "J514sAP", OSVersion: "15.5",
			SepOSVersion: "15.5", LLBVersion: "15.5", SecureBoot: "Full Security", SIP: new(true), Kexts: new(false)}})
	if err != nil {
		t.Fatal(err)
	}
	leaf := certificates(t, object)[0]

	if len(leaf.Extensions) != len(real.Extensions)+1 {
		t.Fatalf("%d extensions, want those of the real leaf and the marker: %v", len(leaf.Extensions), leaf.Extensions)
	}
	for i, want := range real.Extensions {
		got := leaf.Extensions[i]
		if i == len(real.Extensions)-1 { // the freshness code, of another token
			got.Value = want.Value
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("extension %d: (-want +got)\n%s", i, diff)
		}
	}
	if last := leaf.Extensions[len(leaf.Extensions)-1]; !last.Id.Equal(attest.StandInMarker) || last.Critical {
		t.Errorf("last extension is %+v, want the marker", last)
	}
	if !leaf.NotBefore.Equal(real.NotBefore) || !leaf.NotAfter.Equal(real.NotAfter) {
		t.Errorf("valid %v to %v, want %v to %v", leaf.NotBefore, leaf.NotAfter, real.NotBefore, real.NotAfter)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, real.RawSubjectPublicKeyInfo) || leaf.SignatureAlgorithm != real.SignatureAlgorithm {
		t.Error("key or signature algorithm differ")
	}
	if leaf.SerialNumber.BitLen() > 48 || leaf.SerialNumber.BitLen() <= 40 {
		t.Errorf("serial number of %d bits", leaf.SerialNumber.BitLen())
	}
	// The subject: the same attributes in the same string types, but for the organization.
	want := bytes.Replace(real.RawSubject[3:], []byte("\x31\x13\x30\x11\x06\x03\x55\x04\x0a\x0c\x0aApple Inc."), nil, 1)
	got := leaf.RawSubject[3:]
	start := bytes.Index(got, []byte("\x06\x03\x55\x04\x0a")) - 4
	end := bytes.Index(got, []byte("\x06\x03\x55\x04\x08")) - 4
	if got = append(bytes.Clone(got[:start]), got[end:]...); !bytes.Equal(got, want) {
		t.Errorf("subject\n got %q\nwant %q", got, want)
	}
}

func TestEveryCertificateSaysWhatItIs(t *testing.T) {
	a := newAuthority(t)
	object, err := a.Attest(standin.Subject{PublicKey: newKey(t).Public(), Token: token, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(certificates(t, object), a.Root().Certificate) {
		if name := c.Subject.String(); !strings.Contains(name, "stand-in") || !strings.Contains(name, "not Apple") {
			t.Errorf("subject %s", name)
		}
		marked := false
		for _, e := range c.Extensions {
			marked = marked || e.Id.Equal(attest.StandInMarker)
		}
		if !marked {
			t.Errorf("%s carries no marker", c.Subject)
		}
	}
	if !a.Root().StandIn {
		t.Error("the root is not marked as a stand-in")
	}
}

func TestAttestRefusesKeysNoEnclaveHolds(t *testing.T) {
	a := newAuthority(t)
	for _, m := range standin.Mutations() {
		if m.NewKey == nil {
			continue
		}
		key, err := m.NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Attest(standin.Subject{PublicKey: key.Public(), Token: token, Now: now}); err == nil {
			t.Errorf("attested %T without the mutation %s", key, m.Name)
		}
		// Nor may such a mutation pass for done with a sound key.
		if _, err := a.Attest(standin.Subject{PublicKey: newKey(t).Public(), Token: token, Now: now, Mutation: m}); err == nil {
			t.Errorf("mutation %s attested a sound key", m.Name)
		}
	}
}

func TestMutationsKeepTheKey(t *testing.T) {
	a := newAuthority(t)
	key := newKey(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range standin.Mutations() {
		if m.NewKey != nil || m.Name == "leaf-not-der" || m.Name == "issuer-cut-short" || m.Name == "leaf-trailing-byte" {
			continue
		}
		object, err := a.Attest(standin.Subject{PublicKey: key.Public(), Token: token, Now: now, Mutation: m})
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Name, "object-") || strings.HasPrefix(m.Name, "fmt-") || strings.HasPrefix(m.Name, "statement-") || strings.HasPrefix(m.Name, "x5c-") {
			continue // the certificates are those of honest evidence, or none
		}
		if !bytes.Contains(object, spki) {
			t.Errorf("%s: the object does not hold the key", m.Name)
		}
	}
}

func TestAuthoritySurvivesItsFolder(t *testing.T) {
	a := newAuthority(t)
	dir := filepath.Join(t.TempDir(), "new", "authority")
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := standin.Load(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	object, err := again.Attest(standin.Subject{PublicKey: newKey(t).Public(), Token: token, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, standin.RootFile))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.ParseRoots(data)
	if err != nil || len(roots) != 1 || roots[0].SHA256 != a.Root().SHA256 {
		t.Fatalf("%s holds %v, %v", standin.RootFile, roots, err)
	}
	if err := verify(object, roots[0]); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"root.key", "sub-ca.key"} {
		info, err := os.Stat(filepath.Join(dir, key))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", key, info.Mode())
		}
	}
}

func TestSaveRefusesToOverwrite(t *testing.T) {
	for _, name := range []string{standin.RootFile, "root.key", "sub-ca.pem", "sub-ca.key"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := newAuthority(t).Save(dir); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v, want fs.ErrExist", name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, name)); string(data) != "kept" || len(entries) != 1 {
			t.Errorf("%s: a refused Save left %v, %q", name, entries, data)
		}
	}
}

func TestLoadRefusesPartsThatDoNotBelongTogether(t *testing.T) {
	one, other := t.TempDir(), t.TempDir()
	if err := newAuthority(t).Save(other); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{standin.RootFile, "root.key", "sub-ca.pem", "sub-ca.key"} {
		one = t.TempDir()
		if err := newAuthority(t).Save(one); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(one, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := standin.Load(one, rand.Reader); err == nil {
			t.Errorf("%s of another authority was accepted", name)
		}
	}
	if err := os.Remove(filepath.Join(one, "root.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := standin.Load(one, rand.Reader); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a key: %v", err)
	}
}

// TestLoadRefusesUnmarkedRoot: an authority without the marker could be mistaken for a real one.
func TestLoadRefusesUnmarkedRoot(t *testing.T) {
	dir := t.TempDir()
	if err := newAuthority(t).Save(dir); err != nil {
		t.Fatal(err)
	}
	unmarked := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: attest.AppleRoot().Certificate.Raw})
	if err := os.WriteFile(filepath.Join(dir, standin.RootFile), unmarked, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := standin.Load(dir, rand.Reader); err == nil || !strings.Contains(err.Error(), "marker") {
		t.Errorf("got %v, want a refusal that names the marker", err)
	}
}

func TestAuthoritiesDoNotVouchForEachOther(t *testing.T) {
	object, err := newAuthority(t).Attest(standin.Subject{PublicKey: newKey(t).Public(), Token: token, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	refusal, ok := errors.AsType[*attest.Refusal](verify(object, newAuthority(t).Root()))
	if !ok || refusal.Check != attest.CheckChainAnchored {
		t.Errorf("got %v, want a refusal by %s", refusal, attest.CheckChainAnchored)
	}
}
