package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/backup"
	"assay/internal/ca"
	"assay/internal/counterpart"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/pgcluster"
	"assay/internal/store"

	"github.com/google/go-cmp/cmp"
)

// TestPostgres runs all tests of installations on PostgreSQL, on one server.
func TestPostgres(t *testing.T) {
	c := counterpart.Postgres(t)
	for name, test := range map[string]func(*testing.T, *pgcluster.Cluster){
		"BackupIsAnInstallationAgain":         testPostgresBackup,
		"RestoreKeepsOffTheOriginal":          testRestoreKeepsOffTheOriginal,
		"NoPasswordIsInABackupWithoutKeys":    testNoPasswordWithoutKeys,
		"DumpIsAnInstallationAgain":           testDump,
		"NothingIsFinishedThatIsServedOrUsed": testFinishRefuses,
		"FailedRestoreLeavesTheDatabaseEmpty": testFailedRestore,
	} {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}

// onPostgres is a running installation with a code that is unused, and one that a device used.
func onPostgres(t *testing.T, c *pgcluster.Cluster) (r *running, url, unused, serial string) {
	t.Helper()
	url = counterpart.Database(t, c, "")
	r = serve(t, initializedOn(t, url))
	unused, _, err := r.mint(t.Context())
	ok(t, err)
	return r, url, unused, enrolled(t, r)
}

// enrolled lets a device enrol and returns its certificate's serial number.
func enrolled(t *testing.T, r *running) string {
	t.Helper()
	value, _, err := r.mint(t.Context())
	ok(t, err)
	cert, err := r.enrol(t.Context(), value)
	ok(t, err)
	return ca.FormatSerial(cert.SerialNumber)
}

// wantSafe serves an installation that came back: it knows the certificate, refuses the code that the original
// still held as open, and lets a device enrol.
func wantSafe(t *testing.T, dir, unused, serial string) {
	t.Helper()
	r := serve(t, dir)
	defer r.stop()
	if c, err := r.Store.CertificateBySerial(t.Context(), serial); err != nil || c.Status != issuance.CertificateValid {
		t.Errorf("certificate is %s, %v", c.Status, err)
	}
	if _, err := r.enrol(t.Context(), unused); err == nil {
		t.Error("a code from before gave a certificate")
	}
	enrolled(t, r)
}

func configOf(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, installation.ConfigFile))
	ok(t, err)
	return string(data)
}

func certificates(t *testing.T, url string) int64 {
	t.Helper()
	s, err := store.Open(t.Context(), url, store.Options{Key: make([]byte, store.KeySize)})
	ok(t, err)
	n := int64(0)
	for _, err := range s.Certificates(t.Context(), issuance.CertificateFilter{}) {
		ok(t, err)
		n++
	}
	ok(t, s.Close())
	return n
}

func testPostgresBackup(t *testing.T, c *pgcluster.Cluster) {
	original, url, unused, serial := onPostgres(t, c)
	for _, log := range []string{"-wal", "-shm"} { // what a killed backup left behind
		ok(t, os.WriteFile(filepath.Join(original.Dir, "assay.db.backup"+log), bytes.Repeat([]byte("left"), 10_000), 0o600))
	}
	data, m := taken(t, original.Dir) // beside the running server
	enrolled(t, original)
	if m.Rows["certificates"] != 1 || m.Files[0].Path != installation.DatabaseFile {
		t.Errorf("manifest %+v", m)
	}
	for _, f := range m.Files {
		if strings.HasPrefix(f.Path, "assay.db.") {
			t.Errorf("%s is in the backup", f.Path)
		}
	}
	if left, err := filepath.Glob(filepath.Join(original.Dir, "assay.db*")); err != nil || len(left) > 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}

	t.Run("file", func(t *testing.T) {
		dir, r := restored(t, data)
		if r.Database != "" || r.Named != url || strings.Contains(configOf(t, dir), "database") {
			t.Errorf("restored %+v, configuration:\n%s", r, configOf(t, dir))
		}
		wantSafe(t, dir, unused, serial)
	})
	t.Run("database", func(t *testing.T) {
		into := counterpart.Database(t, c, "")
		dir := filepath.Join(t.TempDir(), "restored")
		r, err := restore(t, data, dir, func(o *backup.RestoreOptions) { o.Database = into })
		ok(t, err)
		if r.Database != into || r.Named != url || r.Ended.Codes != 1 || !strings.Contains(configOf(t, dir), `database: "`+into+`"`) {
			t.Errorf("restored %+v, configuration:\n%s", r, configOf(t, dir))
		}
		if _, err := os.Stat(filepath.Join(dir, installation.DatabaseFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file is still there: %v", err)
		}
		wantSafe(t, dir, unused, serial)
	})
	t.Run("file into database", func(t *testing.T) {
		data, _ := taken(t, initialized(t))
		into := counterpart.Database(t, c, "")
		dir := filepath.Join(t.TempDir(), "restored")
		_, err := restore(t, data, dir, func(o *backup.RestoreOptions) { o.Database = into })
		ok(t, err)
		enrolled(t, serve(t, dir))
	})
	original.stop()
	if n := certificates(t, url); n != 2 {
		t.Errorf("the original has %d certificates", n)
	}
}

