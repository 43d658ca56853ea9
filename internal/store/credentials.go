package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

const credentialColumns = `k.id, k.device, k.template, k.directory, k.revision, k.document, k.code, coalesce(k.certificate, ''),
	k.asset_token, k.configuration_token, k.renew_before, k.revoke_superseded, k.due_at, k.attempts, k.pushed, k.pushed_at, k.push_error,
	k.report, k.created_at, k.rendered_at, k.withdrawn_at`

const credentialByID = `SELECT ` + credentialColumns + ` FROM device_credentials AS k WHERE k.id = ?`

// credentialFields takes credentialColumns.
type credentialFields struct {
	k                                                               issuance.DeviceCredential
	renewBefore, revokes, due, pushed, created, rendered, withdrawn int64
	report                                                          string
}

func (f *credentialFields) into() []any {
	k := &f.k
	return []any{
		&k.ID, &k.Device, &k.Template, &k.Directory, &k.Revision, &k.Document, &k.Code, &k.Certificate,
		&k.AssetToken, &k.ConfigurationToken, &f.renewBefore, &f.revokes, &f.due, &k.Attempts, &k.Pushed, &f.pushed, &k.PushError,
		&f.report, &f.created, &f.rendered, &f.withdrawn,
	}
}

func (f *credentialFields) credential() (issuance.DeviceCredential, error) {
	k := f.k
	k.RenewBefore, k.RevokeSuperseded = time.Duration(f.renewBefore)*time.Microsecond, f.revokes == 1
	k.DueAt, k.PushedAt = timeOf(f.due), timeOf(f.pushed)
	k.CreatedAt, k.RenderedAt, k.WithdrawnAt = timeOf(f.created), timeOf(f.rendered), timeOf(f.withdrawn)
	if f.report != "" {
		k.Report = new(issuance.StatusReport)
		if err := json.Unmarshal([]byte(f.report), k.Report); err != nil {
			return issuance.DeviceCredential{}, fmt.Errorf("report of %s: %w", k.ID, err)
		}
	}
	return k, nil
}

func scanCredential(row scanner) (issuance.DeviceCredential, error) {
	var f credentialFields
	if err := row.Scan(f.into()...); err != nil {
		return issuance.DeviceCredential{}, notFound(err)
	}
	return f.credential()
}

// delivery reads a device's credential with everything that belongs to it at the moment.
const delivery = `SELECT ` + credentialColumns + `, k.asset_sealed, k.configuration_sealed, ` + deviceColumns + `, ` + codeColumns + `, ` + documentColumns + `
	FROM device_credentials AS k JOIN devices ON devices.id = k.device JOIN codes ON codes.id = k.code
	JOIN documents ON documents.id = k.document`

// Delivery returns a device's credential with its device, code, document and declarations. The
// document's body is nil once its code is used, revoked or exhausted; whether its time is over the
// caller asks the code.
func (s *Store) Delivery(ctx context.Context, id issuance.CredentialID) (issuance.Delivery, error) {
	return s.scanDelivery(s.reads.row(ctx, delivery+` WHERE k.id = ?`, string(id)))
}

// DeliveryOf is Delivery by device and template.
func (s *Store) DeliveryOf(ctx context.Context, device issuance.DeviceID, template string) (issuance.Delivery, error) {
	return s.scanDelivery(s.reads.row(ctx, delivery+` WHERE k.device = ? AND k.template = ?`, string(device), template))
}

func (s *Store) scanDelivery(row scanner) (issuance.Delivery, error) {
	var k credentialFields
	var device deviceFields
	var code codeFields
	var document documentFields
	var asset, configuration []byte
	into := append(k.into(), &asset, &configuration)
	into = append(append(append(into, device.into()...), code.into()...), document.into()...)
	if err := row.Scan(into...); err != nil {
		return issuance.Delivery{}, fmt.Errorf("read credential of a device: %w", notFound(err))
	}
	var d issuance.Delivery
	var errs [6]error
	d.Credential, errs[0] = k.credential()
	d.Device, errs[1] = device.device()
	d.Code, errs[2] = code.code()
	alive := d.Code.Status == issuance.CodeUnused && d.Code.Tries < issuance.MaxTriesPerCode
	d.Document, errs[3] = document.document(s.seal, alive)
	if asset != nil {
		d.Asset, errs[4] = s.seal.unseal(asset, assetName(d.Credential.ID))
		d.Configuration, errs[5] = s.seal.unseal(configuration, configurationName(d.Credential.ID))
	}
	if err := errors.Join(errs[:]...); err != nil {
		return issuance.Delivery{}, fmt.Errorf("read credential of a device: %w", err)
	}
	return d, nil
}

// assetName and configurationName are what sealed declarations belong to.
func assetName(id issuance.CredentialID) string         { return "asset of " + string(id) }
func configurationName(id issuance.CredentialID) string { return "configuration of " + string(id) }

