package installation

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"assay/internal/limits"

	"github.com/google/go-cmp/cmp"
)

func TestLimitsAreTheDefaultsButForWhatIsSaid(t *testing.T) {
	none := map[limits.Name]limits.Rate{}
	for name := range limits.Defaults() {
		none[name] = limits.Rate{}
	}
	some := limits.Defaults()
	some[limits.Reads], some[limits.Codes] = limits.Rate{Events: 7, Per: time.Hour, Burst: 9}, limits.Rate{}
	for text, want := range map[string]map[limits.Name]limits.Rate{
		"":              limits.Defaults(),
		"limits: {}\n":  limits.Defaults(),
		"limits: off\n": none,
		"limits: {reads: 7/h burst 9, codes: off}\n": some,
	} {
		c, err := parseConfig([]byte(validConfig + text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		got, faults := c.Limits.rates()
		if diff := cmp.Diff(want, got); diff != "" || len(faults) > 0 {
			t.Errorf("%q: %v\n%s", text, faults, diff)
		}
	}
}

// The configured limits hold on both listeners, by the address that trusted proxies tell, and by no other.
func TestListenersLimitByTheClientsAddress(t *testing.T) {
	for _, c := range []struct {
		name, main, mdm string
		first, second   string // what the header says
		wantSecond      bool   // whether the second request passes
	}{
		{"proxies tell", "trustedProxies: [127.0.0.1]\nforwardedHeader: X-Forwarded-For\n", ", trustedProxies: [127.0.0.1], forwardedHeader: X-Forwarded-For", "203.0.113.7", "203.0.113.8", true},
		{"proxies tell of the same", "trustedProxies: [127.0.0.1]\nforwardedHeader: X-Forwarded-For\n", ", trustedProxies: [127.0.0.1], forwardedHeader: X-Forwarded-For", "203.0.113.7", "198.51.100.1, 203.0.113.7", false},
		{"strangers tell", "trustedProxies: [127.0.0.2]\nforwardedHeader: X-Forwarded-For\n", ", trustedProxies: [127.0.0.2], forwardedHeader: X-Forwarded-For", "203.0.113.7", "203.0.113.8", false},
		{"nobody is asked", "", ", trustedProxies: [127.0.0.1]", "203.0.113.7", "203.0.113.8", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := initialized(t, nil)
			newMDMCA(t, filepath.Join(dir, "mdm-ca.pem"))
			edit(t, dir, "listen: 127.0.0.1:0\nadmin:", "listen: 127.0.0.1:0\nlimits: {reads: 1/h burst 1}\n"+c.main+
				"mdm: {listen: '127.0.0.1:0', ca: [mdm-ca.pem], match: {field: commonName, value: '{device.udid}'}"+c.mdm+"}\nadmin:")
			i := opened(t, dir)
			i.sleep = func(context.Context, time.Duration) error { return nil }
			s := serve(t, i)
			ask := func(url, header string) int {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set(limits.XForwardedFor, header)
				answer, err := client(t, trusting(t, i)).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				answer.Body.Close()
				return answer.StatusCode
			}
			// The listeners share the gate, so each asks for clients of its own.
			for _, l := range []struct{ url, of string }{{s.Directories["default"], ""}, {s.MDMURL + "/credential/x", "1"}} {
				if status := ask(l.url, c.first+l.of); l.of == "" && status == http.StatusTooManyRequests {
					t.Errorf("%s: the first got %d", l.url, status)
				}
				if status := ask(l.url, c.second+l.of); (status != http.StatusTooManyRequests) != c.wantSecond {
					t.Errorf("%s: the second got %d", l.url, status)
				}
			}
		})
	}
}

// A request from a trusted proxy is looked at for its trace only where there are traces.
func TestProxiesCostNoMoreWithoutTraces(t *testing.T) {
	i := &Installation{Config: &Config{TrustedProxies: []string{"192.0.2.1"}, ForwardedHeader: limits.XForwardedFor}}
	var got *http.Request
	acme := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r })
	revealed, err := i.revealed(acme, nil)
	if err != nil {
		t.Fatal(err)
	}
	proxies, err := limits.NewProxies(i.Config.TrustedProxies, i.Config.ForwardedHeader)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "192.0.2.1:443"
	r.Header.Set(limits.XForwardedFor, "198.51.100.7")
	cost := func(h http.Handler) float64 { return testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }) }
	if have, want := cost(revealed), cost(proxies.Reveal(acme)); have != want {
		t.Errorf("%v allocations, want %v", have, want)
	}
	if got.RemoteAddr != "198.51.100.7" {
		t.Errorf("the request is from %s", got.RemoteAddr)
	}
}
