package delivery

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"assay/credential"
	"assay/internal/issuance"
)

// Render makes a device's document. It fails with a *RenderError where the device lacks a value that
// the template needs, or where a value breaks any rule of documents, also one that is a warning for a
// document that somebody looks at: nobody looks at a hundred thousand of them.
func (t *Template) Render(d issuance.Device, directoryURL, code string) (*credential.Credential, error) {
	c := t.document
	c.DirectoryURL, c.ClientIdentifier = directoryURL, code
	c.ExtendedKeyUsage = slices.Clone(c.ExtendedKeyUsage) // the caller's to change
	filled := map[string]string{}                         // JSON paths of the values that came from the device, with their names
	if err := t.renderSubject(&c, d, filled); err != nil {
		return nil, err
	}
	if err := t.renderAltNames(&c, d, filled); err != nil {
		return nil, err
	}
	body, err := c.Encode()
	findings := credential.Findings(nil)
	if invalid, ok := errors.AsType[*credential.InvalidError](err); ok {
		findings = invalid.Findings
	} else if err != nil {
		return nil, fmt.Errorf("render template %s: %w", t.Name, err)
	} else {
		_, findings = credential.Parse(body)
	}
	for _, f := range findings {
		if field, ok := filled[f.Path]; ok {
			return nil, t.refuse(d, field, broken(f))
		}
	}
	for _, f := range findings.Errors() {
		if f.Path == "$" {
			return nil, t.refuse(d, "document", broken(f))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("render template %s: %w", t.Name, err)
	}
	return &c, nil
}

// broken is a finding in a sentence.
func broken(f credential.Finding) string {
	if f.Fix == "" {
		return f.Message + " [" + f.Rule + "]"
	}
	return f.Message + " [" + f.Rule + "]; " + f.Fix
}

// renderSubject fills in the subject. An RDN with an optional value that the device lacks is left out.
func (t *Template) renderSubject(c *credential.Credential, d issuance.Device, filled map[string]string) error {
	c.Subject = make(credential.Subject, 0, len(t.document.Subject))
	for i, rdn := range t.document.Subject {
		out := make([]credential.Attribute, 0, len(rdn))
		places := map[string]string{}
		for j, pair := range rdn {
			field := "Subject " + pair.Type()
			value, leftOut, refusal := t.subject[i][j].expand(d)
			if refusal != "" {
				return t.refuse(d, field, refusal)
			}
			if leftOut {
				continue
			}
			if len(t.subject[i][j].placeholders()) > 0 {
				places[fmt.Sprintf("$.Subject[%d][%d][1]", len(c.Subject), j)] = field
			}
			out = append(out, credential.Attribute{pair.Type(), value})
		}
		if len(out) == len(rdn) {
			c.Subject = append(c.Subject, out)
			maps.Copy(filled, places)
		}
	}
	if len(c.Subject) == 0 && len(t.document.Subject) > 0 {
		return t.refuse(d, "Subject", "every part of it is optional and empty for this device: set one of the labels, or add a part that is always there")
	}
	return nil
}

// renderAltNames fills in the alternative names. One with an optional value that the device lacks is
// left out; without any the key is left out.
func (t *Template) renderAltNames(c *credential.Credential, d issuance.Device, filled map[string]string) error {
	if len(t.altNames) == 0 {
		if c.SubjectAltName != nil { // empty as written
			c.SubjectAltName = &credential.SubjectAltName{}
		}
		return nil
	}
	san := credential.SubjectAltName{}
	for _, name := range t.altNames {
		field := "SubjectAltName " + name.name
		value, leftOut, refusal := name.expand(d)
		if refusal != "" {
			return t.refuse(d, field, refusal)
		}
		if leftOut {
			continue
		}
		if len(name.placeholders()) > 0 {
			filled["$.SubjectAltName."+name.name] = field
		}
		*altName(&san, name.name) = value
	}
	c.SubjectAltName = &san
	if san == (credential.SubjectAltName{}) {
		c.SubjectAltName = nil
	}
	return nil
}
