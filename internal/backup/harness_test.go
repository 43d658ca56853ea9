package backup_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/credential"
	"assay/enroll"
	"assay/internal/backup"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/server"

	"filippo.io/age"
)

// restoreInto makes the test binary a restore of a backup that kills itself at a moment.
const (
	restoreInto  = "ASSAY_TEST_RESTORE_INTO"
	restoreFrom  = "ASSAY_TEST_RESTORE_FROM"
	restoreKey   = "ASSAY_TEST_RESTORE_KEY"
	restoreSteps = "ASSAY_TEST_RESTORE_STEPS" // reports of progress that it lives for
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(restoreInto); dir != "" {
		if err := restoreUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func restoreUntilKilled(dir string) error {
	var steps int
	if _, err := fmt.Sscan(os.Getenv(restoreSteps), &steps); err != nil {
		return err
	}
	identity, err := age.ParseX25519Identity(os.Getenv(restoreKey))
	if err != nil {
		return err
	}
	f, err := os.Open(os.Getenv(restoreFrom))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = backup.Restore(context.Background(), f, dir, backup.RestoreOptions{
		Identities: []age.Identity{identity}, Now: time.Now, From: "operator:test",
		Progress: func(backup.Progress) {
			if steps--; steps < 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // until it has effect
			}
		},
	})
	return err
}

// key is what the tests' backups are encrypted to; deriving a key from a passphrase takes a second.
var key = sync.OnceValue(func() *age.X25519Identity {
	k, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return k
})

func identities() []age.Identity { return []age.Identity{key()} }

// authority vouches for the tests' devices.
var authority = sync.OnceValue(func() *standin.Authority {
	a, err := standin.New(cryptorand.Reader, time.Now())
	if err != nil {
		panic(err)
	}
	return a
})

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// initialized makes an installation that listens on a free port of loopback and accepts the authority.
func initialized(t *testing.T) string {
	t.Helper()
	return initializedOn(t, "")
}

// initializedOn makes one whose database is a PostgreSQL database; "" for a file.
func initializedOn(t *testing.T, database string) string {
	t.Helper()
	folder := t.TempDir()
	ok(t, authority().Save(filepath.Join(folder, "authority")))
	dir := filepath.Join(folder, "id")
	_, err := installation.Init(t.Context(), dir, installation.InitOptions{
		Name: "Example Inc.", Listen: "127.0.0.1:0", Database: database, AllowStandIn: true, Now: time.Now, From: "operator:test",
		AttestationRoots: map[string][]string{"apple": {filepath.Join(folder, "authority", standin.RootFile)}},
	})
	ok(t, err)
	return dir
}

// taken takes a backup.
func taken(t *testing.T, dir string, change ...func(*backup.Options)) ([]byte, *backup.Manifest) {
	t.Helper()
	var out bytes.Buffer
	o := backup.Options{Recipients: []age.Recipient{key().Recipient()}, Program: "test", Now: time.Now}
	for _, c := range change {
		c(&o)
	}
	m, err := backup.Take(t.Context(), dir, &out, o)
	ok(t, err)
	return out.Bytes(), m
}

func restore(t *testing.T, data []byte, dir string, change ...func(*backup.RestoreOptions)) (*backup.Restored, error) {
	t.Helper()
	o := backup.RestoreOptions{Identities: identities(), Now: time.Now, From: "operator:test"}
	for _, c := range change {
		c(&o)
	}
	return backup.Restore(t.Context(), bytes.NewReader(data), dir, o)
}

// restored restores into a new folder.
func restored(t *testing.T, data []byte) (string, *backup.Restored) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	r, err := restore(t, data, dir)
	ok(t, err)
	return dir, r
}

// running is an installation whose server runs in this process.
type running struct {
	*installation.Installation
	url   string
	roots *x509.CertPool
	stop  func()
}

func serve(t *testing.T, dir string) *running {
	t.Helper()
	i, err := installation.Open(t.Context(), dir, time.Now)
	ok(t, err)
	root, err := i.ServingRoot()
	ok(t, err)
	r := &running{Installation: i, roots: x509.NewCertPool()}
	r.roots.AppendCertsFromPEM(root)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- i.Serve(ctx, installation.ServeOptions{
			Log: slog.New(slog.DiscardHandler), Ready: func(r installation.Running) { ready <- r.BaseURL },
		})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	select {
	case r.url = <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return r
}

func (r *running) mint(ctx context.Context) (value string, id issuance.CodeID, err error) {
	value, err = issuance.NewCodeValue(cryptorand.Reader)
	if err != nil {
		return "", "", err
	}
	codes, err := r.Store.MintCodes(ctx, issuance.Call{Now: time.Now()}, []issuance.Mint{{Directory: "default", Value: value, Lifetime: time.Hour}})
	if err != nil {
		return "", "", err
	}
	return value, codes[0].ID, nil
}

func (r *running) Attest(_ context.Context, a enroll.AttestRequest) ([]byte, error) {
	return authority().Attest(standin.Subject{
		PublicKey: a.Key.Public(), Token: a.Token, Now: time.Now(),
		Device: standin.Device{Serial: a.Device.Serial, UDID: a.Device.UDID, OSVersion: a.Device.OSVersion},
	})
}

// enrol lets a new device use a code.
func (r *running) enrol(ctx context.Context, code string) (*x509.Certificate, error) {
	device, err := enroll.NewDevice(enroll.IPhone, "", cryptorand.Reader)
	if err != nil {
		return nil, err
	}
	document := credential.New(server.DirectoryURL(r.url, "default"), code, credential.Subject{{{"CN", "device"}}})
	document.KeySize = 256 // the load shall be on the server
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Attester: r, Roots: r.roots}
	result, err := client.Enroll(ctx, document)
	if err != nil {
		return nil, err
	}
	return result.Certificate, nil
}

// crl is the CRL that relying parties get.
func (r *running) crl(t *testing.T) *x509.RevocationList {
	t.Helper()
	issuers, err := r.Store.Issuers(t.Context())
	ok(t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(fmt.Sprintf("%s/crl/%s/0", r.url, issuers[0].ID))
	ok(t, err)
	der, err := io.ReadAll(response.Body)
	ok(t, errors.Join(err, response.Body.Close()))
	crl, err := x509.ParseRevocationList(der)
	ok(t, err)
	return crl
}

// files are the files of a folder with their content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	}))
	return all
}
