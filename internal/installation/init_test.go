package installation

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/ca"
	"assay/internal/issuance"
)

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

func TestInitMakesSecretsForTheOwnerAlone(t *testing.T) {
	dir, _ := initialized(t, nil)
	for _, path := range filesIn(t, dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		mode, want := info.Mode().Perm(), fs.FileMode(0o600)
		switch {
		case info.IsDir():
			want = 0o700
		case strings.HasSuffix(path, ".pem"):
			want = 0o644 // certificates
		}
		if mode != want {
			t.Errorf("%s has mode %04o, want %04o", path, mode, want)
		}
	}
}

func TestInitSignsTheIssuingCAWithTheRoot(t *testing.T) {
	dir, result := initialized(t, nil)
	root, issuing := readCertificate(t, result.Root), readCertificate(t, filepath.Join(dir, certsFolder, "issuing.pem"))
	if err := issuing.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	issuers, err := opened(t, dir).Store.Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(issuers) != 1 || !issuers[0].Active || !slices.Equal(issuers[0].Chain[0], issuing.Raw) {
		t.Errorf("database holds issuers %+v", issuers)
	}
	if serving := readCertificate(t, result.ServingRoot); serving.CheckSignatureFrom(root) == nil {
		t.Error("the serving root hangs under the root of devices")
	}
}

func TestInitRefusesExistingInstallation(t *testing.T) {
	dir, _ := initialized(t, nil)
	before, err := os.ReadFile(filepath.Join(dir, keysFolder, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, remains := range made {
		if _, err := os.Lstat(filepath.Join(dir, remains)); err != nil {
			continue
		}
		_, err := Init(t.Context(), dir, InitOptions{})
		if err == nil || !strings.Contains(err.Error(), "is there already; nothing was changed") {
			t.Fatalf("with %s there: %v", remains, err)
		}
		after, err := os.ReadFile(filepath.Join(dir, keysFolder, "root.key"))
		if err != nil || string(after) != string(before) {
			t.Fatalf("with %s there: keys were touched: %v", remains, err)
		}
		if remains == keysFolder {
			break
		}
		if err := os.RemoveAll(filepath.Join(dir, remains)); err != nil { // the next one alone must do
			t.Fatal(err)
		}
	}
}

func TestInitTakesFolderWithOtherFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), dir, InitOptions{}); err != nil {
		t.Error(err)
	}
}

func TestFailedInitLeavesNothing(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "not.pem")
	if err := os.WriteFile(notPEM, []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	keyOut := filepath.Join(t.TempDir(), "root.key")
	for name, c := range map[string]struct {
		options InitOptions
		usage   bool // the operator's to mend
	}{
		"missing attestation root": {InitOptions{AttestationRoots: map[string][]string{"apple": {"missing.pem"}}}, true},
		"no attestation root":      {InitOptions{AttestationRoots: map[string][]string{"apple": {notPEM}}}, true},
		"unknown format":           {InitOptions{AttestationRoots: map[string][]string{"aple": {standInRoot(t)}}}, true},
		"http URL":                 {InitOptions{URL: "http://id.example.com"}, true},
		"all interfaces":           {InitOptions{Listen: "0.0.0.0:8443"}, true},
		"issuer without key":       {InitOptions{IssuerChain: notPEM}, true},
		"issuer that is none":      {InitOptions{IssuerChain: notPEM, IssuerKey: "file:x"}, true},
		"root key of no root":      {InitOptions{SigningRequest: true, RootKeyOut: keyOut}, true},
		"name that is too long":    {InitOptions{Name: strings.Repeat("x", ca.MaxName+1), RootKeyOut: keyOut}, false},
		"root key written over":    {InitOptions{RootKeyOut: notPEM}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			_, err := Init(t.Context(), dir, c.options)
			if err == nil {
				t.Fatal("accepted")
			}
			if _, ok := errors.AsType[*ConfigError](err); ok != c.usage {
				t.Errorf("%v: is a ConfigError: %v, want %v", err, ok, c.usage)
			}
			if left := filesIn(t, dir); len(left) > 1 || len(left) == 1 && left[0] != dir {
				t.Errorf("left %v", left)
			}
			if _, err := os.Lstat(dir); err == nil {
				t.Error("left the folder")
			}
			if _, err := os.Lstat(keyOut); err == nil {
				t.Error("left the root key")
			}
			if data, err := os.ReadFile(notPEM); err != nil || string(data) != "no" {
				t.Errorf("touched a file that was there: %q, %v", data, err)
			}
		})
	}
}

