package inventory

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// formulas are the characters that make a spreadsheet take a cell for a formula or a command, in their
// full-width forms too, which some programs read alike.
const formulas = "=+-@＝＋－＠"

// separators are where a program may begin another cell, whatever separator the file was written with.
const separators = ";\t\r\n|"

// CSVCell makes text of a value for a CSV file that people open in a spreadsheet: where the value, or what
// another separator would cut off it, begins like a formula, an apostrophe goes before it, which tells
// spreadsheets to take the cell as text. All other values stay as they are. The writer still has to
// quote the cell (RFC 4180). Files for programs hold the value itself.
func CSVCell(s string) string {
	if !strings.ContainsAny(s, formulas+"\t\r") {
		return s
	}
	var b strings.Builder
	begins := true // whether a cell may begin here, blanks and invisible characters apart
	for i := 0; i < len(s); {
		c, size := utf8.DecodeRuneInString(s[i:])
		if begins && strings.ContainsRune(formulas, c) || i == 0 && (c == '\t' || c == '\r') {
			b.WriteByte('\'')
		}
		begins = strings.ContainsRune(separators, c) || begins && (unicode.IsSpace(c) || !unicode.IsGraphic(c))
		b.WriteString(s[i : i+size])
		i += size
	}
	return b.String()
}
