package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep values may nest; the document needs four levels (Subject's strings).
const maxDepth = 16

// kind is what a JSON value is, in the words of a message.
type kind string

const (
	kindObject kind = "an object"
	kindArray  kind = "an array"
	kindString kind = "a string"
	kindNumber kind = "a number"
	kindBool   kind = "a boolean"
	kindNull   kind = "null"
)

// node is one JSON value with its place. Unlike encoding/json's values it keeps what a strict
// reader must see: where a value stands and how a number was written.
type node struct {
	kind    kind
	offset  int    // of the first byte in the document
	path    string // JSON path
	text    string // a string's value or a number as written
	truth   bool
	items   []*node
	members []member // in order, the first of each name
}

type member struct {
	name   string
	offset int // of the name
	path   string
	value  *node
}

// member returns the named member's value, or nil.
func (n *node) member(name string) *node {
	for _, m := range n.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// errStop ends reading: what follows cannot be understood, and a finding says why.
var errStop = errors.New("stop")

// reader turns bytes into nodes and reports every breach of encoding on its way.
type reader struct {
	data   []byte // without a byte order mark
	skew   int    // length of the byte order mark that was cut off
	dec    *json.Decoder
	report func(r *Rule, offset int, path, message, fix string)
}

// root reads the whole document; nil if it cannot be understood.
func (r *reader) root() *node {
	if !r.encoding() || !r.syntax() {
		return nil
	}
	r.dec = json.NewDecoder(bytes.NewReader(r.data))
	r.dec.UseNumber()
	n, err := r.value("$", 0)
	if err != nil {
		return nil
	}
	if n.kind != kindObject {
		r.report(notAnObject, n.offset, "$", fmt.Sprintf("the document is %s, not an object: a device refuses it", n.kind), "")
		return nil
	}
	return n
}

// encoding checks the bytes before any JSON; it reports whether reading can go on.
func (r *reader) encoding() bool {
	if len(r.data) > MaxSize {
		r.report(documentTooLarge, 0, "$", fmt.Sprintf(
			"the document has more than %d bytes and was not examined", MaxSize), "")
		return false
	}
	head := r.data[:min(4, len(r.data))]
	if bytes.HasPrefix(head, []byte{0xFE, 0xFF}) || bytes.HasPrefix(head, []byte{0xFF, 0xFE}) || bytes.IndexByte(head, 0) >= 0 {
		r.report(notUTF8, 0, "$", "the document is in UTF-16 or UTF-32: JSON between systems is UTF-8, and what a device makes of this is not documented",
			"save the document as UTF-8 without a byte order mark")
		return false
	}
	if rest, found := bytes.CutPrefix(r.data, []byte("\xEF\xBB\xBF")); found {
		r.report(byteOrderMark, 0, "$", "the document begins with a byte order mark (EF BB BF), which JSON forbids and many parsers refuse",
			`save the document as "UTF-8 without BOM"`)
		r.data, r.skew = rest, 3
	}
	if len(bytes.TrimLeft(r.data, " \t\r\n")) == 0 {
		r.report(documentEmpty, 0, "$", "the document is empty", "")
		return false
	}
	return true
}

// syntax checks the grammar of the first value, and that nothing follows it.
func (r *reader) syntax() bool {
	dec := json.NewDecoder(bytes.NewReader(r.data))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		offset, message := len(r.data), "the document ends in the middle of a value"
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = max(int(syntax.Offset)-1, 0)
			message = "the document is no JSON: " + syntax.Error()
		} else if !errors.Is(err, io.ErrUnexpectedEOF) {
			message = "the document is no JSON: " + err.Error()
		}
		r.report(jsonSyntax, r.skew+offset, "$", message+"; nothing else was examined",
			syntaxFix(r.data, offset))
		return false
	}
	end := int(dec.InputOffset())
	if rest := bytes.TrimLeft(r.data[end:], " \t\r\n"); len(rest) > 0 {
		r.report(trailingData, r.skew+len(r.data)-len(rest), "$",
			"something follows the document's closing bracket: a device refuses it, or reads a document that you did not mean", "end the file after the object")
	}
	return true
}

// syntaxFix knows the slips that people make when they write JSON by hand.
func syntaxFix(data []byte, offset int) string {
	if offset >= len(data) {
		return "close every string, array and object"
	}
	before := bytes.TrimRight(data[:offset], " \t\r\n")
	switch c := data[offset]; {
	case (c == '}' || c == ']') && bytes.HasSuffix(before, []byte(",")):
		return "remove the comma before the closing bracket"
	case c == '/' || c == '#':
		return "remove the comment: JSON has none"
	case c == '\'' || bytes.HasPrefix(data[offset:], []byte("“")) || bytes.HasPrefix(data[offset:], []byte("”")):
		return `write straight double quotes: "`
	case c == '<':
		return "this looks like a property list or HTML: the document of an asset is JSON"
	case c == '\n' || c == '\r' || c == '\t':
		return `strings stay on one line: write \n or \t inside them, and close them with "`
	case c == '"':
		return "a comma or a colon is missing before this"
	}
	return ""
}

