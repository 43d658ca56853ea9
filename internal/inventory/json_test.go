package inventory_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/inventory"
	"assay/policy"
)

func TestReadJSONTakesArraysAndLines(t *testing.T) {
	want := []inventory.Row{
		{Line: 1, Serial: "S1", UDID: "U1", Labels: map[string]string{"owner": "sam"}},
		{Line: 2, Serial: "S2"},
	}
	for name, text := range map[string]string{
		"array": ` [{"serial":"S1","UDID":"U1","owner":"sam","empty":""}, {"serial":"S2","note":null}]`,
		"lines": "{\"serial\":\"S1\",\"udid\":\"U1\",\"owner\":\"sam\"}\n{\"Serial\":\"S2\"}\n",
		"mark":  "\xef\xbb\xbf[{\"serial\":\"S1\",\"udid\":\"U1\",\"owner\":\"sam\"},{\"serial\":\"S2\"}]",
	} {
		var got []inventory.Row
		for row, err := range inventory.ReadJSON(strings.NewReader(text)) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, row)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, empty := range []string{"", " \n", "[]"} {
		for row, err := range inventory.ReadJSON(strings.NewReader(empty)) {
			t.Errorf("%q has %+v, %v", empty, row, err)
		}
	}
}

func TestReadJSONGoesOnBehindADeviceThatCannotBeUsed(t *testing.T) {
	bad := []string{`{}`, `"S1"`, `{"serial":5}`, `{"serial":" S1"}`, `{"serial":"S1","serial":"S2"}`, `{"serial":"S1","x":{}}`,
		`{"serial":"S\u0000"}`, fmt.Sprintf(`{"serial":%q}`, strings.Repeat("x", inventory.MaxField+1))}
	n, good := 0, 0
	for row, err := range inventory.ReadJSON(strings.NewReader("[" + strings.Join(bad, ",") + `,{"serial":"S9"}]`)) {
		n++
		unusable, ok := errors.AsType[*inventory.RowError](err)
		switch {
		case err == nil && row.Serial == "S9":
			good++
		case !ok || unusable.Line != n:
			t.Errorf("device %d: %+v, %v", n, row, err)
		}
	}
	if n != len(bad)+1 || good != 1 {
		t.Errorf("%d devices, %d good", n, good)
	}
}

func TestReadJSONIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"long device":   `{"serial":"S1","x":"` + strings.Repeat("x", 4*inventory.MaxRecord) + `"}`,
		"no end":        `[{"serial":"S1"}`,
		"no JSON":       `serial,udid`,
		"blanks before": strings.Repeat(" ", 2*inventory.MaxRecord) + `{}`,
	} {
		var last error
		for _, err := range inventory.ReadJSON(strings.NewReader(text)) {
			last = err
		}
		if last == nil {
			t.Errorf("%s is read", name)
		}
	}
}

func TestAListingHasItsStateFromItsColumn(t *testing.T) {
	row := inventory.Row{Serial: "S1", Labels: map[string]string{"State": "LOST", "owner": "sam"}}
	l, err := row.Listing()
	if err != nil || l.State != policy.Lost || len(l.Labels) != 1 || l.Labels["owner"] != "sam" || len(row.Labels) != 2 {
		t.Errorf("listing %+v, %v", l, err)
	}
	row.Labels["State"] = "Texas"
	if _, err := row.Listing(); err == nil || !strings.Contains(err.Error(), "none of expected") {
		t.Errorf("error %v", err)
	}
}

func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(`[{"serial":"S1","owner":"sam"}]`))
	f.Add([]byte("{\"udid\":\"U1\"}\n{\"serial\":\"S\"}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		for row, err := range inventory.ReadJSON(strings.NewReader(string(text))) {
			if n++; n > len(text)+1 {
				t.Fatal("more devices than bytes")
			}
			if err == nil && row.Serial == "" && row.UDID == "" {
				t.Fatal("a device without a name")
			}
		}
	})
}
