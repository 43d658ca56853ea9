package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"assay/internal/backup"

	"filippo.io/age"
)

type backupCommand struct {
	Take   backupTake   `cmd:"" default:"withargs" help:"Take a backup, beside a running server or without one."`
	Verify backupVerify `cmd:"" help:"Check that a backup is whole and opens, without restoring it."`
}

// Limits of what opens and locks a backup.
const (
	maxPassphraseFile = 1 << 10
	maxAgeFile        = 1 << 20
	maxRecipients     = 100
)

type backupTake struct {
	Dir            string   `required:"" placeholder:"DIR" help:"The installation's folder."`
	Output         string   `short:"o" required:"" placeholder:"FILE" help:"Write the backup to this file, which must not exist. Not in the folder."`
	PassphraseFile string   `placeholder:"FILE" help:"Encrypt to the passphrase in this file, readable by its owner only. Default: asked on the terminal."`
	Recipient      []string `sep:"none" placeholder:"age1…" help:"Encrypt to this age recipient; may be given several times."`
	RecipientsFile string   `placeholder:"FILE" help:"Encrypt to the age recipients in this file, one a line."`
	NoKeys         bool     `help:"Leave private keys out: without them the backup cannot be served."`
	Unencrypted    bool     `help:"Do not encrypt: only with --no-keys. Personal data in it can then be read by anybody."`
}

func (backupTake) Help() string {
	return `Takes everything that the installation's folder holds into one file: the database as it is at one moment, beside a
running server; configuration, keys, certificates, templates, policies. The file is encrypted as a whole, in the
format of age (age-encryption.org). With a recipient, nothing that opens it needs to be on the server.

Private keys elsewhere (other folders, hardware) are named, not copied. The folder's disk needs room for the
database once more, meanwhile.

Examples:
  assay backup --dir ./id -o id.backup --passphrase-file passphrase.txt
  assay backup --dir ./id -o id.backup --recipients-file recipients.txt
  assay backup --dir ./id -o support.backup --no-keys --unencrypted

Exit codes: 0 taken; 2 wrong flags or unreadable input; 3 failed, and there is no file.`
}

// takenBackup is what a backup came to.
type takenBackup struct {
	File     string           `json:"file"`
	SHA256   string           `json:"sha256"` // of the file
	Size     int64            `json:"size"`
	Manifest *backup.Manifest `json:"manifest"`
}

func (c *backupTake) Run(ctx context.Context, term *terminal, g *globals) error {
	if err := c.checkOutput(); err != nil {
		return usage(err)
	}
	recipients, err := c.recipients(ctx, term)
	if err != nil {
		return err
	}
	file, err := createAtomic(c.Output)
	if err != nil {
		return err
	}
	defer file.discard()
	progress := newSyncProgress(term, g)
	hash := sha256.New()
	counted := &countedWriter{}
	buffered := bufio.NewWriterSize(io.MultiWriter(file, hash, counted), 1<<20)
	manifest, err := backup.Take(ctx, c.Dir, buffered, backup.Options{
		Recipients: recipients, NoKeys: c.NoKeys, Program: version(), Now: term.Now, Progress: progress.backup,
	})
	progress.end()
	if err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", c.Output, err)
	}
	if err := file.publish(); err != nil {
		return err
	}
	taken := takenBackup{c.Output, hex.EncodeToString(hash.Sum(nil)), counted.n, manifest}
	if g.JSON {
		return writeJSON(term.Out, taken)
	}
	sayf(term.Out, "Backed up %s to %s\n\n", c.Dir, c.Output)
	printManifest(term, manifest, taken.Size, taken.SHA256)
	if len(recipients) == 0 {
		fmt.Fprintln(term.Out, "\nWARNING: it is not encrypted: whoever can read it can read the serial numbers and names in it.")
	}
	sayf(term.Out, "\nNext: assay backup verify %s\n", c.Output)
	return nil
}

