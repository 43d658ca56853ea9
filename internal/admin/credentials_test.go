package admin_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
	"assay/internal/delivery"

	"github.com/google/go-cmp/cmp"
)

func TestDeclaredCredentialStandsUntilItIsRenewed(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	first := r.declare(api, "C02XK1")
	if first.State != string(delivery.StateDelivered) || first.Revision != 1 || len(first.Declarations) != 2 || first.CodeStatus != "unused" ||
		first.AssetIdentifier != "assay."+first.ID+".asset" || !strings.Contains(string(first.Declarations[0]), first.AssetToken) {
		t.Errorf("got %+v", first)
	}
	again, fresh, err := api.Declare(t.Context(), admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "C02XK1"}}, "")
	if err != nil || fresh || cmp.Diff(first, again) != "" {
		t.Errorf("declared again: fresh %t, %v, %s", fresh, err, cmp.Diff(first, again))
	}
	shown, tag, err := api.Credential(t.Context(), first.ID)
	if err != nil || shown.Declarations != nil {
		t.Fatalf("shown with declarations, or not at all: %v", err)
	}
	renewed := must[admin.Credential](t)(api.Renew(t.Context(), first.ID, tag, ""))
	if renewed.Revision != 2 || renewed.AssetToken == first.AssetToken || renewed.AssetIdentifier != first.AssetIdentifier || renewed.Code == first.Code {
		t.Errorf("renewed: %+v", renewed)
	}
	_, err = api.Renew(t.Context(), first.ID, tag, "")
	wantRefused(t, err, http.StatusPreconditionFailed, "if-match")
	if code := must[admin.Code](t)(api.Code(t.Context(), first.Code)); code.Status != "revoked" {
		t.Errorf("the old code is %s", code.Status)
	}
}

func TestDeclareRefusesByName(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	r.device(api, "C02XK1")
	r.device(api, "C02XK2")
	for name, c := range map[string]struct {
		ask    admin.DeclareOne
		status int
		check  string
	}{
		"unknown template": {admin.DeclareOne{Template: "watch", Declare: admin.Declare{Serial: "X"}}, 422, delivery.CheckTemplateKnown},
		"nameless device":  {admin.DeclareOne{Template: "wifi"}, 422, delivery.CheckDeviceNamed},
		"lacking a value":  {admin.DeclareOne{Template: "wifi", Declare: admin.Declare{UDID: "X"}}, 422, delivery.CheckRendering},
		"two devices":      {admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "C02XK1", UDID: "UDID-C02XK2"}}, 409, delivery.CheckDeviceConflict},
		"control":          {admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "A\tB"}}, 422, "device-named"},
		"no template":      {admin.DeclareOne{Declare: admin.Declare{Serial: "A"}}, 422, "invalid-request"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := api.Declare(t.Context(), c.ask, "")
			wantRefused(t, err, c.status, c.check)
		})
	}
	if logged := r.log.String(); strings.Contains(logged, "C02XK1") {
		t.Error("the log of refused requests names devices")
	}
}

func TestDeclareAndRenewHappenOnceUnderOneKey(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	ask := admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "C02XK1"}}
	got := make([]admin.Credential, 16)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i], _, _ = api.Declare(t.Context(), ask, "declare") })
	}
	all.Wait()
	for i := range got {
		if diff := cmp.Diff(got[0], got[i]); diff != "" || got[0].Revision != 1 {
			t.Fatalf("answer %d is another: %s", i, diff)
		}
	}
	id := got[0].ID
	_, tag, _ := api.Credential(t.Context(), id)
	for i := range got {
		all.Go(func() { got[i], _ = api.Renew(t.Context(), id, tag, "renew") })
	}
	all.Wait()
	for i := range got {
		if got[i].Revision != 2 || got[i].ID != id || len(got[i].Declarations) != 2 {
			t.Errorf("renewal %d: revision %d", i, got[i].Revision)
		}
	}
	_, err := api.Renew(t.Context(), id, "", "declare")
	wantRefused(t, err, http.StatusUnprocessableEntity, "idempotency-key-reused")
	if now, _, _ := api.Credential(t.Context(), id); now.Revision != 2 {
		t.Errorf("revision %d", now.Revision)
	}
}

