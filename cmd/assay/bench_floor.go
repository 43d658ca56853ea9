package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// floor is the CPU time of the cryptography that no server can leave out, each operation once.
type floor struct {
	VerifyP256 time.Duration // one ES256 verification
	VerifyP384 time.Duration // one verification with a P-384 key
	SignP256   time.Duration // one signature of a P-256 CA
	Handshake  time.Duration // the server's half of one full TLS 1.3 handshake with a P-256 certificate
}

// Operations of one enrolment: seven signed requests, the leaf of the attestation and the CSR, the
// certificate, and one connection.
const (
	floorVerifyP256 = 7
	floorVerifyP384 = 2
	floorSignP256   = 1
	floorHandshakes = 1
)

// total is the floor of one certificate.
func (f floor) total() time.Duration {
	return floorVerifyP256*f.VerifyP256 + floorVerifyP384*f.VerifyP384 + floorSignP256*f.SignP256 + floorHandshakes*f.Handshake
}

// mean is the floor between two.
func (f floor) mean(g floor) floor {
	return floor{(f.VerifyP256 + g.VerifyP256) / 2, (f.VerifyP384 + g.VerifyP384) / 2, (f.SignP256 + g.SignP256) / 2, (f.Handshake + g.Handshake) / 2}
}

// floorMeter measures the floor. Its keys are made once.
type floorMeter struct {
	p256, p384           *ecdsa.PrivateKey
	digest256, digest384 []byte
	signature256         []byte
	signature384         []byte
	server, client       *tls.Config
}

func newFloorMeter(now time.Time) (*floorMeter, error) {
	m := &floorMeter{}
	var err error
	if m.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if m.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return nil, err
	}
	sum256, sum384 := sha256.Sum256([]byte("floor")), sha512.Sum384([]byte("floor"))
	m.digest256, m.digest384 = sum256[:], sum384[:]
	if m.signature256, err = ecdsa.SignASN1(rand.Reader, m.p256, m.digest256); err != nil {
		return nil, err
	}
	if m.signature384, err = ecdsa.SignASN1(rand.Reader, m.p384, m.digest384); err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, m.p256.Params().N)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Rsh(serial, 100), DNSNames: []string{"floor"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, m.p256.Public(), m.p256)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	m.server = &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: m.p256, Leaf: cert}}}
	m.client = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "floor"}
	return m, nil
}

// measure runs each operation for about a quarter of the window, in CPU time of the threads that run
// it: as many at once as there are processors. Under load all of them are busy, too, and where two
// share a core each is slower for it; a floor measured on an idle machine would blame the server.
func (m *floorMeter) measure(ctx context.Context, window time.Duration) (floor, error) {
	var f floor
	for _, part := range []struct {
		result *time.Duration
		run    func() error
	}{
		{&f.VerifyP256, func() error { return verified(ecdsa.VerifyASN1(&m.p256.PublicKey, m.digest256, m.signature256)) }},
		{&f.VerifyP384, func() error { return verified(ecdsa.VerifyASN1(&m.p384.PublicKey, m.digest384, m.signature384)) }},
		{&f.SignP256, func() error { _, err := ecdsa.SignASN1(rand.Reader, m.p256, m.digest256); return err }},
		{&f.Handshake, m.handshake},
	} {
		var err error
		if *part.result, err = meanOnEveryProcessor(ctx, window/4, part.run); err != nil {
			return floor{}, fmt.Errorf("measure the floor: %w", err)
		}
	}
	return f, nil
}

// meanOnEveryProcessor is the CPU time of one run, while every processor runs it over and over.
func meanOnEveryProcessor(ctx context.Context, window time.Duration, run func() error) (time.Duration, error) {
	type measured struct {
		spent time.Duration
		runs  int
		err   error
	}
	results := make(chan measured)
	deadline := time.Now().Add(window)
	for range runtime.NumCPU() {
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			var m measured
			begin, err := cpuTime(unix.CLOCK_THREAD_CPUTIME_ID)
			for m.err = err; m.err == nil && time.Now().Before(deadline); m.runs++ {
				m.err = errors.Join(ctx.Err(), run())
			}
			end, err := cpuTime(unix.CLOCK_THREAD_CPUTIME_ID)
			m.spent, m.err = end-begin, errors.Join(m.err, err)
			results <- m
		}()
	}
	var all measured
	for range runtime.NumCPU() {
		m := <-results
		all.spent, all.runs, all.err = all.spent+m.spent, all.runs+m.runs, errors.Join(all.err, m.err)
	}
	return all.spent / time.Duration(max(1, all.runs)), all.err
}

func verified(ok bool) error {
	if !ok {
		return errors.New("a signature does not verify")
	}
	return nil
}

// handshake runs a handshake; the server's half runs on the calling goroutine, which is locked to
// its thread, and the client's on another.
func (m *floorMeter) handshake() error {
	serverSide, clientSide := net.Pipe()
	failed := make(chan error, 1)
	go func() {
		client := tls.Client(clientSide, m.client)
		failed <- client.Handshake()
	}()
	err := tls.Server(serverSide, m.server).Handshake()
	err = errors.Join(err, <-failed)
	return errors.Join(err, serverSide.Close(), clientSide.Close())
}

// cpuTime reads a CPU clock of this process, this thread or another process.
func cpuTime(clock int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("read CPU clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// processClock is the CPU clock of another process: all its threads, user and system time (Linux).
func processClock(pid int) int32 { return int32(^pid<<3 | 2) }
