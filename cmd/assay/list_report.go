package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"assay/internal/inventory"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// failedRow is a row of a list that could not be taken.
type failedRow struct {
	Row          inventory.Row
	Check, Error string
}

// maxToldFailures is how many failed rows the summary names.
const maxToldFailures = 10

// failureReport collects failed rows: the first for people, all for the file that was asked for, each as it
// stood in the list behind what was wrong with it, so that the file can be mended and read as a list. The
// file appears at the end, whole.
type failureReport struct {
	first []failedRow
	file  *atomicFile // nil: none was asked for
	csv   *csv.Writer
	begun bool // whether the header is written
}

// newFailureReport begins a report now, so that one that cannot be written stops nothing half-way.
func newFailureReport(name string) (*failureReport, error) {
	if name == "" {
		return &failureReport{}, nil
	}
	file, err := createAtomic(name)
	if err != nil {
		return nil, err
	}
	return &failureReport{file: file, csv: csv.NewWriter(file)}, nil
}

// begin writes the header, once the list's columns are known.
func (r *failureReport) begin(columns []string) error {
	if r.file == nil || r.begun {
		return nil
	}
	r.begun = true
	return r.write(inventory.ReportColumns, columns)
}

func (r *failureReport) write(ours, fields []string) error {
	cells := slices.Concat(ours, fields)
	for i, cell := range cells {
		cells[i] = inventory.CSVCell(cell)
	}
	return r.csv.Write(cells)
}

func (r *failureReport) add(f failedRow) error {
	if len(r.first) < maxToldFailures {
		r.first = append(r.first, f)
	}
	if r.file == nil {
		return nil
	}
	return r.write([]string{strconv.Itoa(f.Row.Line), f.Check, f.Error}, f.Row.Fields)
}

// publish puts the file under its name.
func (r *failureReport) publish() error {
	if r.file == nil {
		return nil
	}
	if err := r.begin(nil); err != nil { // of a list without rows
		return err
	}
	r.csv.Flush()
	if err := r.csv.Error(); err != nil {
		return fmt.Errorf("write %s: %w", r.file.name, err)
	}
	return r.file.publish()
}

// discard throws an unpublished file away.
func (r *failureReport) discard() {
	if r.file != nil {
		r.file.discard()
	}
}

// tell names the first failed rows.
func (r *failureReport) tell(w io.Writer, failed int) {
	for _, f := range r.first {
		sayf(w, "  line %d: %s\n", f.Row.Line, f.Error)
	}
	if more := failed - len(r.first); more > 0 && r.file == nil {
		fmt.Fprintf(w, "  and %d more: --report FILE lists all\n", more)
	}
	if failed > 0 && r.file != nil {
		fmt.Fprintf(w, "  all of them are in %s\n", r.file.name)
	}
}

// progressInterval is how often a log is told how far a list is.
const progressInterval = 5 * time.Second

// listProgress shows how far a list is: by a bar where people watch, else by a line now and then.
type listProgress struct {
	name string
	list *countedReader
	size int64 // of the list in bytes; 0: not known
	err  io.Writer
	now  func() time.Time
	last time.Time

	bars *mpb.Progress // nil: no bar
	bar  *mpb.Bar
	text atomic.Pointer[string] // beside the bar
}

func newListProgress(term *terminal, name string, list *countedReader, size int64) *listProgress {
	p := &listProgress{name: name, list: list, size: size, err: term.Err, now: term.Now, last: term.Now()}
	_, watched := screen(term.Err)
	_, covered := screen(term.Out) // the lines themselves show it
	if !watched || covered || size == 0 {
		return p
	}
	p.text.Store(new(string))
	p.bars = mpb.New(mpb.WithOutput(term.Err))
	p.bar = p.bars.AddBar(size, mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return *p.text.Load() })),
		mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
	return p
}

func (p *listProgress) show(devices, failed int) {
	if p.bar != nil {
		p.text.Store(new(fmt.Sprintf("%d devices, %d failed ", devices, failed)))
		p.bar.SetCurrent(min(p.list.n, p.size-1)) // the end is when the last is declared
		return
	}
	now := p.now()
	if now.Sub(p.last) < progressInterval {
		return
	}
	p.last = now
	share := ""
	if p.size > 0 {
		share = fmt.Sprintf(" (%d%%)", 100*p.list.n/p.size)
	}
	fmt.Fprintf(p.err, "%s: %d devices so far%s, %d failed\n", p.name, devices, share, failed)
}

// end takes the bar away.
func (p *listProgress) end() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}
