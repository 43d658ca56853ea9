package delivery

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"
)

// mdmCA is a CA that issues MDM identities.
type mdmCA struct {
	t           testing.TB
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newMDMCA(t testing.TB, name string) *mdmCA { return (&mdmCA{t: t}).sub(name) }

// sub makes a CA below this one; a root where this one is empty.
func (ca *mdmCA) sub(name string) *mdmCA {
	ca.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: testNow.Add(-24 * time.Hour), NotAfter: testNow.Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, key := ca.sign(template)
	return &mdmCA{t: ca.t, certificate: certificate, key: key}
}

func (ca *mdmCA) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		ca.t.Fatal(err)
	}
	parent, signer := ca.certificate, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		ca.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return certificate, key
}

// identity makes a device's MDM identity with a common name, valid now.
func (ca *mdmCA) identity(commonName string, change ...func(*x509.Certificate)) tls.Certificate {
	ca.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}, // any will do
	}
	for _, c := range change {
		c(template)
	}
	certificate, key := ca.sign(template)
	return tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}
}

// below appends the CA's own certificate to an identity's chain.
func below(identity tls.Certificate, ca *mdmCA) tls.Certificate {
	identity.Certificate = append(identity.Certificate, ca.certificate.Raw)
	return identity
}

// gate is a server over real TLS that says what MDMIdentity says of its clients.
type gate struct {
	*httptest.Server
	t        testing.TB
	identity *MDMIdentity
	device   issuance.Device
	now      time.Time
}

func newGate(t testing.TB, identity *MDMIdentity) *gate {
	t.Helper()
	g := &gate{t: t, identity: identity, device: issuance.Device{ID: "dev_1", Serial: testSerial, UDID: testUDID}, now: testNow}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusal := g.identity.Check(r, g.device, g.now); refusal != nil {
			http.Error(w, refusal.Check, http.StatusForbidden)
		}
	}))
	g.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

// says is the failed check for a client with an identity and headers; "" if it was let in.
func (g *gate) says(identity *tls.Certificate, header http.Header) string {
	g.t.Helper()
	transport := g.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if identity != nil {
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity, nil }
	}
	r, err := http.NewRequestWithContext(g.t.Context(), "GET", g.URL, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header = header.Clone()
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func newIdentity(t testing.TB, ca *mdmCA, field IdentityField, value string, proxies ...string) *MDMIdentity {
	t.Helper()
	identity, err := NewMDMIdentity([]*x509.Certificate{ca.certificate}, field, value, proxies)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func TestMDMIdentityOverTLS(t *testing.T) {
	ca, foreign := newMDMCA(t, "MDM CA"), newMDMCA(t, "MDM CA")
	middle := ca.sub("MDM Sub CA")
	long := ca
	var rungs []*mdmCA
	for range 5 {
		long = long.sub("rung")
		rungs = append(rungs, long)
	}
	ladder := long.identity(testUDID)
	for i := range rungs {
		ladder = below(ladder, rungs[len(rungs)-1-i])
	}
	for name, c := range map[string]struct {
		identity *tls.Certificate
		want     string
	}{
		"the device's":              {new(ca.identity(testUDID)), ""},
		"in another case":           {new(ca.identity(strings.ToLower(testUDID))), ""},
		"below an intermediate":     {new(below(middle.identity(testUDID), middle)), ""},
		"none":                      {nil, CheckIdentityShown},
		"of another CA":             {new(foreign.identity(testUDID)), CheckIdentityChain},
		"intermediate not shown":    {new(middle.identity(testUDID)), CheckIdentityChain},
		"too long a chain":          {new(ladder), CheckIdentityLength},
		"expired":                   {new(ca.identity(testUDID, func(c *x509.Certificate) { c.NotAfter = testNow.Add(-time.Minute) })), CheckIdentityExpired},
		"not valid yet":             {new(ca.identity(testUDID, func(c *x509.Certificate) { c.NotBefore = testNow.Add(time.Minute) })), CheckIdentityExpired},
		"of another device":         {new(ca.identity("00008110-000B")), CheckIdentityField},
		"that begins like the UDID": {new(ca.identity(testUDID + "0")), CheckIdentityField},
		"without a name":            {new(ca.identity("")), CheckIdentityField},
		"with two names": {new(ca.identity("", func(c *x509.Certificate) {
			c.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
				{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "00008110-000B"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: testUDID}}}
		})), CheckIdentityField},
		"in another field": {new(ca.identity("", func(c *x509.Certificate) { c.DNSNames = []string{testUDID} })), CheckIdentityField},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newGate(t, newIdentity(t, ca, "", "")).says(c.identity, nil); got != c.want {
				t.Errorf("check %q, want %q", got, c.want)
			}
		})
	}
}

