package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestReadJSONRefusesWhatTwoReadersTakeDifferently(t *testing.T) {
	for name, text := range map[string]string{
		"member twice": `{"a":1,"a":2}`, "twice, escaped": `{"a":1,"\u0061":2}`, "twice, deeper": `{"x":[{"a":1,"a":2}]}`,
		"two values": `{} {}`, "nothing": ``, "cut": `{"a":`, "deep": strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
	} {
		if err := readJSON([]byte(text), new(any)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	var v any
	if err := readJSON([]byte(strings.Repeat("[", maxDepth)+strings.Repeat("]", maxDepth)), &v); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
}

// TestFailureBeforeAHandlerIsNotTold: what huma itself says of a failed server may name anything.
func TestFailureBeforeAHandlerIsNotTold(t *testing.T) {
	cause := errors.New("open /secret")
	p, ok := malformed(http.StatusInternalServerError, "failed: /secret", cause).(*Problem)
	if !ok || p.Check != internalCheck || p.Detail != internalDetail || len(p.Errors) > 0 || !errors.Is(p, cause) {
		t.Errorf("told %+v", p)
	}
}

// FuzzReadJSON holds that what is read is read as encoding/json alone reads it, and never panics.
func FuzzReadJSON(f *testing.F) {
	for _, seed := range []string{`{"codes":[{"serial":"C02XK1","labels":{"owner":"sam"}}]}`, `{"a":1,"a":2}`, `[[[]]]`, `1e400`, `"\ud800"`, `{"a":}`, `nul`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, plain any
		if err := readJSON(data, &strict); err != nil {
			return
		}
		if err := json.Unmarshal(data, &plain); err != nil || !reflect.DeepEqual(strict, plain) {
			t.Errorf("%q is read as %v, by encoding/json as %v (%v)", data, strict, plain, err)
		}
	})
}

// FuzzCursor holds that no cursor panics, and that one that is taken is the one that the list makes.
func FuzzCursor(f *testing.F) {
	f.Add(cursorOf("code_06dqsacf5vp69c5xkykvz2nn4r"))
	f.Add(cursorOf("template:wifi"))
	f.Add("")
	f.Add("MTpjb2Rl")
	f.Add("MT\npjb2RlXzA")
	f.Fuzz(func(t *testing.T, cursor string) {
		p := Paging{Cursor: cursor}
		id, problem := p.after("code_")
		if problem == nil && cursor != "" && (cursorOf(id) != cursor || !strings.HasPrefix(id, "code_")) {
			t.Errorf("%q is taken as %q", cursor, id)
		}
	})
}

// FuzzIfMatch holds that no If-Match panics, and that only tags in the form of etagOf name a revision.
func FuzzIfMatch(f *testing.F) {
	tag, _ := etagOf(3, "x")
	f.Add(tag)
	f.Add("*")
	f.Add(`"r1"`)
	f.Add(`W/"r1-x"`)
	f.Add(`"r-1-x"`)
	f.Fuzz(func(t *testing.T, header string) {
		c := Conditions{IfMatch: header}
		revision, problem := c.revision()
		if trimmed := strings.TrimSpace(header); problem == nil && revision == 0 && trimmed != "" && trimmed != "*" {
			t.Errorf("%q is no condition at all", header)
		}
		if problem == nil && revision < 0 {
			t.Errorf("%q names revision %d", header, revision)
		}
	})
}

// FuzzToken holds that only what NewToken can make is looked up.
func FuzzToken(f *testing.F) {
	value, _, err := NewToken(strings.NewReader(strings.Repeat("\x00\xff", 16)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add(value + "A")
	f.Add("assay_")
	f.Add(strings.Replace(value, "_", "-", 1))
	f.Fuzz(func(t *testing.T, value string) {
		if _, ok := hashToken(value); ok && (len(value) != len("assay_")+43 || !strings.HasPrefix(value, "assay_")) {
			t.Errorf("%q is looked up", value)
		}
	})
}
