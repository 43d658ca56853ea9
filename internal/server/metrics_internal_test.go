package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"assay/acme"
	"assay/internal/limits"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Whoever writes policies names requirements, and a label never leaves: without a bound, a policy that is
// generated anew with other names each time would fill the memory.
func TestRequirementsGetABoundedNumberOfLabels(t *testing.T) {
	m := NewMetrics()
	for i := range maxRequirements + 50 {
		m.refused("default", acme.NewProblem(acme.Unauthorized, fmt.Sprintf("require:r%d", i), ""))
	}
	m.refused("default", acme.NewProblem(acme.Unauthorized, "require:r0", "")) // known: keeps its own
	if n := testutil.CollectAndCount(m.Requirements); n != maxRequirements+1 {
		t.Errorf("%d labels, want %d and one for all others", n, maxRequirements)
	}
	if n := testutil.ToFloat64(m.Requirements.WithLabelValues("default", otherRequirement)); n != 50 {
		t.Errorf("%v refusals by others, want 50", n)
	}
	if n := testutil.ToFloat64(m.Requirements.WithLabelValues("default", "r0")); n != 2 {
		t.Errorf("%v refusals by r0, want 2", n)
	}
	if n := testutil.CollectAndCount(m.Refusals); n != 1 {
		t.Errorf("%d series of refusals, want all under one check", n)
	}
	if n := testutil.ToFloat64(m.Refusals.WithLabelValues("default", "unauthorized", requireCheck)); n != maxRequirements+51 {
		t.Errorf("%v refusals, want %d", n, maxRequirements+51)
	}
}

// What counting costs a request: compare with the half millisecond that one costs.
func BenchmarkCountRequest(b *testing.B) {
	step := NewMetrics().step("finalize")
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		step.answered(200, time.Since(began))
	}
}

// A handler that cuts the connection has not answered, and is counted.
func TestCutAnswersAreCountedAsFailed(t *testing.T) {
	s := &Server{Config: Config{Metrics: NewMetrics(), Limits: limits.New(limits.Options{Now: time.Now}), Now: time.Now}}
	handle := s.measured("crl", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("cut by %v", p)
			}
		}()
		handle(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}()
	if n := testutil.ToFloat64(s.Metrics.Requests.WithLabelValues("crl", resultFailed)); n != 1 {
		t.Errorf("%v failed, want 1", n)
	}
}
