package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"os/user"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"assay/internal/admin/client"

	"golang.org/x/term"
)

// operator names who runs the command, for the audit.
func operator() string {
	if u, err := user.Current(); err == nil {
		return "operator:" + u.Username
	}
	return "operator"
}

// screen is the file behind w if people watch it: a terminal.
func screen(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// writeJSON writes one value as one line.
func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// fields writes "name  value  (remark)" lines in columns; empty values and remarks are left out, and all
// are made printable.
type fields struct{ w *tabwriter.Writer }

func newFields(w io.Writer) *fields { return &fields{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)} }

func (f *fields) add(name, value string, remark ...string) {
	if value == "" {
		return
	}
	fmt.Fprintf(f.w, "  %s\t%s", name, printable(value))
	for _, r := range remark {
		if r != "" {
			fmt.Fprintf(f.w, "\t(%s)", printable(r))
		}
	}
	fmt.Fprintln(f.w)
}

func (f *fields) addTime(name string, t time.Time, remark ...string) {
	if !t.IsZero() {
		f.add(name, rfc3339(t), remark...)
	}
}

func (f *fields) flush() { _ = f.w.Flush() }

// printable is a text from elsewhere as one that cannot steer a terminal: control and invisible
// formatting characters are escaped.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// printableLines is printable for a text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// sayf is fmt.Fprintf for people: what stands among the values as text is made printable.
func sayf(w io.Writer, format string, values ...any) {
	for i, value := range values {
		if err, ok := value.(error); ok {
			values[i] = printable(err.Error())
		} else if text := reflect.ValueOf(value); text.Kind() == reflect.String { // of whatever name
			values[i] = printable(text.String())
		}
	}
	fmt.Fprintf(w, format, values...)
}

// rfc3339 is a time as every output writes it: UTC, to the second; "" for none.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// table is a list for people: a header and rows in columns, which appear at flush, or a sentence
// where there are none. An empty cell is a dash, and every cell is made printable.
type table struct {
	out    io.Writer
	w      *tabwriter.Writer
	things string
	header []string
	rows   int
}

// newTable makes a table of things, named in the plural.
func newTable(out io.Writer, things string, header ...string) *table {
	return &table{out: out, w: tabwriter.NewWriter(out, 0, 8, 2, ' ', 0), things: things, header: header}
}

func (t *table) row(cells ...string) {
	if t.rows == 0 {
		fmt.Fprintln(t.w, strings.Join(t.header, "\t"))
	}
	t.rows++
	for n, cell := range cells {
		cells[n] = cmp.Or(printable(cell), "-")
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// printList prints what the API lists: an object a line for scripts, else a row of the table each. Some filters
// read much to find little: a line now and then says that the list goes on.
func printList[T any](term *terminal, g *globals, api *client.Client, things iter.Seq2[T, error], t *table, cells func(T) []string) error {
	found, last := 0, term.Now()
	api.OnPage = func() {
		if now := term.Now(); now.Sub(last) >= progressInterval {
			last = now
			fmt.Fprintf(term.Err, "%s: %d so far\n", t.things, found)
		}
	}
	for thing, err := range things {
		if err != nil {
			return refusedInput(err)
		}
		found++
		if !g.JSON {
			t.row(cells(thing)...)
		} else if err := writeJSON(term.Out, thing); err != nil {
			return err
		}
	}
	if g.JSON {
		return nil
	}
	return t.flush()
}

func (t *table) flush() error {
	if t.rows == 0 {
		_, err := fmt.Fprintf(t.out, "no %s\n", t.things)
		return err
	}
	return t.w.Flush()
}
