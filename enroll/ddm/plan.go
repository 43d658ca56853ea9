package ddm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Reason codes of Apple's declarative management that the device gives.
const (
	AssetCannotBeDownloaded      = "Error.AssetCannotBeDownloaded"
	configurationNotSupported    = "Error.ConfigurationNotSupported"
	configurationIsInvalid       = "Error.ConfigurationIsInvalid"
	missingAssets                = "Error.MissingAssets"
	missingConfigurations        = "Error.MissingConfigurations"
	unableToEvaluatePredicate    = "Error.UnableToEvaluatePredicate"
	unknownDeclarationType       = "Error.UnknownDeclarationType"
	notReferencedByActivation    = "Info.NotReferencedByActivation"
	notReferencedByConfiguration = "Info.NotReferencedByConfiguration"
)

// What State.Valid says.
const valid, invalid, validityOpen = "valid", "invalid", "unknown"

// assetReferenceSuffix ends every key by which Apple's configurations name an asset, which is looked for
// in payloads no deeper than maxPayloadDepth.
const (
	assetReferenceSuffix = "AssetReference"
	maxPayloadDepth      = 16
)

// State is the state of one declaration on the device, as the status item management.declarations
// has it.
type State struct {
	Identifier  string   `json:"identifier"`
	ServerToken string   `json:"server-token"`
	Active      bool     `json:"active"`
	Valid       string   `json:"valid"` // valid, invalid or unknown
	Reasons     []Reason `json:"reasons,omitempty"`
}

// Reason is why a declaration is not valid or not active.
type Reason struct {
	Code        string            `json:"code"`
	Description string            `json:"description"`
	Details     map[string]string `json:"details,omitempty"`
}

// plan is what the held declarations come to: which assets an active configuration references,
// which status items are subscribed to, and the state of each declaration before assets are
// resolved.
type plan struct {
	assets     []string            // Identifiers of ACME assets, sorted
	users      map[string][]string // by asset: the active configurations that reference it
	subscribed map[string]bool     // names of status items
	states     map[string]*State   // by Identifier
}

// newPlan follows activations to configurations to assets.
func newPlan(held map[string]*Declaration) *plan {
	p := &plan{users: map[string][]string{}, subscribed: map[string]bool{}, states: map[string]*State{}}
	for id, d := range held {
		p.states[id] = &State{Identifier: id, ServerToken: d.ServerToken, Valid: validityOpen}
	}
	active := map[string]bool{}
	for _, id := range sorted(held, Activation) {
		for _, configuration := range p.activate(held, held[id]) {
			active[configuration] = true
		}
	}
	for _, id := range sorted(held, Configuration) {
		if !active[id] {
			p.set(id, false, validityOpen, notReferencedByActivation, "Configuration is not referenced by an activation")
			continue
		}
		p.configure(held, held[id])
	}
	for _, id := range sorted(held, Asset) {
		switch {
		case len(p.users[id]) == 0:
			p.set(id, false, validityOpen, notReferencedByConfiguration, "Asset is not referenced by a configuration")
		case held[id].Type == TypeACMEAsset:
			p.assets = append(p.assets, id)
			p.set(id, true, valid, "", "")
		default:
			p.set(id, false, invalid, unknownDeclarationType, "The simulated device resolves ACME assets only")
		}
	}
	for _, id := range sorted(held, Management) { // such as organization-info: held, never activated
		p.set(id, false, valid, "", "")
	}
	return p
}

// sorted are the Identifiers of one kind.
func sorted(held map[string]*Declaration, kind Kind) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(held)) {
		if held[id].kind() == kind {
			ids = append(ids, id)
		}
	}
	return ids
}

func (p *plan) set(id string, active bool, validity, code, description string) {
	state := p.states[id]
	state.Active, state.Valid, state.Reasons = active, validity, nil
	if code != "" {
		details := map[string]string{"Identifier": id, "ServerToken": state.ServerToken}
		state.Reasons = []Reason{{Code: code, Description: description, Details: details}}
	}
}