func TestBatchAnswersEachDeviceForItself(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	r.declare(api, "C02XK2")
	batch := admin.DeclareBatch{Template: "wifi", Devices: []admin.Declare{{Serial: "C02XK1"}, {Serial: "C02XK2"}, {}, {Serial: " x"}, {Serial: "C02XK3"}}}
	results := must[[]admin.DeclareResult](t)(api.DeclareBatch(t.Context(), batch, "batch"))
	var got []string
	for _, one := range results {
		text := one.Check
		if one.Credential != nil {
			text = fmt.Sprint(one.Credential.Serial, " ", one.Fresh, " ", len(one.Credential.Declarations))
		}
		got = append(got, text)
	}
	want := []string{"C02XK1 true 2", "C02XK2 false 2", delivery.CheckDeviceNamed, "device-named", "C02XK3 true 2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if again := must[[]admin.DeclareResult](t)(api.DeclareBatch(t.Context(), batch, "batch")); again[0].Credential.ID != results[0].Credential.ID || again[0].Fresh {
		t.Errorf("again: %+v", again[0])
	}
	r.wait(time.Second)
	if listed := collect(t, api.Credentials(t.Context(), client.CredentialFilter{Template: "wifi", State: "delivered"})); len(listed) != 3 || listed[0].Declarations != nil {
		t.Errorf("listed: %+v", listed)
	}
	if listed := collect(t, api.Credentials(t.Context(), client.CredentialFilter{State: "enrolled"})); len(listed) != 0 {
		t.Errorf("enrolled: %+v", listed)
	}
}

func TestStateFollowsTheDevice(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	c := r.declare(api, "C02XK1")
	state := func(want string) admin.Credential {
		t.Helper()
		got, _, err := api.Credential(t.Context(), c.ID)
		if err != nil || got.State != want || got.Diagnosis.Text == "" {
			t.Fatalf("state %s (%+v), want %s: %v", got.State, got.Diagnosis, want, err)
		}
		if listed := collect(t, api.Credentials(t.Context(), client.CredentialFilter{State: want})); len(listed) != 1 {
			t.Errorf("%d credentials are listed as %s", len(listed), want)
		}
		return got
	}
	state("delivered")
	r.wait(time.Second)
	code := r.codeIn(c)
	if got := state("fetched"); got.FetchedAt.IsZero() {
		t.Error("no time of the fetch")
	}
	cert := r.enrol(code)
	r.wait(time.Second)
	if got := state("enrolled"); got.Certificate != string(cert.ID) || got.RenewsAt.IsZero() || got.CodeStatus != "consumed" {
		t.Errorf("enrolled: %+v", got)
	}
	must[admin.Credential](t)(api.Renew(t.Context(), c.ID, "", ""))
	state("renewing")
	must[admin.Credential](t)(api.Withdraw(t.Context(), c.ID, ""))
	state("withdrawn")
}

