package installation

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/files"
	"assay/internal/inventory"
	"assay/internal/issuance"
)

// Folders within a watched one, where lists go once they were read.
const (
	doneFolder   = "done"
	failedFolder = "failed"
)

// maxWatched is the largest list, in bytes, that is taken from a watched folder.
const maxWatched = 256 << 20

// watchInterval is how often a watched folder is looked at.
const watchInterval = 5 * time.Second

// listWatch takes lists that are put into a folder into the inventory. A list is read once its size has
// not changed between two looks, and then moved away, so that a crash in between reads it again, which
// changes nothing. Several servers may watch one folder: whoever moves a list was first.
type listWatch struct {
	dir   string
	store inventory.Store
	now   func() time.Time
	log   *slog.Logger
	sizes map[string]int64 // at the look before
}

// watchLists looks at the folder until the context ends.
func (i *Installation) watchLists(ctx context.Context, log *slog.Logger) {
	if i.Config.Inventory.Watch == "" {
		return
	}
	w := &listWatch{dir: within(i.Dir, i.Config.Inventory.Watch), store: i.Store, now: i.now, log: log}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		log.Error("watched folder", "folder", w.dir, "error", err)
		return
	}
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			log.Error("watched folder", "folder", w.dir, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look reads every list that is complete.
func (w *listWatch) look(ctx context.Context) error {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	before := w.sizes
	w.sizes = map[string]int64{}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || !e.Type().IsRegular() || !slices.Contains([]string{".csv", ".json", ".ndjson", ".jsonl"}, strings.ToLower(filepath.Ext(name))) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another server was first
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		w.sizes[name] = info.Size()
		if size, seen := before[name]; !seen || size != info.Size() {
			continue // it may still be written
		}
		if err := w.read(ctx, name, info.Size()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		delete(w.sizes, name)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// read takes one list and moves it to where it belongs then. A failure of the store leaves it for the next
// look.
func (w *listWatch) read(ctx context.Context, name string, size int64) error {
	f, err := w.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	kept := w.now().UTC().Format("20060102T150405.000000Z") + "-" + name // not taken yet in either folder
	report, err := w.newReport(kept)
	if err != nil {
		return err
	}
	defer report.discard()
	call := func() issuance.Call { return issuance.Call{Now: w.now(), From: "server"} }
	var taken inventory.Taken
	faulty := error(nil)
	if size > maxWatched {
		faulty = fmt.Errorf("it has %d bytes, but the limit is %d", size, maxWatched)
	} else {
		taken, err = inventory.Take(ctx, unreadable{w.store}, call, "folder:"+name, inventory.Read(name, io.LimitReader(f, maxWatched)), report.add)
		if failed, ok := errors.AsType[*storeError](err); ok {
			return failed.err
		}
		faulty = err
	}
	folder := doneFolder
	if faulty != nil || taken.Failed > 0 {
		folder = failedFolder
		if err := report.publish(faulty); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(w.dir, name), filepath.Join(w.dir, folder, kept)); err != nil {
		return err
	}
	attrs := []any{"list", name, "devices", taken.Devices, "added", taken.Added, "updated", taken.Updated, "unchanged", taken.Unchanged,
		"conflicts", taken.Conflicts, "failed", taken.Failed}
	if folder == failedFolder {
		attrs = append(attrs, "report", report.name)
		if faulty != nil {
			attrs = append(attrs, "error", faulty)
		}
		w.log.Warn("list of devices read, but not whole: see the report beside it", attrs...)
		return nil
	}
	w.log.Info("list of devices read", attrs...)
	return nil
}

// open opens a list, and nothing that has taken its name since the look: a link would have the server read a file of
// its own into a report.
func (w *listWatch) open(name string) (*os.File, error) {
	path := filepath.Join(w.dir, name)
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	named, lstatErr := os.Lstat(path)
	if err == nil && (lstatErr != nil || !os.SameFile(opened, named)) {
		err = errors.New("it is a link, or was replaced just now")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unreadable tells failures of the store from faults of a list.
type unreadable struct{ inventory.Store }

type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

func (u unreadable) ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error) {
	results, err := u.Store.ImportDevices(ctx, call, in)
	if err != nil {
		return nil, &storeError{err}
	}
	return results, nil
}

// listReport collects the rows of a list that could not be taken. It appears whole, or not at all.
type listReport struct {
	name string
	file *os.File
	csv  *csv.Writer
}

func (w *listWatch) newReport(kept string) (*listReport, error) {
	for _, folder := range []string{doneFolder, failedFolder} {
		if err := os.MkdirAll(filepath.Join(w.dir, folder), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(filepath.Join(w.dir, failedFolder), ".report-*")
	if err != nil {
		return nil, err
	}
	name := filepath.Join(w.dir, failedFolder, kept+".report.csv")
	r := &listReport{name: name, file: f, csv: csv.NewWriter(f)}
	return r, r.csv.Write(inventory.ReportColumns)
}

func (r *listReport) add(row inventory.Row, fault error) error {
	return r.write(row.Line, "row", fault.Error(), row.Fields)
}

func (r *listReport) write(line int, check, text string, fields []string) error {
	cells := slices.Concat([]string{strconv.Itoa(line), check, text}, fields)
	for n, cell := range cells {
		cells[n] = inventory.CSVCell(cell)
	}
	return r.csv.Write(cells)
}

// publish puts the report under its name; with what ended the list early, if something did.
func (r *listReport) publish(faulty error) error {
	if faulty != nil {
		if err := r.write(0, "list", faulty.Error(), nil); err != nil {
			return err
		}
	}
	r.csv.Flush()
	if err := errors.Join(r.csv.Error(), r.file.Close()); err != nil {
		return err
	}
	return os.Rename(r.file.Name(), r.name)
}

// discard throws a report away that was not published.
func (r *listReport) discard() {
	_ = r.file.Close()
	_ = os.Remove(r.file.Name())
}
