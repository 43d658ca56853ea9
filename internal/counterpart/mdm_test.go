package counterpart

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/enroll"
	"assay/enroll/ddm"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/delivery"
	"assay/internal/installation"
	"assay/internal/issuance"
)

// managed is an installation beside NanoMDM and KMFDDM, which manage simulated devices: all of it on
// loopback, and wired as the documentation says.
type managed struct {
	*site
	*client.Client
	ca     mdmCA
	mdm    string // NanoMDM's URL
	kmfddm string
}

// mdmCA issues the identities that devices show to their MDM.
type mdmCA struct {
	key         any
	certificate *x509.Certificate
}

const chainTemplate = `version: 1
targets: [ios]
document:
  KeyType: ECSECPrimeRandom
  KeySize: 384
  HardwareBound: true
  Attest: true
  Subject: [[["O", "Example Inc."]], [["CN", "{device.serial}"]]]
  ExtendedKeyUsage: ["1.3.6.1.5.5.7.3.2"]
authentication: %s
revokeSuperseded: true
`

func newManaged(t *testing.T) *managed {
	t.Helper()
	Require(t, "nanomdm") // before anything else is started
	Require(t, "kmfddm")
	nanoMDM := FreeAddress(t)
	m := &managed{kmfddm: StartKMFDDM(t, "http://"+nanoMDM)}
	caFile := m.ca.make(t)
	m.site = newSiteIn(t, func(dir string) { m.configure(t, dir, caFile) })
	m.Client = client.New(m.Running.AdminURL, m.http.Transport, m.token(t, admin.CredentialsRead, admin.CredentialsWrite, admin.DeclarationsRead, admin.CertificatesRead))

	// NanoMDM trusts Assay's serving root, and can only put the token into the URL.
	hook, err := url.Parse(m.Running.AdminURL + "/api/v1/status/nanomdm")
	if err != nil {
		t.Fatal(err)
	}
	hook.User = url.UserPassword("nanomdm", m.token(t, admin.StatusWrite))
	root, err := m.ServingRoot()
	if err != nil {
		t.Fatal(err)
	}
	rootFile := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(rootFile, root, 0o600); err != nil {
		t.Fatal(err)
	}
	m.mdm = StartNanoMDM(t, nanoMDM, m.kmfddm, caFile, []string{"SSL_CERT_FILE=" + rootFile}, "-webhook-url", hook.String())
	return m
}

