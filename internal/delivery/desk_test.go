package delivery

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"assay/credential"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

const (
	testSerial = "C02XK1"
	testUDID   = "00008110-000A"
)

// staffTemplate is a template with a required and an optional value; mdmTemplate has Authentication MDM.
const (
	staffTemplate = `version: 1
document:
  KeyType: ECSECPrimeRandom
  KeySize: 384
  HardwareBound: true
  Attest: true
  Subject: [[["O", "Example Inc."]], [["CN", "{device.serial}"]], [["OU", "{device.labels.team?}"]]]
  SubjectAltName: {rfc822Name: "{device.labels.owner}"}
expires: 10d
expiresAfterFetch: 1h
renewBefore: 30d
`
	mdmTemplate = `version: 1
document:
  KeyType: ECSECPrimeRandom
  KeySize: 384
  HardwareBound: true
  Attest: true
  Subject: [[["CN", "{device.serial?}"]], [["O", "Example Inc."]]]
authentication: MDM
`
)

// desk is a declarer on a real store and a folder of templates, with a clock to turn.
type desk struct {
	*testing.T
	store    *store.Store
	bench    *storetest.Bench
	declarer *Declarer
	folder   string
	now      time.Time
	log      bytes.Buffer
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "assay.db"), store.Options{Key: make([]byte, store.KeySize), Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	d := &desk{T: t, store: db, folder: t.TempDir(), now: testNow}
	d.write("staff", staffTemplate)
	d.write("mdm", mdmTemplate)
	log := slog.New(slog.NewTextHandler(&d.log, nil))
	templates, err := LoadTemplates(d.folder, []string{"default"}, func() time.Time { return d.now }, log)
	if err != nil {
		t.Fatal(err)
	}
	templates.pause = func() {}
	d.bench = storetest.NewBench(t, db)
	d.declarer = &Declarer{
		Store: db, Templates: templates, BaseURL: "https://id.example.com", MDMURL: "https://id.example.com:8444", Refusals: db, Log: log,
		DirectoryURL: func(directory string) (string, error) {
			if directory != "default" {
				return "", errors.New("no such directory")
			}
			return testDirectory, nil
		},
	}
	return d
}

func (d *desk) write(template, yaml string) {
	d.Helper()
	if err := os.WriteFile(filepath.Join(d.folder, template+".yaml"), []byte(yaml), 0o600); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) call() issuance.Call { return issuance.Call{Now: d.now, From: "operator:test"} }

// sams is a request that the staff template can serve.
func sams() Request {
	return Request{Template: "staff", Serial: testSerial, UDID: testUDID, Labels: map[string]string{"owner": "sam@example.com"}}
}

func (d *desk) declare(requests ...Request) []Result {
	d.Helper()
	results, err := d.declarer.Declare(d.Context(), d.call(), requests)
	if err != nil {
		d.Fatal(err)
	}
	return results
}

// declared declares one request that must succeed.
func (d *desk) declared(r Request) *Declared {
	d.Helper()
	result := d.declare(r)[0]
	if result.Err != nil {
		d.Fatal(result.Err)
	}
	return result.Declared
}

// refused declares one request that must fail a check.
func (d *desk) refused(r Request, check string) *RefusedError {
	d.Helper()
	result := d.declare(r)[0]
	refused, ok := errors.AsType[*RefusedError](result.Err)
	if !ok || refused.Check != check || result.Declared != nil {
		d.Fatalf("got %+v and error %v, want check %s", result.Declared, result.Err, check)
	}
	return refused
}

func (d *desk) delivery(id issuance.CredentialID) issuance.Delivery {
	d.Helper()
	delivery, err := d.store.Delivery(d.Context(), id)
	if err != nil {
		d.Fatal(err)
	}
	return delivery
}

// document is a delivery's document.
func (d *desk) document(delivery issuance.Delivery) *credential.Credential {
	d.Helper()
	document, findings := credential.Parse(delivery.Document.Body)
	if err := findings.Err(); err != nil {
		d.Fatal(err)
	}
	return document
}

// fetch notes the first fetch of a delivery's document.
func (d *desk) fetch(delivery issuance.Delivery) {
	d.Helper()
	if err := d.store.MarkFetched(d.Context(), d.call(), delivery.Document.ID); err != nil {
		d.Fatal(err)
	}
}

// issue takes a delivery's code through ACME to a certificate, which is not collected.
func (d *desk) issue(delivery issuance.Delivery) issuance.Certificate {
	d.Helper()
	d.bench.Now = d.now
	_, c := d.bench.Claimed(d.document(delivery).ClientIdentifier)
	if _, err := d.store.CompleteIssue(d.Context(), d.call(), storetest.CompletionFor(c)); err != nil {
		d.Fatal(err)
	}
	return c
}

// enrol issues and collects a certificate with a delivery's code.
func (d *desk) enrol(delivery issuance.Delivery) issuance.Certificate {
	d.Helper()
	c, err := d.store.CollectCertificate(d.Context(), d.call(), d.issue(delivery).ID, func(issuance.Certificate) error { return nil })
	if err != nil {
		d.Fatal(err)
	}
	return c
}

func (d *desk) revoke(code issuance.CodeID) {
	d.Helper()
	if _, err := d.store.RevokeCode(d.Context(), d.call(), code); err != nil {
		d.Fatal(err)
	}
}

// trail is the audit rows of an action.
func (d *desk) trail(action audit.Action) (rows []audit.Row) {
	d.Helper()
	for row, err := range d.store.Audit(d.Context(), audit.Filter{Action: action}) {
		if err != nil {
			d.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// reason is why a credential was rendered to a revision.
func (d *desk) reason(id issuance.CredentialID, revision int) issuance.RenderReason {
	d.Helper()
	for _, row := range d.trail(audit.CredentialRendered) {
		if row.Detail["credential"] == string(id) && row.Detail["revision"] == strconv.Itoa(revision) {
			return issuance.RenderReason(row.Detail["reason"])
		}
	}
	d.Fatalf("%s was never rendered to revision %d", id, revision)
	return ""
}

// secrets are what nobody may read in a log: the document's URL, its secret part and the code.
func (d *desk) secrets(delivery issuance.Delivery) []string {
	d.Helper()
	url := urlOf(d, delivery)
	return []string{url, url[strings.LastIndexByte(url, '/')+1:], d.document(delivery).ClientIdentifier}
}

func urlOf(t testing.TB, delivery issuance.Delivery) string {
	t.Helper()
	var asset struct {
		Payload struct{ Reference struct{ DataURL string } }
	}
	if err := json.Unmarshal(delivery.Asset, &asset); err != nil || asset.Payload.Reference.DataURL == "" {
		t.Fatalf("asset declaration %s: %v", delivery.Asset, err)
	}
	return asset.Payload.Reference.DataURL
}
