// Package inventory reads lists of devices that operators export from elsewhere.
//
// It refuses what would bind a code to a device that does not exist: rows of another length than
// the header, repeated columns, and serials or UDIDs with blanks around them, because serials
// compare exactly. It trusts nothing in a list: every line, field and column count is bounded, and
// memory does not grow with the list.
package inventory

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of ReadCSV.
const (
	MaxColumns = 64
	MaxField   = 4 << 10  // bytes of one field
	MaxRecord  = 64 << 10 // bytes of one record, quotes included
)

// Row is one device of a list.
type Row struct {
	Line   int    // where it begins, 1 is the header's
	Serial string // "" if the list does not say
	UDID   string
	Labels map[string]string // the other columns by their header; empty fields left out, nil if none

	Columns []string // the header, the same for every row; without ReportColumns
	Fields  []string // the row as it was, without those of ReportColumns; fewer where it could not be read
}

// ReportColumns are the columns that a report of rows puts before the list's own, so that its rows can be
// mended and read again: ReadCSV leaves them out, in any case.
var ReportColumns = []string{"assay_line", "assay_check", "assay_error"}

// ReadCSV yields the devices of a CSV file (RFC 4180) with a header. The columns "serial" and
// "udid", in any case and of which at least one must be there, name the device; all others are kept
// as labels, but for ReportColumns. A byte order mark is tolerated and rows whose fields are all empty
// are skipped. Behind a row that cannot be used, a *RowError, the sequence goes on; any other error names
// its line and ends it.
func ReadCSV(r io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		records, err := newList(r)
		if err != nil {
			yield(Row{}, err)
			return
		}
		head, err := readHeader(records)
		if err != nil {
			yield(Row{}, err)
			return
		}
		for {
			record, err := records.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if unusable, ok := errors.AsType[*RowError](err); ok {
				if !yield(Row{Line: unusable.Line, Columns: head.columns, Fields: head.fields(record)}, unusable) {
					return
				}
				continue
			}
			if err != nil {
				yield(Row{}, err)
				return
			}
			row, empty, err := head.row(records.last, record)
			if empty {
				continue
			}
			if err != nil {
				err = &RowError{Line: row.Line, Err: err}
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// RowError is a row that cannot be used, in a list that can.
type RowError struct {
	Line int
	Err  error
}

func (e *RowError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *RowError) Unwrap() error { return e.Err }

// header is where the columns are.
type header struct {
	names        []string
	columns      []string // names without ReportColumns
	serial, udid int      // -1: no such column
}

func readHeader(records *list) (header, error) {
	h := header{serial: -1, udid: -1}
	record, err := records.next()
	if errors.Is(err, io.EOF) {
		return h, errors.New("line 1: the list is empty; it needs a header with the column serial or udid")
	}
	if _, ok := errors.AsType[*RowError](err); ok {
		return h, errors.New(err.Error()) // without a header there is no list that goes on
	}
	if err != nil {
		return h, err
	}
	seen := make(map[string]bool, len(record))
	for i, name := range record {
		name = strings.Clone(strings.TrimSpace(name))
		key := strings.ToLower(name)
		if err := checkName(name); err != nil {
			return h, err
		}
		switch {
		case name == "":
			return h, fmt.Errorf("line 1: column %d has no name", i+1)
		case seen[key]:
			return h, fmt.Errorf("line 1: column %q appears twice", name)
		case key == "serial":
			h.serial = i
		case key == "udid":
			h.udid = i
		}
		seen[key] = true
		h.names = append(h.names, name)
		if !ofReport(name) {
			h.columns = append(h.columns, name)
		}
	}
	if len(h.columns) > MaxColumns {
		return h, fmt.Errorf("line 1: %d columns, but the limit is %d", len(h.columns), MaxColumns)
	}
	if h.serial < 0 && h.udid < 0 {
		return h, h.namesNoDevice()
	}
	return h, nil
}

// checkName refuses a column that no list has which was read as what it is.
func checkName(name string) error {
	switch {
	case strings.Contains(name, "\t"):
		return errors.New("line 1: a tab in the header: are the fields separated by tabs? They have to be by commas")
	case strings.ContainsRune(name, '\r'):
		return errors.New("line 1: control characters in the header: do the lines end with CR alone?")
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("line 1: control characters in the header: is it text in UTF-8?")
	case !utf8.ValidString(name):
		return errors.New("line 1: the header is not UTF-8: save the list as UTF-8")
	case len(name) > MaxField:
		return fmt.Errorf("line 1: a column's name has %d bytes, but the limit is %d", len(name), MaxField)
	}
	return nil
}

// namesNoDevice says what a header has that names no device.
func (h *header) namesNoDevice() error {
	const shown, longest = 5, 40
	var found []string
	for _, name := range h.names[:min(len(h.names), shown)] {
		if cut := []rune(name); len(cut) > longest {
			name = string(cut[:longest]) + "…"
		}
		found = append(found, strconv.Quote(name))
	}
	text := "line 1: the header has neither the column serial nor udid, but " + strings.Join(found, ", ")
	if more := len(h.names) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if strings.Contains(strings.Join(h.names, ""), ";") {
		text += `: are the fields separated by ";"? They have to be by commas`
	}
	return errors.New(text)
}

func ofReport(column string) bool {
	return slices.ContainsFunc(ReportColumns, func(name string) bool { return strings.EqualFold(name, column) })
}

// fields are those of a record, whatever it lacks, without those of ReportColumns.
func (h *header) fields(record []string) []string {
	var fields []string
	for i, field := range record {
		if i >= len(h.names) || !ofReport(h.names[i]) {
			fields = append(fields, strings.Clone(field)) // the reader reuses its record
		}
	}
	return fields
}

// row turns a record into a row; empty if all its fields are.
func (h *header) row(line int, record []string) (row Row, empty bool, err error) {
	row.Line = line
	empty = true
	for _, field := range record {
		empty = empty && field == ""
	}
	if empty {
		return row, true, nil
	}
	row.Columns, row.Fields = h.columns, h.fields(record)
	if len(record) != len(h.names) {
		return row, false, fmt.Errorf("%d fields, but the header has %d", len(record), len(h.names))
	}
	for i, field := range record {
		if ofReport(h.names[i]) {
			continue
		}
		if err := checkField(field); err != nil {
			return row, false, fmt.Errorf("column %q: %w", h.names[i], err)
		}
		field = strings.Clone(field) // the reader reuses its record
		switch {
		case i == h.serial || i == h.udid:
			if strings.TrimSpace(field) != field {
				return row, false, fmt.Errorf("column %q: blanks around the value; serials compare exactly, so remove them", h.names[i])
			}
			if i == h.serial {
				row.Serial = field
			} else {
				row.UDID = field
			}
		case field != "":
			if row.Labels == nil {
				row.Labels = make(map[string]string)
			}
			row.Labels[h.names[i]] = field
		}
	}
	if row.Serial == "" && row.UDID == "" {
		return row, false, errors.New("neither a serial nor a UDID")
	}
	return row, false, nil
}

// checkField refuses what no inventory holds and what later breaks terminals and logs.
func checkField(field string) error {
	switch {
	case len(field) > MaxField:
		return fmt.Errorf("%d bytes, but the limit is %d", len(field), MaxField)
	case !utf8.ValidString(field):
		return errors.New("not UTF-8")
	case strings.ContainsFunc(field, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("control characters (a line break, perhaps) in the value")
	}
	return nil
}

// list reads records of bounded size.
type list struct {
	*csv.Reader
	bytes *boundedReader
	last  int // the line of the record read last
}

func newList(r io.Reader) (*list, error) {
	text, err := skipMark(r)
	if err != nil {
		return nil, err
	}
	bounded := &boundedReader{r: text}
	l := &list{Reader: csv.NewReader(bounded), bytes: bounded}
	l.FieldsPerRecord = -1 // checked by row, so that the error can say both numbers
	l.ReuseRecord = true
	return l, nil
}

// next returns the next record, io.EOF after the last one. Behind a quote within a field without quotes,
// a *RowError with the fields before it, the next line is the next record; a quoted field that goes
// wrong may have swallowed lines.
func (l *list) next() ([]string, error) {
	l.bytes.left = MaxRecord
	record, err := l.Read()
	e, malformed := errors.AsType[*csv.ParseError](err)
	if malformed && errors.Is(e.Err, csv.ErrBareQuote) {
		l.last = e.StartLine
		return record, &RowError{Line: e.StartLine, Err: fmt.Errorf("byte %d: a quote in a field that is not quoted; quote the field, and double the quote", e.Column)}
	}
	if malformed && !errors.Is(e.Err, errTooLong) {
		return nil, fmt.Errorf("line %d, byte %d: %w", e.Line, e.Column, e.Err)
	}
	if errors.Is(err, errTooLong) && l.last == 0 {
		return nil, fmt.Errorf("line 1: %w: do the lines end with CR alone?", errTooLong)
	}
	if errors.Is(err, errTooLong) {
		return nil, fmt.Errorf("after line %d: %w", l.last, errTooLong)
	}
	if err == nil {
		l.last, _ = l.FieldPos(0)
	}
	return record, err
}

var errTooLong = fmt.Errorf("record is longer than %d bytes (a quote that is never closed, perhaps)", MaxRecord)

// boundedReader fails once more than left bytes were asked of it. The CSV reader's own buffer may
// hold some more.
type boundedReader struct {
	r    io.Reader
	left int
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// skipMark leaves out the UTF-8 byte order mark that spreadsheets write, and refuses those of UTF-16.
func skipMark(r io.Reader) (io.Reader, error) {
	const mark = "\xef\xbb\xbf"
	buffered := bufio.NewReader(r)
	start, _ := buffered.Peek(len(mark)) // what there is; an error comes again
	if bytes.HasPrefix(start, []byte("\xff\xfe")) || bytes.HasPrefix(start, []byte("\xfe\xff")) {
		return nil, errors.New("line 1: the list is UTF-16, by its byte order mark: save it as UTF-8")
	}
	if string(start) == mark {
		_, _ = buffered.Discard(len(mark)) // cannot fail: they were just peeked
	}
	return buffered, nil
}
