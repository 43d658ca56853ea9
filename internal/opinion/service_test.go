package opinion

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/logbook"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: start} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func secretsOf(t testing.TB, lines ...string) []Secret {
	t.Helper()
	secrets, err := ParseSecrets([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return secrets
}

// Secrets of no worth.
const (
	oldSecret   = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	newSecret   = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	otherSecret = "whsec_AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
)

// rig is a service and a client that asks it.
type rig struct {
	*Client
	clock *clock
	log   *logbook.Book
}

func newRig(t *testing.T, handler http.HandlerFunc, change func(*Options)) *rig {
	t.Helper()
	service := httptest.NewServer(handler)
	t.Cleanup(service.Close)
	return rigAt(t, service.URL, change)
}

func rigAt(t *testing.T, url string, change func(*Options)) *rig {
	t.Helper()
	r := &rig{clock: newClock(), log: &logbook.Book{}}
	o := Options{URL: url, Secrets: secretsOf(t, oldSecret), Now: r.clock.Now, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r.Client = c
	return r
}

// good is an answer to the request with the id.
func good(id string) string {
	return fmt.Sprintf(`{"id":%q,"verdict":"clean","score":-7,"tags":["patched","old-os"],"reason":"seen today"}`, id)
}

// idOf is the id of a request.
func idOf(t *testing.T, r *http.Request) string {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	var request struct{ ID string }
	if err := json.Unmarshal(body, &request); err != nil || request.ID == "" {
		t.Errorf("%v in %s", err, body)
	}
	return request.ID
}

// says answers every request with the text that of makes for its id.
func says(t *testing.T, of func(id string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, of(idOf(t, r)))
	}
}

// hang holds a request until its client goes away.
func hang(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // else the server does not see it go
	<-r.Context().Done()
}
