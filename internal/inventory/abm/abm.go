// Package abm reads the devices of an organization from Apple Business Manager (now Apple Business) or
// Apple School Manager, through the API that Apple publishes.
//
// It signs a short-lived client assertion with the API account's key, exchanges it for an access token,
// lists the organization's devices page by page, and asks for single devices that are no longer listed. It
// only reads. It follows no redirect and no link of an answer: both would carry the token to wherever an
// answer says. Every answer is bounded in size and in number of devices, and a listing in pages; what does
// not look like Apple's published form is refused, and never taken for an organization without devices.
// Neither key nor assertion nor token stands in any error.
//
// It trusts TLS for who answers. What it knows of the API comes from these pages of Apple's: "Implementing
// OAuth for the Apple School Manager and Apple Business API", "Get Organization Devices", "Get Device
// Information", "OrgDevice.Attributes", "PagingInformation.Paging", "ErrorResponse.Errors" and the changelog
// up to version 2.4 (Apple Business) and 1.6 (Apple School Manager).
package abm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// API is one of Apple's two services.
type API string

// The services.
const (
	Business API = "business" // Apple Business, formerly Apple Business Manager
	School   API = "school"   // Apple School Manager
)

// APIs lists the services.
func APIs() []API { return []API{Business, School} }

// tokenURL is where access tokens are asked for. It is not the assertion's audience: Apple's page has /v2
// in that one only ("Request an access token").
const tokenURL = "https://account.apple.com/auth/oauth2/token"

// MaxPageSize is the largest number of devices that Apple sends at once ("Get Organization Devices").
const MaxPageSize = 1000

// Limits of what is read and waited for.
const (
	defaultMaxPages  = 20_000
	defaultCallLimit = time.Minute     // one request with its answer
	defaultPatience  = 5 * time.Minute // one request with its repetitions and the pauses between them
	maxName          = 255             // bytes of a client or key ID
)

// Config says which organization is read, and as whom. The zero value of a field is its default.
type Config struct {
	// API is the service that the API account was made in. Default: Business.
	API API
	// ClientID and KeyID name the API account and its key, as the service shows them. Required.
	ClientID, KeyID string
	// Key is the account's private key, on P-256 (ParseKey). Required.
	Key *ecdsa.PrivateKey

	// URL is the API's root, without /v1, and TokenURL where access tokens are asked for. Default: Apple's.
	// Others are for stand-ins: https, or http on loopback.
	URL, TokenURL string
	// PageSize is how many devices are asked for at once, at most and by default MaxPageSize.
	PageSize int
	// MaxPages bounds a listing, whatever the service answers. Default: 20,000, two million devices if it
	// sends a hundred at once.
	MaxPages int
	// CallLimit bounds one request with its answer, by the wall clock. Default: a minute.
	CallLimit time.Duration
	// Patience bounds one request with all its repetitions and the pauses between them. A service that
	// wants a longer pause than is left is not asked again. Default: five minutes.
	Patience time.Duration

	Transport http.RoundTripper                          // default: http.DefaultTransport
	Now       func() time.Time                           // required
	Random    io.Reader                                  // default: crypto/rand
	Wait      func(context.Context, time.Duration) error // pauses; default: a timer
}

// Client reads one organization. Its methods may be called concurrently.
type Client struct {
	config Config
	http   *http.Client
	tokens tokens
}

// New checks the configuration. It contacts nobody.
func New(c Config) (*Client, error) {
	c.setDefaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("read Apple's inventory: %w", err)
	}
	return &Client{config: c, http: &http.Client{
		Transport: c.Transport, Timeout: c.CallLimit,
		// Neither token nor assertion must follow a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (c *Config) setDefaults() {
	if c.API == "" {
		c.API = Business
	}
	if c.URL == "" {
		c.URL = "https://api-" + string(c.API) + ".apple.com"
	}
	if c.TokenURL == "" {
		c.TokenURL = tokenURL
	}
	if c.PageSize == 0 {
		c.PageSize = MaxPageSize
	}
	if c.MaxPages == 0 {
		c.MaxPages = defaultMaxPages
	}
	if c.CallLimit == 0 {
		c.CallLimit = defaultCallLimit
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Wait == nil {
		c.Wait = pause
	}
}

func (c *Config) check() error {
	if err := CheckAccount(c.API, c.ClientID, c.KeyID); err != nil {
		return err
	}
	switch {
	case c.Key == nil:
		return errors.New("the account's private key is missing")
	case c.Key.Curve != elliptic.P256():
		return fmt.Errorf("the account's key is on %s, not on P-256, and cannot sign ES256", c.Key.Curve.Params().Name)
	case c.Now == nil:
		return errors.New("the clock is missing")
	case c.PageSize < 1 || c.PageSize > MaxPageSize:
		return fmt.Errorf("page size %d is not in 1..%d", c.PageSize, MaxPageSize)
	}
	for _, address := range []string{c.URL, c.TokenURL} {
		if err := CheckURL(address); err != nil {
			return err
		}
	}
	return nil
}

// prefixes of the client IDs that each service gives out, as its examples and users show them. Apple
// promises none, so an unknown one is let through.
var prefixes = map[API]string{Business: "BUSINESSAPI.", School: "SCHOOLAPI."}

// CheckAccount refuses names that cannot be those of an API account of the service.
func CheckAccount(api API, clientID, keyID string) error {
	if !slices.Contains(APIs(), api) {
		return fmt.Errorf("API %q is neither %s nor %s", api, Business, School)
	}
	for _, one := range []struct{ name, value string }{{"client ID", clientID}, {"key ID", keyID}} {
		if one.value == "" || len(one.value) > maxName || strings.ContainsFunc(one.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("%s %.60q is not one that Apple shows for an API account", one.name, one.value)
		}
	}
	for _, other := range APIs() {
		if other != api && strings.HasPrefix(clientID, prefixes[other]) {
			return fmt.Errorf("client ID %s is of the API %s, not of %s", clientID, other, api)
		}
	}
	return nil
}

// CheckURL refuses an address that token or assertion would reach in the clear: it must be https, or http
// to this machine.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("an address is not of the form https://host/path")
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s://%s would send the access token in the clear: use https", u.Scheme, u.Host)
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
