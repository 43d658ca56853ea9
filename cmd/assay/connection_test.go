package main

import (
	"encoding/pem"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestServerURLThatWouldGiveTheTokenAwayIsRefused: only plain https URLs get a token.
func TestServerURLThatWouldGiveTheTokenAwayIsRefused(t *testing.T) {
	for _, good := range []string{"https://id.example.com", "https://id.example.com:8444/", "https://[::1]:8444"} {
		if err := checkServerURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"http://id.example.com", "http://127.0.0.1:8444", "id.example.com:8444", "https://", "https://u:p@id.example.com",
		"https://id.example.com/api/v1", "https://id.example.com?x=1", "https://id.example.com#x", "ftp://id.example.com", "\x00",
	} {
		if err := checkServerURL(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestPrintableNeverSteersATerminal: whatever a device or a list says, only printable characters and
// blanks reach the screen.
func TestPrintableNeverSteersATerminal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[\x00-\x9f"\\ a-z\x{200b}-\x{202e}]*`)).Draw(t, "text")
		got := printable(s)
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Fatalf("%q became %q", s, got)
		}
	})
	for in, want := range map[string]string{"Sam's \"iPhone\"": "Sam's \"iPhone\"", "a\x1b[31m\"b\"": `a\x1b[31m"b"`, `back\slash`: `back\slash`, "\x9b31m": `\x9b31m`} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}
