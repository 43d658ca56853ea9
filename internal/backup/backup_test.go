package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/backup"
	"assay/internal/ca"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/store"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// load lets devices enrol one after the other until the context ends.
type load struct {
	mu       sync.Mutex
	enrolled []string // serials, in order
	count    atomic.Int64
}

func (l *load) run(ctx context.Context, t *testing.T, r *running) {
	for ctx.Err() == nil {
		value, _, err := r.mint(ctx)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		cert, err := r.enrol(context.WithoutCancel(ctx), value)
		if err != nil {
			t.Error(err)
			return
		}
		l.mu.Lock()
		l.enrolled = append(l.enrolled, ca.FormatSerial(cert.SerialNumber))
		l.mu.Unlock()
		l.count.Add(1)
	}
}

// await waits for so many enrolments; whoever enrols says so when it cannot.
func (l *load) await(n int64) {
	for deadline := time.Now().Add(time.Minute); l.count.Load() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

func TestBackupUnderLoadIsAnInstallationAgain(t *testing.T) {
	original := serve(t, initialized(t))
	unused, unusedID, err := original.mint(t.Context())
	ok(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var l load
	var devices sync.WaitGroup
	for range 4 {
		devices.Go(func() { l.run(ctx, t, original) })
	}
	l.await(8)
	l.mu.Lock()
	before := slices.Clone(l.enrolled)
	l.mu.Unlock()
	data, manifest := taken(t, original.Dir)
	l.await(l.count.Load() + 4) // the server goes on
	stop()
	devices.Wait()
	// Used after the backup, which has it as unused.
	_, err = original.enrol(t.Context(), unused)
	ok(t, err)
	published := original.crl(t).Number
	original.stop()

	dir, r := restored(t, data)
	if r.Ended.Codes < 1 || manifest.Rows["certificates"] < int64(len(before)) {
		t.Errorf("ended %+v, rows %v", r.Ended, manifest.Rows)
	}
	copied := serve(t, dir)
	for _, serial := range before {
		if c, err := copied.Store.CertificateBySerial(t.Context(), serial); err != nil || c.Status != issuance.CertificateValid {
			t.Errorf("certificate %s is %s, %v", serial, c.Status, err)
		}
	}
	if cert, err := copied.enrol(t.Context(), unused); err == nil {
		t.Errorf("a code that was consumed after the backup gave a second certificate: %s", cert.SerialNumber)
	}
	if code, err := copied.Store.Code(t.Context(), unusedID); err != nil || code.Status != issuance.CodeRevoked {
		t.Errorf("code is %s, %v", code.Status, err)
	}
	if crl := copied.crl(t); crl.Number.Cmp(new(big.Int).Add(published, big.NewInt(store.CRLJump-1))) <= 0 {
		t.Errorf("CRL %d was published before the restore, and then %d", published, crl.Number)
	}
	fresh, _, err := copied.mint(t.Context())
	ok(t, err)
	_, err = copied.enrol(t.Context(), fresh)
	ok(t, err)
	for row, err := range copied.Store.Audit(t.Context(), audit.Filter{Action: audit.InstallationRestored}) {
		ok(t, err)
		if row.Detail["backup"] != manifest.TakenAt.Format(time.RFC3339) {
			t.Errorf("row %+v", row)
		}
		return
	}
	t.Error("the audit trail does not say that the installation was restored")
}

func TestRestoreGivesTheFolderBack(t *testing.T) {
	dir := initialized(t)
	ok(t, os.MkdirAll(filepath.Join(dir, "policies/old"), 0o700))
	ok(t, os.WriteFile(filepath.Join(dir, "policies/old/mine.yaml"), []byte("a policy"), 0o666))
	ok(t, os.Symlink("old/mine.yaml", filepath.Join(dir, "policies/linked.yaml")))
	ok(t, os.Symlink("/etc/hostname", filepath.Join(dir, "policies/elsewhere.yaml")))
	ok(t, os.WriteFile(filepath.Join(dir, "server.url"), []byte("https://of-a-running.server"), 0o600))
	ok(t, os.WriteFile(filepath.Join(dir, "assay.db.schema-2.bak"), []byte("old"), 0o600))
	data, m := taken(t, dir)
	copied, _ := restored(t, data)

	want, got := files(t, dir), files(t, copied)
	for _, left := range []string{"server.url", "assay.db.schema-2.bak", "policies/elsewhere.yaml"} {
		delete(want, left)
	}
	delete(want, "assay.db")
	delete(got, "assay.db")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-original +restored):\n%s", diff)
	}
	if !slices.ContainsFunc(m.NotCopied, func(n backup.NotCopied) bool { return n.Where == "policies/elsewhere.yaml" }) {
		t.Errorf("the link out of the folder is not named: %+v", m.NotCopied)
	}
	ok(t, filepath.WalkDir(copied, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		ok(t, err)
		secret := strings.Contains(path, "/keys") || strings.HasSuffix(path, "assay.db") || strings.HasSuffix(path, "assay.yaml") || e.IsDir()
		if mode := info.Mode().Perm(); mode&0o022 != 0 || secret && mode&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, mode)
		}
		return nil
	}))
	if _, err := os.Stat(filepath.Join(dir, "assay.db.backup")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the copy of the database was left in the folder: %v", err)
	}
}

