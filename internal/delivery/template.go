package delivery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/credential"
	"assay/internal/issuance"
)

// MaxTemplateSize is the largest template file, in bytes.
const MaxTemplateSize = 64 << 10

// TemplateVersion is the version of the template file's form.
const TemplateVersion = 1

// MaxExpires is the longest that a code may wait in a document for its first fetch.
const MaxExpires = 30 * day

const day = 24 * time.Hour

// Accessible says when a device may use the key.
type Accessible string

// When a key is usable, in Apple's words.
const (
	AccessibleDefault          Accessible = "Default"          // as the configurations that use it need
	AccessibleAfterFirstUnlock Accessible = "AfterFirstUnlock" // from the first unlock after a start
)

// Template is a credential template: how a device's own document and declarations are made. It is
// immutable and safe for concurrent use.
type Template struct {
	Name      string
	Directory string // ACME directory; "" if the file names none and no default was filled in
	// Targets are the devices it is for; it has been judged for each. None: not judged for any.
	Targets []credential.Target

	BindSerial, BindUDID bool // what codes are bound to, of what is known of a device
	AllowUnattested      bool
	// MDM says that only the device's MDM identity certificate opens the document.
	MDM        bool
	Accessible Accessible
	// AllowAllAppsAccess and KeyIsExtractable are macOS only; nil leaves them out. Apple's defaults are
	// false and true.
	AllowAllAppsAccess, KeyIsExtractable *bool

	Expires           time.Duration // life of a code that nobody fetches, from rendering
	ExpiresAfterFetch time.Duration // life of a code from its document's first fetch; it ends with Expires at the latest
	RenewBefore       time.Duration // how long before its end a certificate is renewed; 0: never by itself
	RevokeSuperseded  bool

	document credential.Credential // DirectoryURL and ClientIdentifier empty; texts as in the file
	subject  [][]text              // the values of document.Subject
	altNames []altNameText
	warnings credential.Findings
}

// Placeholders are the template's placeholders as it writes them, each once, sorted, such as
// "device.labels.owner?".
func (t *Template) Placeholders() []string {
	var names []string
	add := func(one text) {
		for _, p := range one.placeholders() {
			names = append(names, strings.Trim(text{{placeholder: p}}.raw(), "{}"))
		}
	}
	for _, rdn := range t.subject {
		for _, value := range rdn {
			add(value)
		}
	}
	for _, name := range t.altNames {
		add(name.text)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Document is the document with its placeholders and without DirectoryURL and ClientIdentifier, as
// JSON for people.
func (t *Template) Document() json.RawMessage {
	shown := struct {
		credential.Credential
		DirectoryURL     string `json:"DirectoryURL,omitempty"`
		ClientIdentifier string `json:"ClientIdentifier,omitempty"`
	}{Credential: t.document}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(shown); err != nil { // strings, numbers and truth values always encode
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

// Warnings are the rules that the template breaks in general or for one of its targets, without
// being refused for it. What depends on a device's values is judged when it is rendered.
func (t *Template) Warnings() credential.Findings { return slices.Clone(t.warnings) }

// Binding is what a device's code is bound to. It fails with a *RenderError where the template asks
// for a binding and nothing of it is known: an unbound code would be anybody's.
func (t *Template) Binding(d issuance.Device) (serial, udid string, err error) {
	if t.BindSerial {
		serial = d.Serial
	}
	if t.BindUDID {
		udid = d.UDID
	}
	if (t.BindSerial || t.BindUDID) && serial == "" && udid == "" {
		return "", "", t.refuse(d, "bind", "nothing that the code is to be bound to is known of the device: give its serial number or UDID as the template's bind says")
	}
	return serial, udid, nil
}

// RenderError says why a device cannot have a template's credential.
type RenderError struct {
	Template string
	Device   string // serial number, UDID or id
	Field    string // such as "Subject CN" or "SubjectAltName rfc822Name"
	Reason   string // what is wrong and what to do
}

func (e *RenderError) Error() string {
	return fmt.Sprintf("device %s cannot have the credential %s: %s: %s", quote(e.Device), e.Template, e.Field, e.Reason)
}

func (t *Template) refuse(d issuance.Device, field, reason string) *RenderError {
	return &RenderError{Template: t.Name, Device: deviceName(d), Field: field, Reason: reason}
}
