//go:build otel

package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	maxValue   = 128             // bytes of an attribute's value
	closeLimit = 5 * time.Second // for the last spans to be sent
)

// Tracer begins traces. A nil one begins none. Close it.
type Tracer struct {
	tracer   trace.Tracer
	provider *sdk.TracerProvider
	queue    *queue
	hangUp   func() // ends what is being sent
}

// Open makes a tracer as the environment's OTEL_… variables have it (docs/tracing.md). It contacts nobody: a
// collector that cannot be reached is an entry of the log. Of variables that cannot be used it reports the first.
func Open(ctx context.Context, o Options) (*Tracer, error) {
	client, err := newCollector()
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, err
	}
	return newTracer(ctx, o, exporter, client.hangUp)
}

func newTracer(ctx context.Context, o Options, exporter sdk.SpanExporter, hangUp func()) (*Tracer, error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("traces", "error", err) }))
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "assay"), attribute.String("service.version", o.Version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv()) // what comes later comes first
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	limits := sdk.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxValue
	q := newQueue(exporter, o.Metrics, o.Log)
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(q), sdk.WithResource(about), sdk.WithRawSpanLimits(limits))
	return &Tracer{tracer: provider.Tracer("assay"), provider: provider, queue: q, hangUp: hangUp}, nil
}

// Close sends what still waits, for at most five seconds and until the context ends. What could not be sent is logged.
func (t *Tracer) Close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // an end of the time: the queue knows what is left
	t.hangUp()
	t.queue.giveUp()
}

// Context is a context whose work the tracer traces.
func (t *Tracer) Context(ctx context.Context) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, t)
}

type tracerKey struct{}

// tracerOf is the tracer of a context; nil for none.
func tracerOf(ctx context.Context) *Tracer {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	return t
}

// Logger is a log whose lines name the trace of their context.
func (t *Tracer) Logger(log *slog.Logger) *slog.Logger {
	if t == nil {
		return log
	}
	return slog.New(handler{log.Handler()})
}

// handler adds the id of the trace.
type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, line slog.Record) error {
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		line = line.Clone()
		line.AddAttrs(slog.String("trace_id", id.String()))
	}
	return h.Handler.Handle(ctx, line)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

// Span is one piece of work. The zero value is none, and nothing comes of what is done to it.
type Span struct{ span trace.Span }

// begin begins a trace, if the context's work is traced. Nothing is above it, whatever a client sent.
func begin(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	t := tracerOf(ctx)
	if t == nil {
		return ctx, Span{}
	}
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(kind)}
	if above, behind := ctx.Value(proxyKey{}).(trace.SpanContext); behind {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: above}))
	}
	ctx, span := t.tracer.Start(ctx, name, options...)
	return ctx, Span{span}
}

// Work begins a trace of work that no request asked for.
func Work(ctx context.Context, name string) (context.Context, Span) {
	return begin(ctx, name, trace.SpanKindInternal)
}

// Start begins a span under the one of the context, if that is recorded. The name is one of few. End it.
func Start(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindInternal)
}

func start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	if !Recording(ctx) {
		return ctx, Span{}
	}
	ctx, span := tracerOf(ctx).tracer.Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span}
}

// Current is the span of a context.
func Current(ctx context.Context) Span {
	if !Recording(ctx) {
		return Span{}
	}
	return Span{trace.SpanFromContext(ctx)}
}

// Recording reports whether the span of a context is recorded, for whoever has to compute a name.
func Recording(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// Set sets an attribute; "" is left out.
func (s Span) Set(key Key, value string) {
	if s.span != nil && value != "" {
		s.span.SetAttributes(attribute.String(string(key), value))
	}
}

// Event notes that something happened now.
func (s Span) Event(name string) {
	if s.span != nil {
		s.span.AddEvent(name)
	}
}

// End ends a span; err, which may be nil, is where the error of its work is, if there was one. It is deferred.
func (s Span) End(err *error) {
	if s.span == nil {
		return
	}
	if err != nil && *err != nil {
		s.fail(typeOf(*err))
	}
	s.span.End()
}

func (s Span) fail(kind string) {
	s.span.SetStatus(codes.Error, "")
	s.Set(ErrorType, kind)
}

// typeOf names an error without its text.
func typeOf(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return reflect.TypeOf(err).String()
}
