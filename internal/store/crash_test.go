package store_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

const childVariable = "ASSAY_STORE_TEST_CHILD"

// TestChildIssuesUntilKilled is the other process of the tests below, not a test of its own: it
// issues certificates to the database named by a variable and prints each one that it delivered.
func TestChildIssuesUntilKilled(t *testing.T) {
	path := os.Getenv(childVariable)
	if path == "" {
		t.Skip("run by other tests as another process")
	}
	s := openAt(t, path)
	for range 8 {
		go func() {
			for {
				b := storetest.NewBench(t, s)
				fmt.Printf("delivered %s\n", b.Issued().ID)
			}
		}()
	}
	select {}
}

// startChild runs this test binary again, writing to path, until it is killed. The first line read
// from delivered says that it works.
func startChild(t *testing.T, path string) (child *exec.Cmd, delivered *bufio.Scanner) {
	t.Helper()
	child = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildIssuesUntilKilled$", "-test.v")
	child.Env = append(os.Environ(), childVariable+"="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	return child, bufio.NewScanner(out)
}

func TestKilledProcessLosesNothingThatItDelivered(t *testing.T) {
	path := newPath(t)
	mint := storetest.NewBench(t, openAt(t, path))
	_, untouched := mint.Mint()
	total := 0
	for range 4 {
		child, lines := startChild(t, path)
		var delivered []issuance.CertificateID
		var killed atomic.Bool
		for lines.Scan() {
			if id, ok := strings.CutPrefix(lines.Text(), "delivered "); ok && len(id) == len("cert_")+26 {
				delivered = append(delivered, issuance.CertificateID(id))
			}
			if len(delivered) == 20 && killed.CompareAndSwap(false, true) {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil || !killed.Load() {
			t.Fatalf("child ended by itself: %v", err)
		}
		total += len(delivered)
		checkAfterCrash(t, path, delivered)
	}
	b := storetest.NewBench(t, openAt(t, path))
	b.Claimed(untouched)
	t.Logf("%d certificates delivered", total)
}

func checkAfterCrash(t *testing.T, path string, delivered []issuance.CertificateID) {
	t.Helper()
	s := openAt(t, path)
	storetest.CheckInvariants(t, s)
	for _, id := range delivered {
		c, err := s.Certificate(t.Context(), id)
		if err != nil || c.Status != issuance.CertificateValid || len(c.DER) == 0 {
			t.Fatalf("delivered certificate %s is %q, error %v", id, c.Status, err)
		}
	}
	if _, err := s.UndoDeadClaims(t.Context(), issuance.Call{Now: storetest.Start.Add(time.Second)}, storetest.Start.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	storetest.CheckInvariants(t, s)
	for c, err := range s.Certificates(t.Context(), issuance.CertificateFilter{Status: issuance.CertificateReserved}) {
		t.Fatalf("serial %s is reserved after dead claims were undone (error %v)", c.Serial, err)
	}
}

func TestTwoProcessesWriteBesideEachOther(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path)
	child, lines := startChild(t, path)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "delivered ") {
	}
	b := storetest.NewBench(t, s)
	for range 50 {
		b.Issued()
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := child.Wait(); err == nil {
		t.Fatal("child ended by itself")
	}
	storetest.CheckInvariants(t, s)
}

func TestDatabaseLeftOpenIsWholeForTheNext(t *testing.T) {
	path := newPath(t)
	first := storetest.NewBench(t, openAt(t, path))
	c := first.Issued()
	_, value := first.Mint()
	_, held := first.Claimed(value)
	second := openAt(t, path) // the first was not closed
	for id, want := range map[issuance.CertificateID]issuance.CertificateStatus{c.ID: issuance.CertificateValid, held.ID: issuance.CertificateReserved} {
		if got, err := second.Certificate(t.Context(), id); err != nil || got.Status != want {
			t.Errorf("certificate is %q, want %s (error %v)", got.Status, want, err)
		}
	}
}
