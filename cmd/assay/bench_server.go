package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"assay/credential"
	"assay/enroll"
	"assay/internal/ca"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/server"
	"assay/internal/store"
)

// mortal is something that a run kills and starts again: a server, or the database that it stands on.
type mortal interface {
	start(context.Context) error // what runs already is no error
	kill() error                 // at once, without a word; what does not run is no error
	await(context.Context) error // until it works
}

// child is a process that the bench started.
type child struct {
	process
	signal func(os.Signal) error
	ended  chan error // what it ended with
}

// startProcess starts a server.
func startProcess(command *exec.Cmd, log io.Writer) (*child, error) {
	command.Stderr = log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command.Path, err)
	}
	c := &child{process{command.Process.Pid}, command.Process.Signal, make(chan error, 1)}
	go func() { c.ended <- command.Wait() }()
	return c, nil
}

// stop tells it to stop in order, and waits until it did; the error is also that it ended otherwise.
func (c *child) stop() error {
	exit, err := c.end(syscall.SIGTERM)
	return errors.Join(err, exit)
}

func (c *child) end(signal syscall.Signal) (exit, err error) {
	if err := c.signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	return <-c.ended, nil
}

// serverProcess is a server on an installation, in a process of its own.
type serverProcess struct {
	inst *installation.Installation
	log  io.Writer
	args []string // beside the folder

	mu      sync.Mutex
	running *child // nil: it was not started, or was ended
}

// startLimit is how long a server may take until it serves.
const startLimit = 60 * time.Second

func (s *serverProcess) start(context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		select {
		case <-s.running.ended: // by itself: its database was gone
		default:
			return nil
		}
	}
	s.running, err = startProcess(exec.Command(program, append([]string{"serve", "--dir", s.inst.Dir}, s.args...)...), s.log)
	return err
}

func (s *serverProcess) await(ctx context.Context) error {
	_, err := s.url(ctx)
	return err
}

// url is where it serves, once it does.
func (s *serverProcess) url(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return s.inst.AwaitServer(ctx)
}

func (s *serverProcess) kill() error {
	_, err := s.end(syscall.SIGKILL)
	return err
}

// stop lets it finish its requests; the error is also that it did not end in order.
func (s *serverProcess) stop() error {
	exit, err := s.end(syscall.SIGTERM)
	return errors.Join(err, exit)
}

func (s *serverProcess) end(signal syscall.Signal) (exit, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return nil, nil
	}
	exit, err = s.running.end(signal)
	if err == nil {
		s.running = nil
	}
	return exit, err
}

func (s *serverProcess) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running.pid
}

// benchCode is a code that was minted for a device.
type benchCode struct {
	value string
	id    issuance.CodeID
}

// mint mints codes, which live longer than any bench, beside the server.
func (r *rig) mint(ctx context.Context, now time.Time, n int) ([]benchCode, error) {
	mints := make([]issuance.Mint, n)
	for i := range mints {
		value, err := issuance.NewCodeValue(rand.Reader)
		if err != nil {
			return nil, err
		}
		mints[i] = issuance.Mint{Directory: "default", Value: value, Lifetime: 7 * 24 * time.Hour}
	}
	var made []benchCode
	for batch := range slices.Chunk(mints, store.MaxMint) {
		codes, err := r.inst.Store.MintCodes(ctx, issuance.Call{Now: now, From: operator()}, batch)
		if err != nil {
			return nil, err
		}
		for i, code := range codes {
			made = append(made, benchCode{batch[i].Value, code.ID})
		}
	}
	return made, nil
}

// try lets a new iPhone try a code once, at the server of this URL.
func (r *rig) try(ctx context.Context, baseURL string, code benchCode, observe func(enroll.Event)) (*enroll.Result, error) {
	return r.enrol(ctx, server.DirectoryURL(baseURL, "default"), func(*enroll.Device) string { return code.value },
		func(d *credential.Credential, c *enroll.Client) {
			d.KeySize = 256 // the load shall be on the server
			c.Observe = observe
		})
}

// receipts are the certificates that devices received, written down as they did.
type receipts struct {
	mu  sync.Mutex
	all []receipt
}

type receipt struct {
	code        benchCode
	certificate *x509.Certificate
}

func (l *receipts) add(code benchCode, certificate *x509.Certificate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, receipt{code, certificate})
}

func (l *receipts) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// compare holds what devices received against the database: each certificate verifies, has its row, and is the
// only one of its code. It returns how many valid certificates no device received.
func (r *rig) compare(ctx context.Context, l *receipts) (undelivered int, faults []string, err error) {
	roots, intermediates, err := r.relyingParty()
	if err != nil {
		return 0, nil, err
	}
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	received := map[issuance.CodeID]string{}
	for _, got := range l.all {
		serial := ca.FormatSerial(got.certificate.SerialNumber)
		if other, twice := received[got.code.id]; twice {
			fault("code %s gave two certificates: %s and %s", got.code.id, other, serial)
		}
		received[got.code.id] = serial
		_, err := got.certificate.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			CurrentTime: got.certificate.NotBefore, // the server's clock may have been wrong
		})
		if err != nil {
			fault("a device received certificate %s, which does not verify: %v", serial, err)
		}
		row, err := r.inst.Store.CertificateBySerial(ctx, serial)
		switch {
		case errors.Is(err, issuance.ErrNotFound):
			fault("a device received certificate %s, which has no row", serial)
		case err != nil:
			return 0, nil, err
		case row.Status != issuance.CertificateValid || row.Code != got.code.id || string(row.DER) != string(got.certificate.Raw):
			fault("a device received certificate %s by code %s, but its row is %s, by code %s", serial, got.code.id, row.Status, row.Code)
		}
	}
	for row, err := range r.inst.Store.Certificates(ctx, issuance.CertificateFilter{Status: issuance.CertificateValid}) {
		if err != nil {
			return 0, nil, err
		}
		if received[row.Code] == "" {
			undelivered++
		}
	}
	return undelivered, faults, nil
}

// relyingParty is what verifies certificates of the rig.
func (r *rig) relyingParty() (roots, intermediates *x509.CertPool, err error) {
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	for name, pool := range map[string]*x509.CertPool{"root.pem": roots, "issuing.pem": intermediates} {
		data, err := os.ReadFile(filepath.Join(r.serverDir, "certs", name))
		if err != nil {
			return nil, nil, err
		}
		pool.AppendCertsFromPEM(data)
	}
	return roots, intermediates, nil
}

// lines is a writer for several processes at once.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
