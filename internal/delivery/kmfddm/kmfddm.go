// Package kmfddm delivers declarations to devices through KMFDDM, the declarative management server
// beside NanoMDM.
//
// A device's credential becomes three declarations and one set, assay.<credential id>, which is
// joined to the device's enrollment. The device is notified once, at the end: KMFDDM's own
// notifications follow single changes, and would also be lost where a push is repeated after it
// failed halfway, because nothing changes the second time.
//
// KMFDDM computes its own ServerTokens. Nothing is read back from it but whether a call succeeded;
// its error texts are freed of control characters and of documents' secret URLs, and cut short. Its API key goes over plain HTTP to
// this machine only, unless that is asked for.
package kmfddm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"

	"assay/internal/delivery"
)

const (
	user      = "kmfddm" // of KMFDDM's basic authentication
	callLimit = 10 * time.Second
	maxAnswer = 4 << 10 // bytes read of an answer
	maxName   = 255     // octets of an enrollment ID or an Identifier
)

// Client pushes to one KMFDDM. Its methods may be called concurrently.
type Client struct {
	base string // without a slash at its end
	key  string
	http *http.Client
}

// Options say which KMFDDM is pushed to.
type Options struct {
	URL string // its root, such as http://127.0.0.1:9002; required
	Key string // its API key (-api); required
	// PlainHTTP allows http to another machine: the key and the documents' secret URLs are then
	// readable on the network.
	PlainHTTP bool
	// Transport replaces the default transport, for a private CA; nil: the system's roots.
	Transport http.RoundTripper
}

// New checks the options. It contacts nobody.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("KMFDDM's URL %q is not of the form https://host:port", redact(o.URL))
	}
	switch {
	case base.Scheme == "https":
	case base.Scheme == "http" && (o.PlainHTTP || isLoopback(base.Hostname())):
	case base.Scheme == "http":
		return nil, fmt.Errorf("KMFDDM's URL %s would send the API key unencrypted to another machine: use https, or allow plain http", o.URL)
	default:
		return nil, fmt.Errorf("KMFDDM's URL %s is neither https nor http", o.URL)
	}
	if o.Key == "" {
		return nil, errors.New("KMFDDM's API key is empty: with none, KMFDDM has no API")
	}
	return &Client{base: strings.TrimSuffix(base.String(), "/"), key: o.Key, http: &http.Client{
		Transport: o.Transport, Timeout: callLimit,
		// The key must not follow a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// redact drops what might be a password from a URL that is shown.
func redact(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return "…" + text[i:]
	}
	return text
}

// call is one request of KMFDDM's API.
type call struct {
	what   string // for people
	method string
	path   []string // elements, not escaped
	query  url.Values
	body   []byte
}

// Push gives a device its credential's declarations, or takes them away (Withdrawn), and notifies
// it. Repeating a push is harmless. The error is an *Error, or says what is wrong with p.
func (c *Client) Push(ctx context.Context, p delivery.Push) error {
	if err := check(p); err != nil {
		return fmt.Errorf("push to KMFDDM: %w", err)
	}
	calls := put(p)
	if p.Withdrawn {
		calls = remove(p)
	}
	calls = append(calls, call{
		what: "notify the enrollment", method: http.MethodPost,
		path: []string{"notify"}, query: url.Values{"id": {p.Enrollment}},
	})
	for _, step := range calls {
		if err := c.do(ctx, p.Enrollment, secretOf(p.Asset), step); err != nil {
			return err
		}
	}
	return nil
}

// check refuses what would reach another enrollment or another declaration than it says.
func check(p delivery.Push) error {
	if !isName(p.Enrollment) {
		return fmt.Errorf("%.60q is no enrollment ID", p.Enrollment)
	}
	if set, found := strings.CutSuffix(p.AssetIdentifier, ".asset"); !found || set == "" {
		return fmt.Errorf("%.60q is no Identifier of a credential's asset", p.AssetIdentifier)
	}
	for _, d := range declarations(p) {
		if !isName(d.identifier) {
			return fmt.Errorf("%.60q is no Identifier of a declaration (%s)", d.identifier, d.kind)
		}
		if !p.Withdrawn && len(d.body) == 0 {
			return fmt.Errorf("the %s %s is empty", d.kind, d.identifier)
		}
	}
	return nil
}

// isName reports whether a text can stand as one element of a path. A comma cannot: NanoMDM and
// KMFDDM split lists of enrollment IDs at it.
func isName(text string) bool {
	return text != "" && text != "." && text != ".." && len(text) <= maxName && !strings.ContainsFunc(text, func(r rune) bool {
		return r == ',' || r == '/' || r == '\\' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

type declaration struct {
	kind, identifier string
	body             []byte
}

// declarations are a push's declarations, what is referenced before what references it.
func declarations(p delivery.Push) []declaration {
	return []declaration{
		{"asset", p.AssetIdentifier, p.Asset},
		{"configuration", p.ConfigurationIdentifier, p.Configuration},
		{"activation", p.ActivationIdentifier, p.Activation},
	}
}

// setName is the name of the credential's set: what its Identifiers begin with, assay.<credential id>.
func setName(p delivery.Push) string { return strings.TrimSuffix(p.AssetIdentifier, ".asset") }

// silent keeps KMFDDM from notifying after a single change.
func silent(name, value string) url.Values {
	q := url.Values{"nonotify": {"1"}}
	if name != "" {
		q.Set(name, value)
	}
	return q
}

// put stores the declarations, then the set, then joins it to the enrollment: a device that syncs
// meanwhile sees all or nothing of a new credential.
func put(p delivery.Push) []call {
	set := setName(p)
	var stored, joined []call
	for _, d := range declarations(p) {
		stored = append(stored, call{"store " + d.kind + " " + d.identifier, http.MethodPut, []string{"declarations"}, silent("", ""), d.body})
		joined = append(joined, call{"add " + d.kind + " " + d.identifier + " to set " + set, http.MethodPut, []string{"set-declarations", set}, silent("declaration", d.identifier), nil})
	}
	return append(append(stored, joined...), call{"join set " + set + " to the enrollment", http.MethodPut, []string{"enrollment-sets", p.Enrollment}, silent("set", set), nil})
}

// remove is put backwards. KMFDDM refuses to delete a declaration that is in a set.
func remove(p delivery.Push) []call {
	set := setName(p)
	calls := []call{{"part set " + set + " from the enrollment", http.MethodDelete, []string{"enrollment-sets", p.Enrollment}, silent("set", set), nil}}
	all := declarations(p)
	for i := len(all) - 1; i >= 0; i-- {
		calls = append(calls, call{"take " + all[i].kind + " " + all[i].identifier + " out of set " + set, http.MethodDelete, []string{"set-declarations", set}, silent("declaration", all[i].identifier), nil})
	}
	for i := len(all) - 1; i >= 0; i-- {
		calls = append(calls, call{"delete " + all[i].kind + " " + all[i].identifier, http.MethodDelete, []string{"declarations", all[i].identifier}, nil, nil})
	}
	return calls
}

var _ delivery.Pusher = (*Client)(nil)
