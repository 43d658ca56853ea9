package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"assay/internal/issuance"

	"golang.org/x/sys/unix"
)

// maxCounted is how far the counts of Figures go. Whoever has more to look at needs no exact number.
const maxCounted = 10_000

// Figures is what there is in a store that somebody may have to look at. To read it costs some indexed reads.
type Figures struct {
	HoldsWaiting  int64 // for a person's word; at most maxCounted
	ConflictsOpen int64 // of the inventory; at most maxCounted
	Unsealed      int64 // audit rows that no seal is over yet
	SealedAt      time.Time
	CRLs          map[issuance.IssuerID]CRLAge

	Database, WAL int64 // bytes of the files
	Free          int64 // bytes of the file system that the database is on
}

// CRLAge is how old an issuer's CRLs are: the oldest of its shards.
type CRLAge struct{ ThisUpdate, NextUpdate time.Time }

// Figures reads the store's figures.
func (s *Store) Figures(ctx context.Context) (Figures, error) {
	f := Figures{CRLs: map[issuance.IssuerID]CRLAge{}}
	var sealed int64
	err := s.reads.row(ctx, `SELECT
			(SELECT count(*) FROM (SELECT 1 FROM holds INDEXED BY holds_open WHERE status <> 'used' AND status = 'held' LIMIT ?1)),
			(SELECT count(*) FROM (SELECT 1 FROM device_conflicts INDEXED BY device_conflicts_list WHERE resolved_at = 0 LIMIT ?1)),
			ifnull((SELECT max(seq) FROM audit_places), 0) - ifnull((SELECT last_seq FROM audit_seals WHERE number = (SELECT max(number) FROM audit_seals)), 0),
			ifnull((SELECT sealed_at FROM audit_seals WHERE number = (SELECT max(number) FROM audit_seals)), 0)`, maxCounted).
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
	if err := s.sizes(&f); err != nil {
		return Figures{}, fmt.Errorf("read sizes: %w", err)
	}
	return f, nil
}

// sizes reads how much room the database takes, and how much there is.
func (s *Store) sizes(f *Figures) error {
	for _, file := range []struct {
		path string
		size *int64
	}{{s.path, &f.Database}, {s.path + "-wal", &f.WAL}} {
		info, err := os.Stat(file.path)
		if errors.Is(err, fs.ErrNotExist) { // there is no WAL before the first change
			continue
		} else if err != nil {
			return err
		}
		*file.size = info.Size()
	}
	var room unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.path), &room); err != nil {
		return err
	}
	f.Free = int64(room.Bavail) * int64(room.Bsize)
	return nil
}
