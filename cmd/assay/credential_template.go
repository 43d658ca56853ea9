package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"assay/credential"
	"assay/internal/delivery"
)

var documentKey = regexp.MustCompile(`(?m)^document[ \t]*:`)

// isTemplate reports whether a file is a template rather than a document: by its name, or by its key
// "document", which no document has.
func isTemplate(name string, data []byte) bool {
	if ending := filepath.Ext(name); ending == ".yaml" || ending == ".yml" {
		return true
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal(data, &keys) == nil {
		return keys["document"] != nil
	}
	return documentKey.Match(data)
}

// readDocument reads a document: its findings, and those for a target.
func readDocument(data []byte) (credential.Findings, func(credential.Target) credential.Findings) {
	d := credential.Read(data)
	return d.Findings, d.Judge
}

// readTemplate reads a template: its findings, and those for a target beside its own ones.
func readTemplate(file string, data []byte) (credential.Findings, func(credential.Target) credential.Findings) {
	name := templateNameOf(file)
	if file == "-" {
		name = "stdin"
	}
	template, err := delivery.ParseTemplate(name, data)
	if faulty, ok := errors.AsType[*delivery.TemplateError](err); ok {
		findings := make(credential.Findings, len(faulty.Faults))
		for i, fault := range faulty.Faults {
			findings[i] = findingOf(fault)
		}
		return findings, func(credential.Target) credential.Findings { return nil }
	}
	return template.Warnings(), func(target credential.Target) credential.Findings {
		findings := sampleOf(template).Judge(target)
		for i := range findings { // the sample's places are not the file's
			findings[i].Path, findings[i].Line, findings[i].Column = "document"+strings.TrimPrefix(findings[i].Path, "$"), 0, 0
		}
		return findings
	}
}

// sampleOf is a template's document with what each device's own has besides, for rules about devices:
// they look at the key, never at names.
func sampleOf(t *delivery.Template) *credential.Document {
	var sample map[string]any
	if err := json.Unmarshal(t.Document(), &sample); err != nil {
		panic(err) // the template wrote it itself
	}
	sample["DirectoryURL"] = "https://id.example.com/acme/default/directory"
	sample["ClientIdentifier"] = "a-code-as-long-as-real-ones-are-0"
	data, err := json.Marshal(sample)
	if err != nil {
		panic(err) // what JSON held, JSON can hold
	}
	return credential.Read(data)
}

// ruleAtEnd is how a template's fault names the rule of documents that it breaks.
var ruleAtEnd = regexp.MustCompile(`^(.*) \[([a-z0-9-]+)\]$`)

// findingOf is a template's fault as a finding.
func findingOf(f delivery.Fault) credential.Finding {
	finding := credential.Finding{Severity: credential.Error, Path: f.Key, Line: f.Line, Message: f.Message, Fix: f.Fix,
		Rule: "template-form", Source: "the form of template files"}
	if m := ruleAtEnd.FindStringSubmatch(f.Message); m != nil {
		rules := credential.Rules()
		if i := slices.IndexFunc(rules, func(r credential.Rule) bool { return r.ID == m[2] }); i >= 0 {
			finding.Message, finding.Rule, finding.Source = m[1], m[2], rules[i].Source
		}
	}
	return finding
}

type credentialSchema struct {
	Of string `arg:"" optional:"" enum:"document,template" default:"template" help:"document or template. Default: template."`
}

func (credentialSchema) Help() string {
	return `Prints a JSON Schema (2020-12) for editors and for other people's checks: of templates, or of the
ACMECredential documents that devices download. ` + "`assay credential check`" + ` knows more rules than a schema can say.

Example:
  assay credential schema template > template.schema.json

Exit codes: 0 printed; 2 wrong flags.`
}

func (c *credentialSchema) Run(_ context.Context, t *terminal, _ *globals) error {
	schema := delivery.TemplateSchema()
	if c.Of == "document" {
		schema = credential.Schema()
	}
	_, err := t.Out.Write(schema)
	return err
}
