package main

import (
	"context"
	"fmt"
	"time"

	"assay/internal/backup"
)

type restoreCommand struct {
	opening
	File       string `arg:"" help:"The backup."`
	Dir        string `required:"" placeholder:"DIR" help:"Folder to restore into: it must not exist, or be empty."`
	KeepCodes  bool   `help:"Leave unused codes, live orders and approvals as they are: only if the original did nothing any more after the backup."`
	KeepTokens bool   `help:"Leave tokens of the admin API as they are: only if none was revoked since the backup."`
}

func (restoreCommand) Help() string {
	return `Makes an installation of a backup. Everything is read and checked before anything is put in place; interrupted, it
leaves no installation, and can be run again.

A backup has forgotten what happened since. What was used up since could be used again, so it ends: codes that were
unused, orders that were live, approvals and tokens. Nonces from before are refused, and the numbers of CRLs go
up by 4294967296, above all that were published. The audit trail gets a row. What cannot be made good is printed.

Never run a restored installation beside the original: both would sign as one CA.

Examples:
  assay restore id.backup --dir ./new --passphrase-file passphrase.txt
  assay restore id.backup --dir ./new --identity key.txt
  assay restore id.backup --dir ./new --identity key.txt --keep-codes --keep-tokens

Exit codes: 0 restored; 1 refused: the backup cannot be used, or the folder is not empty; 2 wrong flags or unreadable
input; 3 failed, and nothing was left behind.`
}

func (c *restoreCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	file, in, identities, err := c.open(ctx, term, c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	progress := newSyncProgress(term, g)
	restored, err := backup.Restore(ctx, in, c.Dir, backup.RestoreOptions{
		Identities: identities, KeepCodes: c.KeepCodes, KeepTokens: c.KeepTokens,
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
func (c *restoreCommand) print(term *terminal, r *backup.Restored) {
	m, e := r.Manifest, r.Ended
	age := term.Now().Sub(m.TakenAt).Round(time.Minute)
	sayf(term.Out, "Restored %s as it was at %s (%s ago) into %s\n\n", m.Name, rfc3339(m.TakenAt), age.String(), c.Dir)
	list := newFields(term.Out)
	list.add("codes revoked", kept(c.KeepCodes, e.Codes))
	list.add("orders ended", kept(c.KeepCodes, e.Orders))
	list.add("approvals taken back", kept(c.KeepCodes, e.Approvals))
	list.add("tokens revoked", kept(c.KeepTokens, e.Tokens))
	list.add("CRL numbers raised", fmt.Sprint(e.CRLs))
	list.flush()
	printNotCopied(term, m, "Not in the backup; put back what the server needs of it:")
	fmt.Fprint(term.Out, `
WARNING: never run this beside the original: both would sign as one CA.

What happened since the backup is lost:
  certificates issued since have no row: they stay valid and cannot be revoked here (rotate the CA if that matters)
  certificates revoked since are valid again: revoke them again
  devices marked lost or retired since are active again
Then: renew what waits (assay credential list --state dead), mint codes anew`)
	if !c.KeepTokens {
		fmt.Fprint(term.Out, " and tokens")
	}
	sayf(term.Out, ".\n\nNext: assay serve --dir %s\n", c.Dir)
}

func kept(kept bool, n int64) string {
	if kept {
		return "none: kept as asked"
	}
	return fmt.Sprint(n)
}
