package installation

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/logbook"
)

func handshake(address string, config *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), conn.Close()
}

func TestListenerSpeaksTLS12And13Only(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	address := strings.TrimPrefix(s.BaseURL, "https://")
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		config := trusting(t, i)
		config.MinVersion, config.MaxVersion = version, version
		state, err := handshake(address, config)
		if (err == nil) != want || want && state.Version != version {
			t.Errorf("%s: %v, want accepted %v", tls.VersionName(version), err, want)
		}
	}
}

func TestListenerNeverAsksForAClientCertificate(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := trusting(t, i)
		config.MaxVersion = version
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			t.Errorf("%s: asked for a client certificate", tls.VersionName(version))
			return &tls.Certificate{}, nil
		}
		response, err := client(t, config).Get(s.BaseURL + "/healthz") // TLS 1.3 asks after the handshake
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
}

func TestListenerPrefersHTTP1AndSpeaksHTTP2(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	for _, offer := range []struct {
		protocols []string
		want      string
	}{{[]string{"http/1.1"}, "http/1.1"}, {[]string{"h2"}, "h2"}, {[]string{"h2", "http/1.1"}, "http/1.1"}} {
		config := trusting(t, i)
		config.NextProtos = offer.protocols
		state, err := handshake(strings.TrimPrefix(s.BaseURL, "https://"), config)
		if err != nil || state.NegotiatedProtocol != offer.want {
			t.Errorf("offered %v: got %q, %v", offer.protocols, state.NegotiatedProtocol, err)
		}
	}
	for major := 1; major <= 2; major++ {
		var protocols http.Protocols
		protocols.SetHTTP1(major == 1)
		protocols.SetHTTP2(major == 2)
		transport := &http.Transport{TLSClientConfig: trusting(t, i), Protocols: &protocols}
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(s.Directories["default"])
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.ProtoMajor != major || response.StatusCode != 200 {
			t.Errorf("got %s %s, want HTTP/%d", response.Proto, response.Status, major)
		}
	}
}

func TestServeUsesTheOperatorsCertificate(t *testing.T) {
	dir, _ := initialized(t, nil)
	operatorPair(t, filepath.Join(dir, certsFolder, "tls.pem"), filepath.Join(dir, keysFolder, "tls.key"), "operator")
	edit(t, dir, "\nlisten:", "\ntls: {certificate: certs/tls.pem, key: keys/tls.key}\nlisten:")
	i := opened(t, dir)
	if data, err := i.ServingRoot(); data != nil || err != nil {
		t.Errorf("devices are told to trust the own serving root: %v", err)
	}
	s := serve(t, i)
	state, err := handshake(strings.TrimPrefix(s.BaseURL, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil || state.PeerCertificates[0].Subject.CommonName != "operator" {
		t.Errorf("got %v, %v", state.PeerCertificates, err)
	}
}

func TestServeRefusesMissingOperatorsCertificate(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "\nlisten:", "\ntls: {certificate: certs/tls.pem, key: keys/tls.key}\nlisten:")
	err := opened(t, dir).Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)})
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "tls.pem") {
		t.Errorf("got %v", err)
	}
}

func TestOperatorsCertificateIsReadAgainWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key")
	now := time.Now()
	log := &logbook.Book{}
	r := &reloading{certFile: certFile, keyFile: keyFile, now: func() time.Time { return now }, log: slog.New(slog.NewTextHandler(log, nil))}
	change := func(write func()) { // with a time of its own for the file
		write()
		now = now.Add(reloadCheck)
		if err := os.Chtimes(certFile, now, now); err != nil {
			t.Fatal(err)
		}
	}
	want := func(name string) {
		t.Helper()
		pair, err := r.get()
		if err != nil {
			t.Fatal(err)
		}
		if got := pair.Leaf.Subject.CommonName; got != name {
			t.Errorf("serves %q, want %q", got, name)
		}
	}
	if _, err := r.get(); err == nil {
		t.Error("served without a certificate")
	}
	change(func() { operatorPair(t, certFile, keyFile, "first") })
	want("first")

	operatorPair(t, certFile, keyFile, "second")
	want("first") // files are looked at only now and then
	change(func() {})
	want("second")

	change(func() { operatorPair(t, certFile, filepath.Join(dir, "elsewhere.key"), "third, whose key is late") })
	want("second")
	now = now.Add(reloadCheck)
	want("second")
	if n := strings.Count(log.String(), "stays in use"); n != 1 {
		t.Errorf("the bad pair was logged %d times, want once:\n%s", n, log)
	}
	if err := os.Rename(filepath.Join(dir, "elsewhere.key"), keyFile); err != nil {
		t.Fatal(err)
	}
	now = now.Add(reloadCheck)
	want("third, whose key is late")

	operatorPair(t, filepath.Join(dir, "next.pem"), keyFile, "fourth, of the same time")
	info, err := os.Stat(certFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chtimes(filepath.Join(dir, "next.pem"), info.ModTime(), info.ModTime()), os.Rename(filepath.Join(dir, "next.pem"), certFile)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(reloadCheck)
	want("fourth, of the same time")
}

func TestOwnServingCertificateIsRenewedBeforeItEnds(t *testing.T) {
	dir, _ := initialized(t, nil)
	now := time.Now()
	own := &selfServing{dir: dir, host: "id.example.com", now: func() time.Time { return now }}
	first, err := own.get()
	if err != nil {
		t.Fatal(err)
	}
	now = first.Leaf.NotAfter.Add(-servingRenewal - time.Second)
	if same, err := own.get(); err != nil || same != first {
		t.Errorf("renewed too early: %v", err)
	}
	now = now.Add(2 * time.Second)
	renewed, err := own.get()
	if err != nil || renewed == first || !renewed.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("was not renewed: %v", err)
	}
}
