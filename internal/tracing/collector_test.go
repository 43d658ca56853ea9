//go:build otel

package tracing

import (
	"compress/gzip"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"assay/internal/files"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// set sets variables of the exporter, by the end of their names.
func set(t *testing.T, variables map[string]string) {
	t.Helper()
	for name, value := range variables {
		t.Setenv("OTEL_EXPORTER_OTLP_"+name, value)
	}
}

func TestEndpointIsAsOpenTelemetryHasIt(t *testing.T) {
	for _, c := range []struct{ general, traces, want string }{
		{"", "", "http://localhost:4318/v1/traces"},
		{"https://collector.example.com", "", "https://collector.example.com/v1/traces"},
		{"https://example.com/otlp/", "", "https://example.com/otlp/v1/traces"},
		{"https://collector.example.com", "http://127.0.0.1:4318/spans", "http://127.0.0.1:4318/spans"},
	} {
		set(t, map[string]string{"ENDPOINT": c.general, "TRACES_ENDPOINT": c.traces})
		if got, err := newCollector(); err != nil || got.url != c.want {
			t.Errorf("%q and %q: %v, want %s", c.general, c.traces, err, c.want)
		}
	}
}

func TestUnusableVariablesAreNamedWithoutSecrets(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, value, want string }{
		{"ENDPOINT", "collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT is not of the form"},
		{"TRACES_ENDPOINT", "https://me:hunter2@example.com", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not of the form"},
		{"ENDPOINT", "https://example.com?key=hunter2", "is not of the form"},
		{"ENDPOINT", "grpc://example.com", "is not of the form"},
		{"PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is \"grpc\": this program speaks http/protobuf"},
		{"HEADERS", "a=b,hunter2", "OTEL_EXPORTER_OTLP_HEADERS: header 2 "},
		{"HEADERS", "a=hunter2%0D%0A", "header 1 "},
		{"TRACES_HEADERS", "a b=hunter2", "OTEL_EXPORTER_OTLP_TRACES_HEADERS: header 1 "},
		{"TIMEOUT", "10s", "not a number of milliseconds up to 60000"},
		{"TIMEOUT", "0", "not a number of milliseconds"},
		{"TIMEOUT", "60001", "not a number of milliseconds"},
		{"COMPRESSION", "zstd", "neither gzip nor none"},
		{"CERTIFICATE", empty + ".not", "no such file"},
		{"CERTIFICATE", empty, "holds no certificate"},
		{"CLIENT_KEY", empty, "go together"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			set(t, map[string]string{c.name: c.value})
			_, err := newCollector()
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A pipe that nobody writes would keep the server from starting.
func TestCertificatesAreReadFromRegularFilesOnly(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"CERTIFICATE"}, {"CLIENT_CERTIFICATE", "CLIENT_KEY"}} {
		t.Run(names[0], func(t *testing.T) {
			for _, name := range names {
				set(t, map[string]string{name: pipe})
			}
			if _, err := newCollector(); !errors.Is(err, files.ErrNotRegular) || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_"+names[0]) {
				t.Errorf("got %v", err) // one that is waited for fails the test by its timeout
			}
		})
	}
}

// endless is the body of an answer that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.read > 2*maxAnswer {
		return 0, errors.New("it was read on")
	}
	return len(p), nil
}

func (*endless) Close() error { return nil }

func (e *endless) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: e, Request: r}, nil
}

func TestEndlessAnswerIsNotReadToItsEnd(t *testing.T) {
	c, err := newCollector()
	if err != nil {
		t.Fatal(err)
	}
	c.http.Transport = &endless{}
	if err := c.UploadTraces(t.Context(), someSpans); err != nil {
		t.Error(err)
	}
}

var someSpans = []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: "work"}}}}}}

func TestSpansAreSentAsConfigured(t *testing.T) {
	var got http.Header
	var body []byte
	service := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		if body, err = io.ReadAll(unzipped); err != nil {
			t.Error(err)
		}
	}))
	defer service.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: service.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, map[string]string{"ENDPOINT": service.URL, "CERTIFICATE": ca, "COMPRESSION": "gzip", "HEADERS": "Authorization=Basic%20YQ%3D%3D, x-tenant=1", "TIMEOUT": "60000"})
	c, err := newCollector()
	if err != nil {
		t.Fatal(err)
	}
	if c.timeout != time.Minute {
		t.Errorf("waits for %s", c.timeout)
	}
	if err := errors.Join(c.UploadTraces(t.Context(), someSpans), c.Stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got.Get("Authorization") != "Basic YQ==" || got.Get("X-Tenant") != "1" || got.Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("got %v", got)
	}
	var sent tracepb.TracesData
	if err := proto.Unmarshal(body, &sent); err != nil || !proto.Equal(&sent, &tracepb.TracesData{ResourceSpans: someSpans}) {
		t.Errorf("got %v, %v", &sent, err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "")
	if c, err = newCollector(); err != nil {
		t.Fatal(err)
	}
	if err := c.UploadTraces(t.Context(), someSpans); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a collector that nobody vouches for: %v", err)
	}
}

func TestHeadersFollowNoRedirect(t *testing.T) {
	followed := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	defer elsewhere.Close()
	service := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer service.Close()
	set(t, map[string]string{"ENDPOINT": service.URL, "HEADERS": "x-key=secret"})
	c, err := newCollector()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.UploadTraces(t.Context(), someSpans); err == nil || !strings.Contains(err.Error(), "status 307") || followed {
		t.Errorf("%v, followed: %v", err, followed)
	}
}

func TestHangUpEndsWhatIsBeingSent(t *testing.T) {
	ended, end := context.WithCancel(context.Background())
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-ended.Done() }))
	defer service.Close()
	defer end()
	set(t, map[string]string{"ENDPOINT": service.URL})
	c, err := newCollector()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.UploadTraces(context.Background(), someSpans) }()
	c.hangUp()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
