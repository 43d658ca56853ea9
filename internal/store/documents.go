package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

func (s *Store) insertDocument(t *tx, now time.Time, d *issuance.Document, c *issuance.Code) error {
	id, err := newID[issuance.DocumentID](s.random, now)
	if err != nil {
		return err
	}
	sealed, err := s.seal.seal(d.Body, string(id))
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO documents (id, code, path_sha256, sealed, sha256, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		string(id), string(c.ID), d.PathHash[:], sealed, d.SHA256, stamp(now), stamp(c.ExpiresAt))
	if err != nil {
		return fmt.Errorf("store document: %w", err)
	}
	return nil
}

// eraseDocument forgets the body of a code's document: the code in it is dead.
func (t *tx) eraseDocument(code string) error {
	if _, err := t.exec(`UPDATE documents SET sealed = NULL WHERE code = ?`, code); err != nil {
		return fmt.Errorf("erase document: %w", err)
	}
	return nil
}

// DocumentByPath returns the document whose secret path has this SHA-256, while its code can still
// be used at now; else issuance.ErrNotFound.
func (s *Store) DocumentByPath(ctx context.Context, pathHash [32]byte, now time.Time) (issuance.Document, error) {
	d := issuance.Document{PathHash: pathHash}
	var sealed []byte
	var created, fetched int64
	err := s.reads.row(ctx, `SELECT d.id, d.code, d.sealed, d.sha256, d.created_at, d.fetched_at
		FROM documents AS d JOIN codes AS c ON c.id = d.code
		WHERE d.path_sha256 = ? AND d.sealed IS NOT NULL AND c.status = 'unused' AND c.expires_at > ?`, pathHash[:], stamp(now)).
		Scan(&d.ID, &d.Code, &sealed, &d.SHA256, &created, &fetched)
	if err != nil {
		return issuance.Document{}, fmt.Errorf("read document: %w", notFound(err))
	}
	if d.Body, err = s.seal.unseal(sealed, string(d.ID)); err != nil {
		return issuance.Document{}, fmt.Errorf("read document: %w", err)
	}
	d.CreatedAt, d.FetchedAt = timeOf(created), timeOf(fetched)
	return d, nil
}

// MarkFetched notes the first fetch of a document; later ones change nothing. Not fsynced.
func (s *Store) MarkFetched(ctx context.Context, call issuance.Call, id issuance.DocumentID) error {
	return s.note(ctx, call, "note fetch of document", func(t *tx) error {
		var code string
		err := notFound(t.row(`UPDATE documents SET fetched_at = ? WHERE id = ? AND fetched_at = 0 RETURNING code`, stamp(call.Now), string(id)).Scan(&code))
		if errors.Is(err, issuance.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.record(t, call, audit.Row{Action: audit.DocumentFetched, Code: code}, audit.Personal{})
	})
}
