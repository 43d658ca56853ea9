package counterpart

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"testing"

	"assay/enroll"
	"assay/enroll/ddm"
	"assay/internal/admin"
	"assay/internal/delivery"
)

func itself(udid string) string { return udid }

// connect lets a device connect; it must be told to synchronize.
func connect(t *testing.T, device *ddm.Device) *ddm.Outcome {
	t.Helper()
	outcome, err := device.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if outcome == nil {
		t.Fatal("the MDM did not ask the device to synchronize")
	}
	return outcome
}

// enrolled lets a device connect, which must get one identity, and returns its certificate.
func enrolled(t *testing.T, device *ddm.Device) (*enroll.Identity, *x509.Certificate) {
	t.Helper()
	outcome := connect(t, device)
	if len(outcome.Enrolled) != 1 || len(outcome.Failed) > 0 || !outcome.Reported {
		t.Fatalf("outcome %+v", outcome)
	}
	_, certificate, err := outcome.Enrolled[0].Open(device.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return outcome.Enrolled[0], certificate
}

// TestCredentialReachesADeviceThroughNanoMDM follows a credential from its template to the device and
// back: pushed to KMFDDM, fetched, enrolled for, reported, renewed, withdrawn.
func TestCredentialReachesADeviceThroughNanoMDM(t *testing.T) {
	m := newManaged(t)
	for _, template := range []string{"open", "closed"} { // Authentication None and MDM
		t.Run(template, func(t *testing.T) {
			device := m.device(t, itself)
			credential := m.declare(t, template, device)

			first, certificate := enrolled(t, device)
			if certificate.Subject.CommonName != device.Device.Serial {
				t.Errorf("subject %s", certificate.Subject)
			}
			reported := m.awaitInstalled(t, credential.ID, first.CertificateSHA)
			if reported.State != string(delivery.StateEnrolled) {
				t.Errorf("state %s", reported.State)
			}
			if a := reported.Report.Asset; a == nil || !a.Active || a.Valid != "valid" || a.Identifier != credential.AssetIdentifier {
				t.Errorf("asset %+v", a)
			}
			m.wantNothingNew(t, device)

			renewed, err := m.Renew(t.Context(), credential.ID, "", "")
			if err != nil || renewed.AssetToken == credential.AssetToken || renewed.AssetIdentifier != credential.AssetIdentifier {
				t.Fatalf("renewed %+v, %v", renewed, err)
			}
			m.push(t, credential.ID)
			second, next := enrolled(t, device)
			if next.PublicKey.(*ecdsa.PublicKey).Equal(certificate.PublicKey) || second.Serial == first.Serial {
				t.Errorf("renewed %s as %s, the same key or certificate", first.Serial, second.Serial)
			}
			reported = m.awaitInstalled(t, credential.ID, second.CertificateSHA)
			old, err := m.Certificate(t.Context(), first.Serial)
			if err != nil || old.SupersededBy != reported.Certificate || old.Status != "revoked" || old.RevokedReason != "superseded" {
				t.Errorf("old certificate %+v, %v", old.Certificate, err)
			}
			m.wantNothingNew(t, device)

			if _, err := m.Withdraw(t.Context(), credential.ID, ""); err != nil {
				t.Fatal(err)
			}
			m.push(t, credential.ID)
			if outcome := connect(t, device); len(outcome.Removed) != 1 || outcome.Removed[0] != credential.AssetIdentifier || len(device.Held()) > 0 {
				t.Errorf("outcome %+v, holds %v", outcome, device.Held())
			}
		})
	}
}

// wantNothingNew lets a device connect, and even synchronize, which must change nothing.
func (m *managed) wantNothingNew(t *testing.T, device *ddm.Device) {
	t.Helper()
	if outcome, err := device.Connect(t.Context()); err != nil || outcome != nil {
		t.Errorf("connected once more: %+v, %v", outcome, err)
	}
	outcome, err := device.Sync(t.Context(), nil)
	if err != nil || len(outcome.Fetched)+len(outcome.Enrolled)+len(outcome.Failed) > 0 || outcome.Reported {
		t.Errorf("synchronized once more: %+v, %v", outcome, err)
	}
}

// TestDeviceWithAnothersMDMIdentityGetsNothing: the document is its device's alone, and an operator
// learns what the device may not.
func TestDeviceWithAnothersMDMIdentityGetsNothing(t *testing.T) {
	m := newManaged(t)
	device := m.device(t, func(string) string { return "00008110-FACADE00000000FF" })
	credential := m.declare(t, "closed", device)
	outcome := connect(t, device)
	if len(outcome.Failed) != 1 || len(outcome.Enrolled) > 0 {
		t.Fatalf("outcome %+v", outcome)
	}
	if asset, ok := errors.AsType[*enroll.AssetError](outcome.Failed[0].Err); !ok || asset.Check != "download" {
		t.Errorf("failed with %v", outcome.Failed[0].Err)
	}
	reported := m.awaitStage(t, credential.ID, delivery.StageFetchRefused)
	if reported.Diagnosis.Advice == "" {
		t.Errorf("diagnosis %+v", reported.Diagnosis)
	}
}

// TestRefusedEnrolmentIsReportedByTheDevice: the device says only that it could not download, the
// server knows why.
func TestRefusedEnrolmentIsReportedByTheDevice(t *testing.T) {
	m := newManaged(t)
	device := m.device(t, itself)
	credential := m.declare(t, "open", device)
	other, _ := newAuthority(t)
	device.Attester = phoneAttester{other}
	if outcome := connect(t, device); len(outcome.Failed) != 1 || !outcome.Reported {
		t.Fatalf("outcome %+v", outcome)
	}
	m.awaitStage(t, credential.ID, delivery.StageACMERefused)
	reported := m.await(t, credential.ID, "reported", func(c admin.Credential) bool { return c.Report != nil && c.Report.Asset != nil })
	if a := reported.Report.Asset; a.Active || a.Valid != "invalid" || len(a.Reasons) != 1 || a.Reasons[0].Code != ddm.AssetCannotBeDownloaded {
		t.Errorf("asset %+v", a)
	}
}