// DeviceCredentials lists the credentials of devices, oldest first; with DueBefore those that are due
// first. Not pushed is also what was withdrawn after it was pushed, until "" was pushed.
func (s *Store) DeviceCredentials(ctx context.Context, f issuance.CredentialFilter) iter.Seq2[issuance.DeviceCredential, error] {
	var q selection
	q.and("k.device = ?", string(f.Device), f.Device != "")
	q.and("k.template = ?", f.Template, f.Template != "")
	q.and("k.due_at <> 0 AND k.due_at < ?", stamp(f.DueBefore), !f.DueBefore.IsZero())
	// A lost or retired device gets nothing, so it needs no new document.
	q.plain("(SELECT state FROM devices WHERE id = k.device AND (state = 'lost' OR state = 'retired')) IS NULL", !f.DueBefore.IsZero())
	q.plain("k.pushed <> CASE WHEN k.withdrawn_at = 0 THEN k.asset_token || ' ' || k.configuration_token ELSE '' END", f.NotPushed)
	l := list[issuance.DeviceCredential]{
		what: "list credentials of devices", columns: `SELECT ` + credentialColumns + ` FROM device_credentials AS k`, key: "k.id",
		scan: scanCredential, keyOf: func(k *issuance.DeviceCredential) []any { return []any{string(k.ID)} },
	}
	if !f.DueBefore.IsZero() {
		l.key, l.keyOf = "k.due_at, k.id", func(k *issuance.DeviceCredential) []any { return []any{stamp(k.DueAt), string(k.ID)} }
		l.find = func(id string) (issuance.DeviceCredential, error) {
			return scanCredential(s.reads.row(ctx, credentialByID, id))
		}
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}

// WithdrawCredential ends the delivery of a device's credential that is at ifRevision (0 stands for
// any): its unused code is revoked, document and declarations are erased, and nothing is due any
// more. Its revision is raised, so that no rendering that began before brings it back. One that is
// withdrawn already stays as it is. issuance.ErrConflict if it is at another revision, or while a
// certificate is being issued for its code.
func (s *Store) WithdrawCredential(ctx context.Context, call issuance.Call, id issuance.CredentialID, ifRevision int) (k issuance.DeviceCredential, err error) {
	err = s.change(ctx, call, "withdraw credential", func(t *tx) error {
		if k, err = scanCredential(t.row(credentialByID, string(id))); errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		} else if err != nil {
			return err
		}
		if ifRevision != 0 && k.Revision != ifRevision {
			return keep(issuance.ErrConflict)
		}
		return s.withdraw(t, call, &k)
	})
	if err != nil {
		return issuance.DeviceCredential{}, err
	}
	return k, nil
}

// withdraw withdraws a credential, unless it is withdrawn already.
func (s *Store) withdraw(t *tx, call issuance.Call, k *issuance.DeviceCredential) error {
	if !k.WithdrawnAt.IsZero() {
		return nil
	}
	if err := s.endCode(t, call, k.Code); err != nil {
		return err
	}
	k.Revision++
	k.WithdrawnAt, k.DueAt = timeOf(stamp(call.Now)), time.Time{}
	n, err := t.exec(`UPDATE device_credentials SET revision = ?, withdrawn_at = ?, due_at = 0, asset_sealed = NULL,
		configuration_sealed = NULL WHERE id = ?`, k.Revision, stamp(call.Now), string(k.ID))
	if err := changedOne(n, err, "credential"); err != nil {
		return err
	}
	return s.record(t, call, credentialRow(audit.CredentialWithdrawn, k), audit.Personal{})
}

// endCode revokes the code of a credential if nobody used it. ErrConflict while a certificate is
// being issued for it: then nothing was changed.
func (s *Store) endCode(t *tx, call issuance.Call, id issuance.CodeID) error {
	c, err := scanCode(t.locked(`SELECT `+codeColumns+` FROM codes WHERE id = ?`, string(id)))
	if err != nil {
		return err
	}
	switch c.Status {
	case issuance.CodeIssuing:
		return keep(issuance.ErrConflict)
	case issuance.CodeUnused:
		n, err := t.exec(`UPDATE codes SET status = 'revoked', revoked_at = ? WHERE id = ? AND status = 'unused'`, stamp(call.Now), string(id))
		if err := changedOne(n, err, "code of a credential"); err != nil {
			return err
		}
		return s.endRevokedCode(t, call, &c)
	}
	return nil
}

func credentialRow(action audit.Action, k *issuance.DeviceCredential) audit.Row {
	return audit.Row{
		Action: action, Directory: k.Directory, Code: string(k.Code), Device: string(k.Device),
		Detail: map[string]string{"credential": string(k.ID), "template": k.Template, "revision": strconv.Itoa(k.Revision)},
	}
}
