package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/backup"
	"assay/internal/installation"
	"assay/internal/store"
)

type restoreCommand struct {
	Backup restoreBackup `cmd:"" default:"withargs" help:"Make an installation of a backup."`
	Finish restoreFinish `cmd:"" help:"After pg_restore: make the database safe to serve."`
}

type restoreBackup struct {
	opening
	File     string `arg:"" help:"The backup."`
	Dir      string `required:"" placeholder:"DIR" help:"Folder to restore into: it must not exist, or be empty."`
	Database string `placeholder:"URL" help:"Empty PostgreSQL database (postgres://…) for the rows, written into the configuration. Default: the environment's ASSAY_DATABASE; without it a SQLite file in DIR."`
	keeping
}

func (restoreBackup) Help() string {
	return `Makes an installation of a backup. Everything is read and checked before anything is put in place; interrupted, it
leaves no installation, and can be run again.

A backup has forgotten what happened since. What was used up since could be used again, so it ends: codes that were
unused, orders that were live, approvals and tokens. Nonces from before are refused, and the numbers of CRLs go
up by 4294967296, above all that were published. The audit trail gets a row. What cannot be made good is printed.

The database becomes a SQLite file in DIR, or the rows go into an empty PostgreSQL database, whatever the original
had. A database that the backup's configuration names is taken out of it: it may be the original's.

Never run a restored installation beside the original: both would sign as one CA.

Examples:
  assay restore id.backup --dir ./new --passphrase-file passphrase.txt
  assay restore id.backup --dir ./new --identity key.txt
  assay restore id.backup --dir ./new --identity key.txt --keep-codes --keep-tokens
  assay restore id.backup --dir ./new --identity key.txt --database postgres://assay@db.example.com/new

Exit codes: 0 restored; 1 refused: the backup cannot be used, or the folder or the database is not empty; 2 wrong flags or unreadable
input; 3 failed, and no installation was left behind.`
}

func (c *restoreBackup) Run(ctx context.Context, term *terminal, g *globals) error {
	file, in, identities, err := c.open(ctx, term, c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	if c.Database != "" && !store.IsPostgres(c.Database) {
		return usage(errors.New("--database is no URL of a PostgreSQL database: it is written like postgres://assay@db.example.com/assay"))
	}
	progress := newSyncProgress(term, g)
	restored, err := backup.Restore(ctx, in, c.Dir, backup.RestoreOptions{
		Identities: identities, Database: c.Database, KeepCodes: c.KeepCodes, KeepTokens: c.KeepTokens,
		Now: term.Now, From: operator(), Progress: progress.backup,
	})
	progress.end()
	if err != nil {
		return refusedBackup(err)
	}
	if g.JSON {
		return writeJSON(term.Out, restored)
	}
	c.print(term, restored)
	return nil
}

// print says what was done, and what the administrator has to do.
func (c *restoreBackup) print(term *terminal, r *backup.Restored) {
	m, e := r.Manifest, r.Ended
	age := term.Now().Sub(m.TakenAt).Round(time.Minute)
	sayf(term.Out, "Restored %s as it was at %s (%s ago) into %s\n\n", m.Name, rfc3339(m.TakenAt), age.String(), c.Dir)
	list := newFields(term.Out)
	remark := ""
	if r.Database != "" && c.Database == "" {
		remark = "as ASSAY_DATABASE says; not in the configuration"
	}
	list.add("database", cmp.Or(r.Database, installation.DatabaseFile), remark)
	list.add("no longer named", r.Named, "the original's, in the configuration")
	c.ended(list, e)
	list.flush()
	printNotCopied(term, m, "Not in the backup; put back what the server needs of it:")
	c.warn(term, c.Dir)
}

// keeping says what a restore leaves open.
type keeping struct {
	KeepCodes  bool `help:"Leave unused codes, live orders and approvals as they are: only if the original did nothing any more after the backup."`
	KeepTokens bool `help:"Leave tokens of the admin API as they are: only if none was revoked since the backup."`
}

// ended lists what was ended.
func (k keeping) ended(list *fields, e store.Ended) {
	list.add("codes revoked", kept(k.KeepCodes, e.Codes))
	list.add("orders ended", kept(k.KeepCodes, e.Orders))
	list.add("approvals taken back", kept(k.KeepCodes, e.Approvals))
	list.add("tokens revoked", kept(k.KeepTokens, e.Tokens))
	list.add("CRL numbers raised", fmt.Sprint(e.CRLs))
}

// warn says what the administrator has to do.
func (k keeping) warn(term *terminal, dir string) {
	fmt.Fprint(term.Out, `
WARNING: never run this beside the original: both would sign as one CA.

What happened since the backup is lost:
  certificates issued since have no row: they stay valid and cannot be revoked here (rotate the CA if that matters)
  certificates revoked since are valid again: revoke them again
  devices marked lost or retired since are active again
Then: renew what waits (assay credential list --state dead), mint codes anew`)
	if !k.KeepTokens {
		fmt.Fprint(term.Out, " and tokens")
	}
	sayf(term.Out, ".\n\nNext: assay serve --dir %s\n", dir)
}

func kept(kept bool, n int64) string {
	if kept {
		return "none: kept as asked"
	}
	return fmt.Sprint(n)
}

type restoreFinish struct {
	Dir     string    `required:"" placeholder:"DIR" help:"The installation's folder, whose configuration names the database that came back."`
	TakenAt time.Time `required:"" placeholder:"TIME" help:"When pg_dump ended, RFC 3339: the dump holds nothing later."`
	keeping
}

func (restoreFinish) Help() string {
	return `Where the database is saved by its own means (pg_dump and pg_restore, copies of a disk), it comes back as it was: it
has forgotten what happened since, and nothing has ended yet. This ends it, as assay restore does: unused codes, live
orders, approvals, tokens, nonces; the numbers of CRLs go up. Run it once, before anybody serves the database.

A database that a server runs on is refused, and one with audit rows later than --taken-at: it is in use, or was made
safe already.

Examples:
  assay restore finish --dir ./new --taken-at 2026-01-02T03:04:05Z
  assay restore finish --dir ./new --taken-at 2026-01-02T03:04:05Z --keep-tokens

Exit codes: 0 safe to serve; 1 refused: it is being served, or was used since; 2 wrong flags or unreadable input;
3 failed, and nothing has ended.`
}

func (c *restoreFinish) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.TakenAt.After(term.Now()) {
		return usage(fmt.Errorf("--taken-at %s is in the future", rfc3339(c.TakenAt)))
	}
	ended, err := backup.Finish(ctx, c.Dir, backup.FinishOptions{
		TakenAt: c.TakenAt, KeepCodes: c.KeepCodes, KeepTokens: c.KeepTokens, Now: term.Now, From: operator(),
	})
	if _, used := errors.AsType[*backup.UsedSinceError](err); used || errors.Is(err, installation.ErrServed) {
		return noBecause(err)
	} else if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, ended)
	}
	sayf(term.Out, "The database of %s is safe to serve\n\n", c.Dir)
	list := newFields(term.Out)
	c.ended(list, ended)
	list.flush()
	c.warn(term, c.Dir)
	return nil
}
