//go:build otel

package tracing

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// methods are those that HTTP knows (RFC 9110, section 9; RFC 5789). Whoever calls may write any other.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodOptions, http.MethodTrace, http.MethodConnect}

// Request begins a trace for a request, named by the pattern that it fits: its path may be a secret. What it returns
// is the request, with the span in its context. End the span with Answered.
func Request(r *http.Request, pattern string) (*http.Request, Span) {
	if tracerOf(r.Context()) == nil {
		return r, Span{}
	}
	method := r.Method
	if !slices.Contains(methods, method) {
		method = "_OTHER"
	}
	route := pattern[strings.IndexByte(pattern, ' ')+1:]
	ctx, span := begin(r.Context(), method+" "+route, trace.SpanKindServer)
	span.Set(Method, method)
	span.Set(Route, route)
	return r.WithContext(ctx), span
}

// Answered ends the span of a request. What is refused has not failed; what is answered with 500 or more has.
func (s Span) Answered(status int) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attribute.Int(string(Status), status))
	if status >= http.StatusInternalServerError {
		s.fail(strconv.Itoa(status))
	}
	s.span.End()
}

// Handler traces the requests to another handler, behind a ServeMux.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, span := Request(r, r.Pattern)
		if span.span == nil {
			next.ServeHTTP(w, r)
			return
		}
		status := http.StatusInternalServerError // of a handler that panics
		defer func() { span.Answered(status) }()
		out := &statusWriter{w, http.StatusOK}
		next.ServeHTTP(out, r)
		status = out.status
	})
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Behind notes the trace that a trusted proxy names (W3C Trace Context): the request's own gets a link to it. It goes
// no further: the proxy may have it from its client, who could join traces, and have all of his requests recorded.
func Behind(ctx context.Context, header http.Header) context.Context {
	if tracerOf(ctx) == nil {
		return ctx
	}
	named := propagation.MapCarrier{"traceparent": header.Get("Traceparent")} // without the tracestate, which is text
	above := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), named))
	if !above.IsValid() {
		return ctx
	}
	return context.WithValue(ctx, proxyKey{}, above)
}

type proxyKey struct{}

// Transport traces the requests of a client to the service that name says. They carry nothing of the trace. A nil
// base is the default transport.
func Transport(name string, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{name, base}
}

type transport struct {
	name string
	base http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (response *http.Response, err error) {
	_, span := start(r.Context(), r.Method+" "+t.name, trace.SpanKindClient)
	defer span.End(&err)
	span.Set(Method, r.Method)
	span.Set(Server, r.URL.Hostname())
	if response, err = t.base.RoundTrip(r); err == nil && span.span != nil {
		span.span.SetAttributes(attribute.Int(string(Status), response.StatusCode))
		if response.StatusCode >= http.StatusInternalServerError {
			span.fail(strconv.Itoa(response.StatusCode))
		}
	}
	return response, err
}

// CloseIdleConnections closes those of the transport itself.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
