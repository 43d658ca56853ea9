package installation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/internal/logbook"
)

// serveFolder makes the test binary a server on the folder that it names, until it is killed.
const serveFolder = "ASSAY_TEST_SERVE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveFolder); dir != "" {
		if err := serveForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveForever(dir string) error {
	i, err := Open(context.Background(), dir, time.Now)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return i.Serve(ctx, ServeOptions{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
}

// serveProcess starts a server in a process of its own and waits until it runs.
func serveProcess(t *testing.T, i *Installation) *exec.Cmd {
	t.Helper()
	cmd, log := startProcess(t, i.Dir)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := i.AwaitServer(ctx); err != nil {
		t.Fatalf("%v; its log:\n%s", err, log.String())
	}
	return cmd
}

// startProcess starts a server in a process of its own.
func startProcess(t *testing.T, dir string) (*exec.Cmd, *logbook.Book) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveFolder+"="+dir)
	log := &logbook.Book{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // of a process that the test did not end
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, log
}

// authority is made once and saved once: its root is the one that test installations accept.
var authority = sync.OnceValues(func() (*standin.Authority, error) { return standin.New(rand.Reader, time.Now()) })

func standInRoot(t *testing.T) (rootFile string) {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "authority")
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, standin.RootFile)
}

// initialized makes an installation that listens on a free port of loopback.
func initialized(t *testing.T, change func(*InitOptions)) (dir string, result *InitResult) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "installation")
	o := InitOptions{Name: "Example Inc.", Listen: "127.0.0.1:0", Now: time.Now, From: "operator:test"}
	if change != nil {
		change(&o)
	}
	result, err := Init(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, result
}

func opened(t *testing.T, dir string) *Installation {
	t.Helper()
	i, err := Open(t.Context(), dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// serving is a server that runs in this process.
type serving struct {
	Running
	log  *logbook.Book
	stop func() error // ends it and returns what Serve did
}

func serve(t *testing.T, i *Installation) *serving {
	t.Helper()
	s := &serving{log: &logbook.Book{}}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan Running, 1), make(chan error, 1)
	go func() {
		done <- i.Serve(ctx, ServeOptions{Log: slog.New(slog.NewTextHandler(s.log, nil)), Ready: func(r Running) { ready <- r }})
	}()
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	select {
	case s.Running = <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return s
}

// trusting is a TLS configuration that trusts the installation's own serving root.
func trusting(t *testing.T, i *Installation) *tls.Config {
	t.Helper()
	data, err := i.ServingRoot()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		t.Fatal("no serving root")
	}
	return &tls.Config{RootCAs: pool}
}

func client(t *testing.T, config *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// operatorPair writes a self-signed serving certificate for 127.0.0.1 with this common name.
func operatorPair(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		keyFile: {Type: "PRIVATE KEY", Bytes: der}, certFile: {Type: "CERTIFICATE", Bytes: cert},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// edit changes the configuration file.
func edit(t *testing.T, dir string, replacements ...string) {
	t.Helper()
	path := filepath.Join(dir, configFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for n := 0; n < len(replacements); n += 2 {
		if !strings.Contains(text, replacements[n]) {
			t.Fatalf("configuration has no %q:\n%s", replacements[n], text)
		}
		text = strings.ReplaceAll(text, replacements[n], replacements[n+1])
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
