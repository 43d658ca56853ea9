package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/user"
	"text/tabwriter"
	"time"
)

// operator names who runs the command, for the audit.
func operator() string {
	if u, err := user.Current(); err == nil {
		return "operator:" + u.Username
	}
	return "operator"
}

// writeJSON writes one value as one line.
func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// fields writes "name  value  (remark)" lines in columns; empty values are left out.
type fields struct{ w *tabwriter.Writer }

func newFields(w io.Writer) *fields { return &fields{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)} }

func (f *fields) add(name, value string, remark ...string) {
	if value == "" {
		return
	}
	fmt.Fprintf(f.w, "  %s\t%s", name, value)
	for _, r := range remark {
		fmt.Fprintf(f.w, "\t(%s)", r)
	}
	fmt.Fprintln(f.w)
}

func (f *fields) addTime(name string, t time.Time, remark ...string) {
	if !t.IsZero() {
		f.add(name, rfc3339(t), remark...)
	}
}

func (f *fields) flush() { _ = f.w.Flush() }

// rfc3339 is a time as every output writes it: UTC, to the second; "" for none.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// row writes the cells of one line of a table in columns.
func row(w *tabwriter.Writer, cells ...string) {
	for n, cell := range cells {
		if n > 0 {
			fmt.Fprint(w, "\t")
		}
		if cell == "" {
			cell = "-"
		}
		fmt.Fprint(w, cell)
	}
	fmt.Fprintln(w)
}

func newTable(w io.Writer, header ...string) *tabwriter.Writer {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row(t, header...)
	return t
}
