// Package opinion asks a service outside what it thinks of a request, for policies that use its word: one
// signed POST, one answer, within a budget of seconds.
//
// It never fails. Whatever happens is an opinion: an answer, or a failure with a name, which the policy
// takes for unknown or, where the installation says so, for a refusal. What the service says is believed
// only if it is an answer to this very request and exactly of the documented form; its free text is cleaned
// and cut. What is sent is documented in docs/opinion.md: neither evidence as received, nor a code that
// still opens anything.
//
// A service that is down costs a moment, not the budget of every request: after some failures nobody is
// asked for a while. A service that is slow holds a bounded number of requests at once.
package opinion

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"assay/internal/tracing"
	"assay/policy"
)

// Failures: why there is no answer.
const (
	Timeout     = "timeout"      // no whole answer within the budget
	Unreachable = "unreachable"  // no connection, no trusted TLS certificate, or the connection broke
	Status      = "status"       // another HTTP status than 200, redirects included
	Malformed   = "malformed"    // an answer that is not of the documented form
	WrongID     = "wrong-id"     // an answer to another request
	Unsigned    = "unsigned"     // answers must be signed, and this one is not, or by nobody who has the secret
	CircuitOpen = "circuit-open" // nobody was asked: the service failed too often
	Busy        = "busy"         // nobody was asked: too many requests wait for the service
	Canceled    = "canceled"     // whoever wanted the opinion went away first
	Unsendable  = "unsendable"   // the request is too large, or has no JSON form: always as if required
)

// Budgets for one opinion.
const (
	DefaultTimeout = 3 * time.Second
	MaxTimeout     = 5 * time.Second
)

const (
	maxConcurrent     = 64 // requests that wait for the service at once
	maxAnswer         = 64 << 10
	maxAnswerHeader   = 16 << 10
	keptIdle          = time.Minute // a connection for the next request
	failuresUntilOpen = 5           // one after another
	coolDown          = 30 * time.Second
)

// Options say who is asked, and how. Fields without a default are required.
type Options struct {
	// URL is where requests are posted: https, or http to this machine. It may have a path, and has
	// neither a user nor a query.
	URL string
	// Secrets sign every request, each with a signature of its own; one at least. While one is exchanged
	// for another, both are named.
	Secrets []Secret
	// Timeout is the budget of one opinion. Default DefaultTimeout, at most MaxTimeout.
	Timeout time.Duration
	// Required says that a missing answer refuses the request. Else it is unknown to the policy.
	Required bool
	// SignedResponses demands that the service signs its responses, too, with one of the secrets.
	SignedResponses bool
	// Roots are the CAs of the service's TLS certificate. Default: the system's.
	Roots *x509.CertPool
	// Certificate is shown to a service that asks for one. Default: none.
	Certificate *tls.Certificate

	Log     *slog.Logger     // default: none
	Metrics *Metrics         // default: kept but not registered anywhere
	Now     func() time.Time // default time.Now
	Random  io.Reader        // default crypto/rand
}

// Client asks one service. Its methods may be called concurrently. Close it.
type Client struct {
	Options // without Secrets, which may be replaced
	secrets atomic.Pointer[[]Secret]
	http    *http.Client
	slots   chan struct{} // one is taken by every request that waits for the service
	circuit circuit
}

// New checks the options. It contacts nobody.
func New(o Options) (*Client, error) {
	var errs []error
	if err := CheckURL(o.URL); err != nil {
		errs = append(errs, err)
	}
	if len(o.Secrets) == 0 || len(o.Secrets) > maxSecrets {
		errs = append(errs, fmt.Errorf("%d secrets are not 1 to %d", len(o.Secrets), maxSecrets))
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if err := CheckTimeout(o.Timeout); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("outside opinion: %w", errors.Join(errs...))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	c := &Client{
		Options: o, http: newHTTPClient(o), slots: make(chan struct{}, maxConcurrent),
		circuit: circuit{threshold: failuresUntilOpen, coolDown: coolDown},
	}
	c.UseSecrets(o.Secrets)
	c.Secrets = nil
	return c, nil
}

// UseSecrets replaces the secrets, of which there is one at least: requests from now on are signed with these.
func (c *Client) UseSecrets(secrets []Secret) { c.secrets.Store(&secrets) }

// CheckURL refuses a URL that would carry the request unencrypted to another machine, or with a password
// that logs and errors would show.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("the URL is not of the form https://host/path, without user and query")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return fmt.Errorf("the URL %s would send what is known of devices unencrypted: it must be https, or http to this machine", text)
	}
	return nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// CheckTimeout refuses a budget that no device waits for.
func CheckTimeout(d time.Duration) error {
	if d <= 0 || d > MaxTimeout {
		return fmt.Errorf("the timeout %s is not within %s: the device waits meanwhile", d, MaxTimeout)
	}
	return nil
}

// newHTTPClient makes a client that keeps its connections, as many as there are slots.
func newHTTPClient(o Options) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.Roots}
	if o.Certificate != nil {
		config.Certificates = []tls.Certificate{*o.Certificate}
	}
	return &http.Client{
		Transport: tracing.Transport("opinion", &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
			// The transport dials on when a request gave up, for the next one: so that has its own ends.
			DialContext: (&net.Dialer{Timeout: o.Timeout}).DialContext, TLSHandshakeTimeout: o.Timeout,
			MaxConnsPerHost: maxConcurrent, MaxIdleConnsPerHost: maxConcurrent, IdleConnTimeout: keptIdle,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true, // the limit on an answer counts what was sent
		}),
		// What is known of a device goes to the configured service and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close closes the connections that are kept.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ask asks what the service thinks of a request. It returns within the budget, and never nil.
func (c *Client) Ask(ctx context.Context, in policy.Input) *policy.Opinion {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default: // nobody queues: what is slow must not hold what waits for it, too
		return c.notAsked(Busy)
	}
	pass, ok := c.circuit.enter(c.Now())
	if !ok {
		return c.notAsked(CircuitOpen)
	}
	health := unknown // also where the exchange panics: else the one try of an open circuit would never end
	defer func() { c.turned(c.circuit.leave(pass, health, c.Now())) }()
	report := c.exchange(ctx, in, false)
	health = report.health()
	c.Metrics.asked(report)
	if report.Err != nil && report.Opinion.Failure != Canceled {
		c.Log.WarnContext(ctx, "no outside opinion", "id", report.ID, "failure", report.Opinion.Failure, "error", cut(report.Err.Error(), maxReason))
	}
	return report.Opinion
}

// Test asks about an invented request, marked as a test. It is sent whatever the circuit says, and counts
// for nothing.
func (c *Client) Test(ctx context.Context, in policy.Input) Report { return c.exchange(ctx, in, true) }

// notAsked is the opinion where the service was not asked at all.
func (c *Client) notAsked(failure string) *policy.Opinion {
	c.Metrics.notAsked(failure)
	return &policy.Opinion{Failure: failure, Required: c.Required}
}

// turned tells that the circuit opened or closed.
func (c *Client) turned(change change) {
	switch change {
	case opened:
		c.Metrics.CircuitOpen.Set(1)
		c.Log.Warn("outside opinion: the service failed too often and is not asked for a while", "url", c.URL, "failures", failuresUntilOpen,
			"again", coolDown.String(), "required", c.Required)
	case closed:
		c.Metrics.CircuitOpen.Set(0)
		c.Log.Info("outside opinion: the service answers again", "url", c.URL)
	}
}
