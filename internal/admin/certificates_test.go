package admin_test

import (
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/issuance"
)

func TestCertificateIsFoundByIdAndBySerialInAnySpelling(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.CertificatesRead)
	cert := r.bench.Issued()
	spaced := ""
	for i := 0; i < len(cert.Serial); i += 2 {
		spaced += ":" + strings.ToUpper(cert.Serial[i:i+2])
	}
	for _, name := range []string{string(cert.ID), cert.Serial, "0" + cert.Serial, spaced[1:]} {
		got := must[admin.CertificateDetail](t)(api.Certificate(t.Context(), name))
		block, _ := pem.Decode([]byte(got.PEM))
		if got.ID != string(cert.ID) || got.Status != "valid" || got.DeviceSerial != "C02XK1" || block == nil || !slices.Equal(block.Bytes, cert.DER) ||
			got.Facts == nil || got.Facts.Format != "apple" || got.Decided == nil || len(got.Warnings) == 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, name := range []string{"cert_x", "12", "no hex", "-12", strings.Repeat("f", 128)} {
		_, err := api.Certificate(t.Context(), name)
		wantRefused(t, err, http.StatusNotFound, "not-found")
	}
}

func TestRevokedCertificateNamesItsReason(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.CertificatesWrite)
	cert := r.bench.Issued()
	_, err := api.RevokeCertificate(t.Context(), cert.Serial, "boredom")
	if p := wantRefused(t, err, http.StatusUnprocessableEntity, "invalid-request"); !strings.Contains(p.Error(), "keyCompromise") || !strings.Contains(p.Error(), "aACompromise") {
		t.Errorf("the problem does not name the reasons: %v", p)
	}
	got := must[admin.Certificate](t)(api.RevokeCertificate(t.Context(), cert.Serial, "cessationOfOperation"))
	if got.Status != "revoked" || got.RevokedReason != "cessationOfOperation" || got.RevokedAt.IsZero() {
		t.Errorf("got %+v", got)
	}
	_, err = api.RevokeCertificate(t.Context(), string(cert.ID), "")
	wantRefused(t, err, http.StatusConflict, "certificate-valid")
	_, err = api.RevokeCertificate(t.Context(), "cert_x", "")
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestCertificatesAreListedByWhatTheyAreNow(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.CertificatesRead, admin.CertificatesWrite)
	var all []string
	for range 3 {
		all = append(all, string(r.bench.Issued().ID))
		r.wait(24 * time.Hour)
	}
	must[admin.Certificate](t)(api.RevokeCertificate(t.Context(), all[0], ""))
	list := func(f client.CertificateFilter) []string {
		var ids []string
		for _, c := range collect(t, api.Certificates(t.Context(), f)) {
			ids = append(ids, c.ID)
		}
		return ids
	}
	want := func(name string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	want("all", list(client.CertificateFilter{}), all)
	want("revoked", list(client.CertificateFilter{Status: "revoked"}), all[:1])
	want("never collected", list(client.CertificateFilter{NeverCollected: true}), all[1:])
	want("by serial", list(client.CertificateFilter{DeviceSerial: "C02XK1"}), all)
	want("of nobody", list(client.CertificateFilter{DeviceSerial: "OTHER"}), nil)
	r.wait(88 * 24 * time.Hour) // the second ended now, the third ends tomorrow
	api = r.client(admin.CertificatesRead)
	want("expired", list(client.CertificateFilter{Status: "expired"}), all[1:2])
	want("valid", list(client.CertificateFilter{Status: "valid"}), all[2:])
	want("expiring", list(client.CertificateFilter{ExpiringBefore: r.Now().Add(30 * 24 * time.Hour)}), all[2:])
	want("expiring later", list(client.CertificateFilter{ExpiringBefore: r.Now()}), nil)
}

func TestReservedSerialIsShownAsSuch(t *testing.T) {
	r := newRig(t, nil)
	_, value := r.bench.Mint()
	_, cert := r.bench.Claimed(value)
	got := must[admin.CertificateDetail](t)(r.client().Certificate(t.Context(), string(cert.ID)))
	if got.Status != string(issuance.CertificateReserved) || got.PEM != "" {
		t.Errorf("got %+v", got)
	}
}