func TestDeclarationsAreTheSameBytesUntilRendered(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	c := r.declare(api, "C02XK1")
	token, _ := r.token(admin.DeclarationsRead)
	first, body := r.do("GET", "/credentials/"+c.ID+"/declarations", token, "")
	for _, declaration := range c.Declarations {
		if !strings.Contains(body, string(declaration)) {
			t.Errorf("%s is not in %s", declaration, body)
		}
	}
	tag := first.Header.Get("ETag")
	if answer, _ := r.do("GET", "/credentials/"+c.ID+"/declarations", token, "", "If-None-Match", tag); answer.StatusCode != http.StatusNotModified {
		t.Errorf("the same declarations: %d", answer.StatusCode)
	}
	three := must[admin.Declarations](t)(api.Declarations(t.Context(), c.ID, true))
	var activation struct {
		Type    string
		Payload struct{ StandardConfigurations []string }
	}
	if err := json.Unmarshal(three[len(three)-1], &activation); err != nil || len(three) != 3 || activation.Type != delivery.ActivationType ||
		activation.Payload.StandardConfigurations[0] != c.ConfigurationIdentifier {
		t.Errorf("activation %+v: %v", activation, err)
	}
	must[admin.Credential](t)(api.Renew(t.Context(), c.ID, "", ""))
	if answer, _ := r.do("GET", "/credentials/"+c.ID+"/declarations", token, "", "If-None-Match", tag); answer.StatusCode != http.StatusOK || answer.Header.Get("ETag") == tag {
		t.Errorf("renewed declarations: %d", answer.StatusCode)
	}
	_, err := api.Declarations(t.Context(), "cred_x", false)
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestProfileIsHadOnlyWhileTheCodeIsAlive(t *testing.T) {
	r := newRig(t, func(c *admin.Config) { c.Organization = "Example Inc." })
	api := r.client()
	c := r.declare(api, "C02XK1")
	token, _ := r.token(admin.DeclarationsRead)
	answer, profile := r.do("GET", "/credentials/"+c.ID+"/profile", token, "")
	if answer.Header.Get("Content-Type") != "application/x-apple-aspen-config" || !strings.Contains(profile, "com.apple.security.acme") ||
		!strings.Contains(profile, "Example Inc.") || !strings.Contains(profile, r.codeIn(c)) {
		t.Errorf("%s: %.300s", answer.Header.Get("Content-Type"), profile)
	}
	if data := must[[]byte](t)(api.Profile(t.Context(), c.ID)); string(data) != profile {
		t.Error("the profile changed between two fetches")
	}
	r.wait(31 * 24 * time.Hour)
	_, err := api.Profile(t.Context(), c.ID)
	wantRefused(t, err, http.StatusConflict, "document-alive")
}

func TestWithdrawnCredentialDeliversNothingAndComesBack(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	c := r.declare(api, "C02XK1")
	_, tag, _ := api.Credential(t.Context(), c.ID)
	renewed := must[admin.Credential](t)(api.Renew(t.Context(), c.ID, "", ""))
	_, err := api.Withdraw(t.Context(), c.ID, tag)
	wantRefused(t, err, http.StatusPreconditionFailed, "if-match")
	gone := must[admin.Credential](t)(api.Withdraw(t.Context(), c.ID, ""))
	if gone.State != "withdrawn" || gone.WithdrawnAt.IsZero() || gone.CodeStatus != "revoked" {
		t.Errorf("withdrawn: %+v", gone)
	}
	_, err = api.Declarations(t.Context(), c.ID, false)
	wantRefused(t, err, http.StatusConflict, "withdrawn")
	_, err = api.Profile(t.Context(), c.ID)
	wantRefused(t, err, http.StatusConflict, "withdrawn")
	_, _, err = api.Declare(t.Context(), admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "C02XK1"}}, "")
	wantRefused(t, err, http.StatusConflict, "withdrawn")
	_, err = api.Withdraw(t.Context(), "cred_x", "")
	wantRefused(t, err, http.StatusNotFound, "not-found")
	back := must[admin.Credential](t)(api.Renew(t.Context(), c.ID, "", ""))
	if back.State != "delivered" || back.ID != c.ID || back.Revision <= renewed.Revision || back.AssetIdentifier != c.AssetIdentifier {
		t.Errorf("came back as %+v", back)
	}
	must[admin.Code](t)(api.RevokeCode(t.Context(), back.Code))
	_, _, err = api.Declare(t.Context(), admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "C02XK1"}}, "")
	wantRefused(t, err, http.StatusConflict, "code-revoked")
}

