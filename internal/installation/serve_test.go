package installation

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/logbook"
)

func TestServeKnowsItsURL(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	if url, err := i.BaseURL(); err == nil {
		t.Errorf("knows the URL %s before the system chose a port", url)
	}
	s := serve(t, i)
	beside := opened(t, dir)
	if url, err := beside.BaseURL(); err != nil || url != s.BaseURL {
		t.Errorf("beside the server: %q, %v, want %q", url, err, s.BaseURL)
	}
	if want := s.BaseURL + "/acme/default/directory"; s.Directories["default"] != want {
		t.Errorf("directory at %q, want %q", s.Directories["default"], want)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if url, err := beside.BaseURL(); err == nil {
		t.Errorf("after the server: %q", url)
	}
}

func TestServeUsesConfiguredURLWhateverHostIsAsked(t *testing.T) {
	dir, result := initialized(t, func(o *InitOptions) { o.URL = "https://id.example.com/" })
	if want := "https://id.example.com/acme/default/directory"; result.DirectoryURL != want {
		t.Errorf("init names %q, want %q", result.DirectoryURL, want)
	}
	i := opened(t, dir)
	var address string
	log := &logbook.Book{}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan Running, 1)
	go func() {
		done <- i.Serve(ctx, ServeOptions{Log: slog.New(slog.NewJSONHandler(log, nil)), Ready: func(r Running) { ready <- r }})
	}()
	running := <-ready
	defer func() { stop(); <-done }()
	if running.BaseURL != "https://id.example.com" {
		t.Errorf("base URL is %q", running.BaseURL)
	}
	if _, rest, found := strings.Cut(log.String(), `"listen":"`); found {
		address, _, _ = strings.Cut(rest, `"`)
	}
	config := trusting(t, i)
	config.ServerName = "id.example.com"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/acme/default/directory", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example.net"
	response, err := client(t, config).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(body), `"https://id.example.com/acme/default/new-order"`) || strings.Contains(string(body), "evil") {
		t.Errorf("directory is %s, %v", body, err)
	}
}

func TestServeRefusesAllInterfacesWithoutURL(t *testing.T) {
	dir, _ := initialized(t, nil)
	err := opened(t, dir).Serve(t.Context(), ServeOptions{Listen: "0.0.0.0:0", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "names no host that devices can reach") {
		t.Errorf("got %v", err)
	}
}

func TestSecondServerOnTheFolderIsRefused(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	second := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		return opened(t, dir).Serve(ctx, ServeOptions{Log: slog.New(slog.DiscardHandler), Ready: func(Running) { cancel() }})
	}
	if err := second(); err == nil || !strings.Contains(err.Error(), "another server runs on it") {
		t.Fatalf("got %v", err)
	}
	if url := runningURL(dir, urlFile); url != s.BaseURL {
		t.Errorf("after the refusal the folder names %q, want %q", url, s.BaseURL)
	}
	if err := os.Remove(filepath.Join(dir, urlFile)); err != nil {
		t.Fatal(err)
	}
	if err := second(); err == nil || !strings.Contains(err.Error(), "another server runs on it") {
		t.Fatalf("with the URL's file deleted: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := second(); err != nil {
		t.Errorf("after the first one ended: %v", err)
	}
}

func TestLockFallsWhenTheServerIsKilled(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	process := serveProcess(t, i)
	err := i.Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "another server runs on it") {
		t.Fatalf("beside another process: %v", err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	if url := runningURL(dir, urlFile); url != "" {
		t.Errorf("a killed server still runs at %s", url)
	}
	serve(t, i)
}

// cut sends this much and then nothing, and returns how long the server bore with it; it fails if
// that is for ever.
func cut(t *testing.T, i *Installation, s *serving, sent string) time.Duration {
	t.Helper()
	config := trusting(t, i)
	config.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.BaseURL, "https://"), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("was not cut in 5 s")
	}
	return time.Since(start)
}