func TestKeysAreNeverWrittenUnencrypted(t *testing.T) {
	dir := initialized(t)
	var out bytes.Buffer
	if _, err := backup.Take(t.Context(), dir, &out, backup.Options{Now: time.Now}); err == nil || out.Len() > 0 {
		t.Errorf("error %v, %d bytes", err, out.Len())
	}
	pem, err := os.ReadFile(filepath.Join(dir, "keys/issuing.key"))
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(dir, "copy-of-a-key.txt"), pem, 0o600)) // is told by its content
	// Told by what names it.
	ok(t, os.WriteFile(filepath.Join(dir, "edr.secrets"), []byte("whsec_c2VjcmV0"), 0o600))
	config, err := os.ReadFile(filepath.Join(dir, "assay.yaml"))
	ok(t, err)
	config = append(config, "opinion: {url: 'https://edr.example.com', secretFile: edr.secrets}\n"...)
	ok(t, os.WriteFile(filepath.Join(dir, "assay.yaml"), config, 0o600))
	data, m := taken(t, dir, func(o *backup.Options) { o.Recipients, o.NoKeys = nil, true })
	_, err = backup.Verify(t.Context(), bytes.NewReader(data), nil, nil)
	ok(t, err)
	copied, _ := restored(t, data)
	for name, content := range files(t, copied) {
		if strings.HasPrefix(name, "keys/") || strings.Contains(content, "PRIVATE KEY") || strings.Contains(content, "whsec_") {
			t.Errorf("%s is in a backup without keys", name)
		}
	}
	if m.Keys || len(m.NotCopied) != 7 {
		t.Errorf("keys %v, not copied %+v", m.Keys, m.NotCopied)
	}
}

func TestWhatIsElsewhereIsNamed(t *testing.T) {
	dir := initialized(t)
	config, err := os.ReadFile(filepath.Join(dir, "assay.yaml"))
	ok(t, err)
	config = append(config, "tls: {certificate: /etc/ssl/id.pem, key: /etc/ssl/id.key}\nopinion: {url: 'https://edr.example.com', secretFile: keys/gone.secrets}\n"...)
	ok(t, os.WriteFile(filepath.Join(dir, "assay.yaml"), config, 0o600))
	_, m := taken(t, dir)
	want := []backup.NotCopied{
		{Use: "tls.certificate", Where: "/etc/ssl/id.pem", Why: "outside the folder"},
		{Use: "tls.key", Where: "/etc/ssl/id.key", Why: "outside the folder"},
		{Use: "opinion.secretFile", Where: "keys/gone.secrets", Why: "missing"},
	}
	if diff := cmp.Diff(want, m.NotCopied); diff != "" {
		t.Errorf("not copied (-want +got):\n%s", diff)
	}
}

// TestPINOfAKeyInHardwareIsAKey: what opens a key that cannot be copied is as secret as a key that can.
func TestPINOfAKeyInHardwareIsAKey(t *testing.T) {
	dir := initialized(t)
	ok(t, os.WriteFile(filepath.Join(dir, "hsm.pin"), []byte("314159"), 0o600))
	i, err := installation.Open(t.Context(), dir, time.Now)
	ok(t, err)
	issuers, err := i.Store.Issuers(t.Context())
	ok(t, err)
	const uri = "pkcs11:token=assay;object=issuing?module-path=/nowhere/p11.so&pin-source=file:"
	for _, pin := range []string{"hsm.pin", "/etc/assay/hsm.pin"} {
		_, err = i.Store.AddIssuer(t.Context(), issuance.Call{Now: time.Now()}, issuance.Issuer{Name: "in hardware", Chain: issuers[0].Chain, Key: uri + pin})
		ok(t, err)
	}
	ok(t, i.Close())
	_, m := taken(t, dir, func(o *backup.Options) { o.Recipients, o.NoKeys = nil, true })
	for _, want := range []backup.NotCopied{
		{Use: "key of an issuing CA", Where: uri + "hsm.pin", Why: "not in a file"},
		{Use: "PIN of an issuing CA's key", Where: "/etc/assay/hsm.pin", Why: "outside the folder"},
		{Where: "hsm.pin", Why: "a private key, left out as asked"},
	} {
		if !slices.Contains(m.NotCopied, want) {
			t.Errorf("not copied %+v, without %+v", m.NotCopied, want)
		}
	}
}