func TestChangeWhileACertificateIsIssuedIsNoLostUpdate(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	c := r.declare(api, "C02XK1")
	_, tag, _ := api.Credential(t.Context(), c.ID)
	r.bench.Claimed(r.codeIn(c))
	_, err := api.Withdraw(t.Context(), c.ID, tag)
	wantRefused(t, err, http.StatusConflict, "state-changed")
	_, err = api.Renew(t.Context(), c.ID, tag, "")
	wantRefused(t, err, http.StatusConflict, "state-changed")
	_, err = api.Withdraw(t.Context(), c.ID, "") // without a condition none can fail
	wantRefused(t, err, http.StatusConflict, "state-changed")
	_, err = api.Renew(t.Context(), c.ID, "", "")
	wantRefused(t, err, http.StatusConflict, "state-changed")
}

func TestIdempotencyKeyOfARenewalIsItsCredentialsAlone(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	a, b := r.declare(api, "C02XK1"), r.declare(api, "C02XK2")
	must[admin.Credential](t)(api.Renew(t.Context(), a.ID, "", "renew"))
	_, err := api.Renew(t.Context(), b.ID, "", "renew")
	wantRefused(t, err, http.StatusUnprocessableEntity, "idempotency-key-reused")
	if now, _, _ := api.Credential(t.Context(), b.ID); now.Revision != 1 {
		t.Errorf("revision %d", now.Revision)
	}
}

// document is a document written by hand.
const handmade = `{"DirectoryURL":"https://x.example.com/","ClientIdentifier":"x","KeyType":"ECSECPrimeRandom","KeySize":384,
	"HardwareBound":true,"Attest":true,"Subject":[[["CN","wifi"]]]}`

func TestPublishedDocumentIsTheSameAgainUnderItsKey(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	ask := admin.PublishDocument{Document: json.RawMessage(handmade), MintCode: admin.MintCode{Serial: "C02XK1"}}
	first := must[admin.Publication](t)(api.Publish(t.Context(), ask, "publish"))
	if !strings.HasPrefix(first.URL, "https://id.example.com/credential/") || first.ContentType != "application/json" || first.Size == 0 ||
		len(first.SHA256) != 64 || first.Code.Serial != "C02XK1" || first.Code.Code != "" {
		t.Errorf("published %+v", first)
	}
	if again := must[admin.Publication](t)(api.Publish(t.Context(), ask, "publish")); cmp.Diff(first, again) != "" {
		t.Error(cmp.Diff(first, again))
	}
	if n := len(collect(t, api.Codes(t.Context(), client.CodeFilter{}))); n != 1 {
		t.Errorf("%d codes", n)
	}
	declaration := fmt.Sprintf(`{"Payload":{"Reference":{"DataURL":%q}}}`, first.URL)
	code := r.codeIn(admin.Credential{Declarations: admin.Declarations{json.RawMessage(declaration)}})
	if found := must[admin.Code](t)(api.FindCode(t.Context(), "", code)); found.ID != first.Code.ID {
		t.Error("the document holds another code")
	}
	ask.Document = json.RawMessage(strings.Replace(handmade, "384", "521", 1))
	_, err := api.Publish(t.Context(), ask, "")
	if p := wantRefused(t, err, http.StatusUnprocessableEntity, "document-invalid"); len(p.Errors) != 1 || p.Errors[0].Location != "body.document.KeySize" {
		t.Errorf("the problem does not say where: %+v", p.Errors)
	}
}

