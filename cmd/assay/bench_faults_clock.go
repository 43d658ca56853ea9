package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"assay/enroll"
	"assay/internal/ca"
	"assay/internal/installation"
	"assay/internal/issuance"
)

const (
	mildJump = 6 * time.Hour       // in the middle of an enrolment
	wildJump = 40 * 24 * time.Hour // of a clock that is set wrong for a while
)

// jumpingClock is the server's.
type jumpingClock struct {
	now    func() time.Time
	offset atomic.Int64
}

func (c *jumpingClock) Now() time.Time        { return c.now().Add(time.Duration(c.offset.Load())) }
func (c *jumpingClock) jump(to time.Duration) { c.offset.Store(int64(to)) }
func (c *jumpingClock) by(d time.Duration) (undo func()) {
	c.offset.Add(int64(d))
	return func() { c.offset.Add(-int64(d)) }
}

var clockScenario = scenario{
	name: "clock",
	did: fmt.Sprintf("the server's clock jumps %s forward and back before each of the nine requests; then it is %d days ahead for a "+
		"while, in which a certificate is revoked", mildJump, wildJump/24/time.Hour),
	expected: "a device gets its certificate or a refusal, never a 5xx; set right again, the code gives a certificate unless it is " +
		"used up, and the CRL is of now, has a greater number and names what is revoked",
	run: func(ctx context.Context, t *trial) (string, error) {
		clock := &jumpingClock{now: t.term.Now}
		stop, err := t.serveHere(ctx, clock)
		if err != nil {
			return "", err
		}
		got, refused, err := t.jumps(ctx, clock)
		if err == nil {
			err = t.wrongForAWhile(ctx, clock)
		}
		if err := errors.Join(err, stop()); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d devices got a certificate across a jump, %d were refused and enrolled once it was right", got, refused), nil
	},
}

// serveHere runs the server in this process, by the clock: another process's cannot be set.
func (t *trial) serveHere(ctx context.Context, clock *jumpingClock) (stop func() error, err error) {
	if err := t.prepare(ctx, clock.Now); err != nil {
		return nil, err
	}
	serving, cancel := context.WithCancel(ctx)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- t.inst.Serve(serving, installation.ServeOptions{
			Log: slog.New(slog.DiscardHandler), Ready: func(installation.Running) { close(ready) },
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		return nil, err
	}
	return func() error { cancel(); return <-done }, nil
}

// jumps lets the clock jump before each request of a device.
func (t *trial) jumps(ctx context.Context, clock *jumpingClock) (got, refused int, err error) {
	for _, by := range []time.Duration{mildJump, -mildJump} {
		for n := range requests {
			code, err := t.fresh(ctx, clock.Now())
			if err != nil {
				return got, refused, err
			}
			undo := func() {}
			if n == 0 {
				undo = clock.by(by)
			}
			_, err = t.device(ctx, code, func(e enroll.Event) {
				if done, ok := e.(enroll.Exchanged); ok && n > 0 && done.Step == requests[n-1] {
					undo = clock.by(by)
				}
			})
			undo()
			if err == nil {
				got++
				continue
			}
			if abort, ok := errors.AsType[*enroll.Abort](err); !ok || abort.Status == 0 || abort.Status >= 500 {
				t.fault("the clock jumped by %s before %s: %v", by, requests[n], err)
			}
			refused++
			if issuedBefore(requests[n]) {
				if code, err = t.fresh(ctx, clock.Now()); err != nil {
					return got, refused, err
				}
			}
			if _, err := t.device(ctx, code, nil); err != nil {
				t.fault("the clock jumped by %s before %s, and back: the code gives no certificate: %v", by, requests[n], err)
			}
		}
	}
	return got, refused, nil
}

// wrongForAWhile lets the clock be far ahead while a certificate is revoked and its CRL signed.
func (t *trial) wrongForAWhile(ctx context.Context, clock *jumpingClock) error {
	code, err := t.fresh(ctx, clock.Now())
	if err != nil {
		return err
	}
	result, err := t.try(ctx, t.proxy.url(), code, nil) // not written down: it will not stay valid
	if err != nil {
		return err
	}
	row, err := t.inst.Store.CertificateBySerial(ctx, ca.FormatSerial(result.Certificate.SerialNumber))
	if err != nil {
		return err
	}
	before, err := t.fetchCRL(ctx, result.Certificate)
	if err != nil {
		return err
	}
	clock.jump(wildJump)
	_, err = t.inst.Store.RevokeCertificate(ctx, issuance.Call{Now: clock.Now(), From: operator()}, issuance.Revocation{Certificate: row.ID, Reason: 1})
	if err != nil {
		return err
	}
	ahead, err := t.fetchCRL(ctx, result.Certificate)
	if err != nil {
		return err
	}
	clock.jump(0)
	after, err := t.fetchCRL(ctx, result.Certificate)
	if err != nil {
		return err
	}
	if before.Number.Cmp(ahead.Number) >= 0 || ahead.Number.Cmp(after.Number) >= 0 {
		t.fault("CRLs have the numbers %s, %s, %s", before.Number, ahead.Number, after.Number)
	}
	if now := clock.Now(); after.ThisUpdate.After(now) || after.NextUpdate.Before(now) {
		t.fault("the clock is right again, and the CRL is of %s to %s", after.ThisUpdate.Format(time.RFC3339), after.NextUpdate.Format(time.RFC3339))
	}
	for _, list := range []*x509.RevocationList{ahead, after} {
		if len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(result.Certificate.SerialNumber) != 0 {
			t.fault("CRL %s does not name what is revoked", list.Number)
		}
	}
	return nil
}

// fetchCRL fetches the CRL that a certificate names.
func (t *trial) fetchCRL(ctx context.Context, certificate *x509.Certificate) (*x509.RevocationList, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, certificate.CRLDistributionPoints[0], nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: t.roots}, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxInput))
	if err != nil {
		return nil, err
	}
	return x509.ParseRevocationList(body)
}
