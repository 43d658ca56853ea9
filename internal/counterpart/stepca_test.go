package counterpart

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
	"assay/credential"
	"assay/enroll"
	"assay/internal/counterpart/stepca"
)

// stepCA is a step-ca server in a process of its own, on loopback.
type stepCA struct {
	url   string
	roots *x509.CertPool
}

// newStepCA serves until the test ends, and accepts Apple attestations under the given root.
func newStepCA(t *testing.T, program string, attestationRoot []byte) *stepCA {
	t.Helper()
	dir, address := t.TempDir(), FreeAddress(t)
	config, roots, err := stepca.Configure(dir, address, attestationRoot, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	Start(t, program, address, []string{"STEPPATH=" + dir}, config)
	return &stepCA{"https://" + address, roots}
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
	document := credential.New(ca.url+stepca.DirectoryPath, device.Serial, credential.Subject{{{"CN", device.Serial}}})
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