func TestPushSaysWhatTheMDMSaidWithoutSecrets(t *testing.T) {
	var mdm pushes
	r := newRig(t, func(c *admin.Config) {
		outbox, err := delivery.NewOutbox(c.Store.(delivery.PushStore), &mdm, "{device.serial}", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Push = outbox.Push
	})
	api := r.client()
	c := r.declare(api, "C02XK1")
	mdm.fail = true
	_, err := api.Push(t.Context(), c.ID)
	p := wantRefused(t, err, http.StatusBadGateway, "push")
	_, secret, _ := strings.Cut(string(c.Declarations[0]), "/credential/")
	secret, _, found := strings.Cut(secret, `"`)
	if !found || !strings.Contains(p.Detail, "MDM says no") || strings.Contains(p.Detail+r.log.String(), secret) {
		t.Errorf("detail %q", p.Detail)
	}
	if now, _, _ := api.Credential(t.Context(), c.ID); now.PushError == "" {
		t.Error("the failure is not shown")
	}
	mdm.fail = false
	if got := must[admin.Credential](t)(api.Push(t.Context(), c.ID)); got.PushedAt.IsZero() || got.PushError != "" || mdm.last.Enrollment != "C02XK1" ||
		!bytes.Equal(mdm.last.Asset, c.Declarations[0]) {
		t.Errorf("pushed %+v", got)
	}
	_, err = api.Push(t.Context(), "cred_x")
	wantRefused(t, err, http.StatusNotFound, "not-found")
	none := newRig(t, nil)
	_, err = none.client().Push(t.Context(), "cred_x")
	wantRefused(t, err, http.StatusConflict, "push-configured")
}

type pushes struct {
	fail bool
	last delivery.Push
}

func (p *pushes) Push(_ context.Context, push delivery.Push) error {
	if p.fail {
		return fmt.Errorf("MDM says no to %s", push.Asset)
	}
	p.last = push
	return nil
}

func TestStatusReportReachesItsCredential(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	c := r.declare(api, "C02XK1")
	report := fmt.Sprintf(`{"StatusItems":{"management":{"declarations":{"assets":[{"identifier":%q,"server-token":%q,"active":false,"valid":"invalid",
		"reasons":[{"code":"Error.AssetCannotBeDownloaded","description":"no","details":{"Identifier":"x"}}]},
		{"identifier":"assay.cred_00000000000000000000000000.asset","active":true,"valid":"valid"}]}}}}`, c.AssetIdentifier, c.AssetToken)
	r.wait(time.Second)
	if got := must[[]string](t)(api.ReportStatus(t.Context(), []byte(report))); len(got) != 1 || got[0] != c.ID {
		t.Errorf("concerned %v", got)
	}
	now, _, _ := api.Credential(t.Context(), c.ID)
	if now.Report == nil || now.Report.Asset == nil || now.Report.Asset.Valid != "invalid" || now.Report.Asset.Reasons[0].Code != "Error.AssetCannotBeDownloaded" ||
		!nearly(now.Report.ReceivedAt, r.Now()) || !strings.Contains(now.Diagnosis.Text, "AssetCannotBeDownloaded") {
		t.Errorf("report %+v, diagnosis %+v", now.Report, now.Diagnosis)
	}
	if rows := collect(t, api.Audit(t.Context(), client.AuditFilter{Action: string(audit.CredentialReported), Refused: true})); len(rows) != 1 {
		t.Errorf("audited %v", rows)
	}
	r.wait(time.Second)
	good := strings.NewReplacer(`"invalid"`, `"valid"`, `"active":false`, `"active":true`).Replace(report)
	checkin := `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>MessageType</key><string>DeclarativeManagement</string><key>UDID</key><string>x</string>` +
		`<key>Endpoint</key><string>status</string><key>Data</key><data>` + base64.StdEncoding.EncodeToString([]byte(good)) + `</data></dict></plist>`
	event := fmt.Sprintf(`{"topic":"mdm.DeclarativeManagement","event_id":"1","checkin_event":{"udid":"x","raw_payload":%q}}`, base64.StdEncoding.EncodeToString([]byte(checkin)))
	if got := must[[]string](t)(api.ReportNanoMDM(t.Context(), []byte(event))); len(got) != 1 || got[0] != c.ID {
		t.Errorf("concerned %v", got)
	}
	if now, _, _ := api.Credential(t.Context(), c.ID); now.Report.Asset.Valid != "valid" {
		t.Errorf("report %+v", now.Report.Asset)
	}
	if got := must[[]string](t)(api.ReportNanoMDM(t.Context(), []byte(`{"topic":"mdm.Authenticate","checkin_event":{"raw_payload":""}}`))); len(got) != 0 {
		t.Errorf("another event concerned %v", got)
	}
	if got := must[[]string](t)(api.ReportStatus(t.Context(), []byte(`{"StatusItems":{"device":{"model":"x"}}}`))); len(got) != 0 {
		t.Errorf("another report concerned %v", got)
	}
}

func nearly(a, b time.Time) bool { return a.Sub(b).Abs() < time.Millisecond }

func TestTemplatesAreShownWithTheirPlaceholders(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.TemplatesRead)
	all := collect(t, api.Templates(t.Context()))
	if len(all) != 2 || all[0].Name != "wifi" || all[1].Name != "wired" {
		t.Fatalf("templates %+v", all)
	}
	one := must[admin.Template](t)(api.Template(t.Context(), "wifi"))
	if one.Directory != "default" || one.Authentication != "None" || len(one.Placeholders) != 2 || len(one.Targets) != 1 || !strings.Contains(string(one.Document), "{device.serial}") {
		t.Errorf("template %+v", one)
	}
	_, err := api.Template(t.Context(), "watch")
	wantRefused(t, err, http.StatusNotFound, "not-found")
	token, _ := r.token(admin.TemplatesRead)
	_, body := r.do("GET", "/templates?limit=1", token, "")
	var page admin.List[admin.Template]
	if err := json.Unmarshal([]byte(body), &page); err != nil || len(page.Items) != 1 || page.Next == "" {
		t.Fatalf("first page %s: %v", body, err)
	}
	if _, body := r.do("GET", "/templates?limit=1&cursor="+page.Next, token, ""); !strings.Contains(body, `"wired"`) || strings.Contains(body, `"wifi"`) || strings.Contains(body, `"next"`) {
		t.Errorf("second page %s", body)
	}
}

