package backup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"assay/internal/backup"
	"assay/internal/installation"
)

// TestKilledRestoreLeavesNoHalfInstallation kills a restore at every report of progress, one after the
// other, into the same folder: each time it holds no installation, and the next restore goes on from there.
func TestKilledRestoreLeavesNoHalfInstallation(t *testing.T) {
	data, _ := taken(t, initialized(t))
	file := filepath.Join(t.TempDir(), "backup")
	ok(t, os.WriteFile(file, data, 0o600))
	dir := filepath.Join(t.TempDir(), "new")
	kills := 0
	for ; ; kills++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), restoreInto+"="+dir, restoreFrom+"="+file, restoreKey+"="+key().String(), restoreSteps+"="+strconv.Itoa(kills))
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		if exit, is := errors.AsType[*exec.ExitError](err); !is || exit.Exited() {
			t.Fatalf("restore after %d kills: %v\n%s", kills, err, out)
		}
		_, err = installation.LoadConfig(dir)
		if err != nil {
			continue
		}
		// Killed once the configuration was in place: then all of it is there.
		i, err := installation.Open(t.Context(), dir, time.Now)
		ok(t, err)
		ok(t, i.Close())
		if _, err := restore(t, data, dir); err == nil {
			t.Fatal("a whole installation was restored over")
		} else if _, is := errors.AsType[*backup.OccupiedError](err); !is {
			t.Fatal(err)
		}
		ok(t, os.RemoveAll(dir))
	}
	if kills < 15 {
		t.Errorf("killed %d times: the test shows little", kills)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".restoring")); err == nil {
		t.Error("the staging folder is still there")
	}
	serve(t, dir)
}
