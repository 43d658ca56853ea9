package enroll

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/acme"
	"assay/credential"
)

func wantAbort(t *testing.T, err error, step Step, reason Reason) *Abort {
	t.Helper()
	abort, ok := errors.AsType[*Abort](err)
	if !ok {
		t.Fatalf("got %v, want an abort at %s for %s", err, step, reason)
	}
	if abort.Step != step || abort.Reason != reason {
		t.Fatalf("got %v (%s), want an abort at %s for %s", err, abort.Reason, step, reason)
	}
	return abort
}

// replace changes a part of an answer's body.
func replace(old, with string) func(*answer) {
	return func(a *answer) {
		changed := strings.Replace(a.Body, old, with, 1)
		if changed == a.Body {
			panic("the test replaces nothing: " + old + " in " + a.Body)
		}
		a.Body = changed
	}
}

func drop(header string) func(*answer) { return func(a *answer) { a.Header.Del(header) } }
func status(code int) func(*answer)    { return func(a *answer) { a.Status = code } }
func body(text string) func(*answer)   { return func(a *answer) { a.Body = text } }
func both(f, g func(*answer)) func(*answer) {
	return func(a *answer) { f(a); g(a) }
}

// TestRunEndsWhereADeviceEndsIt has one case for everything that a device demands of a reply. After
// the reply in question nothing may be sent any more.
func TestRunEndsWhereADeviceEndsIt(t *testing.T) {
	for _, test := range []struct {
		at     string
		name   string
		change func(*answer)
		step   Step
		reason Reason
	}{
		{"directory", "not found", status(404), StepDirectory, ReasonHTTPStatus},
		{"directory", "redirect", both(status(302), func(a *answer) { a.Header.Set("Location", "/directory") }), StepDirectory, ReasonHTTPStatus},
		{"directory", "no JSON", body("<html>"), StepDirectory, ReasonReply},
		{"directory", "too large", func(a *answer) { a.Body = strings.Repeat(" ", maxReply) + a.Body }, StepDirectory, ReasonReply},
		{"directory", "no newNonce", replace("newNonce", "nonce"), StepDirectory, ReasonMissing},
		{"directory", "no newAccount", replace("newAccount", "account"), StepDirectory, ReasonMissing},
		{"directory", "no newOrder", replace("newOrder", "order"), StepDirectory, ReasonMissing},
		{"directory", "names in other case", replace("newOrder", "neworder"), StepDirectory, ReasonMissing},
		{"new-nonce", "no nonce", drop("Replay-Nonce"), StepNonce, ReasonNoNonce},
		{"new-nonce", "204 without nonce", both(status(204), drop("Replay-Nonce")), StepNonce, ReasonNoNonce},
		{"new-nonce", "unavailable", status(503), StepNonce, ReasonHTTPStatus},
		{"new-nonce", "405", status(405), StepNonce, ReasonHTTPStatus},
		{"new-account", "badNonce", both(status(400), body(`{"type":"urn:ietf:params:acme:error:badNonce"}`)), StepAccount, ReasonHTTPStatus},
		{"new-account", "rate limit", both(status(429), func(a *answer) { a.Header.Set("Retry-After", "0") }), StepAccount, ReasonHTTPStatus},
		{"new-account", "202", status(202), StepAccount, ReasonHTTPStatus},
		{"new-account", "201 without Location", drop("Location"), StepAccount, ReasonNoLocation},
		{"new-account", "200 without Location", both(status(200), drop("Location")), StepAccount, ReasonNoLocation},
		{"new-account", "no nonce", drop("Replay-Nonce"), StepAccount, ReasonNoNonce},
		{"new-account", "not valid", replace(`"valid"`, `"deactivated"`), StepAccount, ReasonStatus},
		{"new-account", "no status", replace(`"status"`, `"s"`), StepAccount, ReasonStatus},
		{"new-account", "no orders URL", replace(`"orders"`, `"o"`), StepAccount, ReasonMissing},
		{"new-order", "refused", status(403), StepOrder, ReasonHTTPStatus},
		{"new-order", "201 without Location", drop("Location"), StepOrder, ReasonNoLocation},
		{"new-order", "200 without Location", both(status(200), drop("Location")), StepOrder, ReasonNoLocation},
		{"new-order", "no nonce", drop("Replay-Nonce"), StepOrder, ReasonNoNonce},
		{"new-order", "ready at once", replace(`"pending"`, `"ready"`), StepOrder, ReasonStatus},
		{"new-order", "valid at once", replace(`"pending"`, `"valid"`), StepOrder, ReasonStatus},
		{"new-order", "no authorizations", replace(`"authorizations"`, `"a"`), StepOrder, ReasonMissing},
		{"new-order", "no finalize", replace(`"finalize"`, `"f"`), StepOrder, ReasonMissing},
		{"authorization", "no nonce", drop("Replay-Nonce"), StepAuthorization, ReasonNoNonce},
		{"authorization", "not found", status(404), StepAuthorization, ReasonHTTPStatus},
		{"authorization", "valid already", func(a *answer) {
			i := strings.LastIndex(a.Body, "pending")
			a.Body = a.Body[:i] + "valid" + a.Body[i+len("pending"):]
		}, StepAuthorization, ReasonStatus},
		{"authorization", "no challenges", replace(`"challenges"`, `"c"`), StepAuthorization, ReasonMissing},
		{"authorization", "no token", replace(`"token":"`+testToken+`"`, `"t":""`), StepAuthorization, ReasonMissing},
		{"authorization", "no challenge URL", replace(`"type":"device-attest-01","url"`, `"type":"device-attest-01","u"`), StepAuthorization, ReasonMissing},
		{"challenge", "refused", status(403), StepChallenge, ReasonHTTPStatus},
		{"challenge", "no nonce", drop("Replay-Nonce"), StepChallenge, ReasonNoNonce},
		{"challenge", "invalid", replace(`"valid"`, `"invalid"`), StepChallenge, ReasonChallenge},
		{"challenge", "no JSON", body(""), StepChallenge, ReasonReply},
		{"finalize", "refused", status(403), StepFinalize, ReasonHTTPStatus},
		{"finalize", "no nonce", drop("Replay-Nonce"), StepFinalize, ReasonNoNonce},
		{"finalize", "no JSON", body("[]"), StepFinalize, ReasonReply},
		{"order", "processing", replace(`"valid"`, `"processing"`), StepStatus, ReasonStatus},
		{"order", "invalid", replace(`"valid"`, `"invalid"`), StepStatus, ReasonStatus},
		{"order", "no certificate URL", replace(`"certificate"`, `"c"`), StepStatus, ReasonMissing},
		{"order", "no nonce", drop("Replay-Nonce"), StepStatus, ReasonNoNonce},
		{"order", "unavailable", status(503), StepStatus, ReasonHTTPStatus},
		{"certificate", "not found", status(404), StepCertificate, ReasonHTTPStatus},
		{"certificate", "no nonce", drop("Replay-Nonce"), StepCertificate, ReasonNoNonce},
		{"new-account", "no JSON", body("<html>"), StepAccount, ReasonReply},
		{"new-order", "no JSON", body(`{"status":"pending"}{}`), StepOrder, ReasonReply},
		{"authorization", "no JSON", body("null"), StepAuthorization, ReasonReply},
		{"order", "no JSON", body(`{"status":"valid"`), StepStatus, ReasonReply},
		{"certificate", "too large", func(a *answer) { a.Body += strings.Repeat(" ", maxReply) }, StepCertificate, ReasonReply},
		{"certificate", "empty", body(""), StepCertificate, ReasonCertificate},
		{"certificate", "another PEM type", replace("CERTIFICATE", "X509 CRL"), StepCertificate, ReasonCertificate},
		{"certificate", "broken", func(a *answer) {
			a.Body = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
		}, StepCertificate, ReasonCertificate},
		{"certificate", "issuer first", func(a *answer) {
			leaf, rest := pem.Decode([]byte(a.Body))
			a.Body = string(rest) + string(pem.EncodeToMemory(leaf))
		}, StepCertificate, ReasonCertificate},
	} {
		t.Run(test.at+" "+test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.script = func(step string, a *answer) {
				if step == test.at {
					test.change(a)
				}
			}
			client, _ := newClient(t, f, IPhone, "A15")
			_, err := client.Enroll(t.Context(), f.document())
			abort := wantAbort(t, err, test.step, test.reason)
			if abort.URL != f.url(test.at) || abort.Status == 0 {
				t.Errorf("abort names %q, status %d", abort.URL, abort.Status)
			}
			steps := f.steps()
			if last := steps[len(steps)-1]; !strings.HasSuffix(last, " "+test.at) {
				t.Errorf("went on to %s", last)
			}
			if !cmp.Equal(steps, fullRun[:len(steps)]) {
				t.Errorf("something was sent again: %v", steps)
			}
		})
	}
}