func TestTooLargeAFileIsRefused(t *testing.T) {
	dir := initialized(t)
	big := filepath.Join(dir, "recording.bin")
	f, err := os.Create(big)
	ok(t, err)
	ok(t, errors.Join(f.Truncate(64<<20+1), f.Close()))
	_, err = backup.Take(t.Context(), dir, io.Discard, backup.Options{Recipients: []age.Recipient{key().Recipient()}, Now: time.Now})
	if err == nil || !strings.Contains(err.Error(), "recording.bin is larger than 64 MiB") {
		t.Errorf("error %v", err)
	}
}

func TestTooMuchBesideTheDatabaseIsRefused(t *testing.T) {
	dir := initialized(t)
	for n := range 5 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("recording-%d.bin", n)))
		ok(t, err)
		ok(t, errors.Join(f.Truncate(60<<20), f.Close()))
	}
	_, err := backup.Take(t.Context(), dir, io.Discard, backup.Options{Recipients: []age.Recipient{key().Recipient()}, Now: time.Now})
	if err == nil || !strings.Contains(err.Error(), "larger than 256 MiB together") {
		t.Errorf("error %v", err)
	}
}

func TestOneRestoreIntoAFolderAtATime(t *testing.T) {
	data, _ := taken(t, initialized(t))
	dir := t.TempDir()
	var second error
	once := sync.OnceFunc(func() { _, second = restore(t, data, dir) })
	_, err := restore(t, data, dir, func(o *backup.RestoreOptions) { o.Progress = func(backup.Progress) { once() } })
	ok(t, err)
	if second == nil || !strings.Contains(second.Error(), "another restore into it is running") {
		t.Errorf("the second restore: %v", second)
	}
}

func TestRestoreThatDoesNotFitIsRefusedAtOnce(t *testing.T) {
	data, _ := taken(t, initialized(t))
	f := takenApart(t, data)
	f.file(0)["size"] = int64(1) << 60
	_, err := restore(t, f.putTogether(t), filepath.Join(t.TempDir(), "new"))
	if err == nil || !strings.Contains(err.Error(), "MiB are free there") {
		t.Errorf("error %v", err)
	}
}

func TestOneBackupOfAFolderAtATime(t *testing.T) {
	dir := initialized(t)
	path := filepath.Join(dir, "assay.db.backup")
	ok(t, os.WriteFile(path, []byte("what a killed backup left behind"), 0o600))
	ok(t, os.WriteFile(path+"-wal", []byte("what a killed backup left behind"), 0o600))
	f, err := os.Open(path)
	ok(t, err)
	ok(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	_, err = backup.Take(t.Context(), dir, io.Discard, backup.Options{Recipients: []age.Recipient{key().Recipient()}, Now: time.Now})
	if err == nil || !strings.Contains(err.Error(), "another backup of the folder is being taken") {
		t.Errorf("error %v", err)
	}
	ok(t, f.Close())
	data, m := taken(t, dir)
	for _, f := range m.Files {
		if strings.HasPrefix(f.Path, "assay.db.") {
			t.Errorf("%s is in the backup", f.Path)
		}
	}
	_, err = backup.Verify(t.Context(), bytes.NewReader(data), identities(), nil)
	ok(t, err)
}

func TestInterruptedBackupFailsAndLeavesNoCopy(t *testing.T) {
	dir := initialized(t)
	for _, step := range []backup.Step{backup.StepSnapshot, backup.StepCount, backup.StepWrite} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := backup.Take(ctx, dir, io.Discard, backup.Options{
			Recipients: []age.Recipient{key().Recipient()}, Now: time.Now,
			Progress: func(p backup.Progress) {
				if p.Step == step {
					cancel()
				}
			},
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", step, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "assay.db.backup")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the copy of the database was left behind: %v", step, err)
		}
	}
}

