package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/policy"
)

var benchStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// BenchmarkEnrolment is everything that the store does for one device: five durable changes and the
// reads and spent nonces between them. What PostgreSQL's own processes use, minting included, is not in
// cpu-ns/op.
func BenchmarkEnrolment(b *testing.B) {
	for _, parallel := range []int{1, 16} {
		b.Run(fmt.Sprintf("sqlite/parallel=%d", parallel), func(b *testing.B) {
			benchEnrolment(b, filepath.Join(b.TempDir(), "assay.db"), parallel)
		})
	}
	for _, parallel := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("postgres/parallel=%d", parallel), func(b *testing.B) {
			p := newPostgres(b, "fsync=on")
			url := p.database(b)
			before := serverCPU(b, p.Process())
			benchEnrolment(b, url, parallel)
			b.ReportMetric(float64(serverCPU(b, p.Process())-before)/float64(b.N), "postgres-cpu-ns/op")
		})
	}
}

func benchEnrolment(b *testing.B, location string, parallel int) {
	s := openAt(b, location)
	issuer, err := s.AddIssuer(b.Context(), issuance.Call{Now: benchStart}, issuance.Issuer{Name: "bench", Chain: [][]byte{{1}}, Active: true})
	if err != nil {
		b.Fatal(err)
	}
	values := mintForBench(b, s, b.N)
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				enrolForBench(b, s, issuer.ID, values[n-1], n)
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(s.Retries()/float64(b.N), "retries/op")
}

func mintForBench(b *testing.B, s *store.Store, n int) []string {
	values := make([]string, n)
	var batch []issuance.Mint
	for i := range values {
		values[i] = rand.Text()
		batch = append(batch, issuance.Mint{Directory: "default", Value: values[i], Serial: fmt.Sprintf("C%09d", i), Lifetime: 24 * time.Hour})
		if len(batch) == store.MaxMint || i == n-1 {
			if _, err := s.MintCodes(b.Context(), issuance.Call{Now: benchStart}, batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	return values
}

// cpuTime is what the process has used, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchClock moves on by 100 µs with every request, as time does: ids and nonces sort by it.
var benchClock atomic.Int64

// serverCPU is what a PostgreSQL server and its processes have used, those included that ended.
func serverCPU(b *testing.B, server int) (used time.Duration) {
	const tick = 10 * time.Millisecond
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		// PID (NAME) STATE PARENT …, then at 11 the times of its own and at 13 those of children that ended.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		if pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file))); pid != server && parent != server {
			continue
		}
		for _, field := range fields[11:15] {
			ticks, _ := strconv.Atoi(field)
			used += time.Duration(ticks) * tick
		}
	}
	return used
}

func benchCall() issuance.Call {
	now := benchStart.Add(time.Duration(benchClock.Add(1)) * 100 * time.Microsecond)
	c := issuance.Call{Now: now, From: "192.0.2.1", Nonce: issuance.Nonce{ExpiresAt: now.Add(time.Hour)}}
	rand.Read(c.Nonce.ID[:])
	return c
}

func enrolForBench(b *testing.B, s *store.Store, issuer issuance.IssuerID, value string, i int64) {
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}
	spki := make([]byte, 120)
	a, _, err := s.RegisterAccount(ctx, benchCall(), issuance.Account{Directory: "default", JWK: make([]byte, 150), Thumbprint: rand.Text()})
	check(err)
	_, err = s.CodeByValue(ctx, "default", value)
	check(err)
	o, err := s.CreateOrder(ctx, benchCall(), issuance.NewOrder{Account: a.ID, Directory: "default", Token: rand.Text(), Identifier: issuance.Identifier{Type: "permanent-identifier", Value: value, Kind: policy.ByCode}})
	check(err)
	read := func() {
		_, err := s.Account(ctx, a.ID)
		check(err)
		e, err := s.Enrolment(ctx, o.ID)
		check(err)
		o = e.Order
	}
	_, err = s.ReadOrder(ctx, benchCall(), o.ID)
	check(err)
	read()
	serial := fmt.Sprintf("C%09d", i)
	facts := &attest.Facts{Format: "apple", PublicKey: spki, KeyType: "P-384", Protection: attest.SecureEnclave, Fresh: true,
		Identifiers: []deviceid.Identifier{{Kind: deviceid.Serial, Value: serial}, {Kind: deviceid.UDID, Value: "00008110-" + serial}}}
	_, err = s.AnswerChallenge(ctx, benchCall(), issuance.Answer{Account: a.ID, Order: o.ID, Evidence: issuance.Evidence{
		Kind: attest.Attested, Format: "apple", Object: make([]byte, 2800), Token: o.Challenge.Token, KeyAuth: o.Challenge.Token + ".abc", Facts: facts, FactsSchema: 1}})
	check(err)
	read()
	request := &csr.Request{Subject: csr.Name{{{Type: "2.5.4.3", Value: "device"}}}, KeyType: "EC", KeySize: 384}
	var number [20]byte
	rand.Read(number[:])
	var spkiHash [32]byte
	rand.Read(spkiHash[:])
	_, err = s.Circumstances(ctx, benchCall().Now, issuance.Subject{Directory: "default", Serial: serial, UDID: "00008110-" + serial, Verified: true,
		Code: o.Code, SPKISHA256: hex.EncodeToString(spkiHash[:])})
	check(err)
	certificate, err := issuance.NewID[issuance.CertificateID](benchStart, rand.Reader)
	check(err)
	c, err := s.BeginIssue(ctx, benchCall(), issuance.Claim{Account: a.ID, Order: o.ID,
		Decision: issuance.Decision{Schema: policy.Schema, Input: &policy.Input{Request: request}, Decision: policy.Decision{Outcome: policy.Issue, Verified: true,
			Reasons: []policy.Reason{{Check: "code-live", Passed: true, Detail: "the code is live"}, {Check: "evidence", Passed: true, Detail: "verified"}}, Key: policy.KeyBinding{Attested: spki}}},
		Certificate: issuance.Certificate{ID: certificate, Serial: hex.EncodeToString(number[:]), Issuer: issuer, Profile: "default", DeviceSerial: serial, SPKISHA256: hex.EncodeToString(spkiHash[:]),
			NotBefore: benchStart, NotAfter: benchStart.Add(365 * 24 * time.Hour)}})
	check(err)
	_, err = s.CompleteIssue(ctx, issuance.Call{Now: benchCall().Now, From: "192.0.2.1"}, issuance.Completion{Order: o.ID, Certificate: c.ID, DER: make([]byte, 900), Attested: issuance.Device{Serial: serial, UDID: "00008110-" + serial}})
	check(err)
	_, err = s.CollectCertificate(ctx, benchCall(), c.ID, func(issuance.Certificate) error { return nil })
	check(err)
}
