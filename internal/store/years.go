package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// On PostgreSQL, tables that only grow and in which nothing but the id is unique lie in a partition for each year,
// made by functions of the schema (migrations/postgres/00007_years.sql). What belongs to no year that has one, because
// a clock was wrong or nobody made it in time, lies in a default partition until it has: nothing is ever refused for it.

// tablesInYears are those tables, in the order in which changes come to them.
var tablesInYears = []string{"evidence", "decisions", "audit", "audit_personal"}

// yearsSince is the schema version that laid them so.
const yearsSince = 7

// mostMoved is how many rows a default partition may have for years to be made beside the running servers: all of it
// is read for each, and who reads or writes it waits meanwhile.
const mostMoved = 10_000

// Year is a partition of a table.
type Year struct {
	Table string `json:"table"`
	Year  string `json:"year"`            // "default" for what belongs to no year that has one
	Since string `json:"since,omitempty"` // "all before" if it has also those, from before there were years
	Rows  int64  `json:"rows"`            // as PostgreSQL last counted them, about
	Bytes int64  `json:"bytes"`           // with its indexes
}

// MakeYears makes the partitions of the present year and the next, and moves what lies in none into its own. It is
// for work that comes around again: what has too many rows to move beside running servers is left to Migrate, by
// an error that says so. Nothing is to be done on SQLite.
func (s *Store) MakeYears(ctx context.Context, now time.Time) error {
	d, ok := s.db.(*postgresDB)
	if !ok {
		return nil
	}
	return d.makeYears(ctx, changeByRow, now, mostMoved)
}

// makeYears makes years where no more than so many rows are in none; nil for any number.
func (d *postgresDB) makeYears(ctx context.Context, kind changeKind, now time.Time, most any) error {
	var errs []error
	for _, table := range tablesInYears {
		var byRows, byName []int32
		err := d.do(ctx, kind, func(t *tx) error {
			// Who waits for a lock keeps others waiting behind it.
			if err := t.write(`SELECT set_config('lock_timeout', '2s', true)`); err != nil {
				return err
			}
			return t.row(`SELECT by_rows, by_name FROM make_years(?, ?, ?)`, table, now.UTC().Year(), most).Scan(&byRows, &byName)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("make partitions of %s by year: %w", table, quieter(err)))
		}
		if len(byRows) > 0 {
			errs = append(errs, fmt.Errorf("table %s has many rows in its default partition, so %v got no partitions: run assay migrate, for whose time requests wait", table, byRows))
		}
		for _, year := range byName {
			errs = append(errs, fmt.Errorf("table %[1]s gets no partition of %[2]d while another table is named %[1]s_%[2]d: attach that one again, or move it to another schema", table, year))
		}
	}
	return errors.Join(errs...)
}

// years lists the partitions.
func (d *postgresDB) years(ctx context.Context) (years []Year, err error) {
	err = d.rows(ctx, func(row scanner) error {
		var y Year
		err := row.Scan(&y.Table, &y.Year, &y.Since, &y.Rows, &y.Bytes)
		years = append(years, y)
		return err
	}, `SELECT p.relname, substr(c.relname, length(p.relname) + 2), CASE WHEN pg_get_expr(c.relpartbound, c.oid) LIKE '%MINVALUE%' THEN 'all before' ELSE '' END,
			greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
		FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhparent JOIN pg_class AS c ON c.oid = i.inhrelid
		WHERE p.relnamespace = current_schema()::regnamespace AND p.relkind = 'p' ORDER BY p.relname, c.relname`)
	return years, err
}

// PutAway reports whether the id of a piece of evidence or of a decision is of a year whose partition was detached:
// one before a year that has a partition, and without one itself. Nothing is put away on SQLite.
func (s *Store) PutAway(ctx context.Context) (func(id string) bool, error) {
	type span struct{ from, to string }
	there := map[string][]span{} // by prefix
	if d, ok := s.db.(*postgresDB); ok {
		err := d.rows(ctx, func(row scanner) error {
			var one span
			err := row.Scan(&one.from, &one.to)
			prefix, _, _ := strings.Cut(one.to, "_")
			there[prefix] = append(there[prefix], one)
			return err
		}, `SELECT coalesce(substring(bound FROM 'FROM \(''([^'']*)''\)'), ''), substring(bound FROM 'TO \(''([^'']*)''\)')
			FROM (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
				WHERE i.inhparent IN ('evidence'::regclass, 'decisions'::regclass)) AS years WHERE bound <> 'DEFAULT'`)
		if err != nil {
			return nil, fmt.Errorf("read partitions by year: %w", err)
		}
	}
	return func(id string) bool {
		prefix, _, _ := strings.Cut(id, "_")
		older := false
		for _, one := range there[prefix] {
			if one.from <= id && id < one.to {
				return false
			}
			older = older || id < one.to
		}
		return older
	}, nil
}