func TestPassphraseOpensAndAnotherDoesNot(t *testing.T) {
	if _, err := backup.NewPassphrase("fifteen letters"); err == nil {
		t.Error("a short passphrase was taken")
	}
	recipient, err := backup.NewPassphrase("correct horse battery")
	ok(t, err)
	recipient.(*age.ScryptRecipient).SetWorkFactor(10)
	data, _ := taken(t, initialized(t), func(o *backup.Options) { o.Recipients = []age.Recipient{recipient} })
	for passphrase, want := range map[string]error{"correct horse battery": nil, "wrong horse battery": backup.ErrWrongKey} {
		identity, err := backup.Passphrase(passphrase)
		ok(t, err)
		dir := filepath.Join(t.TempDir(), "new")
		_, err = restore(t, data, dir, func(o *backup.RestoreOptions) { o.Identities = []age.Identity{identity} })
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", passphrase, err, want)
		}
		_, err = installation.LoadConfig(dir)
		if (err == nil) != (want == nil) {
			t.Errorf("%s: installation: %v", passphrase, err)
		}
	}
	other, err := age.GenerateX25519Identity()
	ok(t, err)
	data, _ = taken(t, initialized(t))
	if _, err := backup.Verify(t.Context(), bytes.NewReader(data), []age.Identity{other}, nil); !errors.Is(err, backup.ErrWrongKey) {
		t.Errorf("another identity: %v", err)
	}
}

func TestTamperedOrCutBackupIsRefused(t *testing.T) {
	data, _ := taken(t, initialized(t))
	refused := func(what string, data []byte) {
		t.Helper()
		_, err := backup.Verify(t.Context(), bytes.NewReader(data), identities(), nil)
		if _, is := errors.AsType[*backup.Unusable](err); !is {
			t.Errorf("%s: error %v", what, err)
		}
	}
	for n := 0; n < len(data); n += 1 + len(data)/97 {
		changed := bytes.Clone(data)
		changed[n] ^= 1
		refused(fmt.Sprintf("byte %d of %d changed", n, len(data)), changed)
		refused(fmt.Sprintf("cut after %d of %d bytes", n, len(data)), data[:n])
	}
	for n := range 40 {
		refused(fmt.Sprintf("cut %d bytes before the end", n+1), data[:len(data)-n-1])
	}
	refused("more at the end", append(bytes.Clone(data), 0))

	plain, _ := taken(t, initialized(t), func(o *backup.Options) { o.Recipients, o.NoKeys = nil, true })
	refused("unencrypted, cut", plain[:len(plain)-1])
	refused("unencrypted, more at the end", append(bytes.Clone(plain), 0))

	dir := filepath.Join(t.TempDir(), "new")
	if _, err := restore(t, data[:len(data)-1], dir); err == nil {
		t.Error("a cut backup was restored")
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a refused restore is there: %v", err)
	}
}

func TestRestoreTouchesNoFolderInUse(t *testing.T) {
	data, _ := taken(t, initialized(t))
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "mine.txt"), []byte("mine"), 0o600))
	other := initialized(t)
	for _, dir := range []string{dir, other} {
		before := files(t, dir)
		_, err := restore(t, data, dir)
		if _, is := errors.AsType[*backup.OccupiedError](err); !is {
			t.Errorf("error %v", err)
		}
		if diff := cmp.Diff(before, files(t, dir)); diff != "" {
			t.Errorf("the folder changed:\n%s", diff)
		}
	}
	empty := t.TempDir()
	_, err := restore(t, data, empty)
	ok(t, err)
	_, err = installation.LoadConfig(empty)
	ok(t, err)
}

func TestInterruptedRestoreLeavesNothing(t *testing.T) {
	data, _ := taken(t, initialized(t))
	for _, step := range []backup.Step{backup.StepRead, backup.StepSafe, backup.StepPlace} {
		ctx, cancel := context.WithCancel(t.Context())
		dir := filepath.Join(t.TempDir(), "new")
		_, err := backup.Restore(ctx, bytes.NewReader(data), dir, backup.RestoreOptions{
			Identities: identities(), Now: time.Now,
			Progress: func(p backup.Progress) {
				if p.Step == step {
					cancel()
				}
			},
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", step, err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder was left behind: %v", step, err)
		}
	}
}