func TestMDMIdentityWithoutTLSIsNone(t *testing.T) {
	refusal := newIdentity(t, newMDMCA(t, "MDM CA"), "", "").Check(httptest.NewRequest("GET", "/", nil), issuance.Device{UDID: testUDID}, testNow)
	if refusal == nil || refusal.Check != CheckIdentityShown {
		t.Errorf("got %v", refusal)
	}
	if refusal := new(MDMIdentity).Check(httptest.NewRequest("GET", "/", nil), issuance.Device{}, testNow); refusal == nil {
		t.Error("the zero MDMIdentity lets somebody in")
	}
}

func TestMDMIdentityFields(t *testing.T) {
	ca := newMDMCA(t, "MDM CA")
	san := func(dns, email, uri string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(uri)
			if err != nil {
				t.Fatal(err)
			}
			c.DNSNames, c.EmailAddresses, c.URIs = []string{"first.example.com", dns}, []string{email}, []*url.URL{u}
		}
	}
	identity := ca.identity("sam", san("C02XK1.devices.example.com", "sam@example.com", "urn:device:"+testSerial))
	sum := sha256.Sum256(identity.Leaf.Raw)
	fingerprint := hex.EncodeToString(sum[:])
	known := issuance.Device{Serial: testSerial, UDID: testUDID, Labels: map[string]string{"owner": "sam"}, MDMFingerprint: fingerprint}
	for name, c := range map[string]struct {
		field  IdentityField
		value  string
		change func(*issuance.Device)
		want   string
	}{
		"common name":                 {FieldCommonName, "{device.labels.owner}", nil, ""},
		"common name in another case": {FieldCommonName, "{device.labels.owner}", func(d *issuance.Device) { d.Labels = map[string]string{"owner": "Sam"} }, CheckIdentityField},
		"label not set":               {FieldCommonName, "{device.labels.owner}", func(d *issuance.Device) { d.Labels = nil }, CheckIdentityDevice},
		"dns":                         {FieldDNS, "{device.serial}.Devices.example.com", nil, ""},
		"dns of another":              {FieldDNS, "{device.udid}.devices.example.com", nil, CheckIdentityField},
		"email":                       {FieldEmail, "{device.labels.owner}@example.com", nil, ""},
		"email of another":            {FieldEmail, "{device.serial}@example.com", nil, CheckIdentityField},
		"uri":                         {FieldURI, "urn:device:{device.serial}", nil, ""},
		"uri of another":              {FieldURI, "urn:device:{device.udid}", nil, CheckIdentityField},
		"fingerprint":                 {FieldFingerprint, "", nil, ""},
		"fingerprint in capitals":     {FieldFingerprint, "", func(d *issuance.Device) { d.MDMFingerprint = strings.ToUpper(fingerprint) }, ""},
		"another fingerprint":         {FieldFingerprint, "", func(d *issuance.Device) { d.MDMFingerprint = strings.Repeat("ab", 32) }, CheckIdentityField},
		"no fingerprint":              {FieldFingerprint, "", func(d *issuance.Device) { d.MDMFingerprint = "" }, CheckIdentityDevice},
		"no serial":                   {FieldURI, "urn:device:{device.serial}", func(d *issuance.Device) { d.Serial = "" }, CheckIdentityDevice},
		"no device":                   {FieldCommonName, "{device.udid}", func(d *issuance.Device) { *d = issuance.Device{} }, CheckIdentityDevice},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, newIdentity(t, ca, c.field, c.value))
			g.device = known
			if c.change != nil {
				c.change(&g.device)
			}
			if got := g.says(&identity, nil); got != c.want {
				t.Errorf("check %q, want %q", got, c.want)
			}
		})
	}
}