// checkOutput refuses a file that is there, and one that would be lost with the folder.
func (c *backupTake) checkOutput() error {
	if _, err := os.Lstat(c.Output); err == nil {
		return fmt.Errorf("%s is there already: a backup never replaces another", c.Output)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		return err
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(c.Output))
	if err != nil {
		return err
	}
	for _, path := range []*string{&dir, &folder} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if relative, err := filepath.Rel(dir, folder); err == nil && filepath.IsLocal(relative) {
		return withHint(fmt.Errorf("%s is in the folder that is backed up: it would be lost with it", c.Output), "write it elsewhere, and keep it on another machine")
	}
	return nil
}

// recipients are whom the backup is encrypted to; none where it is not.
func (c *backupTake) recipients(ctx context.Context, term *terminal) ([]age.Recipient, error) {
	byRecipient := len(c.Recipient) > 0 || c.RecipientsFile != ""
	switch {
	case c.Unencrypted && !c.NoKeys:
		return nil, usage(errors.New("--unencrypted goes with --no-keys only: keys are never written unencrypted"))
	case c.Unencrypted && (byRecipient || c.PassphraseFile != ""):
		return nil, usage(errors.New("--unencrypted and what to encrypt to exclude each other"))
	case byRecipient && c.PassphraseFile != "":
		return nil, usage(errors.New("--passphrase-file and recipients exclude each other: a file that a passphrase opens has no other key"))
	case c.Unencrypted:
		return nil, nil
	case byRecipient:
		return c.named()
	}
	passphrase, err := readPassphrase(ctx, term, c.PassphraseFile, true)
	if err != nil {
		return nil, err
	}
	recipient, err := backup.NewPassphrase(passphrase)
	if err != nil {
		return nil, usage(err)
	}
	return []age.Recipient{recipient}, nil
}

// named are the recipients that the flags name.
func (c *backupTake) named() ([]age.Recipient, error) {
	var all []age.Recipient
	texts := c.Recipient
	if c.RecipientsFile != "" {
		data, err := readFile(c.RecipientsFile, maxAgeFile)
		if err != nil {
			return nil, usage(err)
		}
		texts = append(texts, string(data))
	}
	for _, text := range texts {
		some, err := backup.ParseRecipients(text)
		if err != nil {
			return nil, usage(withHint(err, "a recipient is written like age1…; age-keygen makes one with its identity"))
		}
		all = append(all, some...)
	}
	if len(all) > maxRecipients {
		return nil, usage(fmt.Errorf("%d recipients are given, but the limit is %d", len(all), maxRecipients))
	}
	return all, nil
}

// countedWriter counts what is written.
type countedWriter struct{ n int64 }

func (w *countedWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	return len(p), nil
}

// version is this program's, as Go built it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// backup shows how far a backup or restore is.
func (p *syncProgress) backup(at backup.Progress) {
	if at.Total > 0 {
		p.say(fmt.Sprintf("%s: %d of %d MiB", at.Step, at.Done>>20, at.Total>>20))
		return
	}
	p.say(string(at.Step))
}

// printManifest says what a backup holds.
func printManifest(term *terminal, m *backup.Manifest, size int64, sum string) {
	var rows int64
	for _, n := range m.Rows {
		rows += n
	}
	list := newFields(term.Out)
	list.add("installation", m.Name)
	list.addTime("taken", m.TakenAt)
	list.add("program", m.Program)
	list.add("schema", fmt.Sprint(m.Schema))
	list.add("files", fmt.Sprint(len(m.Files)))
	list.add("rows", fmt.Sprint(rows))
	if m.Keys {
		list.add("keys", "yes")
	} else {
		list.add("keys", "no", "it cannot be served without them")
	}
	list.add("bytes", fmt.Sprint(size))
	list.add("sha256", sum)
	list.flush()
	printNotCopied(term, m, "NOT in the backup: keep a copy of what the installation needs of this by other means.")
}

// printNotCopied says what is not in a backup, under a heading.
func printNotCopied(term *terminal, m *backup.Manifest, heading string) {
	if len(m.NotCopied) > 0 {
		fmt.Fprintf(term.Out, "\n%s\n", heading)
	}
	for _, missing := range m.NotCopied {
		what := missing.Where
		if missing.Use != "" {
			what = missing.Use + "  " + what
		}
		sayf(term.Out, "  %s  (%s)\n", what, missing.Why)
	}
}
