package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/delivery"
	"assay/internal/inventory"
)

// A request declares at most declareBatch devices of together declareBytes, so that neither the
// server's limits nor this program's memory depend on the list.
const (
	declareBatch = 500
	declareBytes = 512 << 10
)

// declaredLine is what is printed of one device of a list.
type declaredLine struct {
	Line         int                `json:"line"` // in the list
	Serial       string             `json:"serial"`
	UDID         string             `json:"udid"`
	Credential   string             `json:"credential"`
	Fresh        bool               `json:"fresh"` // declared now; false: it stood already
	Declarations admin.Declarations `json:"declarations,omitempty"`
	Files        []string           `json:"files,omitempty"`
}

// listSummary is what became of a list.
type listSummary struct {
	Devices  int    `json:"devices"` // rows that were asked for
	Declared int    `json:"declared"`
	Stood    int    `json:"stood"` // unchanged: declared before
	Failed   int    `json:"failed"`
	Report   string `json:"report,omitempty"`
}

// listRun declares a template for the devices of a list, row by row.
type listRun struct {
	*credentialDeclare
	api      *client.Client
	out      *bufio.Writer // of lines; nil where declarations go to files
	failures *failureReport
	progress *listProgress
	sum      listSummary
	unpushed error // there is no MDM to push to, which is asked once

	rows   []inventory.Row // the batch
	size   int             // its bytes in a request
	failed []failedRow     // since the batch before, in any order
}

// declareList runs a list to its end, or to what stops it: then what came before is declared and
// reported all the same.
func (c *credentialDeclare) declareList(ctx context.Context, term *terminal, g *globals, failures *failureReport) error {
	list, size, closeList, err := openList(term, c.From)
	if err != nil {
		return usage(err)
	}
	defer closeList()
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	r := &listRun{credentialDeclare: c, api: api, failures: failures, progress: newListProgress(term, c.From, list, size)}
	if c.Out == "" {
		r.out = bufio.NewWriter(term.Out)
	}
	stopped := r.run(ctx, list)
	r.progress.end()
	if r.out != nil {
		stopped = errors.Join(stopped, r.out.Flush())
	}
	if err := failures.publish(); err != nil {
		return errors.Join(stopped, err)
	}
	r.sum.Report = c.Report
	if err := r.tell(term, g); err != nil {
		return err
	}
	_, advised := errors.AsType[*hinted](stopped)
	switch {
	case stopped != nil && !advised && r.sum.Declared+r.sum.Stood > 0:
		return withHint(stopped, "run it again: what was declared stands, and costs little")
	case stopped != nil:
		return stopped
	case r.unpushed != nil:
		return r.unpushed
	case r.sum.Failed > 0:
		return no()
	}
	return nil
}

