package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/inventory"
)

type deviceImport struct {
	connection
	File   string `arg:"" help:"The list: CSV with a header (columns serial and udid, at least one; all others become labels), or JSON (.json, .ndjson); - is CSV on standard input."`
	Source string `placeholder:"NAME" help:"Who says so, e.g. csv:fleet. Default: csv: or json: and the file's name. A source replaces what it said itself before."`
	Report string `placeholder:"FILE.csv" help:"Write the rows that could not be taken to this file, to be mended and imported again."`
}

func (deviceImport) Help() string {
	return `A column "state" says where a device stands: expected, active, lost or retired. Labels may have any name; policies
read device.owner and device.model, templates {device.labels.NAME}.

Imported again, a list changes nothing but what changed in it: after an interruption, run it again. What evidence
attested stays; what contradicts another source is a conflict, which ` + "`assay device conflicts`" + ` lists.

Examples:
  assay device import --dir ./a fleet.csv
  assay device import --server https://id.example.com:8444 --token-file t devices.json --report failed.csv

Exit codes: 0 taken; 1 some rows were not, or are conflicts; 2 wrong flags or an unreadable list; 3 failed.`
}

// importRun takes a list into the inventory, batch by batch.
type importRun struct {
	*deviceImport
	*listBatches
	api      *client.Client
	progress *listProgress
	source   string
	taken    inventory.Taken
}

func (c *deviceImport) Run(ctx context.Context, term *terminal, g *globals) error {
	failures, err := newFailureReport(c.Report)
	if err != nil {
		return usage(err)
	}
	defer failures.discard()
	list, size, closeList, err := openList(term, c.File)
	if err != nil {
		return usage(err)
	}
	defer closeList()
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	r := &importRun{deviceImport: c, api: api, progress: newListProgress(term, c.File, list, size), source: c.sourceName()}
	r.listBatches = &listBatches{name: c.File, failures: failures, send: r.take, broken: r.broken,
		size: func(row inventory.Row) (int, error) { return requestSize(listed(row)) }}
	stopped := r.run(ctx, inventory.Read(c.File, list))
	r.progress.end()
	if err := failures.publish(); err != nil {
		return errors.Join(stopped, err)
	}
	if g.JSON {
		if err := writeJSON(term.Out, struct {
			inventory.Taken
			Source string `json:"source"`
			Report string `json:"report,omitempty"`
		}{r.taken, r.source, c.Report}); err != nil {
			return err
		}
	} else if t := r.taken; stopped == nil || t.Devices > 0 {
		sayf(term.Out, "%s: %s: %d added, %d updated, %d unchanged, %d in conflict, %d failed\n", c.File, counted(t.Devices, "device"), t.Added, t.Updated, t.Unchanged, t.Conflicts, t.Failed)
		failures.tell(term.Err, t.Failed)
		if t.Conflicts > 0 {
			fmt.Fprintln(term.Out, "`assay device conflicts` lists what contradicts what")
		}
	}
	switch {
	case stopped != nil && r.taken.Devices > 0:
		return withHint(stopped, "run it again: what was taken stays, and costs little")
	case stopped != nil:
		return stopped
	case r.taken.Failed+r.taken.Conflicts > 0:
		return no()
	}
	return nil
}

// sourceName is who the inventory will say the list is from.
func (c *deviceImport) sourceName() string {
	switch {
	case c.Source != "":
		return c.Source
	case c.File == "-":
		return "csv:standard-input"
	}
	kind := "csv:"
	if slices.Contains([]string{".json", ".ndjson", ".jsonl"}, filepath.Ext(c.File)) {
		kind = "json:"
	}
	return kind + filepath.Base(c.File)
}

// listed is what a row asks for. A state that there is not is the server's to refuse.
func listed(row inventory.Row) admin.ListedDevice {
	d := admin.ListedDevice{Serial: row.Serial, UDID: row.UDID, Labels: row.Labels}
	if l, err := row.Listing(); err == nil {
		d.State, d.Labels = string(l.State), l.Labels
	}
	return d
}

// take takes a batch.
func (r *importRun) take(ctx context.Context, rows []inventory.Row) error {
	usable := make([]inventory.Row, 0, len(rows))
	for _, row := range rows {
		if _, err := row.Listing(); err != nil {
			r.broken(row, err.Error())
			continue
		}
		usable = append(usable, row)
	}
	if err := r.inHalves(ctx, usable, r.takeUsable, r.fail); err != nil {
		return err
	}
	r.progress.show(r.taken.Devices, r.taken.Failed)
	return nil
}

func (r *importRun) takeUsable(ctx context.Context, rows []inventory.Row) error {
	part := admin.ImportDevices{Source: r.source, Devices: make([]admin.ListedDevice, len(rows))}
	for i, row := range rows {
		part.Devices[i] = listed(row)
	}
	results, err := r.api.ImportDevices(ctx, part)
	if err := r.answered(err, len(results), rows); err != nil {
		return err
	}
	for _, result := range results {
		r.taken.CountChange(result.Change)
	}
	return nil
}

func (r *importRun) broken(row inventory.Row, text string) { r.fail(row, "row", text) }

func (r *importRun) fail(row inventory.Row, check, text string) {
	r.taken.Devices, r.taken.Failed = r.taken.Devices+1, r.taken.Failed+1
	r.failedRow(row, check, text)
}
