package store

import (
	"context"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// maxCounted is how far the counts of Figures go. Whoever has more to look at needs no exact number.
const maxCounted = 10_000

// Figures is what there is in a store that somebody may have to look at. To read it costs some indexed reads.
type Figures struct {
	HoldsWaiting  int64 // for a person's word; at most maxCounted
	ConflictsOpen int64 // of the inventory; at most maxCounted
	Unsealed      int64 // audit rows that no seal is over yet; at most maxCounted
	SealedAt      time.Time
	CRLs          map[issuance.IssuerID]CRLAge

	Database  int64  // bytes
	Years     []Year // partitions by year; none on SQLite
	WAL, Free int64  // bytes of SQLite's log, and free on its file system; 0 on PostgreSQL
}

// CRLAge is how old an issuer's CRLs are: the oldest of its shards.
type CRLAge struct{ ThisUpdate, NextUpdate time.Time }

// Figures reads the store's figures.
func (s *Store) Figures(ctx context.Context) (Figures, error) {
	f := Figures{CRLs: map[issuance.IssuerID]CRLAge{}}
	var sealed int64
	err := s.reads.row(ctx, `SELECT
			(SELECT count(*) FROM (SELECT 1 FROM holds WHERE status <> 'used' AND status = 'held' LIMIT ?1) AS h),
			(SELECT count(*) FROM (SELECT 1 FROM device_conflicts WHERE resolved_at = 0 LIMIT ?1) AS c),
			(SELECT count(*) FROM (SELECT 1 FROM audit_unsealed LIMIT ?1) AS u),
			coalesce((SELECT sealed_at FROM audit_seals WHERE number = (SELECT max(number) FROM audit_seals)), 0)`, maxCounted).
		Scan(&f.HoldsWaiting, &f.ConflictsOpen, &f.Unsealed, &sealed)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	f.SealedAt = timeOf(sealed)
	err = s.reads.rows(ctx, func(row scanner) error {
		var issuer issuance.IssuerID
		var this, next int64
		err := row.Scan(&issuer, &this, &next)
		f.CRLs[issuer] = CRLAge{timeOf(this), timeOf(next)}
		return err
	}, `SELECT issuer, min(this_update), min(next_update) FROM crls WHERE number > 0 GROUP BY issuer`)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures of CRLs: %w", err)
	}
	if err := s.db.sizes(ctx, &f); err != nil {
		return Figures{}, fmt.Errorf("read sizes: %w", err)
	}
	return f, nil
}