// configure adds templates and the sections that the chain needs.
func (m *managed) configure(t *testing.T, dir, caFile string) {
	t.Helper()
	folder := filepath.Join(dir, installation.TemplatesFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "assay.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	more := fmt.Sprintf(`
mdm:
  listen: 127.0.0.1:0
  ca: [%q]
  match: {field: commonName, value: "{device.udid}"}
push:
  kmfddm: {url: %q, keyFile: kmfddm.key}
`, caFile, m.kmfddm)
	for path, text := range map[string]string{
		filepath.Join(folder, "open.yaml"):   fmt.Sprintf(chainTemplate, "None"),
		filepath.Join(folder, "closed.yaml"): fmt.Sprintf(chainTemplate, "MDM"),
		filepath.Join(dir, "kmfddm.key"):     KMFDDMKey + "\n",
		filepath.Join(dir, "assay.yaml"):     string(config) + more,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// token mints a token for the admin API.
func (m *managed) token(t *testing.T, scopes ...admin.Scope) string {
	t.Helper()
	var names []string
	for _, scope := range scopes {
		names = append(names, string(scope))
	}
	value, hash, err := admin.NewToken(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if _, err := m.Store.AddToken(t.Context(), issuance.Call{Now: now}, issuance.Token{Name: "test", Scopes: names, ExpiresAt: now.Add(time.Hour)}, hash); err != nil {
		t.Fatal(err)
	}
	return value
}

func (ca *mdmCA) make(t *testing.T) (file string) {
	t.Helper()
	key := newKey(t, elliptic.P256())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "MDM CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca.key = key
	if ca.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "mdm-ca.pem")
	writePEM(t, file, "CERTIFICATE", der)
	return file
}

// identity issues a device's MDM identity.
func (ca *mdmCA) identity(t *testing.T, udid string) tls.Certificate {
	t.Helper()
	key := newKey(t, elliptic.P256())
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: udid}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, Leaf: leaf, PrivateKey: key}
}

// device makes a simulated device that the MDM manages; its MDM identity names the UDID.
func (m *managed) device(t *testing.T, identityFor func(udid string) string) *ddm.Device {
	t.Helper()
	self, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := ddm.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	identities, err := enroll.OpenStore(filepath.Join(t.TempDir(), "identities"), nil)
	if err != nil {
		t.Fatal(err)
	}
	device := &ddm.Device{
		Device: self, Folder: folder, Identities: identities, Keys: enroll.Keys(self), Attester: phoneAttester{m.authority},
		Roots: m.http.Transport.(*http.Transport).TLSClientConfig.RootCAs,
		MDM:   &ddm.MDM{URL: m.mdm + "/mdm", Identity: m.ca.identity(t, identityFor(self.UDID))},
	}
	if outcome, err := device.Connect(t.Context()); err != nil || outcome != nil {
		t.Fatalf("enrol with the MDM: %+v, %v", outcome, err)
	}
	m.subscribe(t, self.UDID)
	return device
}

// subscribe has the device report its certificates, as an administrator of the MDM does with any
// device: no MDM hears of them otherwise.
func (m *managed) subscribe(t *testing.T, enrollment string) {
	t.Helper()
	for _, call := range []struct{ path, body string }{
		{"declarations", `{"Type":"com.apple.configuration.management.status-subscriptions","Identifier":"org.subscriptions","Payload":{"StatusItems":[{"Name":"security.certificate.list"}]}}`},
		{"declarations", `{"Type":"com.apple.activation.simple","Identifier":"org.activation","Payload":{"StandardConfigurations":["org.subscriptions"]}}`},
		{"set-declarations/org?declaration=org.subscriptions", ""},
		{"set-declarations/org?declaration=org.activation", ""},
		{"enrollment-sets/" + enrollment + "?set=org", ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.kmfddm+"/v1/"+call.path, strings.NewReader(call.body))
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("kmfddm", KMFDDMKey)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNoContent && response.StatusCode != http.StatusNotModified {
			t.Fatalf("%s: %s", call.path, response.Status)
		}
	}
}

// declare gives a device the template's credential and brings it to the MDM.
func (m *managed) declare(t *testing.T, template string, device *ddm.Device) admin.Credential {
	t.Helper()
	one := admin.DeclareOne{Template: template, Declare: admin.Declare{Serial: device.Device.Serial, UDID: device.Device.UDID}}
	credential, fresh, err := m.Declare(t.Context(), one, "")
	if err != nil || !fresh {
		t.Fatalf("declare: fresh %t, %v", fresh, err)
	}
	again, fresh, err := m.Declare(t.Context(), one, "")
	if err != nil || fresh || !bytes.Equal(join(again.Declarations), join(credential.Declarations)) {
		t.Errorf("declared again: fresh %t, %v", fresh, err)
	}
	m.push(t, credential.ID)
	return credential
}

func join(declarations admin.Declarations) []byte {
	var all []byte
	for _, d := range declarations {
		all = append(all, d...)
	}
	return all
}

func (m *managed) push(t *testing.T, id string) {
	t.Helper()
	if pushed, err := m.Push(t.Context(), id); err != nil || pushed.PushError != "" {
		t.Fatalf("push: %s, %v", pushed.PushError, err)
	}
}

// await waits until a credential is as it should: NanoMDM's webhook comes after its answer to the
// device.
func (m *managed) await(t *testing.T, id, what string, as func(admin.Credential) bool) admin.Credential {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		credential, _, err := m.Credential(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if as(credential) {
			return credential
		}
		if time.Now().After(deadline) {
			said, _ := json.Marshal(credential)
			t.Fatalf("the credential does not become %s: %s", what, said)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitStage waits until a credential is diagnosed with a stage.
func (m *managed) awaitStage(t *testing.T, id string, stage delivery.Stage) admin.Credential {
	t.Helper()
	return m.await(t, id, string(stage), func(c admin.Credential) bool { return c.Diagnosis.Stage == string(stage) })
}

// awaitInstalled waits until the device has said that it holds the certificate.
func (m *managed) awaitInstalled(t *testing.T, id, fingerprint string) admin.Credential {
	t.Helper()
	return m.await(t, id, "installed", func(c admin.Credential) bool {
		return c.Diagnosis.Stage == string(delivery.StageInstalled) && c.Report != nil && c.Report.Installed == fingerprint
	})
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
