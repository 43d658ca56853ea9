package counterpart

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
	"assay/credential"
	"assay/enroll"
)

// stepCA is a step-ca server in a process of its own, on loopback.
type stepCA struct {
	url   string
	roots *x509.CertPool
}

// newStepCA configures a CA with one ACME provisioner that accepts Apple attestations under the
// given root, and serves until the test ends.
func newStepCA(t *testing.T, program string, attestationRoot []byte) *stepCA {
	t.Helper()
	dir := t.TempDir()
	ca := &stepCA{roots: x509.NewCertPool()}
	ca.makeAuthority(t, dir)
	address := FreeAddress(t)
	ca.url = "https://" + address
	config, err := json.Marshal(map[string]any{
		"root": filepath.Join(dir, "root.pem"), "crt": filepath.Join(dir, "issuing.pem"), "key": filepath.Join(dir, "issuing.key"),
		"address": address, "dnsNames": []string{"127.0.0.1"}, "logger": map[string]any{"format": "text"},
		"db": map[string]any{"type": "badgerv2", "dataSource": filepath.Join(dir, "db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "ACME", "name": "devices", "challenges": []string{"device-attest-01"},
			"attestationFormats": []string{"apple"}, "attestationRoots": base64.StdEncoding.EncodeToString(attestationRoot),
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(dir, "ca.json")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		t.Fatal(err)
	}
	Start(t, program, address, []string{"STEPPATH=" + dir}, configFile)
	return ca
}

// makeAuthority makes step-ca's root and issuing CA, with keys of no worth.
func (ca *stepCA) makeAuthority(t *testing.T, dir string) {
	t.Helper()
	var parent *x509.Certificate
	parentKey := newKey(t, elliptic.P256())
	key := parentKey
	for n, name := range []string{"root", "issuing"} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(n + 1)), Subject: pkix.Name{CommonName: "step-ca " + name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		if parent == nil {
			parent = template
		} else {
			key = newKey(t, elliptic.P256())
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, filepath.Join(dir, name+".pem"), "CERTIFICATE", der)
		writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", secret)
		if name == "root" {
			ca.roots.AddCert(parent)
		}
	}
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// phoneAttester attests the simulated device as it describes itself.
type phoneAttester struct{ authority *standin.Authority }

func (a phoneAttester) Attest(_ context.Context, r enroll.AttestRequest) ([]byte, error) {
	return a.authority.Attest(standin.Subject{
		PublicKey: r.Key.Public(), Token: r.Token, Now: time.Now(),
		Device: standin.Device{Serial: r.Device.Serial, UDID: r.Device.UDID, ProductType: r.Device.ProductType, OSVersion: r.Device.OSVersion},
	})
}

// enrol lets a simulated iPhone order a certificate with its serial number, the only identifier,
// beside the UDID, that step-ca takes of an Apple device.
func (ca *stepCA) enrol(t *testing.T, authority *standin.Authority, change func(*enroll.Device, *credential.Credential)) (*enroll.Result, error) {
	t.Helper()
	device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	document := credential.New(ca.url+"/acme/devices/directory", device.Serial, credential.Subject{{{"CN", device.Serial}}})
	if change != nil {
		change(device, document)
	}
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Attester: phoneAttester{authority}, Roots: ca.roots}
	return client.Enroll(t.Context(), document)
}

func TestSimulatedDeviceEnrolsWithStepCA(t *testing.T) {
	program := Require(t, "step-ca")
	authority, rootFile := newAuthority(t)
	root, err := os.ReadFile(rootFile)
	if err != nil {
		t.Fatal(err)
	}
	ca := newStepCA(t, program, root)

	result, err := ca.enrol(t, authority, nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Evidence != attest.Attested || result.Certificate.Subject.CommonName != result.Device.Serial {
		t.Errorf("evidence %s, subject %s", result.Evidence, result.Certificate.Subject)
	}
	intermediates := x509.NewCertPool()
	intermediates.AppendCertsFromPEM(result.Chain)
	if _, err := result.Certificate.Verify(x509.VerifyOptions{Roots: ca.roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}

	// A foreign server's refusals are understood, too.
	other, _ := newAuthority(t)
	for name, c := range map[string]struct {
		authority *standin.Authority
		change    func(*enroll.Device, *credential.Credential)
	}{
		"another authority":      {other, nil},
		"another serial number":  {authority, func(_ *enroll.Device, c *credential.Credential) { c.ClientIdentifier = "FAKE00000002" }},
		"a chip without attests": {authority, func(d *enroll.Device, _ *credential.Credential) { d.Chip, d.OSVersion = "A9", "15.8" }},
	} {
		_, err := ca.enrol(t, c.authority, c.change)
		if abort, ok := errors.AsType[*enroll.Abort](err); !ok || abort.Step != enroll.StepChallenge && abort.Step != enroll.StepFinalize {
			t.Errorf("%s: %v", name, err)
		}
	}
}
