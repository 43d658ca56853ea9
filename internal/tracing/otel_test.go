//go:build otel

package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/logbook"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// to is a log that goes into a book.
func to(b *logbook.Book) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// recorder is a tracer whose spans are kept here.
type recorder struct {
	*Tracer
	kept *kept
	ctx  context.Context
	log  *logbook.Book
}

// kept outlives the end of the exporter.
type kept struct {
	mu    sync.Mutex
	spans tracetest.SpanStubs
}

func (k *kept) ExportSpans(_ context.Context, spans []sdk.ReadOnlySpan) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spans = append(k.spans, tracetest.SpanStubsFromReadOnlySpans(spans)...)
	return nil
}

func (*kept) Shutdown(context.Context) error { return nil }

func record(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{kept: &kept{}, log: &logbook.Book{}}
	var err error
	r.Tracer, err = newTracer(t.Context(), Options{Version: "1", Log: to(r.log), Metrics: NewMetrics()}, r.kept, func() {})
	if err != nil {
		t.Fatal(err)
	}
	r.ctx = r.Context(t.Context())
	t.Cleanup(func() { r.Close(context.Background()) })
	return r
}

// spans ends the tracer and returns what it recorded, by name.
func (r *recorder) spans() map[string]tracetest.SpanStub {
	r.Close(context.Background())
	all := map[string]tracetest.SpanStub{}
	for _, s := range r.kept.spans {
		all[s.Name] = s
	}
	return all
}

func attributes(s tracetest.SpanStub) map[Key]string {
	all := map[Key]string{}
	for _, a := range s.Attributes {
		all[Key(a.Key)] = a.Value.String()
	}
	return all
}

func TestRequestIsNamedByItsRoute(t *testing.T) {
	r := record(t)
	mux := http.NewServeMux()
	mux.Handle("/credential/{secret}", Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, span := Start(r.Context(), "step")
		span.End(nil)
		w.WriteHeader(http.StatusBadGateway)
	})))
	request := httptest.NewRequestWithContext(r.ctx, "STEAL", "/credential/a-secret?with=another-secret", nil)
	mux.ServeHTTP(httptest.NewRecorder(), request)
	spans := r.spans()
	root, ok := spans["_OTHER /credential/{secret}"]
	if !ok || spans["step"].Parent.SpanID() != root.SpanContext.SpanID() || root.Parent.IsValid() {
		t.Fatalf("got %+v", spans)
	}
	got := attributes(root)
	want := map[Key]string{Method: "_OTHER", Route: "/credential/{secret}", Status: "502", ErrorType: "502"}
	if fmt.Sprint(got) != fmt.Sprint(want) || root.Status.Code != codes.Error {
		t.Errorf("got %v and %v, want %v", got, root.Status, want)
	}
	if text := fmt.Sprintf("%+v", spans); strings.Contains(text, "secret?") || strings.Contains(text, "a-secret") || strings.Contains(text, "STEAL") {
		t.Errorf("what the client wrote is in %s", text)
	}
}

func TestRequestWhoseHandlerPanicsHasASpan(t *testing.T) {
	r := record(t)
	mux := http.NewServeMux()
	mux.Handle("/credential/{secret}", Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })))
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("the server is told of %v", p)
			}
		}()
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(r.ctx, http.MethodGet, "/credential/x", nil))
	}()
	if span, ok := r.spans()["GET /credential/{secret}"]; !ok || attributes(span)[Status] != "500" || span.Status.Code != codes.Error {
		t.Errorf("got %+v", span)
	}
}

type databaseError struct{}

func (databaseError) Error() string { return "of C02XEXAMPLE1" }

func TestErrorsAreNamedWithoutTheirText(t *testing.T) {
	r := record(t)
	ctx, work := Work(r.ctx, "work")
	for name, err := range map[string]error{
		"timeout":               fmt.Errorf("read: %w", context.DeadlineExceeded),
		"canceled":              fmt.Errorf("read: %w", context.Canceled),
		"tracing.databaseError": fmt.Errorf("read %s: %w", "C02XEXAMPLE1", databaseError{}),
		"*errors.joinError":     errors.Join(databaseError{}, databaseError{}),
	} {
		_, span := Start(ctx, name)
		span.End(&err)
	}
	work.End(nil)
	spans := r.spans()
	for name, s := range spans {
		failed := name != "work"
		if got := attributes(s)[ErrorType]; failed && (got != name || s.Status.Code != codes.Error || s.Status.Description != "") || !failed && got != "" {
			t.Errorf("%s is of type %q and %v", name, got, s.Status)
		}
		if strings.Contains(fmt.Sprintf("%+v", s), "C02XEXAMPLE1") {
			t.Errorf("the device is in %+v", s)
		}
	}
	if len(spans) != 5 {
		t.Errorf("got %d spans", len(spans))
	}
}

func TestLongValuesAreCut(t *testing.T) {
	r := record(t)
	_, span := Work(r.ctx, "work")
	span.Set(Check, strings.Repeat("x", maxValue+1))
	span.Set(Order, "")
	span.End(nil)
	if got := attributes(r.spans()["work"]); len(got) != 1 || got[Check] != strings.Repeat("x", maxValue) {
		t.Errorf("got %v", got)
	}
}