func TestInitWritesRootKeyElsewhere(t *testing.T) {
	out := filepath.Join(t.TempDir(), "offline.key")
	dir, result := initialized(t, func(o *InitOptions) { o.RootKeyOut = out })
	if _, err := os.Lstat(filepath.Join(dir, keysFolder, "root.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the installation holds a root key: %v", err)
	}
	key, err := ca.OpenKey("file:"+out, "/")
	if err != nil {
		t.Fatal(err) // also if others may read it
	}
	if _, err := ca.OpenRoot(readCertificate(t, result.Root), key, time.Now()); err != nil {
		t.Error(err)
	}
	serve(t, opened(t, dir)) // it needs no root key
}

func TestServeNeverOpensTheRootKey(t *testing.T) {
	dir, _ := initialized(t, nil)
	if err := os.WriteFile(filepath.Join(dir, keysFolder, "root.key"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, opened(t, dir))
}

// testPKI is an existing PKI with one root.
func testPKI(t *testing.T) *ca.Root {
	t.Helper()
	key, err := ca.GenerateKey(ca.P256)
	if err != nil {
		t.Fatal(err)
	}
	root, err := ca.NewRoot("Other PKI", key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestInitWithSigningRequestServesOnceItIsSigned(t *testing.T) {
	dir, result := initialized(t, func(o *InitOptions) { o.SigningRequest = true })
	if result.Root != "" {
		t.Errorf("made a root all the same: %s", result.Root)
	}
	i := opened(t, dir)
	if err := i.Serve(t.Context(), ServeOptions{}); err == nil || !strings.Contains(err.Error(), "assay issuer add") {
		t.Fatalf("served without an issuing CA, or without advice: %v", err)
	}
	data, err := os.ReadFile(result.SigningRequest)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	signed, err := testPKI(t).NewIssuing("Example Inc.", request.PublicKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	call := issuance.Call{Now: time.Now()}
	if _, err := i.AddIssuer(t.Context(), call, "signed", [][]byte{signed.Raw}, "file:keys/issuing.key", true); err != nil {
		t.Fatal(err)
	}
	serve(t, i)
}

func TestInitTakesOverAnIssuingCA(t *testing.T) {
	root := testPKI(t)
	key, err := ca.GenerateKey(ca.P384)
	if err != nil {
		t.Fatal(err)
	}
	issuing, err := root.NewIssuing("Existing", key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	chainFile, keyFile := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "issuing.key")
	chain := slices.Concat(certificatePEM(issuing.Raw), certificatePEM(root.Certificate.Raw))
	if err := errors.Join(os.WriteFile(chainFile, chain, 0o644), ca.WriteKey(keyFile, key)); err != nil {
		t.Fatal(err)
	}
	made, result := initialized(t, func(o *InitOptions) { o.IssuerChain, o.IssuerKey = chainFile, "file:"+keyFile })
	if result.Root != "" || result.SigningRequest != "" {
		t.Errorf("made more than it was asked for: %+v", result)
	}
	i := opened(t, made)
	issuers, err := i.Store.Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(issuers) != 1 || len(issuers[0].Chain) != 1 || !slices.Equal(issuers[0].Chain[0], issuing.Raw) {
		t.Errorf("issuers are %+v, want the existing one without its root", issuers)
	}
	serve(t, i)
}

func TestAddIssuerRefusesKeyOfAnother(t *testing.T) {
	dir, _ := initialized(t, nil)
	other, err := ca.GenerateKey(ca.P256)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.WriteKey(filepath.Join(dir, keysFolder, "other.key"), other); err != nil {
		t.Fatal(err)
	}
	i := opened(t, dir)
	chain := [][]byte{readCertificate(t, filepath.Join(dir, certsFolder, "issuing.pem")).Raw}
	for _, uri := range []string{"file:keys/other.key", "file:keys/missing.key", "pkcs11:x"} {
		_, err = i.AddIssuer(t.Context(), issuance.Call{Now: time.Now()}, "wrong", chain, uri, true)
		if _, ok := errors.AsType[*ConfigError](err); !ok {
			t.Errorf("key %s: %v", uri, err)
		}
	}
}

func TestServeRefusesStandInRootUnlessAllowed(t *testing.T) {
	root := standInRoot(t)
	dir, result := initialized(t, func(o *InitOptions) { o.AttestationRoots = map[string][]string{"apple": {root}} })
	if len(result.StandInRoots) != 1 {
		t.Errorf("Init names stand-in roots %v", result.StandInRoots)
	}
	err := opened(t, dir).Serve(t.Context(), ServeOptions{})
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "allowStandIn: true") {
		t.Fatalf("got %v", err)
	}
	edit(t, dir, "    - roots/apple-1.pem\n", "    - roots/apple-1.pem\n    allowStandIn: true\n")
	s := serve(t, opened(t, dir))
	if len(s.Warnings) != 1 || !strings.Contains(s.log.String(), "STAND-IN") {
		t.Errorf("no warning: %v", s.Warnings)
	}
}

func TestOpenRefusesDataKeyThatOthersCanRead(t *testing.T) {
	dir, _ := initialized(t, nil)
	path := filepath.Join(dir, keysFolder, "data.key")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, time.Now); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
}

func TestServeRefusesIssuerKeyThatOthersCanRead(t *testing.T) {
	dir, _ := initialized(t, nil)
	if err := os.Chmod(filepath.Join(dir, keysFolder, "issuing.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, dir).Serve(t.Context(), ServeOptions{}); err == nil || !strings.Contains(err.Error(), "others than its owner") {
		t.Errorf("got %v", err)
	}
}

func TestAuditKeyThatOthersCanReadIsTheOperatorsToMend(t *testing.T) {
	dir, _ := initialized(t, nil)
	if _, err := auditKey(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(auditKeyPath(dir), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := auditKey(dir)
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "audit.key") || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
}

func TestPushKeyThatOthersCanReadIsRefused(t *testing.T) {
	dir, _ := initialized(t, nil)
	path := filepath.Join(dir, "kmfddm.key")
	if err := errors.Join(os.WriteFile(path, []byte("key\n"), 0o600), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	i := opened(t, dir)
	i.Config.Push.KMFDDM.URL, i.Config.Push.KMFDDM.KeyFile = "http://127.0.0.1:9002", "kmfddm.key"
	_, err := i.API("operator:test")
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "push.kmfddm.keyFile") || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := i.API("operator:test"); err != nil {
		t.Errorf("of its owner alone: %v", err)
	}
}

func TestServingCertificateIsNotACA(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	own := &selfServing{dir: dir, host: "127.0.0.1", now: time.Now}
	pair, err := own.get()
	if err != nil {
		t.Fatal(err)
	}
	roots := trusting(t, i).RootCAs
	for _, host := range []string{"127.0.0.1", "::1", "localhost"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if pair.Leaf.IsCA {
		t.Errorf("the serving certificate is a CA")
	}
}

func TestServeWarnsWhereNoCodeIsNeeded(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "    - code\n", "    - code\n    - serial\n")
	if s := serve(t, opened(t, dir)); len(s.Warnings) != 0 { // the built-in policy asks the inventory
		t.Errorf("warnings %v", s.Warnings)
	}
	dir, _ = initialized(t, nil)
	edit(t, dir, "    - code\n", "    - code\n    - serial\n    policy: open.yaml\n")
	if err := os.WriteFile(filepath.Join(dir, "open.yaml"), []byte("version: 1\noutcomes: [{outcome: issue}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, opened(t, dir))
	if len(s.Warnings) != 1 || !strings.Contains(s.log.String(), "ANY device that attests") {
		t.Errorf("no warning: %v", s.Warnings)
	}
}
