package installation

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/inventory"
	"assay/internal/issuance"
	"assay/internal/store"
)

// watching is a watched folder on a real store, and a way to put a list there.
func watching(t *testing.T) (w *listWatch, put func(name, text string), in func(folder string) []string) {
	t.Helper()
	dir, _ := initialized(t, nil)
	folder := t.TempDir()
	w = &listWatch{dir: folder, store: opened(t, dir).Store, now: time.Now, log: slog.New(slog.DiscardHandler)}
	put = func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in = func(sub string) (names []string) {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(folder, sub))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				names = append(names, e.Name())
			}
		}
		return names
	}
	return w, put, in
}

func (w *listWatch) lookTwice(t *testing.T) {
	t.Helper()
	for range 2 {
		if err := w.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func devicesIn(t *testing.T, w *listWatch) (serials []string) {
	t.Helper()
	for d, err := range w.store.(*store.Store).Devices(t.Context(), issuance.DeviceFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		serials = append(serials, d.Serial)
	}
	slices.Sort(serials) // devices of one millisecond have no order
	return serials
}

func TestListsInAWatchedFolderAreTakenOnce(t *testing.T) {
	w, put, in := watching(t)
	put("fleet.csv", "serial,owner\nS1,sam\n")
	put("more.json", `[{"serial":"S2"}]`)
	put(".hidden.csv", "serial\nS3\n")
	put("notes.txt", "serial\nS4\n")
	w.lookTwice(t)
	if got := devicesIn(t, w); strings.Join(got, " ") != "S1 S2" {
		t.Errorf("devices %v", got)
	}
	if got := in(doneFolder); len(got) != 2 || len(in(failedFolder)) != 0 || len(in("")) != 2 {
		t.Errorf("done %v, failed %v, left %v", got, in(failedFolder), in(""))
	}
}

func TestAListThatIsStillWrittenIsLeft(t *testing.T) {
	w, put, in := watching(t)
	put("fleet.csv", "serial\nS1\n")
	if err := w.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	put("fleet.csv", "serial\nS1\nS2\n")
	if err := w.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(in("")) != 1 || len(devicesIn(t, w)) != 0 {
		t.Fatal("a list that grows was read")
	}
	if err := w.look(t.Context()); err != nil || len(devicesIn(t, w)) != 2 {
		t.Errorf("%v, devices %v", err, devicesIn(t, w))
	}
}

func TestAListWithFaultsIsReported(t *testing.T) {
	w, put, in := watching(t)
	put("rows.csv", "serial,state\nS1,\nS2,Texas\n\"=S3\",expected\n")
	put("none.csv", "owner\nsam\n")
	w.lookTwice(t)
	if got := devicesIn(t, w); strings.Join(got, " ") != "=S3 S1" {
		t.Errorf("devices %v", got)
	}
	failed := in(failedFolder)
	if len(failed) != 4 || len(in(doneFolder)) != 0 {
		t.Fatalf("failed %v", failed)
	}
	var reports strings.Builder
	for _, name := range failed {
		if list, isReport := strings.CutSuffix(name, ".report.csv"); isReport && !slices.Contains(failed, list) {
			t.Errorf("%s is not named for the list beside it: %v", name, failed)
		}
		if strings.HasSuffix(name, ".report.csv") {
			data, err := os.ReadFile(filepath.Join(w.dir, failedFolder, name))
			if err != nil {
				t.Fatal(err)
			}
			reports.Write(data)
		}
	}
	for _, want := range []string{"3,row", "Texas", "0,list", "neither the column serial nor udid"} {
		if !strings.Contains(reports.String(), want) {
			t.Errorf("reports lack %q: %s", want, reports.String())
		}
	}
}

// failingStore fails once it has taken some parts.
type failingStore struct {
	inventory.Store
	parts int
}

func (f *failingStore) ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error) {
	if f.parts--; f.parts < 0 {
		return nil, errors.New("disk full")
	}
	return f.Store.ImportDevices(ctx, call, in)
}

func TestAListThatTheStoreCouldNotTakeIsReadAgain(t *testing.T) {
	w, put, in := watching(t)
	list := "serial\n"
	for n := range 250 {
		list += "S" + strings.Repeat("x", n+1) + "\n"
	}
	put("fleet.csv", list)
	whole := w.store
	w.store = &failingStore{Store: whole, parts: 1}
	if err := w.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.look(t.Context()); err == nil || len(in("")) != 1 || len(in(failedFolder)) != 0 {
		t.Fatalf("%v, left %v, failed %v", err, in(""), in(failedFolder))
	}
	w.store = whole
	w.lookTwice(t)
	if got := devicesIn(t, w); len(got) != 250 || len(in(doneFolder)) != 1 {
		t.Errorf("%d devices, done %v", len(got), in(doneFolder))
	}
}
