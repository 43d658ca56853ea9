package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"

	"assay/internal/admin/client"
	"assay/internal/inventory"
)

// A request takes at most listBatch devices of together listBytes, so that neither the server's limits nor
// this program's memory depend on the list.
const (
	listBatch = 500
	listBytes = 512 << 10
)

// listBatches reads a list of devices in batches that one request takes, and reports the rows that fail in
// the order of the list.
type listBatches struct {
	name     string // of the list
	failures *failureReport
	size     func(inventory.Row) (int, error)                   // bytes of a row in a request
	send     func(ctx context.Context, r []inventory.Row) error // what is done with a batch
	broken   func(row inventory.Row, text string)               // told of a row that cannot be read; it calls failedRow

	rows   []inventory.Row // the batch
	bytes  int
	failed []failedRow // since the batch before, in any order
}

// run sends every row.
func (b *listBatches) run(ctx context.Context, rows iter.Seq2[inventory.Row, error]) error {
	for row, err := range rows {
		if row.Columns != nil {
			if err := b.failures.begin(row.Columns); err != nil {
				return err
			}
		}
		if unusable, ok := errors.AsType[*inventory.RowError](err); ok {
			b.broken(row, unusable.Err.Error())
			if len(b.failed) == listBatch { // of a list of nothing else
				if err := b.flush(ctx); err != nil {
					return err
				}
			}
			continue
		} else if err != nil {
			return cmp.Or(b.flush(ctx), usage(fmt.Errorf("%s: %w", b.name, err)))
		}
		size, err := b.size(row)
		if err != nil {
			return err
		}
		if len(b.rows) == listBatch || b.bytes+size > listBytes {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
		b.rows, b.bytes = append(b.rows, row), b.bytes+size
	}
	return b.flush(ctx)
}

// flush sends the rows that wait, and reports what failed up to here in the order of the list.
func (b *listBatches) flush(ctx context.Context) error {
	var stopped error
	if len(b.rows) > 0 {
		if stopped = b.send(ctx, b.rows); stopped == nil {
			clear(b.rows)
			b.rows, b.bytes = b.rows[:0], 0
		}
	}
	slices.SortFunc(b.failed, func(a, b failedRow) int { return cmp.Compare(a.Row.Line, b.Row.Line) })
	for _, f := range b.failed {
		if err := b.failures.add(f); err != nil {
			return cmp.Or(stopped, err)
		}
	}
	clear(b.failed)
	b.failed = b.failed[:0]
	return stopped
}

// inHalves sends rows in one request. Where the server refuses it for some of its rows, halves are tried,
// down to the rows that spoil it for all.
func (b *listBatches) inHalves(ctx context.Context, rows []inventory.Row, send func(context.Context, []inventory.Row) error, spoilt func(row inventory.Row, check, text string)) error {
	if len(rows) == 0 {
		return nil
	}
	err := send(ctx, rows)
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok || !aboutDevices(problem) {
		return err
	}
	if len(rows) == 1 {
		spoilt(rows[0], problem.Check, problem.Error())
		return nil
	}
	half := len(rows) / 2
	if err := b.inHalves(ctx, rows[:half], send, spoilt); err != nil {
		return err
	}
	return b.inHalves(ctx, rows[half:], send, spoilt)
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

// answered says what is wrong with the answer to a request for some rows.
func (b *listBatches) answered(err error, results int, rows []inventory.Row) error {
	if err == nil && results != len(rows) {
		return fmt.Errorf("the server answered for %d of %d devices", results, len(rows))
	}
	if err != nil {
		err = refusedInput(fmt.Errorf("stopped before line %d of %s: %w", rows[0].Line, b.name, err))
	}
	return err
}

// failedRow notes a row that failed.
func (b *listBatches) failedRow(row inventory.Row, check, text string) {
	b.failed = append(b.failed, failedRow{Row: row, Check: check, Error: text})
}

// requestSize is how many bytes a thing has in a request.
func requestSize(thing any) (int, error) {
	data, err := json.Marshal(thing)
	return len(data), err
}

// openList opens a list, and says how many bytes it has; 0 if that is not known.
func openList(term *terminal, name string) (*countedReader, int64, func() error, error) {
	if name == "-" {
		return &countedReader{r: term.In}, 0, func() error { return nil }, nil
	}
	f, err := openFile(name)
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
