package server_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"assay/attest"
	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/internal/server"
)

func TestServerRefusesAConfigurationThatCannotWork(t *testing.T) {
	h := newHarness(t)
	for name, test := range map[string]struct {
		spoil func(*server.Config)
		why   string
	}{
		"http":           {func(c *server.Config) { c.BaseURL = "http://example.com" }, "base URL"},
		"no host":        {func(c *server.Config) { c.BaseURL = "https://" }, "base URL"},
		"path":           {func(c *server.Config) { c.BaseURL = "https://example.com/acme" }, "base URL"},
		"no URL":         {func(c *server.Config) { c.BaseURL = "https://%" }, "base URL"},
		"no directory":   {func(c *server.Config) { c.Directories = nil }, "no directory"},
		"unknown issuer": {func(c *server.Config) { c.Issuers = map[issuance.IssuerID]*ca.Issuer{} }, "issuer"},
		"no store":       {func(c *server.Config) { c.Store = nil }, "required"},
		"no verifier":    {func(c *server.Config) { c.Verifier = nil }, "required"},
		"no log":         {func(c *server.Config) { c.Log = nil }, "required"},
	} {
		h.subtest(name, func(t *testing.T) {
			c := h.config
			test.spoil(&c)
			if s, err := server.New(c); err == nil || s != nil || !strings.Contains(err.Error(), test.why) {
				t.Errorf("server %v, error %v, want one about %q", s, err, test.why)
			}
		})
	}
}

func TestServerRunsOnItsDefaults(t *testing.T) {
	h := newHarness(t)
	h.config.Shards, h.config.Now, h.config.Documents = 0, nil, nil
	h.config.Verifier = attest.NewVerifier()
	h.restart()
	h.do(t, http.MethodGet, baseURL+"/healthz", nil, nil).want(http.StatusNoContent)
	h.do(t, http.MethodGet, baseURL+"/credential/x", nil, nil).want(http.StatusNotFound)
	h.do(t, http.MethodGet, baseURL+ca.CRLPath(string(h.issuer), 0), nil, nil).want(http.StatusOK)
	h.do(t, http.MethodGet, baseURL+ca.CRLPath(string(h.issuer), 1), nil, nil).want(http.StatusNotFound) // one shard: 0
	c := h.client(dirDefault)
	c.get(c.kid).want(http.StatusOK)
}

// Without randomness nothing is given out: no nonce, no order.
func TestServerWithoutRandomnessRefuses(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	h.config.Random = noRandomness{}
	h.restart()
	r := h.do(t, http.MethodHead, c.url("new-nonce"), nil, nil).want(http.StatusInternalServerError)
	if r.header.Get("Replay-Nonce") != "" {
		t.Errorf("nonce %q", r.header.Get("Replay-Nonce"))
	}
	get := h.do(t, http.MethodGet, c.url("new-nonce"), nil, nil)
	get.refused(http.StatusInternalServerError, "serverInternal", "internal")
	if bytes.Contains(get.body, []byte("entropy")) {
		t.Errorf("the client learns of the cause: %s", get.body)
	}
}

type noRandomness struct{}

func (noRandomness) Read([]byte) (int, error) { return 0, errors.New("no entropy") }
