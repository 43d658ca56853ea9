package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/store"

	"filippo.io/age"
)

// RestoreOptions says how a backup becomes an installation.
type RestoreOptions struct {
	Identities []age.Identity // that may open it; none for one that is not encrypted
	// KeepCodes and KeepTokens leave open what the backup has as open (store.Restoring).
	// WARNING: only where the original did nothing any more after the backup was taken.
	KeepCodes, KeepTokens bool
	Now                   func() time.Time
	From                  string         // who does it, for the audit
	Progress              func(Progress) // may be nil
}

// Restored is what became of a backup.
type Restored struct {
	Manifest *Manifest   `json:"manifest"`
	Ended    store.Ended `json:"ended"`
}

// Restore makes an installation of a backup in dir, which must not exist or be empty (*OccupiedError).
// However it ends, dir then holds a whole installation or none: the configuration, without which a folder
// is none, is put in place last. What an interrupted restore left in dir is removed by the next one.
func Restore(ctx context.Context, in io.Reader, dir string, o RestoreOptions) (*Restored, error) {
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	r, err := o.restore(ctx, in, dir)
	if err != nil {
		return nil, fmt.Errorf("restore into %s: %w", dir, err)
	}
	return r, nil
}

func (o *RestoreOptions) restore(ctx context.Context, in io.Reader, dir string) (r *Restored, err error) {
	p, err := openPlace(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	r = new(Restored)
	r.Manifest, err = read(ctx, in, o.Identities, o.Progress, p.hasRoomFor, p.put)
	if err != nil {
		return nil, err
	}
	o.Progress(Progress{Step: StepSafe})
	if r.Ended, err = o.makeSafe(ctx, p.staging, r.Manifest); err != nil {
		return nil, err
	}
	return r, p.publish(ctx, func() { o.Progress(Progress{Step: StepPlace}) })
}

// makeSafe checks the database against the manifest, brings its schema up to date, and ends in it what was
// open when the backup was taken.
func (o *RestoreOptions) makeSafe(ctx context.Context, dir string, m *Manifest) (store.Ended, error) {
	config, err := installation.LoadConfig(dir)
	if err != nil {
		return store.Ended{}, err
	}
	path := filepath.Join(dir, installation.DatabaseFile)
	about, err := store.Describe(ctx, path)
	if err != nil {
		return store.Ended{}, &Unusable{err}
	}
	if about.Schema != m.Schema || !maps.Equal(about.Rows, m.Rows) {
		return store.Ended{}, unusable("its database does not hold what the manifest says")
	}
	if err := store.Enliven(ctx, path); err != nil {
		return store.Ended{}, err
	}
	// Nothing sealed is read or written here, so any key does: a backup may lack the right one.
	key := make([]byte, store.KeySize)
	if _, err := rand.Read(key); err != nil {
		return store.Ended{}, err
	}
	db, err := store.Open(ctx, path, store.Options{Key: key})
	if err != nil {
		return store.Ended{}, err
	}
	ended, err := db.MarkRestored(ctx, issuance.Call{Now: o.Now(), From: o.From}, store.Restoring{
		TakenAt: m.TakenAt, Shards: config.ShardCount(), KeepCodes: o.KeepCodes, KeepTokens: o.KeepTokens,
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return store.Ended{}, err
	}
	return ended, dropMigrationCopies(dir)
}

// dropMigrationCopies removes the copies of the database that bringing it up to date made: the backup is one.
func dropMigrationCopies(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if installation.Passing(e.Name()) && e.Name() != installation.DatabaseFile {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
