package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/delivery"
	"assay/internal/inventory"
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
	*listBatches
	api      *client.Client
	out      *bufio.Writer // of lines; nil where declarations go to files
	progress *listProgress
	sum      listSummary
	unpushed error // there is no MDM to push to, which is asked once
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
	r := &listRun{credentialDeclare: c, api: api, progress: newListProgress(term, c.From, list, size)}
	r.listBatches = &listBatches{name: c.From, failures: failures, send: r.declareBatch, broken: r.broken,
		size: func(row inventory.Row) (int, error) { return requestSize(r.device(row)) }}
	if c.Out == "" {
		r.out = bufio.NewWriter(term.Out)
	}
	stopped := r.run(ctx, inventory.ReadCSV(list))
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

// declareBatch declares the rows of a batch.
func (r *listRun) declareBatch(ctx context.Context, rows []inventory.Row) error {
	if err := r.declare(ctx, rows); err != nil {
		return err
	}
	r.progress.show(r.sum.Devices, r.sum.Failed)
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

// broken counts a row that could not be read.
func (r *listRun) broken(row inventory.Row, text string) {
	r.sum.Devices++
	r.fail(row, "row", text)
}

func (r *listRun) fail(row inventory.Row, check, text string) {
	r.sum.Failed++
	r.failedRow(row, check, text)
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
