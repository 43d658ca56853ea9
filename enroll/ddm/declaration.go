package ddm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"assay/enroll"
)

// Limits on what an MDM sends.
const (
	maxName         = 64        // octets of an Identifier or a ServerToken
	maxDeclarations = 1000      // held at a time
	maxFile         = 1 << 20   // bytes of a file or a list of declarations
	maxDeclaration  = 128 << 10 // bytes of one declaration
)

// Declaration types that the device does something about.
const (
	TypeACMEAsset     = "com.apple.asset.credential.acme"
	TypeIdentity      = "com.apple.configuration.security.identity"
	TypeSubscriptions = "com.apple.configuration.management.status-subscriptions"
	TypeActivation    = "com.apple.activation.simple"
)

// Kind is the part of the manifest that a declaration stands in, as status reports spell it.
type Kind string

// The kinds of declarations.
const (
	Activation    Kind = "activations"
	Asset         Kind = "assets"
	Configuration Kind = "configurations"
	Management    Kind = "management"
)

// kinds are all kinds with their prefix of types, their name in the manifest, and what they are
// asked for by.
var kinds = []struct {
	kind                       Kind
	prefix, manifest, endpoint string
}{
	{Activation, "com.apple.activation.", "Activations", "activation"},
	{Asset, "com.apple.asset.", "Assets", "asset"},
	{Configuration, "com.apple.configuration.", "Configurations", "configuration"},
	{Management, "com.apple.management.", "Management", "management"},
}

// Declaration is a declaration as the device holds it.
type Declaration struct {
	Type        string          `json:"Type"`
	Identifier  string          `json:"Identifier"`
	ServerToken string          `json:"ServerToken"`
	Payload     json.RawMessage `json:"Payload"`
}

// kind returns the declaration's kind; "" for a type that no device knows.
func (d *Declaration) kind() Kind {
	for _, k := range kinds {
		if strings.HasPrefix(d.Type, k.prefix) {
			return k.kind
		}
	}
	return ""
}

// object is a JSON object by its members' exact names; encoding/json would take others for them.
type object map[string]json.RawMessage

// read reads a member into v; an absent one leaves v as it is.
func (o object) read(name string, v any) error {
	raw, ok := o[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s is not of its type", name)
	}
	return nil
}

// ParseDeclaration reads one declaration.
func ParseDeclaration(data []byte) (*Declaration, error) {
	if len(data) > maxDeclaration {
		return nil, fmt.Errorf("declaration has more than %d bytes", maxDeclaration)
	}
	var o object
	if err := json.Unmarshal(data, &o); err != nil || o == nil {
		return nil, errors.New("declaration is not a JSON object")
	}
	d := &Declaration{Payload: o["Payload"]}
	if err := errors.Join(o.read("Type", &d.Type), o.read("Identifier", &d.Identifier), o.read("ServerToken", &d.ServerToken)); err != nil {
		return nil, fmt.Errorf("declaration: %w", err)
	}
	var payload object
	switch {
	case d.kind() == "":
		return nil, fmt.Errorf("declaration %.80q has the unknown type %.80q", d.Identifier, d.Type)
	case !isName(d.Identifier) || !isName(d.ServerToken):
		return nil, fmt.Errorf("declaration %.80q: Identifier and ServerToken are 1 to %d octets", d.Identifier, maxName)
	case json.Unmarshal(d.Payload, &payload) != nil || payload == nil:
		return nil, fmt.Errorf("declaration %s: Payload is not a JSON object", d.Identifier)
	}
	return d, nil
}

func isName(text string) bool { return text != "" && len(text) <= maxName }

// ParseDeclarations reads a JSON array of declarations, such as a file that is handed to an MDM.
func ParseDeclarations(data []byte) ([]*Declaration, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("declarations have more than %d bytes", maxFile)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, errors.New("declarations are not a JSON array")
	}
	if len(raw) > maxDeclarations {
		return nil, fmt.Errorf("more than %d declarations", maxDeclarations)
	}
	var all []*Declaration
	seen := map[string]bool{}
	for _, one := range raw {
		d, err := ParseDeclaration(one)
		if err != nil {
			return nil, err
		}
		if seen[d.Identifier] {
			return nil, fmt.Errorf("two declarations have the Identifier %s", d.Identifier)
		}
		seen[d.Identifier] = true
		all = append(all, d)
	}
	return all, nil
}

// ACMEAsset is the payload of a com.apple.asset.credential.acme declaration.
type ACMEAsset struct {
	Reference enroll.Reference
	MDM       bool // the document is fetched with the MDM identity: Authentication is MDM, or absent
}

// ParseACMEAsset reads the payload of an ACME asset.
func ParseACMEAsset(d *Declaration) (*ACMEAsset, error) {
	fail := func(format string, args ...any) (*ACMEAsset, error) {
		return nil, &enroll.AssetError{Check: "declaration", Detail: fmt.Sprintf("asset %s: ", d.Identifier) + fmt.Sprintf(format, args...)}
	}
	if d.Type != TypeACMEAsset {
		return fail("it is a %.80s", d.Type)
	}
	var payload, reference, authentication object
	if err := json.Unmarshal(d.Payload, &payload); err != nil {
		return fail("Payload is not a JSON object")
	}
	if err := errors.Join(payload.read("Reference", &reference), payload.read("Authentication", &authentication)); err != nil {
		return fail("%v", err)
	}
	a := &ACMEAsset{}
	r := &a.Reference
	if err := errors.Join(reference.read("DataURL", &r.DataURL), reference.read("ContentType", &r.ContentType),
		reference.read("Size", &r.Size), reference.read("Hash-SHA-256", &r.SHA256)); err != nil {
		return fail("Reference: %v", err)
	}
	kind := "MDM"
	if authentication != nil {
		kind = ""
		if err := authentication.read("Type", &kind); err != nil {
			return fail("Authentication: %v", err)
		}
	}
	switch kind {
	case "MDM":
		a.MDM = true
	case "None":
	default:
		return fail("Authentication.Type %.40q is neither MDM nor None", kind)
	}
	return a, nil
}
