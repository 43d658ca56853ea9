package delivery

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"assay/internal/issuance"

	"github.com/dunglas/httpsfv"
)

// IdentityField is the field of an MDM identity certificate that names its device.
type IdentityField string

// Identity fields.
const (
	FieldCommonName  IdentityField = "commonName"
	FieldDNS         IdentityField = "dns"         // dNSName of the SAN
	FieldEmail       IdentityField = "email"       // rfc822Name of the SAN
	FieldURI         IdentityField = "uri"         // uniformResourceIdentifier of the SAN
	FieldFingerprint IdentityField = "fingerprint" // SHA-256 of the certificate, which the MDM registered for the device
)

// Names of the checks of an MDM identity, in the order in which they are made.
const (
	CheckIdentityHeader  = "identity-header"         // a trusted proxy's Client-Cert headers are as RFC 9440 has them
	CheckIdentityShown   = "no-identity"             // an identity was shown
	CheckIdentityLength  = "identity-chain-length"   // with at most maxIdentityChain certificates
	CheckIdentityExpired = "identity-expired"        // that are valid now
	CheckIdentityChain   = "identity-chain"          // and chain to a CA of the MDM
	CheckIdentityDevice  = "identity-unknown-device" // the document's device has what the identity must say
	CheckIdentityField   = "identity-field"          // and the identity says it
)

var identityAdvice = map[string]string{
	CheckIdentityHeader:  "see how the proxy sets Client-Cert and Client-Cert-Chain (RFC 9440): it must replace what its clients send",
	CheckIdentityShown:   "the device showed no certificate: TLS must end at Assay, or at a proxy that asks for one, sends Client-Cert (RFC 9440) and is among mdm.trustedProxies",
	CheckIdentityLength:  "no MDM identity has so long a chain: look for a faulty proxy or client",
	CheckIdentityExpired: "the device's MDM identity has expired: let the MDM renew it, and compare the server's clock",
	CheckIdentityChain:   "the certificate is of none of the CAs in mdm.ca: add the one that issues the identities which devices show to the MDM",
	CheckIdentityDevice:  "Assay does not know the value of this device that its identity must show: give it (declare with serial and UDID, set the label, register the fingerprint), or choose another mdm.match",
	CheckIdentityField:   "the identity is of another device, or mdm.match names the wrong field or value",
}

// Limits on the Client-Cert and Client-Cert-Chain headers, and on chains from anywhere.
const (
	maxIdentityHeader = 16 << 10 // bytes of both headers together
	maxIdentityChain  = 5        // certificates, the device's included
)

// Header fields of RFC 9440.
const (
	headerClientCert      = "Client-Cert"
	headerClientCertChain = "Client-Cert-Chain"
)

// FetchRefusal says why a document was not served.
type FetchRefusal struct {
	Check string // stable kebab-case name of the failed check
	Text  string // safe to show to whoever asked: nothing of the device
	Err   error  // for the log only; may be nil

	identity bool // the identity was judged: whoever asked may know which check failed
}

func (r *FetchRefusal) Error() string {
	if r.Err != nil {
		return r.Check + ": " + r.Text + ": " + r.Err.Error()
	}
	return r.Check + ": " + r.Text
}

func (r *FetchRefusal) Unwrap() error { return r.Err }

// MDMIdentity judges the identities that devices show when they fetch a document with
// Authentication MDM: the certificates that they also show to their MDM. Make one with
// NewMDMIdentity; the zero MDMIdentity refuses everybody.
type MDMIdentity struct {
	roots   *x509.CertPool
	field   IdentityField
	value   text // none with FieldFingerprint
	proxies []netip.Prefix
}

// NewMDMIdentity makes the judge of MDM identities. cas are the CAs that issue them, roots or not.
// field (default commonName) must equal value (default {device.udid}; none with fingerprint) with
// the device's values filled in. proxies are addresses or prefixes whose Client-Cert header is
// believed instead of the TLS handshake.
func NewMDMIdentity(cas []*x509.Certificate, field IdentityField, value string, proxies []string) (*MDMIdentity, error) {
	m := &MDMIdentity{roots: x509.NewCertPool(), field: field}
	if len(cas) == 0 {
		return nil, errors.New("MDM identity: no CA that issues them")
	}
	for _, ca := range cas {
		m.roots.AddCert(ca)
	}
	if m.field == "" {
		m.field = FieldCommonName
	}
	if err := m.setValue(value); err != nil {
		return nil, fmt.Errorf("MDM identity: %w", err)
	}
	for _, text := range proxies {
		prefix, err := parseProxy(text)
		if err != nil {
			return nil, fmt.Errorf("MDM identity: trusted proxy %q: %w", text, err)
		}
		m.proxies = append(m.proxies, prefix)
	}
	return m, nil
}

