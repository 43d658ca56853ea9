package installation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/issuance"
)

const phoneTemplate = `version: 1
document: {KeyType: ECSECPrimeRandom, KeySize: 384, HardwareBound: true, Attest: true, Subject: [[["CN", "{device.serial}"]]]}
`

// writeTemplate puts a credential template into an installation.
func writeTemplate(t *testing.T, dir, name, text string) {
	t.Helper()
	folder := filepath.Join(dir, TemplatesFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request to the admin API in this process, as an operator, and decodes the answer.
func ask[T any](t *testing.T, i *Installation, method, path, body string) (status int, out T) {
	t.Helper()
	api, err := i.API("operator:test")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, admin.Prefix+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Code, out
}

func declared(t *testing.T, i *Installation, body string) admin.Credential {
	t.Helper()
	status, c := ask[admin.Credential](t, i, "POST", "/credentials", body)
	if status != http.StatusCreated {
		t.Fatalf("declare: status %d, %+v", status, c)
	}
	return c
}

// dataURL is where a declared document lies.
func dataURL(t *testing.T, c admin.Credential) string {
	t.Helper()
	var asset struct {
		Payload struct{ Reference struct{ DataURL string } }
	}
	if err := json.Unmarshal(c.Declarations[0], &asset); err != nil {
		t.Fatal(err)
	}
	return asset.Payload.Reference.DataURL
}

func TestAdminListenerNeedsATokenAndServesNothingElse(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	s := serve(t, i)
	web := client(t, trusting(t, i))
	value, hash, err := admin.NewToken(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.Store.AddToken(t.Context(), issuance.Call{Now: time.Now()}, issuance.Token{Name: "test", Scopes: []string{string(admin.CodesRead)}, ExpiresAt: time.Now().Add(time.Hour)}, hash)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url, token string
		want       int
	}{
		{s.AdminURL + admin.Prefix + "/codes", "", http.StatusUnauthorized},
		{s.AdminURL + admin.Prefix + "/codes", value, http.StatusOK},
		{s.AdminURL + admin.Prefix + "/certificates", value, http.StatusForbidden},
		{s.AdminURL + admin.Prefix + "/openapi.json", "", http.StatusOK},
		{s.AdminURL + "/acme/default/directory", value, http.StatusNotFound},
		{s.BaseURL + admin.Prefix + "/codes", value, http.StatusNotFound},
		{s.BaseURL + "/acme/default/directory", "", http.StatusOK},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		answer, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != c.want {
			t.Errorf("%s with token %t: %d, want %d", c.url, c.token != "", answer.StatusCode, c.want)
		}
	}
	if url := runningURL(dir, adminURLFile); url != s.AdminURL {
		t.Errorf("the admin API is found at %q", url)
	}
}

// mdmCA issues MDM identities.
type mdmCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newMDMCA(t *testing.T, file string) *mdmCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "FAKE MDM CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &mdmCA{cert, key}
}

func (ca *mdmCA) identity(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestMDMListenerGivesEachDocumentToItsDeviceAlone(t *testing.T) {
	dir, _ := initialized(t, nil)
	ca := newMDMCA(t, filepath.Join(dir, "mdm-ca.pem"))
	edit(t, dir, "listen: 127.0.0.1:0\nadmin:", "listen: 127.0.0.1:0\nmdm: {listen: '127.0.0.1:0', ca: [mdm-ca.pem], match: {field: commonName, value: '{device.udid}'}}\nadmin:")
	writeTemplate(t, dir, "phone", phoneTemplate+"authentication: MDM\n")
	i := opened(t, dir)
	s := serve(t, i)
	c := declared(t, i, `{"template": "phone", "serial": "FAKE1", "udid": "00008110-FACADE0000000001"}`)
	url := dataURL(t, c)
	if !strings.HasPrefix(url, s.MDMURL+"/") {
		t.Fatalf("document at %s, but the MDM listener is %s", url, s.MDMURL)
	}
	fetch := func(url string, identities ...tls.Certificate) (int, string) {
		config := trusting(t, i)
		config.Certificates = identities
		answer, err := client(t, config).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	if status, body := fetch(url); status != http.StatusForbidden || !strings.Contains(body, "no-identity") {
		t.Errorf("without an identity: %d %s", status, body)
	}
	if status, body := fetch(url, ca.identity(t, "00008110-FACADE0000000002")); status != http.StatusForbidden || !strings.Contains(body, "identity-field") {
		t.Errorf("another device's identity: %d %s", status, body)
	}
	if status, _ := fetch(strings.Replace(url, s.MDMURL, s.BaseURL, 1), ca.identity(t, "00008110-FACADE0000000001")); status != http.StatusNotFound {
		t.Errorf("on the main listener: %d", status)
	}
	if status, body := fetch(url, ca.identity(t, "00008110-FACADE0000000001")); status != http.StatusOK || !strings.Contains(body, "ClientIdentifier") {
		t.Errorf("its own identity: %d %s", status, body)
	}
}

func TestUpkeepRendersWhatIsDue(t *testing.T) {
	dir, _ := initialized(t, nil)
	writeTemplate(t, dir, "phone", phoneTemplate)
	i := opened(t, dir)
	running := &Running{BaseURL: "https://127.0.0.1:8443", Directories: map[string]string{"default": "https://127.0.0.1:8443/acme/default/directory"}}
	i.Config.URL = running.BaseURL
	log := slog.New(slog.DiscardHandler)
	first := declared(t, i, `{"template": "phone", "serial": "FAKE1"}`)
	d, err := i.serving(running, log)
	if err != nil {
		t.Fatal(err)
	}
	round := func(wantRevision int) {
		t.Helper()
		if err := d.work(t.Context(), i, log); err != nil {
			t.Fatal(err)
		}
		if _, c := ask[admin.Credential](t, i, "GET", "/credentials/"+first.ID, ""); c.Revision != wantRevision {
			t.Errorf("revision %d, want %d", c.Revision, wantRevision)
		}
	}
	round(1)
	later := time.Now().Add(31 * 24 * time.Hour) // nobody fetched the document, and its code has ended
	i.now = func() time.Time { return later }
	round(2)
	round(2)
}

func TestFaultyTemplateStopsTheStartButNoOtherCommand(t *testing.T) {
	dir, _ := initialized(t, nil)
	writeTemplate(t, dir, "phone", "version: 1\ndocument: {}\n")
	i := opened(t, dir)
	err := i.Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)})
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "phone.yaml") {
		t.Errorf("Serve says %v", err)
	}
	if status, _ := ask[admin.List[admin.Code]](t, i, "GET", "/codes", ""); status != http.StatusOK {
		t.Errorf("codes: %d", status)
	}
	if status, p := ask[admin.Problem](t, i, "GET", "/templates", ""); status != http.StatusServiceUnavailable || p.Check != "templates-readable" || !strings.Contains(p.Detail, "phone.yaml") {
		t.Errorf("templates: %d %+v", status, p)
	}
}

