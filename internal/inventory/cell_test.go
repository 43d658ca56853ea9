package inventory

import (
	"encoding/csv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCSVCellNeutralisesFormulas(t *testing.T) {
	for value, want := range map[string]string{
		"":                         "",
		"FAKE1":                    "FAKE1",
		"a=b":                      "a=b",
		"sam@example.com":          "sam@example.com",
		"1-2":                      "1-2",
		"'quoted":                  "'quoted",
		"=1+1":                     "'=1+1",
		"+1":                       "'+1",
		"-1":                       "'-1",
		"@SUM(A1)":                 "'@SUM(A1)",
		"\t=1":                     "'\t'=1",
		"\tx":                      "'\tx",
		"\rx":                      "'\rx",
		" =1":                      " '=1",
		"\u00a0=1":                 "\u00a0'=1",
		"\ufeff=1":                 "\ufeff'=1",
		"\x00=1":                   "\x00'=1",
		"\xff=1":                   "\xff=1", // a broken character is shown: nothing begins behind it
		"＝1":                       "'＝1",
		"a;=cmd|' /C calc'!A0":     "a;'=cmd|' /C calc'!A0",
		"a\n=1":                    "a\n'=1",
		"=cmd|'/C calc'!A0;\t@x|+": "'=cmd|'/C calc'!A0;\t'@x|'+",
	} {
		if got := CSVCell(value); got != want {
			t.Errorf("%q became %q, want %q", value, got, want)
		}
	}
}

// Whatever the value and whatever separator a program cuts the file at, no cell begins like a formula;
// and without the added apostrophes the value is unchanged.
func TestNoCellBeginsLikeAFormula(t *testing.T) {
	pieces := []string{"=", "+", "-", "@", "\t", "\r", "\n", ";", "|", ",", `"`, "'", " ", "\u00a0", "\u200b", "\ufeff", "\x00", "＝", "－", "é", "a", "cmd|' /C calc'!A0", "\xff"}
	rapid.Check(t, func(t *rapid.T) {
		value := strings.Join(rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(pieces), rapid.String()), 0, 8).Draw(t, "value"), "")
		got := CSVCell(value)
		for cell := range strings.FieldsFuncSeq(got, func(c rune) bool { return strings.ContainsRune(separators, c) }) {
			trimmed := strings.TrimLeft(cell, " \u00a0\u200b\ufeff\x00")
			if strings.HasPrefix(trimmed, "=") || strings.HasPrefix(trimmed, "+") || strings.HasPrefix(trimmed, "-") || strings.HasPrefix(trimmed, "@") || strings.HasPrefix(trimmed, "＝") {
				t.Fatalf("%q became %q, whose part %q is a formula", value, got, cell)
			}
		}
		if strings.HasPrefix(got, "\t") || strings.HasPrefix(got, "\r") {
			t.Fatalf("%q became %q", value, got)
		}
		if strings.ReplaceAll(got, "'", "") != strings.ReplaceAll(value, "'", "") {
			t.Fatalf("%q became %q: more than apostrophes changed", value, got)
		}
		var file strings.Builder
		w := csv.NewWriter(&file)
		if err := w.Write([]string{"FAKE1", got}); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		row, err := csv.NewReader(strings.NewReader(file.String())).Read()
		if err != nil || row[1] != strings.ReplaceAll(got, "\r\n", "\n") {
			t.Fatalf("%q is read as %q, %v", got, row, err)
		}
	})
}
