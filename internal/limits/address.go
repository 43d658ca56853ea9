package limits

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// unknownAddress is the key of connections that have no IP address: they share a bucket.
const unknownAddress = "unknown"

// AddressKey is the bucket that a connection belongs to, from its remote address ("192.0.2.1:443", or without a
// port): an IPv4 address, or the /64 of an IPv6 one, because a single machine usually has that many addresses.
func AddressKey(remote string) string {
	address, err := parseAddress(remote)
	switch {
	case err != nil:
		return unknownAddress
	case address.Is4():
		return address.String()
	}
	network, _ := address.Prefix(64) // fails for other lengths only
	return network.String()
}

// parseAddress reads an IP address with or without port, as connections and proxies write it. IPv4 addresses in
// IPv6 form become IPv4, zones are left out.
func parseAddress(text string) (netip.Addr, error) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.Addr().Unmap().WithZone(""), nil
	}
	if bare, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(bare, "]") {
		text = strings.TrimSuffix(bare, "]")
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap().WithZone(""), err
}

// Headers by which proxies say whom they forward.
const (
	XForwardedFor = "X-Forwarded-For"
	Forwarded     = "Forwarded" // RFC 7239
)

// Proxies are the proxies in front of a listener. The zero value trusts none.
type Proxies struct {
	trusted []netip.Prefix
	header  string
}

// NewProxies takes addresses or prefixes of proxies, and the one header that all of them set: X-Forwarded-For
// or Forwarded. No other is read, because what a proxy does not set it passes on as its client wrote it.
func NewProxies(trusted []string, header string) (Proxies, error) {
	if len(trusted) == 0 {
		if header != "" {
			return Proxies{}, errors.New("header without addresses: say which proxies set it")
		}
		return Proxies{}, nil
	}
	p := Proxies{header: http.CanonicalHeaderKey(header)}
	if p.header != XForwardedFor && p.header != Forwarded {
		return Proxies{}, fmt.Errorf("header %q is neither %s nor %s: name the one that the proxies set, whatever their clients sent", header, XForwardedFor, Forwarded)
	}
	for _, text := range trusted {
		prefix, err := parsePrefix(text)
		if err != nil {
			return Proxies{}, fmt.Errorf("proxy %q: %w", text, err)
		}
		if prefix.Bits() == 0 {
			return Proxies{}, fmt.Errorf("proxy %q: then anybody could claim to be anybody", text)
		}
		p.trusted = append(p.trusted, prefix)
	}
	return p, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		return prefix.Masked(), err
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	address = address.Unmap()
	return netip.PrefixFrom(address, address.BitLen()), nil
}

func (p Proxies) trusts(a netip.Addr) bool {
	for _, prefix := range p.trusted {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// Client is the address of whoever asks: the connection's own, or, if that is a trusted proxy's, the last one in
// the header that is not. Each proxy appends whom it forwards, so only what stands to the right of the first
// stranger can be believed; where that cannot be read, the proxy before it answers for the request.
func (p Proxies) Client(r *http.Request) string {
	at, err := parseAddress(r.RemoteAddr)
	if err != nil || !p.trusts(at) {
		return r.RemoteAddr
	}
	hops := strings.Join(r.Header.Values(p.header), ",")
	for p.trusts(at) && hops != "" {
		var hop string
		hops, hop = cutLast(hops)
		if p.header == Forwarded {
			hop = forwardedFor(hop)
		}
		before, err := parseAddress(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = before
	}
	return at.String()
}

// Forwards reports whether a request comes from a trusted proxy.
func (p Proxies) Forwards(r *http.Request) bool {
	at, err := parseAddress(r.RemoteAddr)
	return err == nil && p.trusts(at)
}

// Reveal is a handler for which each request comes from its client's address, not the proxy's.
func (p Proxies) Reveal(next http.Handler) http.Handler {
	if len(p.trusted) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		revealed := *r
		revealed.RemoteAddr = p.Client(r)
		next.ServeHTTP(w, &revealed)
	})
}

// cutLast cuts the last element off a list, at a comma outside quotes. A quote that is not closed leaves one
// element: the whole.
func cutLast(list string) (rest, last string) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"':
			quoted = !quoted
		case list[i] == ',' && !quoted:
			return list[:i], list[i+1:]
		}
	}
	return "", list
}

// forwardedFor is the for parameter of a forwarded-element (RFC 7239, section 4); "" if there is not exactly one.
// Node names that are no address ("unknown", "_hidden") are read as any: no address.
func forwardedFor(element string) (node string) {
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if !strings.EqualFold(name, "for") {
			continue
		}
		if node != "" {
			return ""
		}
		if bare, ok := strings.CutPrefix(value, `"`); ok {
			value = strings.TrimSuffix(bare, `"`)
		}
		node = value
	}
	return node
}
