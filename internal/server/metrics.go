package server

import (
	"net/http"
	"sync"
	"time"

	"assay/acme"
	"assay/attest"
	"assay/internal/tracing"
	"assay/policy"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the server does. Labels are bounded: steps, results, outcomes, problem types and the
// names of checks are fixed sets, directories are the configuration's. Only the names of requirements are
// somebody's own; of those maxRequirements are told apart. No label holds anything of a device or a person.
type Metrics struct {
	Requests     *prometheus.CounterVec   // assay_acme_requests_total{step,result}
	Seconds      *prometheus.HistogramVec // assay_acme_request_duration_seconds{step}
	Refusals     *prometheus.CounterVec   // assay_refusals_total{directory,problem,check}
	Requirements *prometheus.CounterVec   // assay_requirement_refusals_total{directory,requirement}
	Decisions    *prometheus.CounterVec   // assay_decisions_total{directory,outcome}
	Issued       *prometheus.CounterVec   // assay_certificates_issued_total{directory,evidence}

	mu           sync.Mutex
	requirements map[[2]string]bool // that have a label, by directory and name
}

// maxRequirements is how many requirements, of all directories and of every policy since the start, get a
// label of their own. Policies change while the server runs, and a label never leaves.
const maxRequirements = 200

// otherRequirement is the label of all further ones. No requirement can be called so.
const otherRequirement = "(other)"

// requireCheck is the check of a refusal by any requirement of a policy.
const requireCheck = "require"

// What came of a request.
const (
	resultOK      = "ok"
	resultRefused = "refused" // 4xx: the client's
	resultFailed  = "failed"  // 5xx: the server's
)

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return &Metrics{
		Requests: counter("assay_acme_requests_total", "Requests to the ACME listener, by step and by what came of it: ok, refused or failed.", "step", "result"),
		Seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_acme_request_duration_seconds", Help: "Time that requests to the ACME listener took, whatever came of them.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"step"}),
		Refusals:     counter("assay_refusals_total", "Refused ACME requests, by failed check. Requirements of policies are one check, require.", "directory", "problem", "check"),
		Requirements: counter("assay_requirement_refusals_total", "Requests refused by a requirement of a policy, by its name; beyond 200 names, (other).", "directory", "requirement"),
		Decisions:    counter("assay_decisions_total", "Decisions on certificate requests, by outcome: issue, hold or refuse.", "directory", "outcome"),
		Issued:       counter("assay_certificates_issued_total", "Issued certificates, by kind of evidence.", "directory", "evidence"),
		requirements: map[[2]string]bool{},
	}
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Requests, m.Seconds, m.Refusals, m.Requirements, m.Decisions, m.Issued}
}

func (m *Metrics) refused(directory string, p *acme.Problem) {
	check := p.Check
	if name, ok := policy.RequirementOf(check); ok {
		check = requireCheck
		m.Requirements.WithLabelValues(directory, m.requirement(directory, name)).Inc()
	}
	m.Refusals.WithLabelValues(directory, p.Kind(), check).Inc()
}

// requirement is the label of a requirement.
func (m *Metrics) requirement(directory, name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{directory, name}
	if !m.requirements[key] {
		if len(m.requirements) >= maxRequirements {
			return otherRequirement
		}
		m.requirements[key] = true
	}
	return name
}

// step counts the requests of one step. Its counters are looked up once, when the routes are made.
type step struct {
	ok, refused, failed prometheus.Counter
	took                prometheus.Observer
}

func (m *Metrics) step(name string) *step {
	return &step{
		ok: m.Requests.WithLabelValues(name, resultOK), refused: m.Requests.WithLabelValues(name, resultRefused),
		failed: m.Requests.WithLabelValues(name, resultFailed), took: m.Seconds.WithLabelValues(name),
	}
}

// answered counts a request that got a status.
func (s *step) answered(status int, took time.Duration) {
	switch {
	case status < http.StatusBadRequest:
		s.ok.Inc()
	case status < http.StatusInternalServerError:
		s.refused.Inc()
	default:
		s.failed.Inc()
	}
	s.took.Observe(took.Seconds())
}

// directoryCounts are what is counted of one directory, looked up once.
type directoryCounts struct {
	decided map[policy.Outcome]prometheus.Counter
	issued  map[attest.Kind]prometheus.Counter
}

func (m *Metrics) directory(name string) directoryCounts {
	c := directoryCounts{map[policy.Outcome]prometheus.Counter{}, map[attest.Kind]prometheus.Counter{}}
	for _, outcome := range []policy.Outcome{policy.Issue, policy.Hold, policy.Refuse} {
		c.decided[outcome] = m.Decisions.WithLabelValues(name, string(outcome))
	}
	for _, kind := range []attest.Kind{attest.Attested, attest.None, attest.Failed} {
		c.issued[kind] = m.Issued.WithLabelValues(name, string(kind))
	}
	return c
}

// measured counts the requests of a step that is not signed.
func (s *Server) measured(name string, handle http.HandlerFunc) http.HandlerFunc {
	step := s.Metrics.step(name)
	handle = s.unsigned(handle)
	return func(w http.ResponseWriter, r *http.Request) {
		began := s.Now()
		r, span := tracing.Request(r, r.Pattern)
		status := http.StatusInternalServerError // of a handler that panics
		defer func() {
			step.answered(status, s.Now().Sub(began))
			span.Answered(status)
		}()
		out := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		handle(out, r)
		status = out.status
	}
}

// statusWriter remembers the status. Signed requests do without it: a body that is too large closes the
// connection only of the standard library's own writer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
