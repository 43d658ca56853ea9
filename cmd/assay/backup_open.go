package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"assay/internal/backup"
	"assay/internal/store"

	"filippo.io/age"
	"golang.org/x/term"
)

// opening is how a backup is opened.
type opening struct {
	PassphraseFile string `placeholder:"FILE" help:"File with the passphrase, readable by its owner only. Default: asked on the terminal."`
	Identity       string `short:"i" placeholder:"FILE" help:"age identity file for a backup that is encrypted to recipients, readable by its owner only."`
}

// open opens a backup and finds what it is opened with. Close the file.
func (o *opening) open(ctx context.Context, t *terminal, name string) (*os.File, io.Reader, []age.Identity, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, nil, nil, usage(err)
	}
	in := bufio.NewReaderSize(f, 1<<20)
	identities, err := o.identities(ctx, t, in)
	if err != nil {
		return nil, nil, nil, errors.Join(err, f.Close())
	}
	return f, in, identities, nil
}

func (o *opening) identities(ctx context.Context, t *terminal, in *bufio.Reader) ([]age.Identity, error) {
	protection, err := backup.ProtectionOf(in)
	if err != nil {
		return nil, refusedBackup(err)
	}
	switch protection {
	case backup.Unprotected:
		return nil, nil
	case backup.ByRecipients:
		if o.Identity == "" {
			return nil, usage(errors.New("the backup is encrypted to recipients: name the identity file of one with --identity"))
		}
		data, err := readPrivate(o.Identity, maxAgeFile)
		if err != nil {
			return nil, usage(err)
		}
		identities, err := backup.ParseIdentities(string(data))
		if err != nil {
			return nil, usage(err)
		}
		return identities, nil
	}
	if o.Identity != "" {
		return nil, usage(errors.New("the backup is encrypted to a passphrase: --identity does not open it"))
	}
	passphrase, err := readPassphrase(ctx, t, o.PassphraseFile, false)
	if err != nil {
		return nil, err
	}
	identity, err := backup.Passphrase(passphrase)
	if err != nil {
		return nil, usage(err)
	}
	return []age.Identity{identity}, nil
}

// refusedBackup turns a backup that cannot be used into the answer no.
func refusedBackup(err error) error {
	if errors.Is(err, backup.ErrWrongKey) {
		return noBecause(withHint(err, "nothing was changed; another passphrase or identity may open it"))
	}
	if _, bad := errors.AsType[*backup.Unusable](err); bad {
		return noBecause(err)
	}
	if _, occupied := errors.AsType[*backup.OccupiedError](err); occupied {
		return noBecause(withHint(err, "restore into a folder that does not exist or is empty; nothing is ever restored over an installation"))
	}
	if _, occupied := errors.AsType[*store.NotEmptyError](err); occupied {
		return noBecause(withHint(err, "restore into a database of its own, made with createdb; one with rows may be the original's. Was ASSAY_DATABASE meant?"))
	}
	return err
}

// readPassphrase reads a passphrase from a file, or asks for it, twice where it is a new one.
func readPassphrase(ctx context.Context, t *terminal, file string, isNew bool) (string, error) {
	if file != "" {
		data, err := readPrivate(file, maxPassphraseFile)
		if err != nil {
			return "", usage(fmt.Errorf("read passphrase: %w", err))
		}
		passphrase := string(bytes.TrimRight(data, "\r\n"))
		if passphrase == "" || bytes.ContainsAny([]byte(passphrase), "\r\n") {
			return "", usage(fmt.Errorf("read passphrase: %s does not hold one line", file))
		}
		return passphrase, nil
	}
	if !typed(t.In) {
		return "", usage(withHint(errors.New("a passphrase is needed, and there is no terminal to ask for it"), "name a file with --passphrase-file"))
	}
	passphrase, err := ask(ctx, t, "Passphrase: ")
	if err != nil || !isNew {
		return passphrase, err
	}
	again, err := ask(ctx, t, "Again: ")
	if err == nil && again != passphrase {
		err = usage(errors.New("the two passphrases differ"))
	}
	return passphrase, err
}

// ask asks for a secret on the terminal, unseen.
func ask(ctx context.Context, t *terminal, prompt string) (string, error) {
	in := t.In
	if r, ok := in.(*interruptible); ok {
		in = r.in
	}
	screen := int(in.(*os.File).Fd()) // it is typed
	before, err := term.GetState(screen)
	if err != nil {
		return "", err
	}
	fmt.Fprint(t.Err, prompt)
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(screen)
		answered <- answer{text, err}
	}()
	select {
	case <-ctx.Done(): // else the terminal would stay without echo
		return "", errors.Join(ctx.Err(), term.Restore(screen, before))
	case a := <-answered:
		fmt.Fprintln(t.Err)
		return string(a.text), a.err
	}
}

type backupVerify struct {
	opening
	File string `arg:"" help:"The backup."`
}

func (backupVerify) Help() string {
	return `Reads the whole file, opens it, and checks the SHA-256 of everything in it. Nothing is written anywhere. What it
cannot tell: who made the file. Compare the SHA-256 with the one that assay backup printed.

Examples:
  assay backup verify id.backup --passphrase-file passphrase.txt
  assay backup verify id.backup --identity key.txt --json

Exit codes: 0 whole; 1 cut, changed, or not to be opened with this key; 2 wrong flags or unreadable input; 3 failed.`
}

func (c *backupVerify) Run(ctx context.Context, term *terminal, g *globals) error {
	file, in, identities, err := c.open(ctx, term, c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	progress := newSyncProgress(term, g)
	hash := sha256.New()
	size := &countedWriter{}
	manifest, err := backup.Verify(ctx, io.TeeReader(in, io.MultiWriter(hash, size)), identities, progress.backup)
	progress.end()
	if err != nil {
		return refusedBackup(err)
	}
	verified := takenBackup{c.File, hex.EncodeToString(hash.Sum(nil)), size.n, manifest}
	if g.JSON {
		return writeJSON(term.Out, verified)
	}
	sayf(term.Out, "%s is whole\n\n", c.File)
	printManifest(term, manifest, verified.Size, verified.SHA256)
	return nil
}