// A device without a UDID must not open to an identity that says nothing, nor the other way round.
func TestEmptyNeverMatchesEmpty(t *testing.T) {
	ca := newMDMCA(t, "MDM CA")
	nameless := ca.identity("")
	g := newGate(t, newIdentity(t, ca, FieldCommonName, "{device.udid}"))
	g.device = issuance.Device{ID: "dev_1", Serial: testSerial}
	if got := g.says(&nameless, nil); got != CheckIdentityDevice {
		t.Errorf("check %q", got)
	}
}

// clientCert is the RFC 9440 form of a chain.
func clientCert(chain ...[]byte) http.Header {
	h := http.Header{}
	item := func(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }
	h.Set("Client-Cert", item(chain[0]))
	for _, der := range chain[1:] {
		h.Add("Client-Cert-Chain", item(der))
	}
	return h
}

func TestMDMIdentityFromAProxy(t *testing.T) {
	ca := newMDMCA(t, "MDM CA")
	middle := ca.sub("MDM Sub CA")
	identity, other := below(middle.identity(testUDID), middle), ca.identity("00008110-000B")
	good := clientCert(identity.Certificate...)
	with := func(change func(http.Header)) http.Header {
		h := good.Clone()
		change(h)
		return h
	}
	const here, elsewhere = "127.0.0.0/8", "10.0.0.1"
	for name, c := range map[string]struct {
		proxy  string
		tls    *tls.Certificate
		header http.Header
		want   string
	}{
		"a trusted one": {here, nil, good, ""},
		"one list": {here, nil, with(func(h http.Header) {
			h.Set("Client-Cert-Chain", h.Get("Client-Cert-Chain")+", "+h.Get("Client-Cert-Chain"))
		}), ""},
		"one that is not trusted":          {elsewhere, nil, good, CheckIdentityShown},
		"none is trusted":                  {"", nil, good, CheckIdentityShown},
		"header of a device with TLS":      {elsewhere, &other, good, CheckIdentityField},
		"a trusted one's own TLS identity": {here, &identity, nil, CheckIdentityShown},
		"its header beats its own":         {here, &other, good, ""},
		"of another device":                {here, nil, clientCert(other.Certificate...), CheckIdentityField},
		"two Client-Cert":                  {here, nil, with(func(h http.Header) { h.Add("Client-Cert", h.Get("Client-Cert")) }), CheckIdentityHeader},
		"a list in Client-Cert":            {here, nil, with(func(h http.Header) { h.Set("Client-Cert", h.Get("Client-Cert")+","+h.Get("Client-Cert")) }), CheckIdentityHeader},
		"PEM as other proxies send it":     {here, nil, with(func(h http.Header) { h.Set("Client-Cert", "-----BEGIN%20CERTIFICATE-----") }), CheckIdentityHeader},
		"a string":                         {here, nil, with(func(h http.Header) { h.Set("Client-Cert", `"MIIB"`) }), CheckIdentityHeader},
		"no certificate":                   {here, nil, with(func(h http.Header) { h.Set("Client-Cert", ":AAAA:") }), CheckIdentityHeader},
		"an empty one":                     {here, nil, http.Header{"Client-Cert": {""}}, CheckIdentityShown},
		"empty ones":                       {here, nil, http.Header{"Client-Cert": {" "}, "Client-Cert-Chain": {""}}, CheckIdentityShown},
		"an empty one with a chain":        {here, nil, with(func(h http.Header) { h.Set("Client-Cert", "") }), CheckIdentityHeader},
		"bytes behind the certificate":     {here, nil, clientCert(append(bytes.Clone(identity.Certificate[0]), 0)), CheckIdentityHeader},
		"no certificate in the chain":      {here, nil, with(func(h http.Header) { h.Set("Client-Cert-Chain", ":AAAA:") }), CheckIdentityHeader},
		"an inner list in the chain":       {here, nil, with(func(h http.Header) { h.Set("Client-Cert-Chain", "("+h.Get("Client-Cert-Chain")+")") }), CheckIdentityHeader},
		"a broken chain":                   {here, nil, with(func(h http.Header) { h.Set("Client-Cert-Chain", ":AAAA") }), CheckIdentityHeader},
		"a chain alone":                    {here, nil, with(func(h http.Header) { h.Del("Client-Cert") }), CheckIdentityHeader},
		"six certificates":                 {here, nil, clientCert(identity.Certificate[0], middle.certificate.Raw, middle.certificate.Raw, middle.certificate.Raw, middle.certificate.Raw, middle.certificate.Raw), CheckIdentityLength},
		"more bytes than certificates have": {here, nil, with(func(h http.Header) {
			h.Set("Client-Cert", h.Get("Client-Cert")+`;x="`+strings.Repeat("x", maxIdentityHeader)+`"`)
		}), CheckIdentityHeader},
		"without its intermediate": {here, nil, clientCert(identity.Certificate[0]), CheckIdentityChain},
	} {
		t.Run(name, func(t *testing.T) {
			var proxies []string
			if c.proxy != "" {
				proxies = []string{c.proxy}
			}
			if got := newGate(t, newIdentity(t, ca, "", "", proxies...)).says(c.tls, c.header); got != c.want {
				t.Errorf("check %q, want %q", got, c.want)
			}
		})
	}
}

