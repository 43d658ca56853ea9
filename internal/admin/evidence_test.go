package admin_test

import (
	"archive/zip"
	"bytes"
	"io"
	"io/fs"
	"net/http"
	"testing"
	"time"

	"assay/attest"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/evidence"
	"assay/internal/issuance"
)

func TestEvidenceIsListedShownAndVerifiedAgain(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.EvidenceRead)
	cert := r.bench.Issued()
	r.wait(time.Hour)
	held, _ := r.heldNow()
	if got := collect(t, api.EvidenceList(t.Context(), client.EvidenceFilter{Kind: "attested"})); len(got) != 2 || got[0].ID != string(cert.Evidence) || got[0].Kept != "full" {
		t.Errorf("evidence %+v", got)
	}
	if got := collect(t, api.EvidenceList(t.Context(), client.EvidenceFilter{Since: r.Now()})); len(got) != 1 {
		t.Errorf("since now: %+v", got)
	}
	if got := collect(t, api.EvidenceList(t.Context(), client.EvidenceFilter{Failed: true})); len(got) != 0 {
		t.Errorf("failed: %+v", got)
	}
	if got := collect(t, api.EvidenceList(t.Context(), client.EvidenceFilter{Device: "dev_none"})); len(got) != 0 {
		t.Errorf("of no device: %+v", got)
	}
	if got := collect(t, api.EvidenceList(t.Context(), client.EvidenceFilter{Device: string(cert.Device)})); len(got) == 0 || got[0].ID != string(cert.Evidence) {
		t.Errorf("of the device: %+v", got)
	}
	e := must[admin.EvidenceDetail](t)(api.Evidence(t.Context(), string(cert.Evidence)))
	if e.Certificate != string(cert.ID) || e.Decision != string(cert.Decision) || e.Object == nil || e.Facts == nil || e.Token == "" {
		t.Errorf("evidence %+v", e)
	}
	last := collect(t, api.EvidenceList(t.Context(), client.EvidenceFilter{Since: r.Now()}))[0].ID
	if e := must[admin.EvidenceDetail](t)(api.Evidence(t.Context(), last)); e.Certificate != "" || e.Decision != string(held.Decision) {
		t.Errorf("evidence of what was held back: %+v", e)
	}
	// The bench's object is no attestation: today's checks say so.
	verdict := must[evidence.Verdict](t)(api.VerifyEvidence(t.Context(), string(cert.Evidence)))
	if verdict.Result != evidence.Refused || verdict.Check != attest.CheckObjectWellFormed {
		t.Errorf("verdict %+v", verdict)
	}
	_, err := api.Evidence(t.Context(), "evid_none")
	wantRefused(t, err, http.StatusNotFound, "not-found")
	_, err = api.VerifyEvidence(t.Context(), "evid_none")
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestWhatProvesNothingIsNotExported(t *testing.T) {
	r := newRig(t, nil)
	cert := r.bench.Issued() // its object is no attestation
	_, err := r.client(admin.EvidenceRead).ExportEvidence(t.Context(), string(cert.Evidence))
	wantRefused(t, err, http.StatusConflict, "evidence-object")
}

func TestExportHoldsTheAuditOnlyForThoseWhoMaySeeIt(t *testing.T) {
	r := newRig(t, nil)
	cert := r.issuedOn(standInObject(t))
	for _, test := range []struct {
		scopes []admin.Scope
		audit  bool
	}{{[]admin.Scope{admin.EvidenceRead}, false}, {[]admin.Scope{admin.EvidenceRead, admin.AuditRead}, true}} {
		bundle := must[[]byte](t)(r.client(test.scopes...).ExportEvidence(t.Context(), string(cert.Evidence)))
		z, err := zip.NewReader(bytes.NewReader(bundle), int64(len(bundle)))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := z.Open("audit.json")
		if (err == nil) != test.audit {
			t.Errorf("scopes %v: audit %v", test.scopes, err)
		}
		if err == nil { // whoever has the salt can guess what was erased
			text, err := io.ReadAll(rows)
			if err != nil || bytes.Contains(bytes.ToLower(text), []byte(`"salt"`)) {
				t.Errorf("audit %s, %v", text, err)
			}
		}
		if _, err := z.Open("decision.json"); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatWasHeldBackIsExportedWithItsDecision(t *testing.T) {
	r := newRig(t, nil)
	held := r.bench.HeldFor(r.answeredWith(standInObject(t)), issuance.Device{Serial: "FAKE00000001"})
	d := must[admin.Decision](t)(r.client(admin.DecisionsRead).Decision(t.Context(), string(held.Decision)))
	bundle := must[[]byte](t)(r.client(admin.EvidenceRead).ExportEvidence(t.Context(), d.Evidence))
	z, err := zip.NewReader(bytes.NewReader(bundle), int64(len(bundle)))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := fs.ReadFile(z, "decision.json"); err != nil || !bytes.Contains(text, []byte(held.Decision)) {
		t.Errorf("decision %s, %v", text, err)
	}
	if _, err := z.Open("certificate.pem"); err == nil {
		t.Error("it holds a certificate that nobody issued")
	}
}
