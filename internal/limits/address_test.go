package limits

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAddressKey(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:443":                    "192.0.2.1",
		"192.0.2.1":                        "192.0.2.1",
		"[::ffff:192.0.2.1]:443":           "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:443":       "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff:ffff:ffff:ffff": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:443":               "fe80::/64",
		"":                                 "unknown",
		"@":                                "unknown",
		"pipe":                             "unknown",
		"id.example.com:443":               "unknown",
	} {
		if got := AddressKey(remote); got != want {
			t.Errorf("%q: %q, want %q", remote, got, want)
		}
	}
}

// Nobody can choose the address that he is counted by.
func TestClientBehindProxies(t *testing.T) {
	const proxy, inner, client, victim = "10.0.0.1:5000", "10.0.0.2", "203.0.113.7", "198.51.100.1"
	for _, c := range []struct {
		name, use, remote string
		xff, forwarded    []string
		want              string
	}{
		{"no proxy", XForwardedFor, client + ":1", nil, nil, client + ":1"},
		{"a stranger forges the header", XForwardedFor, client + ":1", []string{victim}, nil, client + ":1"},
		{"a stranger forges both", Forwarded, client + ":1", []string{victim}, []string{"for=" + victim}, client + ":1"},
		{"through the proxy", XForwardedFor, proxy, []string{client}, nil, client},
		{"what the client wrote stands to the left", XForwardedFor, proxy, []string{victim + ", " + client}, nil, client},
		{"in a header line of its own", XForwardedFor, proxy, []string{victim, client}, nil, client},
		{"through two proxies", XForwardedFor, proxy, []string{victim + "," + client + "," + inner}, nil, client},
		{"the client claims to be a proxy", XForwardedFor, proxy, []string{victim + "," + inner + "," + client}, nil, client},
		{"the proxy sets the other header", XForwardedFor, proxy, []string{client}, []string{"for=" + victim}, client},
		{"the proxy sets Forwarded only", Forwarded, proxy, []string{victim}, []string{"for=" + client}, client},
		{"no header", XForwardedFor, proxy, nil, nil, "10.0.0.1"},
		{"the other header only", XForwardedFor, proxy, nil, []string{"for=" + victim}, "10.0.0.1"},
		{"unreadable", XForwardedFor, proxy, []string{victim + ", somebody"}, nil, "10.0.0.1"},
		{"unreadable behind the inner proxy", XForwardedFor, proxy, []string{victim + ",," + inner}, nil, inner},
		{"with port", XForwardedFor, proxy, []string{client + ":8080"}, nil, client},
		{"IPv6", XForwardedFor, proxy, []string{"2001:db8::1"}, nil, "2001:db8::1"},
		{"IPv6 with port", XForwardedFor, proxy, []string{"[2001:db8::1]:443"}, nil, "2001:db8::1"},
		{"IPv4 in IPv6 form", XForwardedFor, "[::ffff:10.0.0.1]:5000", []string{"::ffff:" + client}, nil, client},
		{"proxies only", XForwardedFor, proxy, []string{inner}, nil, inner},
		{"forwarded element", Forwarded, proxy, nil, []string{`for=` + victim + `;proto=https, For="` + client + `:80";by=` + inner + `;host="a,b"`}, client},
		{"forwarded IPv6", Forwarded, proxy, nil, []string{`for="[2001:db8::1]:443"`}, "2001:db8::1"},
		{"forwarded, hidden", Forwarded, proxy, nil, []string{"for=" + victim + ", for=_hidden"}, "10.0.0.1"},
		{"forwarded, unknown", Forwarded, proxy, nil, []string{"for=" + victim + ", for=unknown"}, "10.0.0.1"},
		{"forwarded, twice in one element", Forwarded, proxy, nil, []string{"for=" + victim + ";for=" + client}, "10.0.0.1"},
		{"forwarded, a quote left open", Forwarded, proxy, nil, []string{`for="` + victim, "for=" + client}, client},
		{"forwarded, no for", Forwarded, proxy, nil, []string{"for=" + victim + ", proto=https"}, "10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := NewProxies([]string{"10.0.0.0/24"}, c.use)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = c.remote
			r.Header[XForwardedFor], r.Header[Forwarded] = c.xff, c.forwarded
			if got := p.Client(r); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			seen := ""
			p.Reveal(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.RemoteAddr })).ServeHTTP(nil, r)
			if seen != c.want || r.RemoteAddr != c.remote {
				t.Errorf("the handler sees %q, and the request before is %q", seen, r.RemoteAddr)
			}
		})
	}
}

func TestNoProxiesTrustNobody(t *testing.T) {
	p, err := NewProxies(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "10.0.0.1:1"
	r.Header.Set(XForwardedFor, "203.0.113.7")
	p.Reveal(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.RemoteAddr != "10.0.0.1:1" {
			t.Errorf("it comes from %q", r.RemoteAddr)
		}
	})).ServeHTTP(nil, r)
}

func TestProxiesAreRefusedThatNobodyCanMean(t *testing.T) {
	for _, c := range []struct {
		trusted []string
		header  string
	}{
		{[]string{"10.0.0.1"}, ""},
		{[]string{"10.0.0.1"}, "X-Real-IP"},
		{nil, XForwardedFor},
		{[]string{"proxy.example.com"}, XForwardedFor},
		{[]string{"10.0.0.0/33"}, XForwardedFor},
		{[]string{"0.0.0.0/0"}, XForwardedFor},
		{[]string{"::/0"}, XForwardedFor},
	} {
		if _, err := NewProxies(c.trusted, c.header); err == nil {
			t.Errorf("%v with header %q is taken", c.trusted, c.header)
		}
	}
	if _, err := NewProxies([]string{"10.0.0.1", "2001:db8::/32", "::1"}, "forwarded"); err != nil {
		t.Error(err)
	}
}

func FuzzClientBehindProxies(f *testing.F) {
	f.Add("203.0.113.7", `for="[2001:db8::1]:443";by=x`)
	f.Add(`",,"`, `for=",`)
	f.Fuzz(func(t *testing.T, xff, forwarded string) {
		for _, header := range []string{XForwardedFor, Forwarded} {
			p, err := NewProxies([]string{"10.0.0.0/24"}, header)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = "10.0.0.1:5000"
			honest := map[string]string{XForwardedFor: "203.0.113.7", Forwarded: "for=203.0.113.7"}
			r.Header[XForwardedFor] = []string{xff + "," + honest[XForwardedFor]}
			r.Header[Forwarded] = []string{forwarded, honest[Forwarded]}
			if got := p.Client(r); got != "203.0.113.7" {
				t.Errorf("%s: whatever a client writes, the proxy says who he is: got %q", header, got)
			}
		}
	})
}