func TestTrustedProxiesAreAddressesAndPrefixes(t *testing.T) {
	ca := newMDMCA(t, "MDM CA")
	m := newIdentity(t, ca, "", "", "192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.1", "10.1.2.3/8")
	for remote, want := range map[string]bool{
		"192.0.2.7:443": true, "192.0.2.8:443": false, "[::ffff:192.0.2.7]:443": true, "[2001:db8::1]:443": true, "[2001:db9::1]:443": false,
		"198.51.100.1:1": true, "10.255.0.1:1": true, "11.0.0.1:1": false, "[fe80::1%eth0]:1": false, "@": false, "": false,
	} {
		if got := m.trusts(remote); got != want {
			t.Errorf("trusts %q: %v", remote, got)
		}
	}
}

func TestNewMDMIdentityRefuses(t *testing.T) {
	cas := []*x509.Certificate{newMDMCA(t, "MDM CA").certificate}
	for name, c := range map[string]struct {
		cas     []*x509.Certificate
		field   IdentityField
		value   string
		proxies []string
		says    string
	}{
		"no CA":                   {nil, "", "", nil, "no CA"},
		"unknown field":           {cas, "serialNumber", "{device.serial}", nil, "serialNumber"},
		"fingerprint with value":  {cas, FieldFingerprint, "{device.udid}", nil, "takes no value"},
		"no placeholder":          {cas, FieldDNS, "mdm.example.com", nil, "names no device"},
		"optional placeholder":    {cas, FieldDNS, "d{device.udid?}.example.com", nil, "optional"},
		"unknown placeholder":     {cas, FieldDNS, "{device.name}", nil, "no placeholder"},
		"proxy that is no prefix": {cas, "", "", []string{"proxy.example.com"}, "proxy.example.com"},
		"everybody a proxy":       {cas, "", "", []string{"0.0.0.0/0"}, "every address"},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := NewMDMIdentity(c.cas, c.field, c.value, c.proxies); err == nil || m != nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
}

func TestEveryIdentityCheckHasAdvice(t *testing.T) {
	for _, check := range []string{CheckIdentityHeader, CheckIdentityShown, CheckIdentityLength, CheckIdentityExpired, CheckIdentityChain, CheckIdentityDevice, CheckIdentityField, CheckListener} {
		if fetchAdvice(check) == "" {
			t.Errorf("no advice on %s", check)
		}
	}
}
