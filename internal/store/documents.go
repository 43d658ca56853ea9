package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// insertDocument stores the document of a code under a new id. revision is its credential's; 0 for a
// document published by hand.
func (s *Store) insertDocument(t *tx, d *issuance.Document, c *issuance.Code, revision int) error {
	sealed, err := s.seal.seal(d.Body, string(d.ID))
	if err != nil {
		return err
	}
	err = t.write(`INSERT INTO documents (id, code, path_sha256, sealed, sha256, created_at, expires_at, credential, revision,
			mdm, fetch_lifetime) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(d.ID), string(c.ID), d.PathHash[:], sealed, d.SHA256, stamp(c.CreatedAt), stamp(c.ExpiresAt), null(d.Credential), revision,
		flag(d.MDM), d.FetchLifetime.Microseconds())
	if err != nil {
		return fmt.Errorf("store document: %w", err)
	}
	return nil
}

// eraseDocument forgets the body of a code's document: the code in it is dead.
func (t *tx) eraseDocument(code string) error {
	if err := t.write(`UPDATE documents SET sealed = NULL WHERE code = ?`, code); err != nil {
		return fmt.Errorf("erase document: %w", err)
	}
	return nil
}

const documentColumns = `documents.id, documents.code, coalesce(documents.credential, ''), documents.path_sha256,
	documents.sealed, documents.sha256, documents.mdm, documents.fetch_lifetime, documents.created_at,
	documents.fetched_at, documents.refused_at, documents.refused_check`

// documentFields takes documentColumns.
type documentFields struct {
	d                                        issuance.Document
	path, sealed                             []byte
	mdm, lifetime, created, fetched, refused int64
}

func (f *documentFields) into() []any {
	return []any{
		&f.d.ID, &f.d.Code, &f.d.Credential, &f.path, &f.sealed, &f.d.SHA256, &f.mdm, &f.lifetime, &f.created,
		&f.fetched, &f.refused, &f.d.RefusedCheck,
	}
}

// document is the document, with its body if its code is alive and it was not erased.
func (f *documentFields) document(s *sealer, alive bool) (issuance.Document, error) {
	d := f.d
	copy(d.PathHash[:], f.path)
	d.MDM, d.FetchLifetime = f.mdm == 1, time.Duration(f.lifetime)*time.Microsecond
	d.CreatedAt, d.FetchedAt, d.RefusedAt = timeOf(f.created), timeOf(f.fetched), timeOf(f.refused)
	if !alive || f.sealed == nil {
		return d, nil
	}
	var err error
	d.Body, err = s.unseal(f.sealed, string(d.ID))
	return d, err
}

// DocumentByPath returns the document whose secret path has this SHA-256, with the status of its
// code at now and the device that it is for. Its body is nil unless the code can still be used.
func (s *Store) DocumentByPath(ctx context.Context, pathHash [32]byte, now time.Time) (issuance.FetchedDocument, error) {
	var f documentFields
	var device deviceFields
	var code issuance.Code
	var expires int64
	into := append(f.into(), &code.Status, &code.Tries, &expires)
	err := s.reads.row(ctx, `SELECT `+documentColumns+`, codes.status, codes.tries, codes.expires_at, `+deviceColumns+`
		FROM documents JOIN codes ON codes.id = documents.code
		LEFT JOIN device_credentials AS k ON k.id = documents.credential
		LEFT JOIN devices ON devices.id = coalesce(k.device, codes.device)
		WHERE documents.path_sha256 = ?`, pathHash[:]).Scan(append(into, device.into()...)...)
	if err != nil {
		return issuance.FetchedDocument{}, fmt.Errorf("read document: %w", notFound(err))
	}
	code.ExpiresAt = timeOf(expires)
	fetched := issuance.FetchedDocument{CodeStatus: code.StatusAt(now)}
	if fetched.Document, err = f.document(s.seal, fetched.CodeStatus == issuance.CodeUnused); err != nil {
		return issuance.FetchedDocument{}, fmt.Errorf("read document: %w", err)
	}
	if fetched.Device, err = device.device(); err != nil {
		return issuance.FetchedDocument{}, fmt.Errorf("read document: %w", err)
	}
	return fetched, nil
}

// documentState is what decides about a fetch.
type documentState struct {
	code                   issuance.Code // ID, Status, Tries and ExpiresAt
	credential, device     string
	fetched, refused, life int64
}

func (t *tx) documentState(id issuance.DocumentID) (documentState, error) {
	var d documentState
	var expires int64
	err := t.row(`SELECT codes.id, codes.status, codes.tries, codes.expires_at, coalesce(documents.credential, ''),
			coalesce(k.device, codes.device, ''), documents.fetched_at, documents.refused_at, documents.fetch_lifetime
		FROM documents JOIN codes ON codes.id = documents.code
		LEFT JOIN device_credentials AS k ON k.id = documents.credential WHERE documents.id = ?`, string(id)).
		Scan(&d.code.ID, &d.code.Status, &d.code.Tries, &expires, &d.credential, &d.device, &d.fetched, &d.refused, &d.life)
	d.code.ExpiresAt = timeOf(expires)
	if err = notFound(err); errors.Is(err, issuance.ErrNotFound) {
		return d, keep(err)
	}
	return d, err
}

func (d *documentState) row() audit.Row {
	r := audit.Row{Action: audit.DocumentFetched, Code: string(d.code.ID), Device: d.device}
	if d.credential != "" {
		r.Detail = map[string]string{"credential": d.credential}
	}
	return r
}

// MarkFetched notes the first fetch of a document, before its body is sent: its code lives for the
// document's FetchLifetime from now on, if that is shorter, and its credential is due again only some
// time after that, or not at all where too many documents came to nothing.
// Later fetches change nothing. issuance.ErrConflict if the code died meanwhile: then nothing may be
// served. Not fsynced: after a power failure the next fetch is the first.
func (s *Store) MarkFetched(ctx context.Context, call issuance.Call, id issuance.DocumentID) error {
	return s.note(ctx, call, "note fetch of document", func(t *tx) error {
		d, err := t.documentState(id)
		if err != nil {
			return err
		}
		if d.code.StatusAt(call.Now) != issuance.CodeUnused {
			return keep(issuance.ErrConflict)
		}
		if d.fetched != 0 {
			return nil
		}
		end := stamp(d.code.ExpiresAt)
		if d.life > 0 {
			end = min(end, stamp(call.Now)+d.life)
		}
		n, err := t.exec(`UPDATE documents SET fetched_at = ?, expires_at = ? WHERE id = ? AND fetched_at = 0`, stamp(call.Now), end, string(id))
		if err := changedOne(n, err, "first fetch"); err != nil {
			return err
		}
		n, err = t.exec(`UPDATE codes SET expires_at = ? WHERE id = ? AND status = 'unused'`, end, string(d.code.ID))
		if err := changedOne(n, err, "code of a fetched document"); err != nil {
			return err
		}
		if d.credential != "" {
			n, err = t.exec(`UPDATE device_credentials SET due_at = CASE WHEN attempts < ? THEN CAST(? AS bigint) ELSE 0 END WHERE id = ? AND document = ?`,
				issuance.MaxAttempts, end+issuance.RetryPause.Microseconds(), d.credential, string(id))
			if err := changedOne(n, err, "credential of a live document"); err != nil {
				return err
			}
		}
		return s.record(t, call, d.row(), audit.Personal{})
	})
}

// refusalInterval is how often a fetch in vain is noted, for each document.
const refusalInterval = time.Minute

// RefuseFetch notes that a document was asked for in vain, and which check refused it; at most once
// a minute for each document, so that whoever holds a URL cannot fill the trail. Not fsynced.
func (s *Store) RefuseFetch(ctx context.Context, call issuance.Call, id issuance.DocumentID, check string) error {
	const what = "note refused fetch of document"
	before := stamp(call.Now.Add(-refusalInterval))
	var refusedAt int64
	err := notFound(s.reads.row(ctx, `SELECT refused_at FROM documents WHERE id = ?`, string(id)).Scan(&refusedAt))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if refusedAt > before && refusedAt <= stamp(call.Now) { // without a write: there may be many
		return nil
	}
	return s.note(ctx, call, what, func(t *tx) error {
		d, err := t.documentState(id)
		if err != nil {
			return err
		}
		if d.refused > before && d.refused <= stamp(call.Now) { // a later one is of a clock that was ahead
			return nil
		}
		if err := t.write(`UPDATE documents SET refused_at = ?, refused_check = ? WHERE id = ?`, stamp(call.Now), check, string(id)); err != nil {
			return err
		}
		row := d.row()
		row.Outcome, row.Check = audit.Refused, check
		return s.record(t, call, row, audit.Personal{})
	})
}