func testRestoreKeepsOffTheOriginal(t *testing.T, c *pgcluster.Cluster) {
	original, url, unused, serial := onPostgres(t, c)
	data, _ := taken(t, original.Dir)
	into := counterpart.Database(t, c, "")
	for name, o := range map[string]struct {
		environment, database string
		refused               func(error) bool
	}{
		"told so":           {"", url, isNotEmpty},
		"environment":       {url, "", isNotEmpty},
		"both":              {url, url, isNotEmpty},
		"another than told": {url, into, func(err error) bool { return strings.Contains(err.Error(), "names another database") }},
	} {
		t.Setenv("ASSAY_DATABASE", o.environment)
		dir := filepath.Join(t.TempDir(), "new")
		_, err := restore(t, data, dir, func(r *backup.RestoreOptions) {
			r.Database = o.database
			r.Progress = func(p backup.Progress) { t.Errorf("%s: refused only after %s", name, p.Step) }
		})
		if err == nil || !o.refused(err) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder is there: %v", name, err)
		}
	}
	// The environment's is the one that a server uses, so it gets the rows; it stays out of the file.
	t.Setenv("ASSAY_DATABASE", into)
	dir, r := restored(t, data)
	if r.Database != into || strings.Contains(configOf(t, dir), "database") {
		t.Errorf("restored %+v, configuration:\n%s", r, configOf(t, dir))
	}
	wantSafe(t, dir, unused, serial)
	if n := certificates(t, url); n != 1 {
		t.Errorf("the original has %d certificates", n)
	}
}

func isNotEmpty(err error) bool {
	_, is := errors.AsType[*store.NotEmptyError](err)
	return is
}

func testNoPasswordWithoutKeys(t *testing.T, c *pgcluster.Cluster) {
	url := strings.Replace(counterpart.Database(t, c, ""), "assay@", "assay:s3cret@", 1)
	dir := initializedOn(t, url)
	if !strings.Contains(configOf(t, dir), "s3cret") {
		t.Fatal("the configuration has no password: the test shows nothing")
	}
	data, m := taken(t, dir, func(o *backup.Options) { o.Recipients, o.NoKeys = nil, true })
	copied, _ := restored(t, data)
	for name, content := range files(t, copied) {
		if strings.Contains(content, "s3cret") {
			t.Errorf("%s has the password", name)
		}
	}
	for _, n := range m.NotCopied {
		if n.Use == "database" {
			if n.Where != store.Redacted(url) {
				t.Errorf("%+v", n)
			}
			return
		}
	}
	t.Errorf("not copied: %+v", m.NotCopied)
}

// dumped restores a dump of a database into a new one, by PostgreSQL's own programs, and copies the folder.
func dumped(t *testing.T, c *pgcluster.Cluster, dir, url string) (copied, into string, takenAt time.Time) {
	t.Helper()
	dump, err := c.Run(t.Context(), "pg_dump", "--format=custom", url)
	ok(t, err)
	takenAt = time.Now()
	into = counterpart.Database(t, c, "")
	file := filepath.Join(shared(t), "assay.dump")
	ok(t, os.WriteFile(file, dump, 0o644))
	_, err = c.Run(t.Context(), "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--dbname", into, file)
	ok(t, err)
	copied = filepath.Join(t.TempDir(), "copied")
	ok(t, installation.CopyFolder(copied, dir))
	config, _, err := installation.SetDatabase([]byte(configOf(t, dir)), into)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(copied, installation.ConfigFile), config, 0o600))
	return copied, into, takenAt
}

