package integrity_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/asn1"
	"encoding/hex"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/ca"
	"assay/internal/integrity"
	"assay/internal/issuance"
	"assay/internal/manual"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

var update = flag.Bool("update", false, "write the generated part of docs/reliability.md")

var auditKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))

func openAt(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), path, store.Options{Key: bytes.Repeat([]byte{0x5a}, store.KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// check returns the faults of a store, and how much was checked.
func check(t *testing.T, s *store.Store, now time.Time) ([]integrity.Fault, integrity.Counts) {
	t.Helper()
	var faults []integrity.Fault
	counts, err := integrity.Check(context.Background(), s, integrity.Options{
		Now: func() time.Time { return now }, AuditKey: auditKey.Public().(ed25519.PublicKey),
		Found: func(f integrity.Fault) { faults = append(faults, f) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return faults, counts
}

// place is a store whose certificates are signed.
type place struct {
	*storetest.Bench
	t      testing.TB
	store  *store.Store
	issuer *ca.Issuer
	key    []byte // SubjectPublicKeyInfo that is certified
}

func newPlace(t testing.TB, path string) *place {
	t.Helper()
	p := &place{t: t, store: openAt(t, path)}
	p.Bench = &storetest.Bench{Store: p.store, T: t, Now: storetest.Start.Truncate(time.Second)}
	rootKey, err := ca.GenerateKey(ca.P256)
	p.ok(err)
	root, err := ca.NewRoot("Test", rootKey, p.Now)
	p.ok(err)
	key, err := ca.GenerateKey(ca.P256)
	p.ok(err)
	certificate, err := root.NewIssuing("Test", key.Public(), p.Now)
	p.ok(err)
	chain := [][]byte{certificate.Raw, root.Certificate.Raw}
	row, err := p.store.AddIssuer(t.Context(), p.Operator(), issuance.Issuer{Name: "Test", Chain: chain, Key: "file:ca.key", Active: true})
	p.ok(err)
	p.issuer, err = ca.NewIssuer(string(row.ID), chain, key, "http://localhost")
	p.ok(err)
	p.Issuer, p.Account = row.ID, p.NewAccount()
	p.key, err = x509.MarshalPKIXPublicKey(key.Public()) // any key will do
	p.ok(err)
	return p
}

func (p *place) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// claimed reserves a serial for a fresh code.
func (p *place) claimed() issuance.Certificate {
	p.t.Helper()
	_, value := p.Mint(storetest.WithDocument(p.Now.String()))
	p.Now = p.Now.Add(time.Second)
	c := p.ClaimFor(p.Ready(value))
	c.Certificate.Serial = "0" + c.Certificate.Serial[1:] // positive
	sum := sha256.Sum256(p.key)
	c.Certificate.SPKISHA256 = hex.EncodeToString(sum[:])
	cert, err := p.BeginIssue(p.t.Context(), p.Call(), c)
	p.ok(err)
	return cert
}

// issued issues a certificate.
func (p *place) issued() issuance.Certificate {
	p.t.Helper()
	c := p.claimed()
	serial, _ := new(big.Int).SetString(c.Serial, 16)
	key, err := x509.ParsePKIXPublicKey(p.key)
	p.ok(err)
	subject, err := asn1.Marshal(pkix.Name{CommonName: "device"}.ToRDNSequence())
	p.ok(err)
	der, err := p.issuer.Issue(p.t.Context(), ca.IssueInput{
		Serial: serial, PublicKey: key, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Shard: c.CRLShard,
		Grant: &ca.Grant{RawSubject: subject, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []string{"1.3.6.1.5.5.7.3.2"}},
	})
	p.ok(err)
	done := storetest.CompletionFor(c)
	done.DER = der
	_, err = p.CompleteIssue(p.t.Context(), p.Call(), done)
	p.ok(err)
	return c
}

func (p *place) revoke(c issuance.Certificate) {
	p.t.Helper()
	_, err := p.RevokeCertificate(p.t.Context(), p.Operator(), issuance.Revocation{Certificate: c.ID, Reason: 1})
	p.ok(err)
}

// publish signs the CRL of shard 3, where the bench's certificates are.
func (p *place) publish() {
	p.t.Helper()
	stored, err := p.CRL(p.t.Context(), p.Issuer, 3)
	p.ok(err)
	revoked, err := p.RevokedSerials(p.t.Context(), p.Issuer, 3, p.Now)
	p.ok(err)
	next := issuance.CRL{Issuer: p.Issuer, Shard: 3, Number: stored.Number + 1, Revision: stored.Revision}
	next.ThisUpdate, next.NextUpdate = ca.CRLWindow(p.Now)
	list := ca.CRL{Number: next.Number, ThisUpdate: next.ThisUpdate, NextUpdate: next.NextUpdate, Shard: 3}
	for _, r := range revoked {
		list.Revoked = append(list.Revoked, ca.Revoked{Serial: r.Serial, At: r.RevokedAt, Reason: ca.Reason(r.Reason)})
	}
	next.DER, err = p.issuer.SignCRL(p.t.Context(), list)
	p.ok(err)
	p.ok(p.PutCRL(p.t.Context(), p.Operator(), next))
}

// whole makes a database with something of everything, and closes it.
func whole(t *testing.T, path string) (now time.Time) {
	t.Run("make", func(t *testing.T) {
		p := newPlace(t, path)
		p.issued()
		p.revoke(p.issued())
		p.publish()
		p.revoke(p.issued())
		p.publish()
		abandoned := p.claimed()
		p.ok(p.AbandonIssue(t.Context(), p.Operator(), abandoned.Order, issuance.Refusal{Check: "key"}))
		p.claimed()
		p.Mint()
		_, value := p.Mint()
		p.Pending(value)
		p.Ready(value)
		p.HeldFor(p.Ready(value), issuance.Device{})
		_, err := p.store.SealAudit(t.Context(), p.Now, auditKey)
		p.ok(err)
		now = p.Now
	})
	return now
}

func TestWholeDatabaseHasNoFault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	now := whole(t, path)
	faults, counts := check(t, openAt(t, path), now)
	if len(faults) > 0 {
		t.Errorf("faults %+v", faults)
	}
	want := integrity.Counts{Certificates: 5, Orders: 8, Codes: 7, Accounts: 1, Evidence: 7, Decisions: 6, Holds: 1, CRLs: 1, Seals: 1, Sealed: counts.Sealed}
	if counts != want || counts.Sealed < 30 {
		t.Errorf("checked %+v, want %+v", counts, want)
	}
}

func TestForgottenDeviceIsNoFault(t *testing.T) {
	p := newPlace(t, filepath.Join(t.TempDir(), "assay.db"))
	issued, err := p.Certificate(t.Context(), p.issued().ID)
	p.ok(err)
	_, err = p.store.ForgetDevice(t.Context(), p.Operator(), issued.Device, true)
	p.ok(err)
	p.publish()
	faults, counts := check(t, p.store, p.Now)
	if len(faults) > 0 || counts.Certificates != 1 {
		t.Errorf("faults %+v among %+v", faults, counts)
	}
}

// breaks are edits of the database, each with the rule that it breaks.
var breaks = []struct{ rule, edit string }{
	{"issuer-chain", `UPDATE issuers SET chain = '["AQID"]'`},
	{"certificate-order", `UPDATE certificates SET order_id = 'order_none' WHERE status = 'valid'`},
	{"certificate-order", `UPDATE orders SET status = 'invalid', certificate = NULL WHERE status = 'valid'`},
	{"certificate-order", `UPDATE orders SET code = NULL WHERE status = 'valid'`},
	{"certificate-code", `UPDATE codes SET status = 'unused', order_id = NULL, certificate = NULL WHERE status = 'consumed'`},
	{"certificate-code", `DELETE FROM codes WHERE status = 'issuing'`},
	{"certificate-decision", `DELETE FROM decisions WHERE outcome = 'issue'`},
	{"certificate-decision", `UPDATE decisions SET outcome = 'refuse'`},
	{"certificate-decision", `UPDATE certificates SET decision = (SELECT decision FROM orders WHERE status = 'processing') WHERE status = 'valid'`},
	{"certificate-decision", `UPDATE orders SET decision = NULL WHERE status = 'valid'`},
	{"certificate-evidence", `UPDATE evidence SET order_id = 'order_none'`},
	{"certificate-evidence", `UPDATE certificates SET evidence = (SELECT evidence FROM orders WHERE status = 'ready') WHERE status = 'valid'`},
	{"certificate-reserved", `UPDATE certificates SET reserved_at = reserved_at - 400000000 WHERE status = 'reserved'`},
	{"certificate-audit", `DELETE FROM audit WHERE action = 'issue.completed'`},
	{"certificate-audit", `DELETE FROM audit WHERE action = 'certificate.revoked'`},
	{"certificate-audit", `DELETE FROM audit WHERE action = 'issue.abandoned'`},
	{"certificate-audit", `UPDATE certificates SET status = 'valid', revoked_at = 0 WHERE status = 'revoked'`},
	{"certificate-revocation", `DELETE FROM crls`},
	{"certificate-der", `UPDATE certificates SET der = x'00' WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET der = x'' WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET serial = '00' || substr(serial, 3, 36) || '00' WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET spki_sha256 = '00' WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET not_after = not_after + 1000000 WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET not_before = not_before - 1000000 WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET crl_shard = 4 WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET issuer = 'issuer_none' WHERE status = 'valid'`},
	{"certificate-der", `UPDATE certificates SET der = unhex(substr(hex(der), 1, 2 * length(der) - 2) || CASE WHEN hex(der) LIKE '%5A' THEN '5B' ELSE '5A' END) WHERE status = 'valid'`},
	{"order-state", `UPDATE orders SET challenge = 'pending' WHERE status = 'ready'`},
	{"order-state", `UPDATE orders SET authz = 'deactivated' WHERE status = 'processing'`},
	{"order-state", `UPDATE orders SET refusal = '' WHERE status = 'invalid'`},
	{"order-account", `DELETE FROM accounts`},
	{"order-account", `UPDATE accounts SET directory = 'other'`},
	{"order-claim", `UPDATE orders SET claimed_at = 0 WHERE status = 'valid'`},
	{"order-claim", `UPDATE orders SET claimed_at = 1 WHERE status = 'ready'`},
	{"order-claim", `DELETE FROM certificates WHERE status = 'valid'`},
	{"order-claim", `UPDATE certificates SET order_id = (SELECT id FROM orders WHERE status = 'ready') WHERE status = 'reserved'`},
	{"order-certificate", `UPDATE orders SET certificate = 'cert_none' WHERE status = 'valid'`},
	{"order-certificate", `UPDATE orders SET certificate = 'cert_none' WHERE status = 'ready'`},
	{"order-evidence", `UPDATE orders SET evidence = NULL WHERE status = 'ready'`},
	{"order-evidence", `DELETE FROM evidence`},
	{"order-decision", `UPDATE orders SET decision = NULL WHERE status = 'processing'`},
	{"order-decision", `UPDATE orders SET decision = (SELECT decision FROM orders WHERE status = 'processing') WHERE status = 'valid'`},
	{"order-code", `DELETE FROM codes WHERE status = 'consumed'`},
	{"order-code", `UPDATE codes SET status = 'unused', order_id = NULL WHERE status = 'issuing'`},
	{"order-code", `UPDATE codes SET order_id = 'order_none' WHERE status = 'issuing'`},
	{"code-once", `DROP INDEX certificates_code; UPDATE certificates SET code = (SELECT code FROM certificates WHERE status = 'revoked' LIMIT 1) WHERE status = 'valid'`},
	{"code-once", `UPDATE certificates SET code = (SELECT id FROM codes WHERE status = 'unused' LIMIT 1) WHERE status = 'reserved'`},
	{"code-certificate", `UPDATE codes SET certificate = 'cert_none' WHERE status = 'consumed'`},
	{"code-certificate", `UPDATE codes SET certificate = 'cert_none' WHERE status = 'unused'`},
	{"code-order", `UPDATE codes SET order_id = 'order_none' WHERE status = 'consumed'`},
	{"code-order", `UPDATE codes SET order_id = 'order_none' WHERE status = 'unused'`},
	{"code-document", `UPDATE documents SET sealed = x'00'`},
	{"account-orders", `UPDATE accounts SET orders = orders - 1`},
	{"evidence-order", `DELETE FROM orders WHERE status = 'ready'`},
	{"evidence-order", `UPDATE orders SET evidence = NULL WHERE status = 'valid'`},
	{"decision-order", `DELETE FROM orders WHERE status = 'valid'`},
	{"decision-order", `UPDATE orders SET decision = NULL WHERE status = 'invalid'`},
	{"hold-order", `UPDATE holds SET status = 'used'`},
	{"hold-order", `UPDATE holds SET status = 'claimed', order_id = (SELECT id FROM orders WHERE status = 'ready')`},
	{"hold-decision", `DELETE FROM decisions WHERE outcome = 'hold'`},
	{"crl-der", `UPDATE crls SET der = x'00'`},
	{"crl-der", `UPDATE crls SET der = x''`},
	{"crl-der", `UPDATE crls SET der = unhex(substr(hex(der), 1, 2 * length(der) - 2) || CASE WHEN hex(der) LIKE '%5A' THEN '5B' ELSE '5A' END)`},
	{"crl-der", `UPDATE crls SET number = number + 1`},
	{"crl-der", `UPDATE crls SET number = number - 1, stale = 1`},
	{"crl-der", `UPDATE crls SET this_update = this_update + 1000000`},
	{"crl-der", `UPDATE crls SET next_update = next_update + 1000000`},
	{"crl-der", `UPDATE crls SET issuer = 'issuer_none'`},
	{"crl-entries", `UPDATE certificates SET status = 'revoked', revoked_at = 1 WHERE status = 'valid'`},
	{"crl-entries", `UPDATE certificates SET status = 'valid', revoked_at = 0 WHERE status = 'revoked'`},
	{"crl-entries", `UPDATE certificates SET revoked_at = revoked_at - 1000000 WHERE status = 'revoked'`},
	{"crl-entries", `UPDATE certificates SET revoked_reason = 4 WHERE status = 'revoked'`},
	{"crl-entries", `UPDATE certificates SET crl_shard = 4 WHERE status = 'revoked'`},
	{"crl-number", `UPDATE crls SET number = 1`},
	{"crl-number", `UPDATE audit SET detail = '{"number":"2","shard":"3"}' WHERE action = 'crl.published'`},
	{"audit-seal", `UPDATE audit SET directory = 'other' WHERE action = 'issue.begun'`},
	{"audit-seal", `DELETE FROM audit_seals`},
	{"audit-seal", `UPDATE audit_seals SET root = zeroblob(32)`},
	{"audit-seal", `INSERT INTO audit SELECT 'audit_x', time, action, outcome, directory, account, order_id, code, certificate, device, issuer, failed, detail, commitment FROM audit LIMIT 1`},
}

func TestEachBrokenRuleIsNamed(t *testing.T) {
	dir := t.TempDir()
	sound := filepath.Join(dir, "whole.db")
	now := whole(t, sound)
	data, err := os.ReadFile(sound)
	if err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{}
	for n, b := range breaks {
		tried[b.rule] = true
		t.Run(b.rule+"/"+b.edit, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "broken.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			breakAt(t, path, b.edit)
			faults, _ := check(t, openAt(t, path), now)
			for _, f := range faults {
				if f.Rule == b.rule && f.What != "" {
					return
				}
			}
			t.Errorf("case %d: found %+v", n, faults)
		})
	}
	for _, r := range integrity.Rules() {
		if !tried[r.Name] || r.Meaning == "" {
			t.Errorf("nothing breaks rule %s", r.Name)
		}
	}
}

func TestManualListsEveryRule(t *testing.T) {
	var table strings.Builder
	table.WriteString("| rule | what must be true |\n|---|---|\n")
	for _, r := range integrity.Rules() {
		fmt.Fprintf(&table, "| `%s` | %s |\n", r.Name, r.Meaning)
	}
	manual.Part(t, "../../docs/reliability.md", "rules", table.String(), *update, "go test ./internal/integrity -run Manual -update")
}

// breakAt edits a database past everything that guards it.
func breakAt(t *testing.T, path, edit string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=ignore_check_constraints(1)&_pragma=foreign_keys(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	var drop strings.Builder
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		drop.WriteString("DROP TRIGGER " + name + ";")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	result, err := db.ExecContext(t.Context(), drop.String()+edit)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("the edit changed nothing (%v)", err)
	}
}