// activate returns the configurations that an activation makes active.
func (p *plan) activate(held map[string]*Declaration, d *Declaration) []string {
	var payload object
	var configurations []string
	var predicate string
	if d.Type != TypeActivation {
		p.set(d.Identifier, false, invalid, unknownDeclarationType, "Unknown type of activation")
		return nil
	}
	if json.Unmarshal(d.Payload, &payload) != nil || payload.read("StandardConfigurations", &configurations) != nil || payload.read("Predicate", &predicate) != nil {
		p.set(d.Identifier, false, invalid, missingConfigurations, "StandardConfigurations and Predicate are not of their types")
		return nil
	}
	if predicate != "" {
		p.set(d.Identifier, false, invalid, unableToEvaluatePredicate, "The simulated device evaluates no predicates")
		return nil
	}
	for _, id := range configurations {
		if c := held[id]; c == nil || c.kind() != Configuration {
			p.set(d.Identifier, false, invalid, missingConfigurations, fmt.Sprintf("Configuration %.80s is missing", id))
			return nil
		}
	}
	p.set(d.Identifier, true, valid, "", "")
	return configurations
}

// configure applies an active configuration as far as the device can.
func (p *plan) configure(held map[string]*Declaration, d *Declaration) {
	var payload any
	if err := json.Unmarshal(d.Payload, &payload); err != nil {
		p.set(d.Identifier, false, invalid, configurationIsInvalid, "Payload cannot be read")
		return
	}
	if d.Type == TypeSubscriptions {
		p.subscribe(d)
		return
	}
	references := assetReferences(payload, 0)
	if len(references) == 0 {
		if d.Type == TypeIdentity {
			p.set(d.Identifier, false, invalid, configurationIsInvalid, "CredentialAssetReference is missing")
			return
		}
		p.set(d.Identifier, false, invalid, configurationNotSupported, "The simulated device applies configurations of ACME identities only")
		return
	}
	for _, id := range references {
		if a := held[id]; a == nil || a.kind() != Asset {
			p.set(d.Identifier, false, invalid, missingAssets, fmt.Sprintf("Asset %.80s is missing", id))
			return
		}
	}
	for _, id := range references {
		p.users[id] = append(p.users[id], d.Identifier)
	}
	p.set(d.Identifier, true, valid, "", "")
}

// subscribe notes the status items that the MDM wants to hear of.
func (p *plan) subscribe(d *Declaration) {
	var payload object
	var items []object
	err := json.Unmarshal(d.Payload, &payload)
	if err == nil {
		err = payload.read("StatusItems", &items)
	}
	for _, o := range items {
		var name string
		if err == nil {
			err = o.read("Name", &name)
		}
		p.subscribed[name] = true
	}
	if err != nil {
		p.set(d.Identifier, false, invalid, configurationIsInvalid, "StatusItems is not a list of names")
		return
	}
	p.set(d.Identifier, true, valid, "", "")
}

// assetReferences finds the assets that a configuration names, wherever its payload does so: the
// identity in CredentialAssetReference, S/MIME's in SMIME.Signing.IdentityAssetReference, and so on.
func assetReferences(payload any, depth int) []string {
	if depth > maxPayloadDepth {
		return nil
	}
	var found []string
	switch v := payload.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if id, ok := v[key].(string); ok && strings.HasSuffix(key, assetReferenceSuffix) {
				found = append(found, id)
				continue
			}
			found = append(found, assetReferences(v[key], depth+1)...)
		}
	case []any:
		for _, element := range v {
			found = append(found, assetReferences(element, depth+1)...)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// failed notes that an asset could not be had, at the asset and at the configurations that need it.
func (p *plan) failed(asset string) {
	for _, id := range append([]string{asset}, p.users[asset]...) {
		p.set(id, false, invalid, AssetCannotBeDownloaded, "Asset cannot be downloaded")
	}
}

// ACMEAssets returns the ACME assets that a configuration among the declarations references: a device
// resolves no others. Activations are not looked at.
func ACMEAssets(declarations []*Declaration) []*Declaration {
	var referenced []string
	for _, d := range declarations {
		var payload any
		if d.kind() == Configuration && json.Unmarshal(d.Payload, &payload) == nil {
			referenced = append(referenced, assetReferences(payload, 0)...)
		}
	}
	var assets []*Declaration
	for _, d := range declarations {
		if d.Type == TypeACMEAsset && slices.Contains(referenced, d.Identifier) {
			assets = append(assets, d)
		}
	}
	return assets
}
