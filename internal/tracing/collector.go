//go:build otel

package tracing

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"assay/internal/files"

	"golang.org/x/net/http/httpguts"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	defaultEndpoint = "http://localhost:4318"
	defaultTimeout  = 10 * time.Second
	maxTimeout      = time.Minute
	maxAnswer       = 64 << 10 // bytes that are read of an answer, so that its connection can be kept
)

// collector sends spans over OTLP/HTTP, in protobuf, as OpenTelemetry's environment variables say ("OpenTelemetry
// Protocol Exporter"). OpenTelemetry's own client would bring gRPC along, seven megabytes of it. A batch that is not
// taken is not sent again: the next ones would wait for it.
type collector struct {
	url     string
	header  http.Header
	gzip    bool
	timeout time.Duration
	http    *http.Client
	ended   context.Context // by hangUp, which ends what is being sent
	hangUp  context.CancelFunc
}

// variable is the value of a variable, the one for traces before the one for everything, and its name; the general
// one's, if neither is set.
func variable(name string) (value, called string) {
	for _, called := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + name, "OTEL_EXPORTER_OTLP_" + name} {
		if value := strings.TrimSpace(os.Getenv(called)); value != "" {
			return value, called
		}
	}
	return "", "OTEL_EXPORTER_OTLP_" + name
}

func newCollector() (*collector, error) {
	if protocol, called := variable("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return nil, fmt.Errorf("%s is %q: this program speaks http/protobuf, which collectors take on port 4318", called, protocol)
	}
	c := &collector{}
	var err error
	if c.url, err = endpoint(); err != nil {
		return nil, err
	}
	if c.header, err = headers(); err != nil {
		return nil, err
	}
	if c.timeout, err = timeout(); err != nil {
		return nil, err
	}
	compression, called := variable("COMPRESSION")
	if c.gzip = compression == "gzip"; !c.gzip && compression != "" && compression != "none" {
		return nil, fmt.Errorf("%s is %q, neither gzip nor none", called, compression)
	}
	config, err := tlsConfig()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute},
		// Headers, which may hold a key, must not follow a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.ended, c.hangUp = context.WithCancel(context.Background())
	return c, nil
}

// endpoint is where spans are posted. A general endpoint gets the path for traces, one for traces is whole.
func endpoint() (string, error) {
	value, called := variable("ENDPOINT")
	u, err := url.Parse(cmp.Or(value, defaultEndpoint))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%s is not of the form https://host:4318, without user and query", called) // a password may stand there
	}
	if called == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		u = u.JoinPath("v1", "traces")
	}
	return u.String(), nil
}

// headers are those to send along: key=value, with commas between them, values percent-encoded. An error shows none.
func headers() (http.Header, error) {
	value, called := variable("HEADERS")
	header := http.Header{}
	if value == "" {
		return header, nil
	}
	for n, pair := range strings.Split(value, ",") {
		name, encoded, found := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		decoded, err := url.PathUnescape(strings.TrimSpace(encoded))
		if !found || err != nil || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(decoded) {
			return nil, fmt.Errorf("%s: header %d is not of the form name=value, the value percent-encoded", called, n+1)
		}
		header.Set(name, decoded)
	}
	return header, nil
}

func timeout() (time.Duration, error) {
	value, called := variable("TIMEOUT")
	if value == "" {
		return defaultTimeout, nil
	}
	ms, err := strconv.Atoi(value)
	if d := time.Duration(ms) * time.Millisecond; err == nil && d > 0 && d <= maxTimeout {
		return d, nil
	}
	return 0, fmt.Errorf("%s is %q, not a number of milliseconds up to %d", called, value, maxTimeout.Milliseconds())
}

// tlsConfig is what certificates say: whom to trust, and whom to be.
func tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if path, called := variable("CERTIFICATE"); path != "" {
		data, err := files.Read(path, files.MaxPEM)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", called, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s: %s holds no certificate", called, path)
		}
	}
	certificate, called := variable("CLIENT_CERTIFICATE")
	key, keyCalled := variable("CLIENT_KEY")
	if (certificate == "") != (key == "") {
		return nil, fmt.Errorf("%s and %s go together", called, keyCalled)
	}
	if certificate != "" {
		pair, err := files.KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", called, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Start has nothing to do.
func (*collector) Start(context.Context) error { return nil }

// Stop closes the connections that are kept.
func (c *collector) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans once. The message is that of ExportTraceServiceRequest, whose Go type is gRPC's.
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if c.gzip {
		if body, err = zipped(body); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer context.AfterFunc(c.ended, cancel)()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = c.header.Clone()
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", "assay")
	if c.gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered with status %d", c.url, response.StatusCode)
	}
	return err
}

func zipped(body []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(body)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}