func TestAuditShowsPersonalValuesAndNeverTheirSalt(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	r.device(api, "C02XK1")
	rows := collect(t, api.Audit(t.Context(), client.AuditFilter{Action: string(audit.CodeMinted)}))
	if len(rows) != 1 || rows[0].Personal == nil || rows[0].Personal.Serial != "C02XK1" || rows[0].Salt != nil || rows[0].Commitment == nil {
		t.Errorf("rows %+v", rows)
	}
	r.wait(time.Hour)
	if later := collect(t, api.Audit(t.Context(), client.AuditFilter{Since: r.Now()})); len(later) != 0 {
		t.Errorf("later rows %v", later)
	}
	if before := collect(t, api.Audit(t.Context(), client.AuditFilter{Until: r.Now(), Code: rows[0].Code})); len(before) != 1 {
		t.Errorf("rows of the code %v", before)
	}
	if refused := collect(t, api.Audit(t.Context(), client.AuditFilter{Refused: true})); len(refused) != 0 {
		t.Errorf("refusals %v", refused)
	}
}

func TestFilteredPageReadsABoundedNumberOfRows(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	for i := range 12 {
		r.declare(api, fmt.Sprint("C02XK", i))
		r.wait(time.Second)
	}
	token, _ := r.token(admin.CredentialsRead)
	cursor, pages := "", 0
	for {
		_, body := r.do("GET", "/credentials?state=enrolled&limit=1&cursor="+cursor, token, "")
		var page admin.List[admin.Credential]
		if err := json.Unmarshal([]byte(body), &page); err != nil || len(page.Items) != 0 {
			t.Fatalf("%s: %v", body, err)
		}
		pages++
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if pages != 3 { // five rows, five, two
		t.Errorf("twelve rows were read in %d pages", pages)
	}
}