func TestAbortKeepsWhatADeviceThrowsAway(t *testing.T) {
	f := newFakeServer(t)
	f.script = func(step string, a *answer) {
		if step == "new-order" {
			a.Status = http.StatusForbidden
			a.Body = string(must(json.Marshal(acme.NewProblem(acme.RejectedIdentifier, "code", "no\x1b[31m such code"))))
		}
	}
	client, _ := newClient(t, f, IPhone, "A15")
	_, err := client.Enroll(t.Context(), f.document())
	abort := wantAbort(t, err, StepOrder, ReasonHTTPStatus)
	if abort.Problem == nil || abort.Problem.Kind() != acme.RejectedIdentifier || abort.Status != http.StatusForbidden {
		t.Fatalf("abort %+v", abort)
	}
	if abort.Cause() != "order: rejectedIdentifier (code)" {
		t.Errorf("cause %q", abort.Cause())
	}
	for _, want := range []string{"ended at order", "HTTP status 403", "rejectedIdentifier", "no[31m such code"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if strings.ContainsRune(err.Error(), '\x1b') {
		t.Error("control character of the server's reaches the terminal")
	}
}

func TestProblemTextIsBounded(t *testing.T) {
	long := strings.Repeat("x", 5000)
	p := readProblem(must(json.Marshal(acme.Problem{Type: long, Detail: long, Check: long})))
	if p == nil || len(p.Type) > 510 || len(p.Detail) > 510 || len(p.Check) > 510 {
		t.Errorf("problem of %d bytes", len(p.Error()))
	}
	for _, none := range []string{"", "{}", "<html>", `{"type":1}`} {
		if p := readProblem([]byte(none)); p != nil {
			t.Errorf("%q: %v", none, p)
		}
	}
}

func TestInvalidChallengeShowsItsError(t *testing.T) {
	f := newFakeServer(t)
	f.script = func(step string, a *answer) {
		if step == "challenge" {
			a.Body = `{"status":"invalid","error":{"type":"urn:ietf:params:acme:error:badAttestationStatement","check":"freshness"}}`
		}
	}
	client, _ := newClient(t, f, IPhone, "A15")
	_, err := client.Enroll(t.Context(), f.document())
	if abort := wantAbort(t, err, StepChallenge, ReasonChallenge); abort.Cause() != "challenge: badAttestationStatement (freshness)" {
		t.Errorf("cause %q", abort.Cause())
	}
}

func TestUntrustedServerEndsTheRun(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	client.Roots = x509.NewCertPool()
	_, err := client.Enroll(t.Context(), f.document())
	wantAbort(t, err, StepDirectory, ReasonTransport)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("cause %v", err)
	}
}