func (m *MDMIdentity) setValue(value string) error {
	switch m.field {
	case FieldFingerprint:
		if value != "" {
			return errors.New("field fingerprint takes no value: it is the one that the MDM registered")
		}
		return nil
	case FieldCommonName, FieldDNS, FieldEmail, FieldURI:
	default:
		return fmt.Errorf("field %q is none of commonName, dns, email, uri, fingerprint", m.field)
	}
	if value == "" {
		value = "{device.udid}"
	}
	t, err := parseText(value)
	if err != nil {
		return fmt.Errorf("value: %w", err)
	}
	// A value that says nothing of the device, or nothing where a value is missing, would open documents
	// to other devices.
	names := t.placeholders()
	if len(names) == 0 {
		return fmt.Errorf("value %q names no device: it needs {device.udid}, {device.serial} or {device.labels.NAME}", value)
	}
	if slices.ContainsFunc(names, func(p placeholder) bool { return p.optional }) {
		return fmt.Errorf("value %q: no part of what names a device is optional", value)
	}
	m.value = t
	return nil
}

func parseProxy(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		return addr.Prefix(addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, err
	}
	// Whoever trusts everybody's header trusts nobody's certificate.
	if prefix.Bits() == 0 {
		return prefix, errors.New("it holds every address")
	}
	return prefix.Masked(), nil
}

// Check says why a request is not by the device's MDM identity; nil if it is. Whatever is missing, of
// the request or of the device, is a refusal.
func (m *MDMIdentity) Check(r *http.Request, device issuance.Device, now time.Time) *FetchRefusal {
	chain, refusal := m.chain(r)
	if refusal != nil {
		return refusal
	}
	if refusal := m.verify(chain, now); refusal != nil {
		return refusal
	}
	return m.match(chain[0], device)
}

func refuseIdentity(check, text string, err error) *FetchRefusal {
	return &FetchRefusal{Check: check, Text: text, Err: err, identity: true}
}

// chain is the certificates that the device showed, its own first: in the TLS handshake, or to a
// trusted proxy, which says so in headers. Of a trusted proxy only the headers count: its own
// certificate is no device's. Of anybody else the headers count for nothing.
func (m *MDMIdentity) chain(r *http.Request) ([]*x509.Certificate, *FetchRefusal) {
	var chain []*x509.Certificate
	if m.trusts(r.RemoteAddr) {
		var err error
		if chain, err = headerChain(r.Header); err != nil {
			return nil, refuseIdentity(CheckIdentityHeader, "the proxy's Client-Cert headers cannot be read", err)
		}
	} else if r.TLS != nil {
		chain = r.TLS.PeerCertificates
	}
	if len(chain) == 0 {
		return nil, refuseIdentity(CheckIdentityShown, "no client certificate was shown", nil)
	}
	if len(chain) > maxIdentityChain {
		return nil, refuseIdentity(CheckIdentityLength, fmt.Sprintf("more than %d certificates were shown", maxIdentityChain), nil)
	}
	return chain, nil
}

func (m *MDMIdentity) trusts(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := peer.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(m.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// headerChain reads Client-Cert and Client-Cert-Chain (RFC 9440, section 2); nil if there is no
// Client-Cert, or an empty one.
func headerChain(h http.Header) ([]*x509.Certificate, error) {
	leaf, rest := h.Values(headerClientCert), h.Values(headerClientCertChain)
	size := 0
	for _, value := range slices.Concat(leaf, rest) {
		size += len(value)
	}
	if size > maxIdentityHeader {
		return nil, fmt.Errorf("%d bytes of certificates; the limit is %d", size, maxIdentityHeader)
	}
	// Some proxies send an empty header where no certificate was shown.
	if blank(leaf) {
		if !blank(rest) {
			return nil, errors.New("Client-Cert-Chain without Client-Cert")
		}
		return nil, nil
	}
	// An item is one: two headers, which a proxy makes that adds its own to what a client sent, are none.
	item, err := httpsfv.UnmarshalItem(leaf)
	if err != nil {
		return nil, fmt.Errorf("Client-Cert: %w", err)
	}
	first, err := certificateItem(item)
	if err != nil {
		return nil, fmt.Errorf("Client-Cert: %w", err)
	}
	chain := []*x509.Certificate{first}
	list, err := httpsfv.UnmarshalList(rest)
	if err != nil {
		return nil, fmt.Errorf("Client-Cert-Chain: %w", err)
	}
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			return nil, errors.New("Client-Cert-Chain: an inner list")
		}
		certificate, err := certificateItem(item)
		if err != nil {
			return nil, fmt.Errorf("Client-Cert-Chain: %w", err)
		}
		chain = append(chain, certificate)
	}
	return chain, nil
}

