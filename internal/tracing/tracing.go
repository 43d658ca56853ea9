// Package tracing records where the time of a request goes, as OpenTelemetry spans, and sends them to a collector
// over OTLP. Only a program that is built with the tag otel can; in any other, all of this is nothing and costs nothing.
//
// A context carries the tracer, and the span in which its work is done: so no room has to be handed either. Requests
// and periodic work begin traces; Start goes on with one, and does nothing where there is none.
//
// It trusts nobody outside. What a request says of a trace above it is not read, but for a link from a proxy that the
// configuration trusts: neither a trace's id nor whether it is recorded is anybody else's to choose. And it tells nobody
// anything: names of spans are the program's own, attributes are those of Key, and errors are named by their type,
// because their texts may show a device. The collector gets no path, address, serial number, code, token or key.
package tracing

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// Options say how a tracer is made. All are required.
type Options struct {
	Version string // of the program
	Log     *slog.Logger
	Metrics *Metrics
}

// Key names an attribute of a span. There are no others. Their values are the program's or the configuration's words,
// and ids that the audit has, too: never what a client wrote.
type Key string

// Attributes of spans, those of OpenTelemetry's conventions first.
const (
	Method    Key = "http.request.method"
	Route     Key = "http.route"
	Status    Key = "http.response.status_code"
	Server    Key = "server.address"
	ErrorType Key = "error.type"
	Database  Key = "db.system.name"

	Directory   Key = "assay.directory"
	Order       Key = "assay.order"
	Certificate Key = "assay.certificate"
	Check       Key = "assay.check"
	Problem     Key = "assay.problem"
	Outcome     Key = "assay.outcome"
	Evidence    Key = "assay.evidence"
)

// meanings is what each attribute says, for the manual.
var meanings = []struct {
	key     Key
	meaning string
}{
	{Method, "of a request, here or elsewhere; `_OTHER` for one that HTTP does not know"},
	{Route, "the route that a request took: a pattern, never a path"},
	{Status, "status of the answer"},
	{Server, "host of a service that was asked"},
	{ErrorType, "`timeout`, `canceled`, the status of an answer of 500 or more, or the Go type of an error; its text is in the log"},
	{Database, "`sqlite` or `postgresql`"},
	{Directory, "the ACME directory"},
	{Order, "id of the order"},
	{Certificate, "id of the certificate"},
	{Check, "the failed check of a refusal, as in log and audit"},
	{Problem, "its ACME problem type"},
	{Outcome, "the policy's: `issue`, `hold` or `refuse`"},
	{Evidence, "kind of the evidence: `attested`, `none` or `failed`"},
}

// Metrics counts the spans that were to be sent.
type Metrics struct {
	Spans *prometheus.CounterVec // assay_trace_spans_total{result}
}

// What became of a span.
const (
	resultSent    = "sent"
	resultFailed  = "failed"
	resultDropped = "dropped"
)

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	m := &Metrics{Spans: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_trace_spans_total",
		Help: "Spans of traces by what became of them: sent, failed (the collector did not take them), or dropped because too many waited.",
	}, []string{"result"})}
	for _, result := range []string{resultSent, resultFailed, resultDropped} {
		m.Spans.WithLabelValues(result)
	}
	return m
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector { return []prometheus.Collector{m.Spans} }
