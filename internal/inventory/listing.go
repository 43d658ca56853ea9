package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"strings"

	"assay/internal/issuance"
	"assay/policy"
)

// StateColumn is the column that says where a device stands; it is no label.
const StateColumn = "state"

// Listing is a row as the inventory takes it. A state that there is not is an error.
func (r *Row) Listing() (issuance.Listing, error) {
	l := issuance.Listing{Serial: r.Serial, UDID: r.UDID, Labels: r.Labels}
	for name, value := range r.Labels {
		if !strings.EqualFold(name, StateColumn) {
			continue
		}
		l.Labels = maps.Clone(r.Labels)
		delete(l.Labels, name)
		var err error
		if l.State, err = ParseState(value); err != nil {
			return l, fmt.Errorf("%q: %w", name, err)
		}
	}
	if n := len(l.Labels); n > issuance.MaxLabels {
		return l, fmt.Errorf("%d labels, but the limit is %d", n, issuance.MaxLabels)
	}
	if n := issuance.LabelBytes(l.Labels); n > issuance.MaxLabelBytes {
		return l, fmt.Errorf("%d bytes of labels, but the limit is %d", n, issuance.MaxLabelBytes)
	}
	return l, nil
}

// ParseState reads where a device stands, in any case.
func ParseState(text string) (policy.State, error) {
	switch state := policy.State(strings.ToLower(text)); state {
	case policy.Expected, policy.Active, policy.Lost, policy.Retired:
		return state, nil
	}
	return "", fmt.Errorf("%.40q is none of expected, active, lost, retired", text)
}

// Read yields the devices of a list by the ending of its name: .json and .ndjson are read by ReadJSON, all
// others by ReadCSV.
func Read(name string, r io.Reader) iter.Seq2[Row, error] {
	switch _, ending, _ := cutLast(strings.ToLower(name), "."); ending {
	case "json", "ndjson", "jsonl":
		return ReadJSON(r)
	}
	return ReadCSV(r)
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// Store takes devices into the inventory.
type Store interface {
	ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error)
}

// Taken counts what became of a list.
type Taken struct {
	Devices   int `json:"devices"`
	Added     int `json:"added"`
	Updated   int `json:"updated"`
	Unchanged int `json:"unchanged"`
	Conflicts int `json:"conflicts"`
	Failed    int `json:"failed"` // rows that could not be used
}

// CountChange counts what became of one device.
func (t *Taken) CountChange(change string) {
	t.Devices++
	switch issuance.ImportChange(change) {
	case issuance.ImportAdded:
		t.Added++
	case issuance.ImportUpdated:
		t.Updated++
	case issuance.ImportUnchanged:
		t.Unchanged++
	case issuance.ImportConflict:
		t.Conflicts++
	}
}

// takeBatch is how many devices one transaction takes: enrolments wait for it.
const takeBatch = 100

// Take takes a list into the inventory, batch by batch; rows that cannot be used are told to failed and
// left out. It returns what was taken, also with an error, which ends it.
func Take(ctx context.Context, store Store, call func() issuance.Call, source string, rows iter.Seq2[Row, error], failed func(Row, error) error) (Taken, error) {
	var taken Taken
	in := issuance.Import{Source: source, Automatic: true}
	flush := func() error {
		if len(in.Listings) == 0 {
			return nil
		}
		results, err := store.ImportDevices(ctx, call(), in)
		for _, r := range results {
			taken.CountChange(string(r.Change))
		}
		in.Listings = in.Listings[:0]
		return err
	}
	for row, err := range rows {
		var listing issuance.Listing
		if err == nil {
			if listing, err = row.Listing(); err != nil {
				err = &RowError{Line: row.Line, Err: err}
			}
		}
		if unusable, ok := errors.AsType[*RowError](err); ok {
			taken.Devices, taken.Failed = taken.Devices+1, taken.Failed+1
			if err := failed(row, unusable.Err); err != nil {
				return taken, err
			}
			continue
		} else if err != nil {
			return taken, errors.Join(flush(), err)
		}
		if in.Listings = append(in.Listings, listing); len(in.Listings) == takeBatch {
			if err := flush(); err != nil {
				return taken, err
			}
		}
	}
	return taken, flush()
}