func TestProfileBringsWhatADeviceHasToTrust(t *testing.T) {
	dir, _ := initialized(t, nil)
	writeTemplate(t, dir, "phone", phoneTemplate)
	i := opened(t, dir)
	i.Config.URL = "https://id.example.com"
	trust, err := i.profileTrust()
	if err != nil {
		t.Fatal(err)
	}
	for n, file := range []string{"serving-root.pem", "issuing.pem"} {
		certs, err := readCertificates(filepath.Join(dir, certsFolder, file))
		if err != nil {
			t.Fatal(err)
		}
		if len(trust) != 2 || !bytes.Equal(trust[n], certs[0].Raw) {
			t.Errorf("certificate %d of %d is not %s", n, len(trust), file)
		}
	}
}

func TestServerRendersWhatIsDueByItself(t *testing.T) {
	dir, _ := initialized(t, nil)
	writeTemplate(t, dir, "phone", phoneTemplate)
	i := opened(t, dir)
	i.Config.URL = "https://127.0.0.1:8443"
	first := declared(t, i, `{"template": "phone", "serial": "FAKE1"}`)
	later := time.Now().Add(31 * 24 * time.Hour)
	i.now = func() time.Time { return later }
	serve(t, i)
	await(t, "the server runs, and what is due is rendered", func() bool {
		_, c := ask[admin.Credential](t, i, "GET", "/credentials/"+first.ID, "")
		return c.Revision == 2
	})
}
