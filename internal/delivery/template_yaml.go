package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// yamlFaults puts the YAML reader's faults into plain words, by a piece of its message and of what it
// was reading.
var yamlFaults = []struct {
	message, while string
	begun          bool // the fault lies where that began
	text, fix      string
}{
	{message: "no documents in stream", text: "the file is empty"},
	{message: "found multiple", text: "the file holds more than one document", fix: "remove the lines ---"},
	{message: "found a tab", text: "a tab", fix: "indent with blanks"},
	{message: "end of stream", while: "quoted scalar", begun: true, text: "a quote that is never closed"},
	{message: "unknown escape", text: `a \ within quotes that begins no escape`, fix: `write \\, or put the text in single quotes`},
	{message: "mapping values are not allowed", text: "a colon where no key can stand", fix: "mend the indentation, or put the value in quotes"},
	{message: "did not find expected", while: "flow sequence", begun: true, text: "a [ without its ]"},
	{message: "did not find expected", while: "flow mapping", begun: true, text: "a { without its }"},
	{message: "did not find expected node content", while: "flow node", text: "a [ or { that is never closed, or a comma too many"},
	{message: "did not find expected", while: "block", text: "this does not belong to the lines above", fix: "mend the indentation"},
	{message: "anchor", text: "anchors, aliases and tags are not read in templates", fix: "write the value out"},
	{message: "tag", text: "anchors, aliases and tags are not read in templates", fix: "write the value out"},
	{message: "control characters", text: "a control character", fix: "remove it"},
	{message: "UTF-8", text: "the text is not UTF-8", fix: "save the file as UTF-8"},
}

// notYAML is the fault of a file that is no YAML.
func notYAML(data []byte, err error) Fault {
	first, ok := errors.AsType[*yaml.LoadError](err)
	if several, isList := errors.AsType[*yaml.LoadErrors](err); !ok && isList && len(several.Errors) > 0 {
		first, ok = several.Errors[0], true
	}
	if !ok {
		return Fault{Message: "this is no YAML: " + err.Error()}
	}
	message, line := first.Error(), lineOf(data, first.Mark)
	if strings.Contains(message, "cannot start any token") {
		switch r := characterAt(data, first.Mark); r {
		case 0:
		case '\t':
			message = "found a tab"
		default:
			return Fault{Line: line, Message: fmt.Sprintf("a value cannot begin with %c", r), Fix: "put it in quotes"}
		}
	}
	for _, known := range yamlFaults {
		if !strings.Contains(message, known.message) || !strings.Contains(first.ContextMsg, known.while) {
			continue
		}
		if known.begun {
			line = lineOf(data, first.ContextMark)
		}
		return Fault{Line: line, Message: known.text, Fix: known.fix}
	}
	return Fault{Line: line, Message: "this is no YAML: " + first.Message}
}

// characterAt is the character at a place; 0 if there is none.
func characterAt(data []byte, mark yaml.Mark) rune {
	lines := bytes.Split(data, []byte("\n"))
	if mark.Line < 1 || mark.Line > len(lines) {
		return 0
	}
	line := []rune(string(lines[mark.Line-1]))
	if mark.Column < 1 || mark.Column > len(line) {
		return 0
	}
	return line[mark.Column-1]
}

// lineOf is the line of a place, from 1; 0 if it is no place.
func lineOf(data []byte, mark yaml.Mark) int {
	last := bytes.Count(bytes.TrimRight(data, "\n"), []byte("\n")) + 1
	if mark.Line > 0 {
		return min(mark.Line, last)
	}
	if mark.Index > 0 { // the place of a byte that is no character
		return bytes.Count(data[:min(mark.Index, len(data))], []byte("\n")) + 1
	}
	return 0
}
