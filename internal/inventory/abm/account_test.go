package abm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/internal/inventory/abm"
	"assay/internal/inventory/abm/abmtest"

	"github.com/google/go-cmp/cmp"
)

func TestTokenIsKeptAndRenewedBeforeItsEnd(t *testing.T) {
	r := newRig(t, nil)
	r.put(1)
	tokens := func() (n int) {
		for _, one := range r.service.Requests() {
			if one == "TOKEN" {
				n++
			}
		}
		return n
	}
	read := func() {
		t.Helper()
		if _, _, err := r.read(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	read()
	r.clock.Wait(t.Context(), 54*time.Minute)
	read()
	if n := tokens(); n != 1 {
		t.Errorf("%d tokens for 54 minutes", n)
	}
	r.clock.Wait(t.Context(), time.Minute) // five minutes before its end
	read()
	if n := tokens(); n != 2 {
		t.Errorf("%d tokens once the first one was about to end", n)
	}
}

func TestRefusedTokenIsRenewedOnce(t *testing.T) {
	r := newRig(t, nil)
	r.put(5)
	r.service.Fail(abmtest.List, nil, abmtest.Revoked) // at the second page
	if got, _, err := r.read(t.Context(), ""); err != nil || len(got) != 5 {
		t.Fatalf("%v, %v", got, err)
	}
	if d := r.clock.total(); d != 0 {
		t.Errorf("waited %s for a renewed token", d)
	}
	r.service.Fail(abmtest.List, abmtest.Revoked, abmtest.Revoked)
	before := len(r.service.Requests())
	_, _, err := r.read(t.Context(), "")
	if fault, ok := errors.AsType[*abm.Error](err); !ok || fault.Check != abm.CheckToken || fault.Status != 401 {
		t.Errorf("two refusals: %v", err)
	}
	if n := len(r.service.Requests()) - before; n != 3 {
		t.Errorf("%d requests: list, token, list are enough", n)
	}
}

func TestTokenAnswerOfAnotherFormIsRefused(t *testing.T) {
	for name, body := range map[string]string{
		"no token":      `{"token_type":"Bearer","expires_in":3600}`,
		"blank token":   `{"access_token":"a b","token_type":"Bearer","expires_in":3600}`,
		"header inside": `{"access_token":"a\r\nX: y","token_type":"Bearer","expires_in":3600}`,
		"long token":    `{"access_token":"` + strings.Repeat("x", 17<<10) + `","token_type":"Bearer","expires_in":3600}`,
		"other type":    `{"access_token":"a","token_type":"mac","expires_in":3600}`,
		"no life":       `{"access_token":"a","token_type":"Bearer"}`,
		"endless life":  `{"access_token":"a","token_type":"Bearer","expires_in":99999999}`,
		"life as text":  `{"access_token":"a","token_type":"Bearer","expires_in":"3600"}`,
	} {
		r := newRig(t, nil)
		r.service.Fail(abmtest.Token, abmtest.Repeated(9, abmtest.Raw(200, "application/json", body))...)
		_, _, err := r.read(t.Context(), "")
		if fault, ok := errors.AsType[*abm.Error](err); !ok || fault.Check != abm.CheckAnswer || fault.Call != "request access token" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusedAccountSaysWhatToMend(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*abm.Config)
		check  string
		advice string
	}{
		"wrong client ID": {func(c *abm.Config) { c.ClientID = "BUSINESSAPI.other" }, abm.CheckCredentials, "clientID"},
		"wrong key ID":    {func(c *abm.Config) { c.KeyID = "other" }, abm.CheckCredentials, "keyID"},
		"wrong key":       {func(c *abm.Config) { c.Key = other }, abm.CheckCredentials, "revoked"},
		"clock ahead": {func(c *abm.Config) {
			now := c.Now
			c.Now = func() time.Time { return now().Add(5 * time.Minute) }
		}, abm.CheckCredentials, "clock"},
	} {
		r := newRig(t, c.change)
		_, _, err := r.read(t.Context(), "")
		fault, ok := errors.AsType[*abm.Error](err)
		if !ok || fault.Check != c.check || fault.Tries != 1 || !strings.Contains(fault.Advice(), c.advice) || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("%s: %v, %+v", name, err, fault)
		}
	}
	r := newRig(t, nil)
	r.service.Scope = "school.api"
	_, _, err = r.read(t.Context(), "")
	if fault, ok := errors.AsType[*abm.Error](err); !ok || fault.Check != abm.CheckScope {
		t.Errorf("other service: %v", err)
	}
}

func TestSlightlyFastClockIsTolerated(t *testing.T) {
	r := newRig(t, func(c *abm.Config) {
		now := c.Now
		c.Now = func() time.Time { return now().Add(time.Minute) }
	})
	if _, _, err := r.read(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

func TestErrorsHoldNoSecrets(t *testing.T) {
	r := newRig(t, nil)
	r.service.Fail(abmtest.List, abmtest.Echo)
	_, _, err := r.read(t.Context(), "")
	if err == nil || !strings.Contains(err.Error(), "You sent Bearer …") {
		t.Errorf("got %v", err)
	}
	r = newRig(t, nil)
	r.service.Fail(abmtest.Token, abmtest.Echo)
	_, _, err = r.read(t.Context(), "")
	if err == nil || strings.Contains(err.Error(), "ey") || !strings.Contains(err.Error(), "…") {
		t.Errorf("got %v", err)
	}
}

func TestTokenFollowsNoRedirect(t *testing.T) {
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the stranger was asked") }))
	defer stranger.Close()
	for _, at := range []abmtest.Endpoint{abmtest.Token, abmtest.List} {
		r := newRig(t, nil)
		r.service.Fail(at, abmtest.Redirected(stranger.URL))
		if _, _, err := r.read(t.Context(), ""); err == nil {
			t.Error("no error")
		}
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newRig(t, nil).config
	for name, change := range map[string]func(*abm.Config){
		"no clock":           func(c *abm.Config) { c.Now = nil },
		"no key":             func(c *abm.Config) { c.Key = nil },
		"other curve":        func(c *abm.Config) { c.Key = p384 },
		"no client ID":       func(c *abm.Config) { c.ClientID = "" },
		"blank in key ID":    func(c *abm.Config) { c.KeyID = "a b" },
		"other API":          func(c *abm.Config) { c.API = "home" },
		"ID of other API":    func(c *abm.Config) { c.API = abm.School },
		"page size":          func(c *abm.Config) { c.PageSize = 1001 },
		"http":               func(c *abm.Config) { c.URL = "http://api-business.apple.com" },
		"http for the token": func(c *abm.Config) { c.TokenURL = "http://192.0.2.1/token" },
		"named loopback":     func(c *abm.Config) { c.URL = "http://localhost:1" }, // whatever that resolves to
		"password in URL":    func(c *abm.Config) { c.URL = "https://a:b@example.com" },
		"query in URL":       func(c *abm.Config) { c.URL = "https://example.com?a=b" },
	} {
		c := good
		change(&c)
		if _, err := abm.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSchoolIsAskedAtItsOwnAddressAndScope(t *testing.T) {
	service := abmtest.Start("school")
	defer service.Close()
	var asked []string
	client, err := abm.New(abm.Config{
		API: abm.School, ClientID: service.ClientID, KeyID: service.KeyID, Key: service.Key, Now: time.Now,
		Transport: transport(func(q *http.Request) (*http.Response, error) {
			asked = append(asked, q.URL.Scheme+"://"+q.URL.Host+q.URL.Path)
			q.URL.Scheme, q.URL.Host = "http", strings.TrimPrefix(service.URL, "http://")
			q.Close = true
			return http.DefaultTransport.RoundTrip(q)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range client.Pages(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"https://account.apple.com/auth/oauth2/token", "https://api-school.apple.com/v1/orgDevices"}, asked); diff != "" {
		t.Error(diff)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(q *http.Request) (*http.Response, error) { return t(q) }

func TestParseKeyReadsWhatAppleAndOpenSSLWrite(t *testing.T) {
	service := abmtest.Start("business")
	defer service.Close()
	sec1, err := x509.MarshalECPrivateKey(service.Key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(service.Key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(label string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}) }
	for name, data := range map[string][]byte{
		"Apple's":         service.KeyPEM(),
		"PKCS#8":          block("PRIVATE KEY", pkcs8),
		"SEC 1":           block("EC PRIVATE KEY", sec1),
		"with parameters": append(block("EC PARAMETERS", []byte{6, 1, 0}), block("EC PRIVATE KEY", sec1)...),
	} {
		key, err := abm.ParseKey(data)
		if err != nil || !key.Equal(service.Key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKCS8PrivateKey(edwards)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := x509.MarshalECPrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"nothing":       nil,
		"text":          []byte("key"),
		"certificate":   block("CERTIFICATE", pkcs8),
		"encrypted":     block("ENCRYPTED PRIVATE KEY", pkcs8),
		"two keys":      bytes.Repeat(service.KeyPEM(), 2),
		"garbage":       block("EC PRIVATE KEY", []byte("garbage")),
		"other kind":    block("PRIVATE KEY", other),
		"other curve":   block("EC PRIVATE KEY", large),
		"old encrypted": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-128-CBC,00"}, Bytes: sec1}),
	} {
		if _, err := abm.ParseKey(data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