// run declares every row.
func (r *listRun) run(ctx context.Context, list io.Reader) error {
	for row, err := range inventory.ReadCSV(list) {
		if row.Columns != nil {
			if err := r.failures.begin(row.Columns); err != nil {
				return err
			}
		}
		if unusable, ok := errors.AsType[*inventory.RowError](err); ok {
			r.sum.Devices++
			r.fail(row, "row", unusable.Err.Error())
			if len(r.failed) == declareBatch { // of a list of nothing else
				if err := r.flush(ctx); err != nil {
					return err
				}
			}
			continue
		} else if err != nil {
			return cmp.Or(r.flush(ctx), usage(fmt.Errorf("%s: %w", r.From, err)))
		}
		size, err := requestSize(r.device(row))
		if err != nil {
			return err
		}
		if len(r.rows) == declareBatch || r.size+size > declareBytes {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
		r.rows, r.size = append(r.rows, row), r.size+size
	}
	return r.flush(ctx)
}

// flush declares the rows that wait, and reports what failed up to here in the order of the list.
func (r *listRun) flush(ctx context.Context) error {
	stopped := r.declareBatch(ctx)
	slices.SortFunc(r.failed, func(a, b failedRow) int { return cmp.Compare(a.Row.Line, b.Row.Line) })
	for _, f := range r.failed {
		if err := r.failures.add(f); err != nil {
			return cmp.Or(stopped, err)
		}
	}
	clear(r.failed)
	r.failed = r.failed[:0]
	return stopped
}

// declareBatch declares the rows that wait.
func (r *listRun) declareBatch(ctx context.Context) error {
	if len(r.rows) == 0 {
		return nil
	}
	if err := r.declare(ctx, r.rows); err != nil {
		return err
	}
	clear(r.rows)
	r.rows, r.size = r.rows[:0], 0
	r.progress.show(r.sum)
	if r.out == nil {
		return nil
	}
	return r.out.Flush() // what was declared is printed, whatever comes next
}

// declare declares some rows in one request. Where a row spoils the request for all, halves are tried.
func (r *listRun) declare(ctx context.Context, rows []inventory.Row) error {
	devices := make([]admin.Declare, len(rows))
	for i, row := range rows {
		devices[i] = r.device(row)
	}
	results, err := r.api.DeclareBatch(ctx, admin.DeclareBatch{Template: r.Template, Devices: devices}, "")
	if problem, ok := errors.AsType[*client.Problem](err); ok && aboutDevices(problem) {
		if len(rows) == 1 {
			r.sum.Devices++
			r.fail(rows[0], problem.Check, problem.Error())
			return nil
		}
		half := len(rows) / 2
		if err := r.declare(ctx, rows[:half]); err != nil {
			return err
		}
		return r.declare(ctx, rows[half:])
	}
	if err != nil {
		return refusedInput(fmt.Errorf("stopped before line %d of %s: %w", rows[0].Line, r.From, err))
	}
	if len(results) != len(rows) {
		return fmt.Errorf("the server answered for %d of %d devices", len(results), len(rows))
	}
	for i, result := range results {
		if err := r.take(ctx, rows[i], result); err != nil {
			return err
		}
	}
	return nil
}

// aboutDevices reports whether a request was refused for one or more of its devices.
func aboutDevices(p *client.Problem) bool {
	if p.Status == http.StatusRequestEntityTooLarge {
		return true
	}
	return len(p.Errors) > 0 && !slices.ContainsFunc(p.Errors, func(e client.ProblemDetail) bool {
		return !strings.HasPrefix(e.Location, "body.devices[")
	})
}

// wholeList are the checks that fail for every device, or for none.
var wholeList = []string{delivery.CheckTemplateKnown, delivery.CheckDirectoryKnown, delivery.CheckMDMListener}

// device is what a row asks for.
func (r *listRun) device(row inventory.Row) admin.Declare {
	return admin.Declare{Serial: row.Serial, UDID: row.UDID, Labels: mergeLabels(row.Labels, r.Label)}
}

func requestSize(d admin.Declare) (int, error) {
	data, err := json.Marshal(d)
	return len(data), err
}

// take prints what became of a row, or reports it.
func (r *listRun) take(ctx context.Context, row inventory.Row, result admin.DeclareResult) error {
	if slices.Contains(wholeList, result.Check) {
		return usage(errors.New(result.Error))
	}
	r.sum.Devices++
	if result.Credential == nil {
		r.fail(row, result.Check, result.Error)
		return nil
	}
	credential := *result.Credential
	if r.Activation {
		credential.Declarations = append(credential.Declarations, activation(credential))
	}
	line := declaredLine{Line: row.Line, Serial: row.Serial, UDID: row.UDID, Credential: credential.ID, Fresh: result.Fresh}
	var err error
	if r.out == nil {
		line.Files, err = writeDeclarations(r.Out, credential.Declarations)
	} else {
		line.Declarations = credential.Declarations
		err = writeJSON(r.out, line)
	}
	if err != nil {
		return err
	}
	if r.Push && r.unpushed == nil && (credential.PushError != "" || credential.PushedAt.Before(credential.RenderedAt)) {
		if err := pushed(ctx, r.api, &credential); isProblem(err, http.StatusUnauthorized, http.StatusForbidden) {
			return err
		} else if isProblem(err, http.StatusConflict) {
			r.unpushed = err
		} else if err != nil {
			r.fail(row, "push", err.Error())
			return nil
		}
	}
	if result.Fresh {
		r.sum.Declared++
	} else {
		r.sum.Stood++
	}
	return nil
}

func (r *listRun) fail(row inventory.Row, check, text string) {
	r.sum.Failed++
	r.failed = append(r.failed, failedRow{Row: row, Check: check, Error: text})
}

// tell summarises: to people on standard error, to scripts where the lines do not stand already.
func (r *listRun) tell(term *terminal, g *globals) error {
	if g.JSON && r.out == nil {
		return writeJSON(term.Out, r.sum)
	}
	fmt.Fprintf(term.Err, "%s: %s: %d declared, %d stood already, %d failed\n", r.From, counted(r.sum.Devices, "device"), r.sum.Declared, r.sum.Stood, r.sum.Failed)
	r.failures.tell(term.Err, r.sum.Failed)
	return nil
}

// openList opens a list, and says how many bytes it has; 0 if that is not known.
func openList(term *terminal, name string) (*countedReader, int64, func() error, error) {
	if name == "-" {
		return &countedReader{r: term.In}, 0, func() error { return nil }, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, nil, errors.Join(err, f.Close())
	}
	size := info.Size()
	if !info.Mode().IsRegular() {
		size = 0
	}
	return &countedReader{r: f}, size, f.Close, nil
}

// countedReader counts what was read.
type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
