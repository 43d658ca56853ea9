package counterpart

import (
	"crypto/rand"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"assay/enroll"
	"assay/enroll/ddm"
)

// TestNanoMDMKnowsADeviceByItsIdentity: by the signature of its messages, or by the header that a
// proxy passes the certificate in, and by nothing else.
func TestNanoMDMKnowsADeviceByItsIdentity(t *testing.T) {
	Require(t, "nanomdm")
	var ca, other mdmCA
	caFile := ca.make(t)
	other.make(t)
	const nobody = "http://127.0.0.1:1"
	direct := StartNanoMDM(t, FreeAddress(t), nobody, caFile, nil)
	proxied := StartNanoMDM(t, FreeAddress(t), nobody, caFile, nil, "-cert-header", "Client-Cert")
	for name, c := range map[string]struct {
		url, header string
		ca          *mdmCA
		status      int // of the refusal; 0: it is known
	}{
		"signature":                {direct, "", &ca, 0},
		"header":                   {proxied, "Client-Cert", &ca, 0},
		"signature of another CA":  {direct, "", &other, http.StatusBadRequest},
		"header of another CA":     {proxied, "Client-Cert", &other, http.StatusBadRequest},
		"header without a proxy":   {direct, "Client-Cert", &ca, http.StatusBadRequest},
		"signature to the proxied": {proxied, "", &ca, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			self, err := enroll.NewDevice(enroll.Mac, "", rand.Reader)
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
				Device: self, Folder: folder, Identities: identities, Keys: enroll.Keys(self),
				MDM: &ddm.MDM{URL: c.url + "/mdm", Identity: c.ca.identity(t, self.UDID), CertHeader: c.header},
			}
			_, err = device.Connect(t.Context())
			refused, ok := errors.AsType[*ddm.MDMError](err)
			if c.status == 0 && err != nil || c.status != 0 && (!ok || refused.Status != c.status) {
				t.Errorf("%v, want status %d", err, c.status)
			}
		})
	}
}
