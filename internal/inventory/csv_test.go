package inventory_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/inventory"
)

func read(r io.Reader) (rows []inventory.Row, err error) {
	for row, err := range inventory.ReadCSV(r) {
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func TestReadCSVKeepsOtherColumnsAsLabels(t *testing.T) {
	rows, err := read(strings.NewReader("\xef\xbb\xbfOwner,SERIAL,Udid,Site\r\n" +
		"Ann,C02XK1,00008110-000A1,\r\n" +
		",,,\r\n" +
		"\r\n" +
		"\"Bob \"\"B\"\"\",c02xk1,,Köln\r\n" +
		",,00008110-00FF,\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	columns := []string{"Owner", "SERIAL", "Udid", "Site"}
	want := []inventory.Row{
		{Line: 2, Serial: "C02XK1", UDID: "00008110-000A1", Labels: map[string]string{"Owner": "Ann"}, Columns: columns, Fields: []string{"Ann", "C02XK1", "00008110-000A1", ""}},
		{Line: 5, Serial: "c02xk1", Labels: map[string]string{"Owner": `Bob "B"`, "Site": "Köln"}, Columns: columns, Fields: []string{`Bob "B"`, "c02xk1", "", "Köln"}},
		{Line: 6, UDID: "00008110-00FF", Columns: columns, Fields: []string{"", "", "00008110-00FF", ""}},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
}

func TestReadCSVRefusesWithItsLine(t *testing.T) {
	columns := make([]string, inventory.MaxColumns+1)
	for i := range columns {
		columns[i] = fmt.Sprintf("c%d", i)
	}
	for name, c := range map[string]struct{ in, want string }{
		"empty list":          {"", "line 1: the list is empty"},
		"no device column":    {"owner,site\nAnn,X\n", "line 1: the header has neither"},
		"duplicate header":    {"serial,Owner,owner\n", `line 1: column "owner" appears twice`},
		"two serial columns":  {"serial,SERIAL\n", `line 1: column "SERIAL" appears twice`},
		"nameless column":     {"serial,,x\n", "line 1: column 2 has no name"},
		"too many columns":    {"serial," + strings.Join(columns, ",") + "\n", "line 1: 66 columns"},
		"too few fields":      {"serial,udid\nA,B\nC\n", "line 3: 1 fields, but the header has 2"},
		"too many fields":     {"serial,udid\nA,B,C\n", "line 2: 3 fields, but the header has 2"},
		"blank before serial": {"serial\n A\n", `line 2: column "serial": blanks around`},
		"blank after udid":    {"udid\nA\t\n", `line 2: column "udid"`},
		"names no device":     {"serial,owner\nA,Ann\n,Bob\n", "line 3: neither a serial nor a UDID"},
		"bare quote":          {"serial\nA\"B\n", "line 2: byte 2: a quote in a field that is not quoted"},
		"quote in header":     {"ser\"ial\nA\n", "line 1: byte 4: a quote"},
		"CR alone":            {"serial,owner\rA,Ann\rB,Bob\r", "line 1: control characters in the header: do the lines end with CR alone?"},
		"CR alone, many":      {"serial,owner\r" + strings.Repeat("A,Ann\r", inventory.MaxRecord), "line 1: record is longer than 65536 bytes"},
		"tabs":                {"serial\towner\nA\tAnn\n", "are the fields separated by tabs?"},
		"control in header":   {"serial,\x01\n", "line 1: control characters in the header: is it text in UTF-8?"},
		"semicolons":          {"serial;owner\nA;Ann\n", `line 1: the header has neither the column serial nor udid, but "serial;owner": are the fields separated by ";"?`},
		"many other columns":  {"a,b,c,d,e,f,g\n", `but "a", "b", "c", "d", "e" and 2 more`},
		"UTF-16, low first":   {"\xff\xfes\x00e\x00", "line 1: the list is UTF-16"},
		"UTF-16, high first":  {"\xfe\xff\x00s", "line 1: the list is UTF-16"},
		"UTF-16 without mark": {"s\x00e\x00r\x00i\x00a\x00l\x00\n\x00", "is it text in UTF-8?"},
		"Latin-1 header":      {"serial,stra\xdfe\n", "line 1: the header is not UTF-8"},
		"control character":   {"serial,owner\nA,\"x\ny\"\n", `line 2: column "owner": control characters`},
		"not UTF-8":           {"serial\n\xff\xfe\n", `line 2: column "serial": not UTF-8`},
		"long field":          {"serial,x\nA," + strings.Repeat("y", inventory.MaxField+1) + "\n", `line 2: column "x": 4097 bytes`},
		"open quote":          {"serial\nA\n\"" + strings.Repeat("y", 2*inventory.MaxRecord), "after line 2: record is longer"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(strings.NewReader(c.in))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

// endless is a record that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.read += len(p)
	return len(p), nil
}

func TestReadCSVStopsReadingAnEndlessLine(t *testing.T) {
	var e endless
	_, err := read(io.MultiReader(strings.NewReader("serial\n"), &e))
	if err == nil || e.read > 2*inventory.MaxRecord {
		t.Errorf("read %d bytes of an endless line, error %v", e.read, err)
	}
}

func TestReadCSVReportsReadErrors(t *testing.T) {
	broken := errors.New("cable cut")
	_, err := read(io.MultiReader(strings.NewReader("serial\nA\n"), failing{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("error is %v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestReadCSVStopsWhenTheCallerDoes(t *testing.T) {
	n := 0
	for range inventory.ReadCSV(strings.NewReader("serial\nA\nB\nC\n")) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func FuzzReadCSV(f *testing.F) {
	f.Add("serial,udid,owner\nC02XK1,00008110-000A1,Ann\n")
	f.Add("\xef\xbb\xbfserial\n\"a\"\"b\"\n")
	f.Add("udid;serial\n")
	f.Fuzz(func(t *testing.T, in string) {
		for row, err := range inventory.ReadCSV(strings.NewReader(in)) {
			if err != nil {
				return
			}
			if row.Serial == "" && row.UDID == "" || row.Line < 2 ||
				row.Serial != strings.TrimSpace(row.Serial) || row.UDID != strings.TrimSpace(row.UDID) {
				t.Fatalf("row %+v", row)
			}
		}
	})
}

func TestReadCSVGoesOnBehindARowThatCannotBeUsed(t *testing.T) {
	var usable []string
	var lines []int
	list := "serial,owner\nA,Ann\nB\n C,Cid\nD,\x01\n,Eve\nX,6\" screen\nF,Fay\n\"G,Gus\n"
	var last error
	for row, err := range inventory.ReadCSV(strings.NewReader(list)) {
		unusable, ok := errors.AsType[*inventory.RowError](err)
		switch {
		case ok:
			lines = append(lines, unusable.Line)
			if row.Line != unusable.Line {
				t.Errorf("row of line %d with an error of line %d", row.Line, unusable.Line)
			}
		case err != nil:
			last = err
		default:
			usable = append(usable, row.Serial)
		}
	}
	if diff := cmp.Diff([]string{"A", "F"}, usable); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{3, 4, 5, 6, 7}, lines); diff != "" {
		t.Error(diff)
	}
	if last == nil {
		t.Error("an open quote is no row, and must end the list with an error")
	}
}

// TestReadCSVReadsAReportOfRowsAsTheList: what a report adds is no label, and rows keep what is theirs.
func TestReadCSVReadsAReportOfRowsAsTheList(t *testing.T) {
	rows, err := read(strings.NewReader("assay_line,Assay_Check,assay_error,serial,owner\n7,rendering,\"two\nlines\",A,Ann\n"))
	want := []inventory.Row{{Line: 2, Serial: "A", Labels: map[string]string{"owner": "Ann"}, Columns: []string{"serial", "owner"}, Fields: []string{"A", "Ann"}}}
	if diff := cmp.Diff(want, rows); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for row, err := range inventory.ReadCSV(strings.NewReader("assay_line,serial,owner\n7,A,Ann,Bob\n8,B\n9,C,x\"y\n")) {
		want := [][]string{{"A", "Ann", "Bob"}, {"B"}, {"C"}}[row.Line-2]
		if diff := cmp.Diff(want, row.Fields); err == nil || diff != "" {
			t.Error(err, diff)
		}
	}
}