// shared is a folder that PostgreSQL's user can read, too.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay-dump-")
	ok(t, err)
	ok(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	return dir
}

func finish(t *testing.T, dir string, takenAt time.Time, now func() time.Time) (store.Ended, error) {
	t.Helper()
	return backup.Finish(t.Context(), dir, backup.FinishOptions{TakenAt: takenAt, Now: now, From: "operator:test"})
}

// lateNow is a clock for which no lease that is held now is held any more.
func lateNow() time.Time { return time.Now().Add(time.Minute) }

func testDump(t *testing.T, c *pgcluster.Cluster) {
	original, url, unused, serial := onPostgres(t, c)
	dir, into, takenAt := dumped(t, c, original.Dir, url) // beside the running server
	published := original.crl(t).Number
	_, err := original.enrol(t.Context(), unused)
	ok(t, err)
	original.stop()
	if _, err := finish(t, dir, takenAt.Add(-time.Hour), lateNow); !isUsedSince(err) {
		t.Errorf("said to be of an hour ago: %v", err)
	}
	ended, err := finish(t, dir, takenAt, lateNow)
	ok(t, err)
	if diff := cmp.Diff(store.Ended{Codes: 1, CRLs: 1}, ended); diff != "" {
		t.Errorf("ended (-want +got):\n%s", diff)
	}
	wantSafe(t, dir, unused, serial)
	r := serve(t, dir)
	if crl := r.crl(t); crl.Number.Cmp(published) <= 0 || crl.Number.BitLen() <= 32 {
		t.Errorf("CRL %d was published before, and then %d", published, crl.Number)
	}
	if n := certificates(t, into); n != 2 {
		t.Errorf("%d certificates", n)
	}
}

func testFinishRefuses(t *testing.T, c *pgcluster.Cluster) {
	original, url, _, _ := onPostgres(t, c)
	if _, err := finish(t, original.Dir, time.Now(), lateNow); !errors.Is(err, installation.ErrServed) {
		t.Errorf("beside the server: %v", err)
	}
	// From another folder with the same database, as another server has it.
	other := filepath.Join(t.TempDir(), "other")
	ok(t, installation.CopyFolder(other, original.Dir))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // the server takes its first turn
		until, err := store.ServedUntil(t.Context(), url)
		ok(t, err)
		if !until.IsZero() || time.Now().After(deadline) {
			break
		}
	}
	if _, err := finish(t, other, time.Now(), time.Now); !errors.Is(err, installation.ErrServed) {
		t.Errorf("beside another server: %v", err)
	}
	original.stop()
	if _, err := finish(t, other, time.Now().Add(-time.Hour), lateNow); !isUsedSince(err) {
		t.Errorf("used since: %v", err)
	}
	takenAt := time.Now()
	_, err := finish(t, other, takenAt, lateNow)
	ok(t, err)
	if _, err := finish(t, other, takenAt, lateNow); !isUsedSince(err) {
		t.Errorf("a second time: %v", err)
	}
}

// TestFolderThatCameBackIsMadeSafe: finish works for a file, too, which a copy of a disk brought back.
func TestFolderThatCameBackIsMadeSafe(t *testing.T) {
	original := serve(t, initialized(t))
	unused, _, err := original.mint(t.Context())
	ok(t, err)
	serial := enrolled(t, original)
	original.stop()
	copied := filepath.Join(t.TempDir(), "copied")
	ok(t, installation.CopyFolder(copied, original.Dir))
	_, err = finish(t, copied, time.Now().Truncate(time.Second), time.Now) // all of that second
	ok(t, err)
	wantSafe(t, copied, unused, serial)
}

func isUsedSince(err error) bool {
	_, is := errors.AsType[*backup.UsedSinceError](err)
	return is
}

func testFailedRestore(t *testing.T, c *pgcluster.Cluster) {
	data, _ := taken(t, initialized(t))
	into := counterpart.Database(t, c, "")
	dir := filepath.Join(t.TempDir(), "new")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := backup.Restore(ctx, bytes.NewReader(data), dir, backup.RestoreOptions{
		Identities: identities(), Now: time.Now, From: "operator:test", Database: into,
		Progress: func(p backup.Progress) {
			if p.Step == backup.StepCopy {
				cancel()
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	_, err = restore(t, data, dir, func(o *backup.RestoreOptions) { o.Database = into })
	ok(t, err)
	enrolled(t, serve(t, dir))
}
