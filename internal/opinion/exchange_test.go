package opinion

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/policy"

	"github.com/google/go-cmp/cmp"
)

// short is a budget for services that shall overrun it.
func short(o *Options) { o.Timeout = 50 * time.Millisecond }

func TestAskReturnsTheAnswer(t *testing.T) {
	var id string
	r := newRig(t, says(t, func(asked string) string { id = asked; return good(asked) }), nil)
	got := r.Ask(t.Context(), Sample(start))
	want := &policy.Opinion{ID: id, Answered: true, Verdict: "clean", Score: -7, Tags: []string{"patched", "old-os"}, Reason: "seen today"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if count(t, r, "answered") != 1 || timed(t, r) != 1 {
		t.Error("not counted")
	}
	if r.log.String() != "" {
		t.Errorf("logged: %s", r.log)
	}
}

// TestRequestIsSigned has a receiver check what it gets.
func TestRequestIsSigned(t *testing.T) {
	var ids []string
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		for _, secret := range []string{oldSecret, newSecret} {
			if err := Verify(r.Header, body, secretsOf(t, secret), start); err != nil {
				t.Error(err)
			}
		}
		if r.Method != http.MethodPost || r.URL.Path != "/assay" || r.Header.Get("Content-Type") != "application/json" || len(r.Header["Idempotency-Key"])+len(r.Header["Accept-Encoding"]) > 0 {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		if !bytes.Contains(body, []byte(`"id":"`+r.Header.Get("webhook-id")+`"`)) {
			t.Errorf("webhook-id %s is not that of %s", r.Header.Get("webhook-id"), body)
		}
		ids = append(ids, r.Header.Get("webhook-id"))
	}, func(o *Options) { o.Secrets = secretsOf(t, oldSecret, newSecret); o.URL += "/assay" })
	for range 2 {
		r.Ask(t.Context(), Sample(start))
	}
	if len(ids) != 2 || ids[0] == ids[1] {
		t.Errorf("ids %v", ids)
	}
}

func TestReplacedSecretsSignTheNextRequest(t *testing.T) {
	var header http.Header
	var body []byte
	r := newRig(t, func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
	}, nil)
	r.UseSecrets(secretsOf(t, newSecret))
	if r.Secrets != nil {
		t.Error("the client shows secrets that were replaced")
	}
	r.Ask(t.Context(), Sample(start))
	if err := Verify(header, body, secretsOf(t, newSecret), start); err != nil {
		t.Error(err)
	}
	if err := Verify(header, body, secretsOf(t, oldSecret), start); err == nil {
		t.Error("the secret that was replaced still signs")
	}
}

// A service answers with what the request was signed with, though the secrets were replaced meanwhile.
func TestAnExchangeEndsWithTheSecretsThatItBeganWith(t *testing.T) {
	var r *rig
	r = newRig(t, func(w http.ResponseWriter, request *http.Request) {
		id := idOf(t, request)
		r.UseSecrets(secretsOf(t, newSecret))
		w.Header().Set("Content-Type", "application/json")
		Sign(w.Header(), id, []byte(good(id)), secretsOf(t, oldSecret), start)
		_, _ = io.WriteString(w, good(id))
	}, func(o *Options) { o.SignedResponses = true })
	if got := r.Ask(t.Context(), Sample(start)); !got.Answered {
		t.Errorf("%+v", got)
	}
}