func TestSlowReplyEndsTheRun(t *testing.T) {
	for name, limits := range map[string]limits{
		"request": {request: 50 * time.Millisecond}, "run": {run: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			release := make(chan struct{})
			f.script = func(step string, _ *answer) {
				if step == "directory" {
					<-release
				}
			}
			client, _ := newClient(t, f, IPhone, "A15")
			client.limits = limits
			_, err := client.Enroll(t.Context(), f.document())
			close(release)
			wantAbort(t, err, StepDirectory, ReasonTransport)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("cause %v", err)
			}
		})
	}
}

func TestPauseEndsWithTheRun(t *testing.T) {
	f := newFakeServer(t)
	f.script = func(step string, a *answer) {
		if step == "challenge" {
			a.Body = `{"status":"pending"}`
		}
	}
	client, _ := newClient(t, f, IPhone, "A15")
	ctx, cancel := context.WithCancel(t.Context())
	client.Sleep = nil
	client.Observe = func(e Event) {
		if _, ok := e.(Waited); ok {
			cancel()
		}
	}
	_, err := client.Enroll(ctx, f.document())
	wantAbort(t, err, StepChallenge, ReasonTransport)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cause %v", err)
	}
}

func TestEnrollRefusesUnusableArguments(t *testing.T) {
	f := newFakeServer(t)
	good, _ := newClient(t, f, IPhone, "A15")
	for name, test := range map[string]struct {
		change   func(*Client)
		document *credential.Credential
	}{
		"no device":     {func(c *Client) { c.Device = nil }, f.document()},
		"unknown class": {func(c *Client) { c.Device = &Device{Class: "toaster", Chip: "A15"} }, f.document()},
		"unknown chip":  {func(c *Client) { c.Device = &Device{Class: IPhone, Chip: "Z80"} }, f.document()},
		"no keys":       {func(c *Client) { c.Keys = nil }, f.document()},
		"no document":   {func(*Client) {}, nil},
	} {
		client := *good
		test.change(&client)
		if _, err := client.Enroll(t.Context(), test.document); err == nil {
			t.Errorf("%s: enrolled", name)
		}
	}
	if len(f.requests) != 0 {
		t.Errorf("server was contacted: %v", f.steps())
	}
}
