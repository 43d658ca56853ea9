package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// Copied says what Copy copied, row by row the same on both sides.
type Copied struct {
	Schema int64            `json:"schema"` // the schema version of both databases
	Rows   map[string]int64 `json:"rows"`   // by table
}

// CopyProgress is how far a copy is, in rows of all tables.
type CopyProgress struct {
	Comparing   bool // false: rows are copied; true: both sides are compared
	Done, Total int64
}

// NotEmptyError: the database to copy into has rows.
type NotEmptyError struct {
	Location string // without its password
	Table    string // one that has rows
}

func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("the database %s is not empty: its table %s has rows; nothing was changed", e.Location, e.Table)
}

// DifferentRowError: after copying, a row is not the same on both sides, or is on one side only.
type DifferentRowError struct{ Table, Key string }

func (e *DifferentRowError) Error() string {
	return fmt.Sprintf("the row %s of table %s is not the same on both sides: does a trigger or a rule in the new database change rows?", e.Key, e.Table)
}

// Copy copies every row of one database into another, each at a location as Open takes it, of the same engine
// or not. What it reads is the database as it is at one moment; a server may go on using it, and what happens
// there later is not copied. The rows are then read again on both sides and compared, value by value, before
// anything is committed: however it ends, the new database holds all of them or none.
//
// Both must have the newest schema that this program knows. The new one must have no rows (*NotEmptyError); a
// file is made if it does not exist, a PostgreSQL database must have been migrated (Migrate). Others that use
// it wait meanwhile. Progress may be nil.
func Copy(ctx context.Context, from, to string, progress func(CopyProgress)) (Copied, error) {
	c, err := copyAll(ctx, from, to, progress)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // the drivers say in many ways that they were interrupted
	}
	if err != nil {
		return Copied{}, fmt.Errorf("copy database %s to %s: %w", Redacted(from), Redacted(to), err)
	}
	return c, nil
}

func copyAll(ctx context.Context, from, to string, progress func(CopyProgress)) (_ Copied, err error) {
	source, err := openSource(ctx, from)
	if err != nil {
		return Copied{}, fmt.Errorf("from %s: %w", Redacted(from), err)
	}
	defer func() { err = errors.Join(err, source.close()) }()
	target, err := openTarget(ctx, to)
	if err != nil {
		return Copied{}, fmt.Errorf("to %s: %w", Redacted(to), err)
	}
	defer func() { err = errors.Join(err, target.close()) }()
	tables, err := commonTables(ctx, source, target)
	if err != nil {
		return Copied{}, err
	}
	if err := isEmpty(ctx, target, tables, to); err != nil {
		return Copied{}, err
	}
	c := copying{source: source, target: target, tables: tables, copied: Copied{Rows: map[string]int64{}}, report: progress}
	if c.copied.Schema, err = SupportedSchema(); err != nil {
		return Copied{}, err
	}
	if err := c.run(ctx); err != nil {
		return Copied{}, err
	}
	return c.copied, target.commit(ctx)
}

// Vacant refuses a database that Copy would not copy into: *NotEmptyError, or one of another schema.
func Vacant(ctx context.Context, location string) (err error) {
	target, err := openTarget(ctx, location)
	if err != nil {
		return fmt.Errorf("look into database %s: %w", Redacted(location), err)
	}
	defer func() { err = errors.Join(err, target.close()) }()
	tables, err := target.tables(ctx)
	if err != nil {
		return fmt.Errorf("look into database %s: %w", Redacted(location), err)
	}
	return isEmpty(ctx, target, tables, location)
}

// ServedUntil is when the last lease on a database ends that servers sharing it hold: one that is past now, if
// a server runs on it. Servers that use a database alone hold none.
func ServedUntil(ctx context.Context, location string) (until time.Time, err error) {
	source, err := openSource(ctx, location)
	if err != nil {
		return time.Time{}, fmt.Errorf("look into database %s: %w", Redacted(location), err)
	}
	defer func() { err = errors.Join(err, source.close()) }()
	var last int64
	if err := source.row(ctx, `SELECT coalesce(max(expires_at), 0) FROM leases`).Scan(&last); err != nil {
		return time.Time{}, fmt.Errorf("read leases of database %s: %w", Redacted(location), err)
	}
	return timeOf(last), nil
}

