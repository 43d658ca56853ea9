//go:build !otel

package tracing

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
)

// Tracer begins traces. There is none in this program.
type Tracer struct{}

// Open refuses: this program cannot send traces.
func Open(context.Context, Options) (*Tracer, error) {
	return nil, errors.New("this program was built without OpenTelemetry: build it with -tags otel")
}

// Context is the context as it is.
func (*Tracer) Context(ctx context.Context) context.Context { return ctx }

// Logger is the log as it is.
func (*Tracer) Logger(log *slog.Logger) *slog.Logger { return log }

// Close has nothing to send.
func (*Tracer) Close(context.Context) {}

// Span is one piece of work. There is none in this program.
type Span struct{}

// Request begins no trace.
func Request(r *http.Request, _ string) (*http.Request, Span) { return r, Span{} }

// Handler is the handler as it is.
func Handler(next http.Handler) http.Handler { return next }

// Behind notes no trace of a proxy's.
func Behind(ctx context.Context, _ http.Header) context.Context { return ctx }

// Work begins no trace.
func Work(ctx context.Context, _ string) (context.Context, Span) { return ctx, Span{} }

// Start begins no span.
func Start(ctx context.Context, _ string) (context.Context, Span) { return ctx, Span{} }

// Current is no span.
func Current(context.Context) Span { return Span{} }

// Recording is false: whoever has to compute a name need not.
func Recording(context.Context) bool { return false }

// Transport is the transport as it is.
func Transport(_ string, base http.RoundTripper) http.RoundTripper { return base }

// Set keeps nothing.
func (Span) Set(Key, string) {}

// Event keeps nothing.
func (Span) Event(string) {}

// Answered ends nothing.
func (Span) Answered(int) {}

// End ends nothing.
func (Span) End(*error) {}