// token returns the next token with its own bytes and where they begin.
func (r *reader) token() (tok json.Token, raw []byte, offset int, err error) {
	before := int(r.dec.InputOffset())
	tok, err = r.dec.Token()
	if err != nil {
		return nil, nil, 0, err
	}
	after := int(r.dec.InputOffset())
	raw = bytes.TrimLeft(r.data[before:after], " \t\r\n,:")
	return tok, raw, r.skew + after - len(raw), nil
}

// value reads one value. The grammar has been checked, so an error here means to stop.
func (r *reader) value(path string, depth int) (*node, error) {
	tok, raw, offset, err := r.token()
	if err != nil {
		r.report(jsonSyntax, r.skew+int(r.dec.InputOffset()), path, "the document is no JSON: "+err.Error(), "")
		return nil, errStop
	}
	n := &node{offset: offset, path: path}
	switch t := tok.(type) {
	case nil:
		n.kind = kindNull
	case bool:
		n.kind, n.truth = kindBool, t
	case json.Number:
		n.kind, n.text = kindNumber, t.String()
	case string:
		n.kind, n.text = kindString, t
		r.text(raw, offset, path)
	case json.Delim:
		if depth >= maxDepth {
			r.report(nestingTooDeep, offset, path, fmt.Sprintf("values nest more than %d deep; nothing else was examined", maxDepth), "")
			return nil, errStop
		}
		if t == '[' {
			n.kind = kindArray
			return n, r.array(n, depth+1)
		}
		n.kind = kindObject
		return n, r.object(n, depth+1)
	}
	return n, nil
}

func (r *reader) array(n *node, depth int) error {
	for r.dec.More() {
		item, err := r.value(fmt.Sprintf("%s[%d]", n.path, len(n.items)), depth)
		if err != nil {
			return err
		}
		n.items = append(n.items, item)
	}
	return r.close()
}

func (r *reader) object(n *node, depth int) error {
	seen := make(map[string]bool)
	for r.dec.More() {
		tok, raw, offset, err := r.token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return errStop
		}
		path := n.path + pathStep(name)
		r.text(raw, offset, path)
		value, err := r.value(path, depth)
		if err != nil {
			return err
		}
		if seen[name] {
			r.report(duplicateKey, offset, path, fmt.Sprintf(
				"the key %s appears more than once: which value counts depends on the parser, so what you checked may not be what a device does", quote(name)), "keep one of them")
			continue
		}
		seen[name] = true
		n.members = append(n.members, member{name, offset, path, value})
	}
	return r.close()
}

// close consumes the closing bracket.
func (r *reader) close() error {
	if _, _, _, err := r.token(); err != nil {
		return errStop
	}
	return nil
}

// text checks the bytes of a string, which encoding/json would silently repair.
func (r *reader) text(raw []byte, offset int, path string) {
	if !utf8.Valid(raw) {
		r.report(invalidUTF8, offset, path, "the text has bytes that are not UTF-8: a device refuses the document or changes the text",
			"save the document as UTF-8")
	}
	if loneSurrogate(raw) {
		r.report(loneSurrogateEscape, offset, path, `the text has half of a surrogate pair (\uD800 to \uDFFF), which stands for no character: parsers refuse it or replace it`,
			"write the character itself, or both halves of the pair")
	}
}

// loneSurrogate reports whether a JSON string has a \u escape of one half of a surrogate pair.
func loneSurrogate(raw []byte) bool {
	high := false // the escape just before was a high half
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+5 >= len(raw) || raw[i+1] != 'u' {
			if high {
				return true
			}
			if raw[i] == '\\' {
				i++
			}
			continue
		}
		code, _ := strconv.ParseUint(string(raw[i+2:i+6]), 16, 16) // the grammar has been checked
		isHigh, isLow := code >= 0xD800 && code < 0xDC00, code >= 0xDC00 && code < 0xE000
		if high != isLow {
			return true
		}
		high = isHigh
		i += 5
	}
	return high
}

// pathStep is one member's step of a JSON path: .Name, or ['…'] for names of other characters.
func pathStep(name string) string {
	if name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" &&
		(name[0] < '0' || name[0] > '9') {
		return "." + name
	}
	runes, tail := []rune(name), ""
	if len(runes) > 60 {
		runes, tail = runes[:59], "…"
	}
	quoted := strconv.Quote(string(runes))
	quoted = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	return "['" + strings.ReplaceAll(quoted, "'", `\'`) + tail + "']"
}
