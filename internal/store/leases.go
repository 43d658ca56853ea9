package store

import (
	"context"
	"time"

	"assay/internal/issuance"
)

// Shared reports whether other servers may be using the database, too.
func (s *Store) Shared() bool { return !s.db.alone() }

// Lease takes or prolongs the lease of a kind of periodic work for a holder, unless another one has it until
// after now. It tells nobody what may be changed, only who had better do the work: each of the store's methods
// is right whoever calls it, so clocks that differ cost no more than work done twice. Not fsynced.
func (s *Store) Lease(ctx context.Context, now time.Time, name, holder string, lifetime time.Duration) (held bool, err error) {
	err = s.note(ctx, issuance.Call{Now: now}, "take lease", func(t *tx) error {
		n, err := t.exec(`INSERT INTO leases (name, holder, expires_at) VALUES (?1, ?2, ?3)
			ON CONFLICT (name) DO UPDATE SET holder = ?2, expires_at = ?3 WHERE leases.holder = ?2 OR leases.expires_at <= ?4`,
			name, holder, stamp(now.Add(lifetime)), stamp(now))
		held = n == 1
		return err
	})
	return held, err
}

// ReleaseLeases gives back all leases of a holder. Not fsynced.
func (s *Store) ReleaseLeases(ctx context.Context, holder string) error {
	return s.note(ctx, issuance.Call{}, "release leases", func(t *tx) error {
		err := t.write(`DELETE FROM leases WHERE holder = ?`, holder)
		return err
	})
}
