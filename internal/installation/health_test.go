package installation

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type storeHealth struct{ err error }

func (s storeHealth) Ready(context.Context) error { return s.err }

func TestReadyNamesEveryReason(t *testing.T) {
	ask := func(h *health) (int, readiness) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		var found readiness
		if err := json.Unmarshal(w.Body.Bytes(), &found); err != nil {
			t.Fatal(err)
		}
		return w.Code, found
	}
	good := func(time.Time) error { return nil }
	h := &health{store: storeHealth{}, issuing: good, now: time.Now}
	if status, found := ask(h); status != http.StatusOK || !found.Ready || len(found.Reasons) != 0 {
		t.Errorf("%d %+v", status, found)
	}
	h = &health{store: storeHealth{errors.New("stuck")}, issuing: func(time.Time) error { return errors.New("expired") }, now: time.Now}
	h.stopping.Store(true)
	want := readiness{Reasons: []unready{{"stopping", errStopping.Error()}, {"database", "stuck"}, {"issuer", "expired"}}}
	if status, found := ask(h); status != http.StatusServiceUnavailable || !cmp.Equal(found, want) {
		t.Errorf("%d %+v, want %+v", status, found, want)
	}
}

// fetched is the answer of the metrics listener.
func fetched(t *testing.T, s *serving, path string) (int, string) {
	t.Helper()
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}).Get(strings.TrimSuffix(s.MetricsURL, "/metrics") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestServerIsNotReadyOnceItsIssuingCAIsOver(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	running := &Running{BaseURL: "https://127.0.0.1:8443", Directories: map[string]string{}}
	acme, err := i.newServer(t.Context(), running, nil, i.newMeasures(slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := acme.CanIssue(time.Now()); err != nil {
		t.Error(err)
	}
	if err := acme.CanIssue(time.Now().AddDate(100, 0, 0)); err == nil || !strings.Contains(err.Error(), "directory default: issuer") {
		t.Errorf("in a hundred years: %v", err)
	}
}

// The listener of health outlives the others: a server that finishes what is in flight says that it stops.
func TestStoppingServerSaysSoWhileItFinishesRequests(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "\nlisten:", "\nmetricsListen: 127.0.0.1:0\nlisten:")
	i := opened(t, dir)
	s := serve(t, i)
	if status, body := fetched(t, s, "/readyz"); status != http.StatusOK || body != "{\"ready\":true}\n" {
		t.Errorf("ready: %d %s", status, body)
	}
	if status, _ := fetched(t, s, "/livez"); status != http.StatusOK {
		t.Errorf("live: %d", status)
	}
	if status, _ := fetched(t, s, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("profiles, which are not configured: %d", status)
	}
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
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("the handler does not read the body: %q, %v", line, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	await(t, "the server says that it stops", func() bool {
		status, text := fetched(t, s, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(text, `"check":"stopping"`)
	})
	if status, _ := fetched(t, s, "/livez"); status != http.StatusOK {
		t.Errorf("live while it stops: %d", status)
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStoppingServerLingersAsConfigured(t *testing.T) {
	failed := make(chan error, 1)
	i := &Installation{Config: &Config{}}
	if err := i.linger(failed); err != nil {
		t.Error(err)
	}
	i.Config.ShutdownDelay = time.Millisecond
	if err := i.linger(failed); err != nil {
		t.Error(err)
	}
	i.Config.ShutdownDelay = maxShutdownDelay
	broken := errors.New("broken")
	failed <- broken
	if err := i.linger(failed); !errors.Is(err, broken) {
		t.Errorf("a listener that fails meanwhile: %v", err)
	}
}

func TestProfilesAreServedOnLoopbackOnly(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "\nlisten:", "\nmetricsListen: 127.0.0.1:0\npprof: true\nlisten:")
	s := serve(t, opened(t, dir))
	if status, body := fetched(t, s, "/debug/pprof/heap?debug=1"); status != http.StatusOK || !strings.Contains(body, "heap profile") {
		t.Errorf("%d %.100s", status, body)
	}
}