// TestFailuresHaveNames: whatever a service does, the opinion says what, within the budget.
func TestFailuresHaveNames(t *testing.T) {
	typed := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			if code != http.StatusNoContent && code != http.StatusNotModified {
				_, _ = io.WriteString(w, good(idOf(t, r)))
			}
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		change  func(*Options)
		failure string
		logged  string
		health  health
	}{
		"hangs": {hang, short, Timeout, "no whole answer within 50ms", down},
		"hangs within the answer": {func(w http.ResponseWriter, r *http.Request) {
			id := idOf(t, r)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, good(id)[:20])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, short, Timeout, "no whole answer", down},
		"trickles": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				<-tick.C
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
			}
		}, short, Timeout, "no whole answer", down},
		"cuts the connection": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, Unreachable, "EOF", down},
		"cuts the answer": {func(w http.ResponseWriter, r *http.Request) {
			id := idOf(t, r)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, good(id))
			panic(http.ErrAbortHandler)
		}, nil, Unreachable, "EOF", down},
		"large header": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 2*maxAnswerHeader))
			says(t, good)(w, r)
		}, nil, Unreachable, "server response headers exceeded", down},
		"redirects":     {status(http.StatusTemporaryRedirect), nil, Status, "status 307", working},
		"unauthorized":  {status(http.StatusUnauthorized), nil, Status, "status 401", working},
		"created":       {status(http.StatusCreated), nil, Status, "status 201", working},
		"no content":    {status(http.StatusNoContent), nil, Status, "status 204", working},
		"broken":        {status(http.StatusInternalServerError), nil, Status, "status 500", down},
		"overloaded":    {status(http.StatusTooManyRequests), nil, Status, "status 429", down},
		"HTML":          {typed("text/html", "<html>Sign in</html>"), nil, Malformed, "Content-Type", working},
		"HTML as JSON":  {typed("application/json", "<html>Sign in</html>"), nil, Malformed, "no JSON object", working},
		"no type":       {typed("", `{}`), nil, Malformed, "Content-Type", working},
		"an empty body": {typed("application/json", ""), nil, Malformed, "no JSON object", working},
		"oversize":      {typed("application/json", strings.Repeat(" ", maxAnswer)+"{}"), nil, Malformed, "larger than", working},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4<<10)); err != nil {
					return
				}
			}
		}, nil, Malformed, "larger than", working},
		"another member": {says(t, func(id string) string { return `{"allow":true,` + good(id)[1:] }), nil, Malformed, "none of id", working},
		"another id":     {says(t, func(string) string { return good("opinion_1") }), nil, WrongID, "id is not the request's", working},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, required := range []bool{false, true} {
				r := newRig(t, c.handler, func(o *Options) {
					o.Required = required
					if c.change != nil {
						c.change(o)
					}
				})
				report := r.exchange(t.Context(), Sample(start), false)
				if report.health() != c.health {
					t.Errorf("health %d, want %d", report.health(), c.health)
				}
				got := r.Ask(t.Context(), Sample(start))
				if got.ID == "" || got.Answered || got.Failure != c.failure || got.Required != required || got.Verdict != "" || got.Tags != nil {
					t.Errorf("opinion %+v", got)
				}
				if count(t, r, c.failure) != 1 || timed(t, r) != 1 {
					t.Error("not counted")
				}
				said := r.log.String()
				if !strings.Contains(said, c.logged) || !strings.Contains(said, got.ID) || !strings.Contains(said, "failure="+c.failure) {
					t.Errorf("logged %s", said)
				}
				for _, private := range []string{"FAKE00000001", "sam@example.com", "Sign in", "clean"} {
					if strings.Contains(said, private) {
						t.Errorf("the log has what was sent or received: %s", said)
					}
				}
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		says(t, good)(w, r)
	}))
	defer elsewhere.Close()
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
	}, nil)
	if got := r.Ask(t.Context(), Sample(start)); got.Failure != Status || asked.Load() != 0 {
		t.Errorf("%+v, asked %d times elsewhere", got, asked.Load())
	}
}