func TestLogNamesTheTrace(t *testing.T) {
	r := record(t)
	log := r.Logger(to(r.log))
	ctx, span := Work(r.ctx, "work")
	log.With("a", 1).WithGroup("g").InfoContext(ctx, "within", "b", 2)
	log.InfoContext(r.ctx, "without")
	span.End(nil)
	id := r.spans()["work"].SpanContext.TraceID().String()
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, "trace_id="+id) != strings.Contains(line, "within") && strings.Contains(line, "g.trace_id="+id) != strings.Contains(line, "within") {
			t.Errorf("got %s", line)
		}
	}
	if n := strings.Count(r.log.String(), "trace_id="); n != 1 {
		t.Errorf("%d lines name a trace", n)
	}
}

func TestTransportTracesNothingOfTheRequestButItsHost(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Traceparent") != "" {
			t.Error("the service is told of the trace")
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer service.Close()
	r := record(t)
	ctx, work := Work(r.ctx, "work")
	client := http.Client{Transport: Transport("kmfddm", nil)}
	for _, url := range []string{service.URL + "/v1/device-of-somebody", "http://127.0.0.1:0/v1/device-of-somebody"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
		}
	}
	work.End(nil)
	r.spans()
	var types []string
	for _, s := range r.kept.spans {
		if strings.Contains(fmt.Sprintf("%+v", s), "device-of-somebody") {
			t.Errorf("the path is in %+v", s)
		}
		if s.Name == "PUT kmfddm" {
			types = append(types, attributes(s)[ErrorType])
		}
	}
	if len(types) != 2 || types[0] != "503" || types[1] == "" || types[1] == "503" {
		t.Errorf("got %q", types)
	}
}

// silent is an exporter that waits until it is told to end, by its own context.
type silent struct {
	asked chan struct{}
	ended context.Context
}

func (s *silent) ExportSpans(context.Context, []sdk.ReadOnlySpan) error {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.ended.Done()
	return s.ended.Err()
}

func (*silent) Shutdown(context.Context) error { return nil }

func TestSilentCollectorCostsSpansOnly(t *testing.T) {
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
	ended, end := context.WithCancel(context.Background())
	exporter := &silent{make(chan struct{}, 1), ended}
	metrics, log := NewMetrics(), &logbook.Book{}
	tracer, err := newTracer(t.Context(), Options{Log: to(log), Metrics: metrics}, exporter, end)
	if err != nil {
		t.Fatal(err)
	}
	one := func() {
		_, span := Work(tracer.Context(t.Context()), "work")
		span.End(nil)
	}
	one()
	one()
	<-exporter.asked // two are on their way
	for range 10 {
		one()
	}
	dropped := func() float64 { return testutil.ToFloat64(metrics.Spans.WithLabelValues(resultDropped)) }
	if got := dropped(); got != 8 {
		t.Errorf("%v dropped, with two in the queue and two on their way", got)
	}
	late, cancel := context.WithCancel(context.Background())
	cancel()
	tracer.Close(late)
	failed := testutil.ToFloat64(metrics.Spans.WithLabelValues(resultFailed))
	if all := dropped() + failed; all != 12 {
		t.Errorf("%v lost of 12", all)
	}
	if text := log.String(); strings.Count(text, "spans of traces were lost") != 2 || !strings.Contains(text, "spans=1 ") {
		t.Errorf("the log is\n%s", text)
	}
}

func TestWhatWasGivenUpIsCountedOnce(t *testing.T) {
	metrics, log := NewMetrics(), &logbook.Book{}
	q := newQueue(&kept{}, metrics, to(log))
	q.waiting.Store(2)
	q.giveUp()
	if err := (*sender)(q).ExportSpans(t.Context(), tracetest.SpanStubs{{}, {}}.Snapshots()); err != nil {
		t.Fatal(err)
	}
	for result, want := range map[string]float64{resultDropped: 2, resultSent: 0, resultFailed: 0} {
		if got := testutil.ToFloat64(metrics.Spans.WithLabelValues(result)); got != want {
			t.Errorf("%v %s, want %v", got, result, want)
		}
	}
	if err := q.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLossIsToldOnceAMinute(t *testing.T) {
	log, now := &logbook.Book{}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := loss{log: to(log), now: func() time.Time { return now }}
	l.note(1, errors.New("refused"))
	l.note(2, nil)
	now = now.Add(lossPause - 1)
	l.note(3, nil)
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "spans=1 ") || !strings.Contains(text, "error=refused") {
		t.Errorf("at first:\n%s", text)
	}
	now = now.Add(1)
	l.note(4, nil)
	if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "spans=9 ") {
		t.Errorf("a minute later:\n%s", text)
	}
	l.sum()
	l.note(5, nil)
	l.sum()
	if text := log.String(); strings.Count(text, "\n") != 3 || !strings.Contains(text, "spans=5 ") {
		t.Errorf("at the end:\n%s", text)
	}
}

// discarded takes spans and forgets them.
type discarded struct{}

func (discarded) ExportSpans(context.Context, []sdk.ReadOnlySpan) error { return nil }
func (discarded) Shutdown(context.Context) error                        { return nil }

// BenchmarkTraced is one span under a request's, until it is in the queue.
func BenchmarkTraced(b *testing.B) {
	tracer, err := newTracer(b.Context(), Options{Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics()}, discarded{}, func() {})
	if err != nil {
		b.Fatal(err)
	}
	defer tracer.Close(context.Background())
	ctx, work := Work(tracer.Context(b.Context()), "work")
	defer work.End(nil)
	b.ReportAllocs()
	for b.Loop() {
		_, span := Start(ctx, "step")
		span.Set(Database, "sqlite")
		span.Event("begun")
		span.End(&err)
	}
}