// blank reports whether a header is missing, or says nothing wherever it stands.
func blank(values []string) bool {
	return !slices.ContainsFunc(values, func(value string) bool { return strings.Trim(value, " \t") != "" })
}

// certificateItem is the certificate in a Byte Sequence (RFC 9440, section 2.1).
func certificateItem(item httpsfv.Item) (*x509.Certificate, error) {
	der, ok := item.Value.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T, not a byte sequence", item.Value)
	}
	return x509.ParseCertificate(der)
}

// verify checks that the chain leads to a CA of the MDM, now. Any extended key usage will do: MDM
// identities carry whatever their CA puts there.
//
// WARNING: whether the identity was revoked is not checked: MDM CAs rarely publish that. What ends a
// lost device's access is that its credential is withdrawn.
func (m *MDMIdentity) verify(chain []*x509.Certificate, now time.Time) *FetchRefusal {
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: m.roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return refuseIdentity(CheckIdentityExpired, "the client certificate or one above it is not valid at this time", err)
	}
	if err != nil {
		return refuseIdentity(CheckIdentityChain, "the client certificate is of no known MDM CA", err)
	}
	return nil
}

// match checks that the identity is the device's.
func (m *MDMIdentity) match(leaf *x509.Certificate, device issuance.Device) *FetchRefusal {
	wanted := m.expected(device)
	// Nothing known of the device must never equal nothing said by the identity.
	if len(wanted) == 0 {
		return refuseIdentity(CheckIdentityDevice, "what the identity must show is not known", nil)
	}
	if !slices.ContainsFunc(m.shown(leaf), func(value string) bool { return slices.Contains(wanted, value) }) {
		return refuseIdentity(CheckIdentityField, "the client certificate's "+string(m.field)+" is not the device's", nil)
	}
	return nil
}

// expected is what an identity must say to be the device's; none if that is not known. UDIDs are
// compared without case, so there may be several spellings.
func (m *MDMIdentity) expected(device issuance.Device) []string {
	if m.field == FieldFingerprint {
		if device.MDMFingerprint == "" {
			return nil
		}
		return []string{strings.ToLower(device.MDMFingerprint)}
	}
	var values []string
	for _, udid := range []string{device.UDID, strings.ToUpper(device.UDID), strings.ToLower(device.UDID)} {
		spelled := device
		spelled.UDID = udid
		value, leftOut, refusal := m.value.expand(spelled)
		if value == "" || leftOut || refusal != "" {
			return nil
		}
		if m.field == FieldDNS {
			value = strings.ToLower(value)
		}
		values = append(values, value)
	}
	return values
}

// shown is what an identity says in the field.
func (m *MDMIdentity) shown(leaf *x509.Certificate) []string {
	switch m.field {
	case FieldCommonName:
		return commonNames(leaf.Subject)
	case FieldDNS:
		var names []string
		for _, name := range leaf.DNSNames {
			names = append(names, strings.ToLower(name)) // RFC 4343
		}
		return names
	case FieldEmail:
		return leaf.EmailAddresses
	case FieldURI:
		var uris []string
		for _, uri := range leaf.URIs {
			uris = append(uris, uri.String())
		}
		return uris
	case FieldFingerprint:
		sum := sha256.Sum256(leaf.Raw)
		return []string{hex.EncodeToString(sum[:])}
	}
	return nil
}

// commonNames is the subject's common name. A subject with several names none: readers differ on
// which of them counts.
func commonNames(subject pkix.Name) []string {
	var names []string
	for _, attribute := range subject.Names {
		if text, ok := attribute.Value.(string); ok && attribute.Type.String() == "2.5.4.3" {
			names = append(names, text)
		}
	}
	if len(names) != 1 {
		return nil
	}
	return names
}
