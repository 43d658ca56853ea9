package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"assay/internal/installation"
	"assay/internal/store"
)

type copyCommand struct {
	From string `required:"" placeholder:"LOCATION" help:"Database to copy: sqlite:PATH, or postgres://…"`
	To   string `required:"" placeholder:"LOCATION" help:"Database without rows to copy into: sqlite:PATH, which need not exist, or postgres://…"`
}

func (copyCommand) Help() string {
	return `Moves an installation's database, from a SQLite file to PostgreSQL, back, or to another server: copies every row,
reads all of them again on both sides and compares them, value by value, and only then commits. However it ends, the
new database holds every row or none, and the old one is not changed.

Stop the servers first: what they would write later would be missing in the copy. A database that is being served is
refused. A PostgreSQL database to copy into needs its tables: make them with assay migrate.

A password on the command line can be seen by others on the machine: leave it out of the URL, and give it by
PGPASSWORD or a password file (PGPASSFILE).

Examples:
  assay migrate --database postgres://assay@db.example.com/assay
  assay copy --from sqlite:/var/lib/assay/assay.db --to postgres://assay@db.example.com/assay
  assay copy --from postgres://assay@db.example.com/assay --to sqlite:new.db --json

Exit codes: 0 copied, and every row is the same; 1 refused: a server runs, there are rows already, or the schema is
another; 2 wrong flags; 3 failed, and nothing was copied.`
}

// copiedJSON is the command's answer for scripts.
type copiedJSON struct {
	From string `json:"from"` // locations, without passwords
	To   string `json:"to"`
	store.Copied
}

func (c *copyCommand) Run(ctx context.Context, term *terminal, g *globals) (err error) {
	from, err := databaseLocation("--from", c.From)
	if err != nil {
		return err
	}
	to, err := databaseLocation("--to", c.To)
	if err != nil {
		return err
	}
	unlock, err := keepServersOff(ctx, term, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	progress := newSyncProgress(term, g)
	copied, err := store.Copy(ctx, from, to, progress.copy)
	progress.end()
	if err != nil {
		return refusedCopy(err, to)
	}
	if g.JSON {
		return writeJSON(term.Out, copiedJSON{store.Redacted(from), store.Redacted(to), copied})
	}
	c.print(term, from, to, copied)
	return nil
}

// databaseLocation is the location that a flag names: sqlite:PATH, PATH, or a URL of a PostgreSQL database.
func databaseLocation(flag, value string) (string, error) {
	if store.IsPostgres(value) {
		return value, nil
	}
	path := strings.TrimPrefix(strings.TrimPrefix(value, "sqlite:"), "//")
	if path == "" || strings.Contains(path, "://") { // not repeated: it may hold a password
		return "", usage(fmt.Errorf("%s names no database: write sqlite:PATH or postgres://USER@HOST/DATABASE", flag))
	}
	return path, nil
}

// keepServersOff refuses a database that a server runs on, and keeps servers off a file until unlock is called.
func keepServersOff(ctx context.Context, term *terminal, location string) (unlock func() error, err error) {
	unlock = func() error { return nil }
	if store.IsPostgres(location) {
		until, err := store.ServedUntil(ctx, location)
		if err != nil {
			return nil, refusedCopy(err, location)
		}
		if until.After(term.Now()) {
			err := fmt.Errorf("a server runs on %s, or did until a moment ago", store.Redacted(location))
			return nil, noBecause(withHint(err, "stop every server of this database: what they write during the copy would be missing in it; one that was killed counts for up to 15 seconds"))
		}
		return unlock, nil
	}
	unlockFolder, err := installation.Lock(filepath.Dir(location))
	switch {
	case errors.Is(err, installation.ErrServed):
		return nil, noBecause(withHint(err, "stop it: what it writes during the copy would be missing in it"))
	case errors.Is(err, fs.ErrNotExist): // the file lies in no installation
		return unlock, nil
	case err != nil:
		return nil, err
	}
	return unlockFolder, nil
}

// refusedCopy turns a database that cannot be copied, or copied into, into the answer no.
func refusedCopy(err error, to string) error {
	if _, is := errors.AsType[*store.NotEmptyError](err); is {
		return noBecause(withHint(err, "rows are never added to others: name a database that has only its tables, or a file that does not exist"))
	}
	if _, is := errors.AsType[*store.OlderSchemaError](err); is {
		return noBecause(withHint(err, "assay migrate --database %s", store.Redacted(to)))
	}
	if _, is := errors.AsType[*store.NewerSchemaError](err); is {
		return noBecause(err)
	}
	return err
}

// copy shows how far a copy is.
func (p *syncProgress) copy(at store.CopyProgress) {
	verb := "copied"
	if at.Comparing {
		verb = "compared"
	}
	p.say(fmt.Sprintf("%d of %d rows %s", at.Done, at.Total, verb))
}

// print says what was copied, and what makes it the installation's database.
func (c *copyCommand) print(term *terminal, from, to string, copied store.Copied) {
	sayf(term.Out, "Copied %d rows of %d tables from %s to %s; every row was compared\n\nNext: ", copied.Sum(), len(copied.Rows), store.Redacted(from), store.Redacted(to))
	if store.IsPostgres(to) {
		sayf(term.Out, "let assay.yaml name the new database, then start the server:\n\n  database: %s\n", store.Redacted(to))
	} else {
		sayf(term.Out, "take `database:` out of assay.yaml, let %s be assay.db in the installation's folder, then start the server.\n", to)
	}
	fmt.Fprint(term.Out, `
WARNING: never serve the old database again: both would sign as one CA, and take the same codes.
`)
}
