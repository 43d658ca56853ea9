package delivery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"assay/credential"

	"go.yaml.in/yaml/v4"
)

// documentReader turns the document of a template into the JSON of a sample device, so that the very
// rules judge it that judge any document.
type documentReader struct {
	*templateReader
	json  bytes.Buffer
	nodes map[string]*yaml.Node // by JSON path
	texts map[string]text       // by JSON path
	// faulty are the JSON paths of values that have their fault already and are not in the sample: the
	// rules' findings there say nothing.
	faulty []string
}

// maxDocumentDepth is how deep values may nest; Subject's texts are four deep.
const maxDocumentDepth = 8

// sampleHead is what only rendering can know: sound values, so that no finding is about them.
const sampleHead = `{"DirectoryURL":"https://id.example.com/acme/default/directory","ClientIdentifier":"9vJ8n3sX0uZlq7QbW2dKfA9vJ8n3sX0u"`

// document reads and judges the document.
func (r *templateReader) document(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.fault(n, "document", "", "this is no mapping of Apple's keys to values")
		return
	}
	d := &documentReader{templateReader: r, nodes: map[string]*yaml.Node{"$": n}, texts: map[string]text{}}
	d.root(n)
	read := credential.Read(d.json.Bytes())
	for _, f := range read.Findings {
		d.judge(f, "")
	}
	for i, target := range r.template.Targets {
		for _, f := range read.Judge(target) {
			if f.Severity == credential.Error {
				r.fault(r.targets[i], fmt.Sprintf("targets[%d]", i), f.Fix, "%s: %s [%s]", target, f.Message, f.Rule)
			} else {
				d.judge(f, target.String()+": ")
			}
		}
	}
	if read.Credential != nil {
		d.keep(*read.Credential)
	}
}

// judge takes a finding of the sample to where it stands in the file.
func (d *documentReader) judge(f credential.Finding, about string) {
	if len(d.texts[f.Path].placeholders()) > 0 || d.isFaulty(f.Path) {
		return // rendering judges the value, or nothing can
	}
	n := d.nodes[f.Path]
	if n == nil {
		n = d.nodes["$"]
	}
	if f.Fix == "write a boolean" {
		f.Fix = "write true or false"
	}
	f.Line, f.Column = n.Line, n.Column
	f.Path = "document" + strings.TrimPrefix(f.Path, "$")
	if f.Severity == credential.Error || f.Rule == "unknown-key" || f.Rule == "misplaced-key" {
		d.fault(n, f.Path, f.Fix, "%s [%s]", f.Message, f.Rule)
		return
	}
	f.Message = about + f.Message
	d.template.warnings = append(d.template.warnings, f)
}

