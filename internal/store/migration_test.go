package store

import (
	"crypto/sha256"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// firstSchemaRows is a database as the first schema's program left it: one code that its document
// delivers, and one that was consumed, with the certificate.
var firstSchemaRows = []string{
	`INSERT INTO accounts (id, directory, status, contacts, terms_agreed, jwk, thumbprint, orders, created_at)
		VALUES ('acct_1', 'default', 'valid', '[]', 1, x'7b7d', 'tp', 1, 1000)`,
	`INSERT INTO devices (id, serial, udid, udid_key, labels, attested, created_at) VALUES ('dev_1', 'SER1', 'U-1', 'u-1', '{"owner":"Ann"}', 1, 1000)`,
	`INSERT INTO codes (id, directory, value_sha256, status, device, serial, allow_unattested, created_at, expires_at)
		VALUES ('code_1', 'default', zeroblob(32), 'unused', 'dev_1', 'SER1', 0, 1000, 9000000000000000)`,
	`INSERT INTO codes (id, directory, value_sha256, status, device, serial, allow_unattested, order_id, certificate, created_at, expires_at)
		VALUES ('code_2', 'default', x'0101010101010101010101010101010101010101010101010101010101010101', 'consumed', 'dev_1', 'SER1', 0, 'order_1', 'cert_1', 1000, 9000000000000000)`,
	`INSERT INTO documents (id, code, path_sha256, sealed, sha256, created_at, expires_at) VALUES ('doc_2', 'code_2', x'0202020202020202020202020202020202020202020202020202020202020202', NULL, 'ab', 1000, 9000000000000000)`,
	`INSERT INTO orders (id, account, directory, identifier_type, identifier_kind, identifier_sealed, code, status, authz, token, challenge, certificate, claimed_at, created_at, expires_at)
		VALUES ('order_1', 'acct_1', 'default', 'permanent-identifier', 'code', x'00', 'code_2', 'valid', 'valid', 't', 'valid', 'cert_1', 1000, 1000, 2000)`,
	`INSERT INTO issuers (id, name, chain, key, active, created_at) VALUES ('issuer_1', 'CA', '["AQ=="]', 'file:ca.key', 1, 1000)`,
	`INSERT INTO certificates (id, serial, status, directory, issuer, profile, profile_version, crl_shard, account, order_id, code, device, decision,
			device_serial, device_udid, expected_serial, expected_udid, attestation_root, spki_sha256, not_before, not_after, der, reserved_at, issued_at)
		VALUES ('cert_1', '0123456789012345678901234567890123456789', 'valid', 'default', 'issuer_1', 'p', 1, 3, 'acct_1', 'order_1', 'code_2', 'dev_1', 'dec_1',
			'SER1', 'U-1', '', '', '', 'ab', 1000, 9000000000000000, x'30', 1000, 1000)`,
	`INSERT INTO audit (id, time, action, outcome, directory, code, failed, detail) VALUES ('audit_1', 1000, 'code.minted', 'done', 'default', 'code_1', '', '')`,
}

func TestFirstSchemaMigratesWithItsRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	first, err := migrations.ReadFile("migrations/sqlite/00001_initial.sql")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Key: make([]byte, KeySize)}
	old, err := open(t.Context(), path, o, fstest.MapFS{"00001_initial.sql": {Data: first}})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := old.seal.seal([]byte("document"), "doc_1")
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, old)
	if err := rawly(t, path, firstSchemaRows...); err != nil {
		t.Fatal(err)
	}
	s := openFor(t, path)
	if backups, err := filepath.Glob(path + ".schema-1.bak"); err != nil || len(backups) != 1 {
		t.Errorf("backups %v, error %v", backups, err)
	}
	hash := sha256.Sum256([]byte("path"))
	err = s.change(t.Context(), issuance.Call{}, "document of the first schema", func(tx *tx) error { // named by the columns of that schema only
		_, err := tx.exec(`INSERT INTO documents (id, code, path_sha256, sealed, sha256, created_at, expires_at) VALUES ('doc_1', 'code_1', ?, ?, 'ab', 1000, 9000000000000000)`, hash[:], sealed)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	call := issuance.Call{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), From: "operator:test"}
	d, err := s.DocumentByPath(t.Context(), hash, call.Now)
	if err != nil || string(d.Body) != "document" || d.Device.ID != "dev_1" || d.MDM || d.FetchLifetime != 0 || d.Credential != "" {
		t.Errorf("document %+v, error %v", d, err)
	}
	if err := s.MarkFetched(t.Context(), call, "doc_1"); err != nil {
		t.Error(err)
	}
	if c, err := s.Code(t.Context(), "code_1"); err != nil || c.ExpiresAt != timeOf(9000000000000000) {
		t.Errorf("code %+v, error %v", c, err)
	}
	want := issuance.Device{ID: "dev_1", Serial: "SER1", UDID: "U-1", Labels: map[string]string{"owner": "Ann"}, Attested: true, State: policy.Active, Revision: 1, CreatedAt: timeOf(1000)}
	device, err := s.DeviceLike(t.Context(), "SER1", "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, device); diff != "" {
		t.Error(diff)
	}
	if c, err := s.CollectCertificate(t.Context(), call, "cert_1", func(issuance.Certificate) error { return nil }); err != nil || c.CollectedAt.IsZero() {
		t.Errorf("certificate %+v, error %v", c, err)
	}
	results, err := s.RenderCredentials(t.Context(), call, []issuance.Rendering{{
		ID: "cred_1", Reason: issuance.RenderDeclared, Device: issuance.Device{Serial: "SER1"}, Template: "wifi", Directory: "default",
		Code:  issuance.Mint{Directory: "default", Value: "a-code-of-more-than-22-characters", Lifetime: time.Hour},
		Asset: []byte("{}"), Configuration: []byte("{}"),
	}})
	if err != nil || results[0].Err != nil || results[0].Credential.Device != "dev_1" {
		t.Errorf("rendered %+v, error %v", results, err)
	}
	n := 0
	for r, err := range s.Audit(t.Context(), audit.Filter{Code: "code_1"}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; r.ID == "audit_1" && r.Action != audit.CodeMinted {
			t.Errorf("row %+v", r)
		}
	}
	if n != 2 {
		t.Errorf("%d audit rows of the old code, want 2: minted and fetched", n)
	}
}
