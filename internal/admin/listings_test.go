package admin_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"slices"
	"testing"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/issuance"
	"assay/policy"
)

func TestListsAreTakenInParts(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.DevicesRead, admin.DevicesWrite)
	part := admin.ImportDevices{Source: "csv:fleet.csv", Devices: []admin.ListedDevice{
		{Serial: "S1", UDID: "U1", Labels: map[string]string{"owner": "sam"}}, {Serial: "S2", State: "retired"}}}
	for _, want := range []string{"added", "unchanged"} {
		got := must[[]admin.ImportedDevice](t)(api.ImportDevices(t.Context(), part))
		if len(got) != 2 || got[0].Change != want || got[1].Change != want {
			t.Fatalf("%+v, want %s", got, want)
		}
	}
	listed := collect(t, api.Devices(t.Context(), client.DeviceFilter{Label: "owner=sam"}))
	if len(listed) != 1 || listed[0].Serial != "S1" || listed[0].State != "expected" || listed[0].Sources["udid"].From != "csv:fleet.csv" {
		t.Errorf("devices %+v", listed)
	}
	if got := collect(t, api.Devices(t.Context(), client.DeviceFilter{State: "retired"})); len(got) != 1 || got[0].Serial != "S2" {
		t.Errorf("retired %+v", got)
	}
	own := must[[]admin.ImportedDevice](t)(api.ImportDevices(t.Context(), admin.ImportDevices{Devices: []admin.ListedDevice{{Serial: "S3"}}}))
	d, _, err := api.Device(t.Context(), own[0].Device)
	if err != nil || d.Sources["serial"].From[:6] != "token:" {
		t.Errorf("device %+v, %v", d, err)
	}
}

func TestFaultyListsAreRefused(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.DevicesRead, admin.DevicesWrite)
	for body, check := range map[string]string{
		`{"devices":[]}`:                                        "invalid-request",
		`{"devices":[{}]}`:                                      "device-named",
		`{"devices":[{"serial":" S1"}]}`:                        "device-named",
		`{"devices":[{"serial":"S1","state":"Texas"}]}`:         "invalid-request",
		`{"source":"evidence","devices":[{"serial":"S1"}]}`:     "source",
		`{"source":"operator:sam","devices":[{"serial":"S1"}]}`: "source",
		`{"source":"token:x","devices":[{"serial":"S1"}]}`:      "source",
		`{"source":"No Good","devices":[{"serial":"S1"}]}`:      "invalid-request",
		`{"devices":[{"serial":"S1","labels":{"a":"\u0007"}}]}`: "labels",
	} {
		answer, text := r.do("POST", "/devices/import", token, body)
		r.wantProblem(answer, text, http.StatusUnprocessableEntity, check)
	}
	if n := len(collect(t, r.store.Devices(t.Context(), issuance.DeviceFilter{}))); n != 0 {
		t.Errorf("%d devices of refused lists", n)
	}
	answer, text := r.do("GET", "/devices?label=owner", token, "")
	r.wantProblem(answer, text, http.StatusUnprocessableEntity, "label")
}

func TestRevokingWithAStateNeedsItsOwnScope(t *testing.T) {
	r := newRig(t, nil)
	cert := r.bench.Issued()
	lost := admin.SetDeviceState{State: "lost", Revoke: true}
	_, err := r.client(admin.DevicesWrite).SetDeviceState(t.Context(), string(cert.Device), lost, "")
	wantRefused(t, err, http.StatusForbidden, "scope-missing")
	if c, _ := r.store.Certificate(t.Context(), cert.ID); c.Status != issuance.CertificateValid {
		t.Fatal("revoked without the scope")
	}
	if d, _ := r.store.Device(t.Context(), cert.Device); d.State == policy.Lost {
		t.Fatal("lost, although what was asked for was refused")
	}
	got := must[admin.DeviceState](t)(r.client(admin.DevicesWrite, admin.CertificatesWrite).SetDeviceState(t.Context(), string(cert.Device), lost, ""))
	if got.State != "lost" || got.Revoked != 1 {
		t.Errorf("%+v", got)
	}
	if c, _ := r.store.Certificate(t.Context(), cert.ID); c.Status != issuance.CertificateRevoked || c.RevokedReason != 5 {
		t.Errorf("certificate %+v", c)
	}
	_, err = r.client(admin.DevicesWrite).SetDeviceState(t.Context(), string(cert.Device), admin.SetDeviceState{State: "expected"}, `"r1-x"`)
	wantRefused(t, err, http.StatusPreconditionFailed, "if-match")
	_, err = r.client(admin.DevicesWrite).SetDeviceState(t.Context(), "dev_none", admin.SetDeviceState{State: "expected"}, "")
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestConflictsAreListedWithAdviceAndEnded(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.DevicesRead, admin.DevicesWrite)
	cert := r.bench.Issued() // of a device that nobody lists
	open := collect(t, api.Conflicts(t.Context(), "", false))
	if len(open) != 1 || open[0].Kind != "not-listed" || open[0].Device != string(cert.Device) || open[0].Serial != "C02XK1" || open[0].Advice == "" {
		t.Fatalf("conflicts %+v", open)
	}
	ended := must[admin.Conflict](t)(api.ResolveConflict(t.Context(), open[0].ID))
	if ended.ResolvedAt.IsZero() {
		t.Errorf("conflict %+v", ended)
	}
	if left, all := collect(t, api.Conflicts(t.Context(), "", false)), collect(t, api.Conflicts(t.Context(), string(cert.Device), true)); len(left) != 0 || len(all) != 1 {
		t.Errorf("left %+v, all %+v", left, all)
	}
	_, err := api.ResolveConflict(t.Context(), open[0].ID)
	wantRefused(t, err, http.StatusConflict, "state-changed")
}