func TestSlowClientsAreCut(t *testing.T) {
	const post = "POST /acme/default/new-account HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose+json\r\nContent-Length: 100\r\n"
	const soon = 300 * time.Millisecond
	for _, c := range []struct {
		name, sent string
		limit      func(*connectionLimits) *time.Duration // the one that is short: all others last a minute
	}{
		{"nothing at all", "", func(l *connectionLimits) *time.Duration { return &l.header }},
		{"half a header", "GET /healthz HTTP/1.1\r\nHost: x\r\n", func(l *connectionLimits) *time.Duration { return &l.header }},
		{"half a body", post + "\r\n{", func(l *connectionLimits) *time.Duration { return &l.read }},
		{"an idle connection", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", func(l *connectionLimits) *time.Duration { return &l.idle }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := initialized(t, nil)
			i := opened(t, dir)
			i.limits.header, i.limits.read, i.limits.write, i.limits.idle = time.Minute, time.Minute, time.Minute, time.Minute
			*c.limit(&i.limits) = soon
			if took := cut(t, i, serve(t, i), c.sent); took < soon-50*time.Millisecond {
				t.Errorf("cut after %v, want no sooner than %v", took, soon)
			}
		})
	}
}

func TestDefaultLimitsAreSetAndShort(t *testing.T) {
	for name, limit := range map[string]time.Duration{
		"header": defaultLimits.header, "read": defaultLimits.read, "write": defaultLimits.write,
		"idle": defaultLimits.idle, "shutdown": defaultLimits.shutdown,
	} {
		if limit <= 0 || limit > time.Minute {
			t.Errorf("limit %s is %v", name, limit)
		}
	}
}

func TestHugeHeaderIsRefused(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.BaseURL+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Padding", strings.Repeat("x", 64<<10))
	config := trusting(t, i)
	config.NextProtos = []string{"http/1.1"}
	response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %s", response.Status)
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	i.limits.connections = 1
	s := serve(t, i)
	config := trusting(t, i)
	first, err := tls.Dial("tcp", strings.TrimPrefix(s.BaseURL, "https://"), config)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := handshake(strings.TrimPrefix(s.BaseURL, "https://"), config)
		waiting <- err
	}()
	select {
	case err := <-waiting:
		t.Fatalf("a second connection was served: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("after the first one closed: %v", err)
	}
}

func TestStopFinishesRequestInFlight(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	config := trusting(t, i)
	config.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.BaseURL, "https://"), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = `{"protected":"","payload":"","signature":""}`
	fmt.Fprintf(conn, "POST /acme/default/new-account HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"+
		"Content-Type: application/jose+json\r\nContent-Length: %d\r\n\r\n", len(body))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("the handler does not read the body: %q, %v", line, err)
	}
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	for !strings.Contains(s.log.String(), "stopping") {
		select {
		case err := <-stopped:
			t.Fatalf("stopped before the request was finished: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("the request in flight got no reply: %v", err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s", response.Status)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := handshake(strings.TrimPrefix(s.BaseURL, "https://"), config); err == nil {
		t.Error("a stopped server takes connections")
	}
}

func TestMetricsHaveTheirOwnListener(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	if s := serve(t, i); s.MetricsURL != "" {
		t.Errorf("metrics at %s though none are configured", s.MetricsURL)
	} else if response, err := client(t, trusting(t, i)).Get(s.BaseURL + "/metrics"); err != nil || response.StatusCode != http.StatusNotFound {
		t.Errorf("the ACME listener serves metrics: %v, %v", response, err)
	} else if err := errors.Join(response.Body.Close(), s.stop()); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, "\nlisten:", "\nmetricsListen: 127.0.0.1:0\nlisten:")
	i = opened(t, dir)
	s := serve(t, i)
	if response, err := client(t, trusting(t, i)).Post(s.BaseURL+"/acme/default/new-account", "application/jose+json", strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	} else {
		response.Body.Close()
	}
	response, err := http.Get(s.MetricsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(body), "\nassay_") || !strings.Contains(string(body), "go_goroutines") {
		t.Errorf("metrics: %v\n%s", err, body)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get(s.MetricsURL); err == nil {
		t.Error("metrics are served after the server stopped")
	}
}

func TestAwaitServerEndsWithItsContext(t *testing.T) {
	dir, _ := initialized(t, nil)
	// What a killed server left behind must not be taken for a running one.
	if err := os.WriteFile(filepath.Join(dir, urlFile), []byte("https://127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if url, err := opened(t, dir).AwaitServer(ctx); err == nil {
		t.Errorf("found a server at %s", url)
	}
}