// copySource is a database that is read, as it is at one moment.
type copySource interface {
	row(ctx context.Context, query string, args ...any) scanner
	// tables are the tables whose rows make up an installation, by name.
	tables(ctx context.Context) ([]table, error)
	// read gives the rows of a table in the order of its key: nil, int64, string or []byte for each column. A
	// row is valid until the next.
	read(ctx context.Context, t table) iter.Seq2[[]any, error]
	close() error // gives up what was not committed
}

// copyTarget is a database that rows are written to, in one transaction, which keeps others from writing.
type copyTarget interface {
	copySource
	write(ctx context.Context, t table, rows iter.Seq2[[]any, error]) error
	commit(ctx context.Context) error
}

func openSource(ctx context.Context, location string) (copySource, error) {
	if IsPostgres(location) {
		return openPostgresCopy(ctx, location, false)
	}
	return openSQLiteSource(ctx, location)
}

func openTarget(ctx context.Context, location string) (copyTarget, error) {
	if IsPostgres(location) {
		return openPostgresCopy(ctx, location, true)
	}
	return openSQLiteTarget(ctx, location)
}

// table is a table as both engines have it.
type table struct {
	name       string
	columns    []column // by name
	references []string // tables that its rows refer to, by name
}

// column is one column of a table.
type column struct {
	name string
	kind string // as PostgreSQL names it: text, bigint or bytea
	key  int    // its place in the primary key, from 1; 0 if it is not in it
}

// quoted are names as both engines take them.
func quoted(names ...string) string { return `"` + strings.Join(names, `", "`) + `"` }

func (t table) names() []string {
	var names []string
	for _, c := range t.columns {
		names = append(names, c.name)
	}
	return names
}

// key are the columns of the primary key, in its order, by their place in the table.
func (t table) key() []int {
	var places []int
	for n, c := range t.columns {
		if c.key > 0 {
			places = append(places, n)
		}
	}
	slices.SortFunc(places, func(a, b int) int { return t.columns[a].key - t.columns[b].key })
	return places
}

// inOrder is a statement that reads all rows, in the order of the key. Both engines order texts and bytes
// byte by byte.
func (t table) inOrder() string {
	var key []string
	for _, n := range t.key() {
		key = append(key, t.columns[n].name)
	}
	return "SELECT " + quoted(t.names()...) + " FROM " + quoted(t.name) + " ORDER BY " + quoted(key...)
}

// keyOf names a row for people.
func (t table) keyOf(row []any) string {
	var parts []string
	for _, n := range t.key() {
		if b, ok := row[n].([]byte); ok {
			parts = append(parts, hex.EncodeToString(b))
		} else {
			parts = append(parts, fmt.Sprint(row[n]))
		}
	}
	return strings.Join(parts, " ")
}

// readTables reads tables from rows of table, column, kind and place in the key, ordered by table and column,
// and from rows of table and a table that it refers to.
type readTables struct {
	all  []table
	refs map[string][]string
}

func (r *readTables) column(row scanner) error {
	var name string
	var c column
	if err := row.Scan(&name, &c.name, &c.kind, &c.key); err != nil {
		return err
	}
	if n := len(r.all); n == 0 || r.all[n-1].name != name {
		r.all = append(r.all, table{name: name})
	}
	t := &r.all[len(r.all)-1]
	t.columns = append(t.columns, c)
	return nil
}

func (r *readTables) reference(row scanner) error {
	var name, other string
	if err := row.Scan(&name, &other); err != nil {
		return err
	}
	if r.refs == nil {
		r.refs = map[string][]string{}
	}
	r.refs[name] = append(r.refs[name], other)
	return nil
}

func (r *readTables) tables() ([]table, error) {
	for n := range r.all {
		t := &r.all[n]
		t.references = slices.Compact(slices.Sorted(slices.Values(r.refs[t.name])))
		if len(t.key()) == 0 {
			return nil, fmt.Errorf("table %s has no primary key", t.name)
		}
	}
	return r.all, nil
}

// commonTables are the tables of both sides, each after those that its rows refer to. It refuses two sides
// that differ.
func commonTables(ctx context.Context, source, target copySource) ([]table, error) {
	ours, err := source.tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the tables to copy: %w", err)
	}
	theirs, err := target.tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the tables of the new database: %w", err)
	}
	same := slices.EqualFunc(ours, theirs, func(a, b table) bool { return a.name == b.name && slices.Equal(a.columns, b.columns) })
	if !same {
		return nil, errors.New("the two databases have the same schema version, but not the same tables and columns: has one of them been changed by hand?")
	}
	return referredFirst(theirs)
}