func TestDeviceIsShownWholeAndForgotten(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.PersonalRead, admin.DevicesForget)
	cert := r.bench.Issued()
	r.heldNow()
	data := must[admin.DeviceData](t)(api.DeviceData(t.Context(), string(cert.Device)))
	if data.Device.Serial != "C02XK1" || len(data.Certificates) != 1 || len(data.Decisions) != 2 || len(data.Evidence) != 2 || len(data.Holds) != 1 ||
		len(data.Audit) == 0 || data.Audit[0].Salt != nil || data.Evidence[0].Object == nil || data.Cut {
		t.Errorf("data %+v", data)
	}
	_, err := api.ForgetDevice(t.Context(), string(cert.Device), false)
	wantRefused(t, err, http.StatusConflict, "certificates-revoked")
	done := must[admin.ForgottenDevice](t)(api.ForgetDevice(t.Context(), string(cert.Device), true))
	if done.Certificates != 1 || done.Revoked != 1 || done.Evidence != 2 || done.AuditRows == 0 {
		t.Errorf("done %+v", done)
	}
	after := must[admin.DeviceData](t)(api.DeviceData(t.Context(), string(cert.Device)))
	if after.Device.Serial == "C02XK1" || len(after.Holds) != 0 || len(after.Conflicts) != 0 {
		t.Errorf("data %+v", after)
	}
	for _, scope := range []admin.Scope{admin.DevicesRead, admin.DevicesWrite, admin.CertificatesWrite, admin.AuditRead} {
		_, err := r.client(scope).ForgetDevice(t.Context(), string(cert.Device), true)
		wantRefused(t, err, http.StatusForbidden, "scope-missing")
	}
}

// TestDeviceDataHasWhatItsCodesLeadTo: a request that was not decided on names its code alone.
func TestDeviceDataHasWhatItsCodesLeadTo(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.PersonalRead)
	cert := r.bench.Issued()
	_, value := r.bench.Mint(func(m *issuance.Mint) { m.Serial = "C02XK1" })
	open := r.bench.Ready(value)
	data := must[admin.DeviceData](t)(api.DeviceData(t.Context(), string(cert.Device)))
	ofOpen := func(e admin.StoredEvidence) bool { return e.ID == string(open.Evidence) }
	if len(data.Codes) != 2 || len(data.Evidence) != 2 || !slices.ContainsFunc(data.Evidence, ofOpen) || data.Cut {
		t.Errorf("codes %+v, evidence %+v", data.Codes, data.Evidence)
	}
	orders := map[string]bool{}
	for _, row := range data.Audit {
		orders[row.Order] = true
	}
	if !orders[string(open.ID)] || !orders[string(cert.Order)] {
		t.Errorf("the audit's rows are about %v", orders)
	}
	if again := must[admin.DeviceData](t)(api.DeviceData(t.Context(), string(cert.Device))); !slices.EqualFunc(again.Evidence, data.Evidence, func(a, b admin.StoredEvidence) bool { return a.ID == b.ID }) {
		t.Error("the order of the evidence changes")
	}
}

func TestAuditIsVerifiedWhereItIsSealed(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *admin.Config) { c.AuditKey = key.Public().(ed25519.PublicKey) })
	api := r.client(admin.AuditRead)
	_, err = api.Checkpoint(t.Context(), 0)
	wantRefused(t, err, http.StatusNotFound, "not-found")
	r.bench.Issued()
	if _, err := r.store.SealAudit(t.Context(), r.Now(), key); err != nil {
		t.Fatal(err)
	}
	got := must[admin.AuditVerification](t)(api.VerifyAudit(t.Context(), 0))
	if got.Seals != 1 || got.Rows < 5 || len(got.Faults) != 0 || got.Next != 0 || !key.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(got.PublicKey)) {
		t.Errorf("%+v", got)
	}
	if seal := must[admin.Checkpoint](t)(api.Checkpoint(t.Context(), 1)); seal.Number != 1 || seal.Text == "" {
		t.Errorf("%+v", seal)
	}
	_, err = api.VerifyAudit(t.Context(), 99)
	wantRefused(t, err, http.StatusNotFound, "not-found")
	_, err = newRig(t, nil).client(admin.AuditRead).VerifyAudit(t.Context(), 0)
	wantRefused(t, err, http.StatusConflict, "audit-sealed")
}