// isFaulty reports whether a path is that of a faulty value, or leads into one.
func (d *documentReader) isFaulty(path string) bool {
	return slices.ContainsFunc(d.faulty, func(one string) bool {
		rest, within := strings.CutPrefix(path, one)
		return within && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// keep takes the document over, its texts as the file has them.
func (d *documentReader) keep(c credential.Credential) {
	t := d.template
	c.DirectoryURL, c.ClientIdentifier = "", ""
	for i, rdn := range c.Subject {
		texts := make([]text, len(rdn))
		for j := range rdn {
			texts[j] = d.texts[fmt.Sprintf("$.Subject[%d][%d][1]", i, j)]
			rdn[j][1] = texts[j].raw()
		}
		t.subject = append(t.subject, texts)
	}
	if c.SubjectAltName != nil {
		for _, name := range []string{"dNSName", "rfc822Name", "uniformResourceIdentifier", "ntPrincipalName"} {
			if one, ok := d.texts["$.SubjectAltName."+name]; ok {
				t.altNames = append(t.altNames, altNameText{name, one})
				*altName(c.SubjectAltName, name) = one.raw()
			}
		}
	}
	t.document = c
}

// root writes the document.
func (d *documentReader) root(n *yaml.Node) {
	d.json.WriteString(sampleHead)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value == "DirectoryURL" || key.Value == "ClientIdentifier" {
			d.fault(key, "document."+key.Value, "remove it", "each device's document gets its own when it is rendered")
			continue
		}
		d.member(key, value, "$", []string{key.Value})
	}
	d.json.WriteByte('}')
}

// member writes a key and its value, with a comma before unless it is the first.
func (d *documentReader) member(key, value *yaml.Node, path string, steps []string) {
	if !is(key, "!!str") {
		d.fault(key, "document", "write the key in quotes", "a key is no text")
		return
	}
	if !bytes.HasSuffix(d.json.Bytes(), []byte("{")) {
		d.json.WriteByte(',')
	}
	d.string(key.Value)
	d.json.WriteByte(':')
	d.value(value, path+"."+key.Value, steps)
}

// value writes a value. steps is where it stands in the document.
func (d *documentReader) value(n *yaml.Node, path string, steps []string) {
	if len(steps) > maxDocumentDepth { // the paths of hostile nesting would fill the memory
		d.fault(n, "document."+steps[0], "", "values nest more than %d deep", maxDocumentDepth)
		if path := "$." + steps[0]; !slices.Contains(d.faulty, path) {
			d.faulty = append(d.faulty, path)
		}
		d.json.WriteString("null")
		return
	}
	d.nodes[path] = n
	switch n.Kind {
	case yaml.MappingNode:
		d.json.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			d.member(key, n.Content[i+1], path, append(steps[:len(steps):len(steps)], key.Value))
		}
		d.json.WriteByte('}')
	case yaml.SequenceNode:
		d.json.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				d.json.WriteByte(',')
			}
			step := fmt.Sprint(i)
			d.value(item, path+"["+step+"]", append(steps[:len(steps):len(steps)], step))
		}
		d.json.WriteByte(']')
	default:
		d.scalar(n, path, steps)
	}
}

// scalar writes a scalar, and fills in the placeholders where they may stand.
func (d *documentReader) scalar(n *yaml.Node, path string, steps []string) {
	switch n.ShortTag() {
	case "!!null":
		d.json.WriteString("null")
	case "!!bool":
		var value bool
		if err := n.Load(&value); err != nil {
			d.fault(n, "document"+path[1:], "write true or false", "this is not true or false")
		}
		fmt.Fprint(&d.json, value)
	case "!!int", "!!float":
		d.number(n)
	default:
		if !isValue(steps) {
			d.string(n.Value)
			return
		}
		one, err := parseText(n.Value)
		if err != nil {
			d.fault(n, "document"+path[1:], "", "%v", err)
		}
		if p := one.escaped(); p != "" {
			d.warn(n, "document"+path[1:], "escaped-placeholder", "write {"+p+"}", "docs/templates.md, Placeholders",
				"{{%s}} is literal text: it stands as {%s} in every certificate", p, p)
		}
		d.texts[path] = one
		d.string(one.fill(func(placeholder) string { return "sample" }))
	}
}

// isValue reports whether placeholders may stand there: in the values of Subject and SubjectAltName.
func isValue(steps []string) bool {
	return len(steps) == 4 && steps[0] == "Subject" && steps[3] == "1" || len(steps) == 2 && steps[0] == "SubjectAltName"
}

// number writes a number as JSON has it; what JSON has not becomes text, of which the rules say that it
// is no number.
func (d *documentReader) number(n *yaml.Node) {
	if json.Valid([]byte(n.Value)) {
		d.json.WriteString(n.Value)
		return
	}
	var value int64
	if n.ShortTag() == "!!int" && n.Load(&value) == nil {
		fmt.Fprint(&d.json, value)
		return
	}
	d.string(n.Value)
}

// string writes a JSON string.
func (d *documentReader) string(s string) {
	enc := json.NewEncoder(&d.json)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // strings always encode
		panic(err)
	}
}