// referredFirst orders tables so that each comes after those that its rows refer to.
func referredFirst(tables []table) (ordered []table, err error) {
	done := map[string]bool{}
	for len(ordered) < len(tables) {
		before := len(ordered)
		for _, t := range tables {
			waits := slices.ContainsFunc(t.references, func(other string) bool { return !done[other] })
			if !done[t.name] && !waits {
				done[t.name] = true
				ordered = append(ordered, t)
			}
		}
		if len(ordered) == before {
			return nil, errors.New("tables refer to each other in a circle: no order would do")
		}
	}
	return ordered, nil
}

func isEmpty(ctx context.Context, target copyTarget, tables []table, location string) error {
	for _, t := range tables {
		var has bool
		if err := target.row(ctx, `SELECT EXISTS (SELECT 1 FROM `+quoted(t.name)+`)`).Scan(&has); err != nil {
			return fmt.Errorf("look into table %s: %w", t.name, err)
		}
		if has {
			return &NotEmptyError{Location: Redacted(location), Table: t.name}
		}
	}
	return nil
}

// copying is a copy under way.
type copying struct {
	source copySource
	target copyTarget
	tables []table
	copied Copied
	report func(CopyProgress) // may be nil
	at     CopyProgress
}

func (c *copying) run(ctx context.Context) error {
	for _, t := range c.tables {
		var n int64
		if err := c.source.row(ctx, `SELECT count(*) FROM `+quoted(t.name)).Scan(&n); err != nil {
			return fmt.Errorf("count %s: %w", t.name, err)
		}
		c.at.Total += n
	}
	for _, t := range c.tables {
		if err := c.target.write(ctx, t, c.counted(c.source.read(ctx, t))); err != nil {
			return fmt.Errorf("copy table %s: %w", t.name, err)
		}
	}
	c.at = CopyProgress{Comparing: true, Total: c.at.Total}
	for _, t := range c.tables {
		n, err := compare(t, c.counted(c.source.read(ctx, t)), c.target.read(ctx, t))
		if err != nil {
			return fmt.Errorf("compare table %s: %w", t.name, err)
		}
		c.copied.Rows[t.name] = n
	}
	return nil
}

// reportEvery is after how many rows progress is reported.
const reportEvery = 1000

func (c *copying) counted(rows iter.Seq2[[]any, error]) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for row, err := range rows {
			c.at.Done++
			if c.report != nil && (c.at.Done%reportEvery == 0 || c.at.Done == c.at.Total) {
				c.report(c.at)
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// compare reads a table on both sides, in the order of its key, and returns how many rows it has.
func compare(t table, ours, theirs iter.Seq2[[]any, error]) (n int64, err error) {
	next, stop := iter.Pull2(ours)
	defer stop()
	nextOther, stopOther := iter.Pull2(theirs)
	defer stopOther()
	for ; ; n++ {
		row, err, more := next()
		other, errOther, moreOther := nextOther()
		if err := errors.Join(err, errOther); err != nil {
			return n, err
		}
		switch {
		case !more && !moreOther:
			return n, nil
		case !more:
			return n, &DifferentRowError{t.name, t.keyOf(other)}
		case !moreOther || !slices.EqualFunc(row, other, sameValue):
			return n, &DifferentRowError{t.name, t.keyOf(row)}
		}
	}
}

// sameValue: no bytes and NULL are not the same.
func sameValue(a, b any) bool {
	bytesA, isA := a.([]byte)
	bytesB, isB := b.([]byte)
	if isA || isB {
		return isA && isB && bytes.Equal(bytesA, bytesB)
	}
	return a == b
}

// sameEmpty makes every value of no bytes the same: drivers read nil, which they would write as NULL.
func sameEmpty(row []any) []any {
	for n, v := range row {
		if b, ok := v.([]byte); ok && b == nil {
			row[n] = []byte{}
		}
	}
	return row
}

// Sum is how many rows were copied.
func (c Copied) Sum() (sum int64) {
	for n := range maps.Values(c.Rows) {
		sum += n
	}
	return sum
}
