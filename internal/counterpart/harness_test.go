package counterpart

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/internal/installation"
	"assay/internal/issuance"
)

// site is an installation that serves on loopback and accepts a stand-in authority.
type site struct {
	*installation.Installation
	installation.Running
	init      *installation.InitResult
	authority *standin.Authority
	http      *http.Client
}

// newAuthority makes a stand-in authority and writes its root.
func newAuthority(t *testing.T) (authority *standin.Authority, rootFile string) {
	t.Helper()
	authority, err := standin.New(rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "authority")
	if err := authority.Save(dir); err != nil {
		t.Fatal(err)
	}
	return authority, filepath.Join(dir, standin.RootFile)
}

// newSite initializes, lets change edit the configuration, and serves until the test ends.
func newSite(t *testing.T, change func(config string) string) *site {
	t.Helper()
	return newSiteIn(t, func(dir string) {
		if change == nil {
			return
		}
		path := filepath.Join(dir, "assay.yaml")
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		after := change(string(before))
		if after == string(before) {
			t.Fatal("the configuration was not changed")
		}
		if err := os.WriteFile(path, []byte(after), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// newSiteIn initializes, lets prepare do what an operator does before the server runs, and serves until the
// test ends.
func newSiteIn(t *testing.T, prepare func(dir string)) *site {
	t.Helper()
	s := &site{}
	var root string
	s.authority, root = newAuthority(t)
	dir := filepath.Join(t.TempDir(), "site")
	var err error
	s.init, err = installation.Init(t.Context(), dir, installation.InitOptions{
		Name: "Counterpart", Listen: "127.0.0.1:0", AllowStandIn: true, AttestationRoots: map[string][]string{"apple": {root}},
	})
	if err != nil {
		t.Fatal(err)
	}
	prepare(dir)
	if s.Installation, err = installation.Open(t.Context(), dir, time.Now); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan installation.Running, 1), make(chan error, 1)
	go func() {
		done <- s.Serve(ctx, installation.ServeOptions{
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Ready: func(r installation.Running) { ready <- r },
		})
	}()
	select {
	case s.Running = <-ready:
	case err := <-done:
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	data, err := s.ServingRoot()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}, Timeout: 30 * time.Second}
	return s
}

// mint mints a code for a serial number.
func (s *site) mint(t *testing.T, serial string) string {
	t.Helper()
	value, err := issuance.NewCodeValue(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Store.MintCodes(t.Context(), issuance.Call{Now: time.Now()},
		[]issuance.Mint{{Directory: "default", Value: value, Serial: serial, Lifetime: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

const (
	testSerial = "FAKE00000001"
	testUDID   = "00008110-FACADE0000000001"
)

// response is the payload by which a device-attest-01 solver proves a key.
func response(authority *standin.Authority, key crypto.PublicKey, token string) ([]byte, error) {
	object, err := authority.Attest(standin.Subject{
		PublicKey: key, Token: token, Now: time.Now(),
		Device: standin.Device{Serial: testSerial, UDID: testUDID, ProductType: "FakePhoneAP", OSVersion: "18.5"},
	})
	if err != nil {
		return nil, err
	}
	return standin.AttestedResponse(object), nil
}

// request is a certificate request as a generic client makes it.
func request(t *testing.T, key crypto.Signer, extensions ...pkix.Extension) []byte {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "wishful thinking"}, ExtraExtensions: extensions}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// wantIssued checks a chain that a client received: against the root, its key, and the database.
func (s *site) wantIssued(t *testing.T, chain []*x509.Certificate, key crypto.Signer) {
	t.Helper()
	if len(chain) < 2 {
		t.Fatalf("chain has %d certificates", len(chain))
	}
	data, err := os.ReadFile(s.init.Root)
	if err != nil {
		t.Fatal(err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		t.Error("the certificate is of another key")
	}
	if strings.Contains(leaf.Subject.String(), "wishful") {
		t.Errorf("the subject is the client's wish: %s", leaf.Subject)
	}
	row, err := s.Store.CertificateBySerial(t.Context(), serialOf(leaf))
	if err != nil {
		t.Fatal(err)
	}
	if row.Status != issuance.CertificateValid || row.DeviceSerial != testSerial || row.DeviceUDID != testUDID || row.CollectedAt.IsZero() {
		t.Errorf("database holds %+v", row)
	}
}

// list puts a device into the inventory: by serial number only listed ones get certificates.
func (s *site) list(t *testing.T, serial string) {
	t.Helper()
	_, err := s.Store.ImportDevices(t.Context(), issuance.Call{Now: time.Now(), From: "operator:test"},
		issuance.Import{Source: "csv:test", Listings: []issuance.Listing{{Serial: serial}}})
	if err != nil {
		t.Fatal(err)
	}
}
