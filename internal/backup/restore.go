package backup

import (
	"bytes"
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
	// Database is the URL of an empty PostgreSQL database that shall hold the rows. Default: what the
	// environment's ASSAY_DATABASE names, which the restored installation would use in any case; without it, a
	// SQLite file in the folder. What the backup's configuration names is never used: it may be the database of
	// the original.
	Database string
	Now      func() time.Time
	From     string         // who does it, for the audit
	Progress func(Progress) // may be nil
}

// Restored is what became of a backup.
type Restored struct {
	Manifest *Manifest   `json:"manifest"`
	Ended    store.Ended `json:"ended"`
	Database string      `json:"database"` // the PostgreSQL database with the rows, without its password; "": a file in the folder
	Named    string      `json:"named"`    // the one that the backup's configuration named, and now does not any more
}

// Restore makes an installation of a backup in dir, which must not exist or be empty (*OccupiedError), and so
// must the database (*store.NotEmptyError); an empty one gets its tables.
// However it ends, dir then holds a whole installation or none: the configuration, without which a folder
// is none, is put in place last. What an interrupted restore left in dir is removed by the next one. A
// PostgreSQL database gets its rows just before, all in one transaction, when they are safe to serve already:
// a restore that fails after that leaves them there.
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
	location, err := o.location(ctx)
	if err != nil {
		return nil, err
	}
	r = &Restored{Database: store.Redacted(location)}
	r.Manifest, err = read(ctx, in, o.Identities, o.Progress, p.hasRoomFor, p.put)
	if err != nil {
		return nil, err
	}
	o.Progress(Progress{Step: StepSafe})
	if r.Ended, err = o.makeSafe(ctx, p.staging, r.Manifest); err != nil {
		return nil, err
	}
	if r.Named, err = p.rename(o.Database); err != nil {
		return nil, err
	}
	if location != "" {
		if err := o.moveRows(ctx, p, location); err != nil {
			return nil, err
		}
	}
	return r, p.publish(ctx, func() { o.Progress(Progress{Step: StepPlace}) })
}

// location is the PostgreSQL database to restore into, which is ready for it; "" for a file in the folder.
func (o *RestoreOptions) location(ctx context.Context) (string, error) {
	location, err := installation.EnvironmentDatabase()
	if err != nil {
		return "", &installation.ConfigError{Err: err}
	}
	// The restored server would not use the database that was asked for, but perhaps the original's.
	if location != "" && o.Database != "" && location != o.Database {
		return "", &installation.ConfigError{Err: fmt.Errorf("the environment's ASSAY_DATABASE names another database (%s), and a server would use that one: unset it, or let it name the database to restore into", store.Redacted(location))}
	}
	if o.Database != "" {
		location = o.Database
	}
	if location == "" {
		return "", nil
	}
	if _, err := store.Migrate(ctx, location, false); err != nil {
		return "", err
	}
	return location, store.Vacant(ctx, location) // now, and not after hours of unpacking
}

// rename lets the configuration that was staged name another database, or none, and returns what it named.
func (p *place) rename(database string) (before string, err error) {
	config, err := p.root.ReadFile(installation.ConfigFile)
	if err != nil {
		return "", err
	}
	config, before, err = installation.SetDatabase(config, database)
	if err != nil {
		return "", err
	}
	if err := p.root.Remove(installation.ConfigFile); err != nil {
		return "", err
	}
	return store.Redacted(before), p.put(File{Path: installation.ConfigFile, Mode: 0o600}, bytes.NewReader(config))
}

// moveRows copies the staged database, which is safe to serve, into a PostgreSQL database, and removes it.
func (o *RestoreOptions) moveRows(ctx context.Context, p *place, location string) error {
	path := filepath.Join(p.staging, installation.DatabaseFile)
	_, err := store.Copy(ctx, path, location, func(store.CopyProgress) { o.Progress(Progress{Step: StepCopy}) })
	if err != nil {
		return err
	}
	return os.Remove(path)
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
	db, err := openUnsealed(ctx, path)
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

// openUnsealed opens a database for work that neither reads nor writes anything sealed, so any key does: a
// backup may lack the right one.
func openUnsealed(ctx context.Context, location string) (*store.Store, error) {
	key := make([]byte, store.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return store.Open(ctx, location, store.Options{Key: key})
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