func TestSignedResponsesMustBeSigned(t *testing.T) {
	signed := func(change func(h http.Header, id string, body []byte, now time.Time)) func(*rig) http.HandlerFunc {
		return func(r *rig) http.HandlerFunc {
			return func(w http.ResponseWriter, request *http.Request) {
				id := idOf(t, request)
				body := []byte(good(id))
				w.Header().Set("Content-Type", "application/json")
				change(w.Header(), id, body, r.clock.Now())
				_, _ = w.Write(body)
			}
		}
	}
	with := func(lines ...string) []Secret { return secretsOf(t, lines...) }
	for name, c := range map[string]struct {
		handler func(*rig) http.HandlerFunc
		failure string
	}{
		"signed":              {signed(func(h http.Header, id string, body []byte, now time.Time) { Sign(h, id, body, with(newSecret), now) }), ""},
		"not signed":          {signed(func(http.Header, string, []byte, time.Time) {}), Unsigned},
		"with another secret": {signed(func(h http.Header, id string, body []byte, now time.Time) { Sign(h, id, body, with(otherSecret), now) }), Unsigned},
		"over another body": {signed(func(h http.Header, id string, body []byte, now time.Time) {
			Sign(h, id, body[1:], with(oldSecret), now)
		}), Unsigned},
		"too early": {signed(func(h http.Header, id string, body []byte, now time.Time) {
			Sign(h, id, body, with(oldSecret), now.Add(-ReplayWindow-time.Second))
		}), Unsigned},
		"ahead": {signed(func(h http.Header, id string, body []byte, now time.Time) {
			Sign(h, id, body, with(oldSecret), now.Add(ReplayWindow+time.Second))
		}), Unsigned},
		"for another request": {signed(func(h http.Header, _ string, body []byte, now time.Time) {
			Sign(h, "opinion_1", body, with(oldSecret), now)
		}), WrongID},
	} {
		var handler http.HandlerFunc
		r := newRig(t, func(w http.ResponseWriter, r *http.Request) { handler(w, r) }, func(o *Options) {
			o.SignedResponses, o.Secrets = true, with(oldSecret, newSecret)
		})
		handler = c.handler(r)
		if got := r.Ask(t.Context(), Sample(start)); got.Answered != (c.failure == "") || got.Failure != c.failure {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestSignedResponseBelongsToItsRequest: an old answer, well signed at the time, is none to another question.
func TestSignedResponseBelongsToItsRequest(t *testing.T) {
	var header http.Header
	var body []byte
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		id := idOf(t, r)
		if body == nil {
			header, body = http.Header{"Content-Type": {"application/json"}}, []byte(good(id))
			Sign(header, id, body, secretsOf(t, oldSecret), start)
		}
		for name, values := range header {
			w.Header()[name] = values
		}
		_, _ = w.Write(body)
	}, func(o *Options) { o.SignedResponses = true })
	if got := r.Ask(t.Context(), Sample(start)); !got.Answered {
		t.Fatalf("%+v", got)
	}
	if got := r.Ask(t.Context(), Sample(start)); got.Failure != WrongID {
		t.Errorf("the answer is taken again: %+v", got)
	}
}

func TestUnreachableService(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	listener.Close()
	r := rigAt(t, url, nil)
	if got := r.Ask(t.Context(), Sample(start)); got.Failure != Unreachable || !strings.Contains(r.log.String(), "refused") {
		t.Errorf("%+v, %s", got, r.log)
	}
}

func TestServiceNeedsATrustedCertificate(t *testing.T) {
	service := httptest.NewTLSServer(says(t, good))
	service.Config.ErrorLog = nil
	defer service.Close()
	roots := x509.NewCertPool()
	roots.AddCert(service.Certificate())
	if got := rigAt(t, service.URL, nil).Ask(t.Context(), Sample(start)); got.Failure != Unreachable {
		t.Errorf("a certificate of nobody: %+v", got)
	}
	if got := rigAt(t, service.URL, func(o *Options) { o.Roots = roots }).Ask(t.Context(), Sample(start)); !got.Answered {
		t.Errorf("with its CA: %+v", got)
	}
}

func TestServiceMayAskForACertificate(t *testing.T) {
	service := httptest.NewUnstartedServer(says(t, good))
	service.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	service.EnableHTTP2 = true
	service.StartTLS()
	defer service.Close()
	roots := x509.NewCertPool()
	roots.AddCert(service.Certificate())
	pair := service.TLS.Certificates[0] // any will do
	for _, with := range []*tls.Certificate{nil, &pair} {
		r := rigAt(t, service.URL, func(o *Options) { o.Roots, o.Certificate = roots, with })
		if got := r.Ask(t.Context(), Sample(start)); got.Answered != (with != nil) {
			t.Errorf("with certificate %v: %+v", with != nil, got)
		}
	}
}

func TestConnectionsAreKept(t *testing.T) {
	var opened atomic.Int32
	service := httptest.NewUnstartedServer(says(t, good))
	service.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	service.Start()
	defer service.Close()
	r := rigAt(t, service.URL, nil)
	for range 5 {
		if got := r.Ask(t.Context(), Sample(start)); !got.Answered {
			t.Fatalf("%+v", got)
		}
	}
	if opened.Load() != 1 {
		t.Errorf("%d connections", opened.Load())
	}
}

// dying is a service whose connections each answer so many requests and end at the next.
func dying(t *testing.T, answers int) (url string, ids func() []string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for n := 0; ; n++ {
					request, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					id := idOf(t, request)
					mu.Lock()
					seen = append(seen, id)
					mu.Unlock()
					if n == answers {
						return
					}
					reply := http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
						Body: io.NopCloser(strings.NewReader(good(id))), ContentLength: int64(len(good(id)))}
					if err := reply.Write(conn); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return "http://" + listener.Addr().String(), func() []string { mu.Lock(); defer mu.Unlock(); return seen }
}

func TestRequestIsSentAgainOnlyWhereAKeptConnectionWasDead(t *testing.T) {
	url, ids := dying(t, 1)
	r := rigAt(t, url, nil)
	for range 2 {
		if got := r.Ask(t.Context(), Sample(start)); !got.Answered {
			t.Fatalf("%+v, %s", got, r.log)
		}
	}
	if seen := ids(); len(seen) != 3 || seen[1] != seen[2] || seen[0] == seen[1] {
		t.Errorf("the service saw %v", seen)
	}
	r.Close() // the service waits for its connections to end
	url, ids = dying(t, 0)
	if got := rigAt(t, url, nil).Ask(t.Context(), Sample(start)); got.Failure != Unreachable || len(ids()) != 1 {
		t.Errorf("on a fresh connection: %+v, the service saw %v", got, ids())
	}
}
