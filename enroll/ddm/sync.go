package ddm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"unicode"

	"assay/enroll"
)

// Outcome is what a synchronization changed on the device.
type Outcome struct {
	Fetched  []string           // Identifiers of declarations that were fetched
	Dropped  []string           // Identifiers of declarations that the device is to hold no more
	Enrolled []*enroll.Identity // new identities, in the order of their assets' Identifiers
	Removed  []string           // Identifiers of assets whose identity is gone from the device
	Failed   []Failure          // assets that could not be had
	Reported bool               // whether a status report was sent
}

// Failure is an asset that could not be had.
type Failure struct {
	Asset string // its Identifier
	Err   error  // *enroll.AssetError or *enroll.Abort where a device would know no more than that it failed
}

// Sync brings the device to what its MDM declares: it fetches the declarations that are new to it,
// then resolves assets and enrols, then reports. tokens is what the command brought along; without
// it the MDM is asked. A device for which nothing is new sends nothing.
//
// An asset that fails is no error of Sync, but a Failure of the outcome; it is tried again at the
// next Sync. Where only the report could not be sent, the outcome comes with an error.
func (d *Device) Sync(ctx context.Context, tokens []byte) (*Outcome, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	outcome := &Outcome{}
	if len(tokens) == 0 {
		var err error
		if tokens, err = d.ask(ctx, "tokens", nil); err != nil {
			return nil, err
		}
	}
	token, err := parseTokens(tokens)
	if err != nil {
		return nil, err
	}
	if token != d.Folder.memory.DeclarationsToken {
		if err := d.fetch(ctx, outcome); err != nil {
			return nil, err
		}
	}
	plan := newPlan(d.Folder.memory.Declarations)
	if err := d.settle(ctx, plan, outcome); err != nil {
		return nil, err
	}
	outcome.Reported, err = d.report(ctx, plan)
	return outcome, err
}

// fetch gets the declarations whose ServerToken the device does not hold, and forgets those that the
// MDM does not list any more. Nothing is kept unless all could be had.
func (d *Device) fetch(ctx context.Context, outcome *Outcome) error {
	data, err := d.ask(ctx, "declaration-items", nil)
	if err != nil {
		return err
	}
	manifest, err := parseManifest(data)
	if err != nil {
		return err
	}
	memory := &d.Folder.memory
	declarations := map[string]*Declaration{}
	for _, item := range manifest.items {
		if held := memory.Declarations[item.identifier]; held != nil && held.ServerToken == item.serverToken && held.kind() == item.kind {
			declarations[item.identifier] = held
			continue
		}
		declaration, err := d.fetchOne(ctx, item)
		d.observe(StepDeclaration, printable(item.identifier), err)
		if err != nil {
			return err
		}
		declarations[item.identifier] = declaration
		outcome.Fetched = append(outcome.Fetched, item.identifier)
	}
	for _, id := range slices.Sorted(maps.Keys(memory.Declarations)) {
		if declarations[id] == nil {
			outcome.Dropped = append(outcome.Dropped, id)
			d.observe(StepDropped, printable(id), nil)
		}
	}
	memory.Declarations, memory.DeclarationsToken = declarations, manifest.token
	return d.Folder.save()
}

// fetchOne gets one declaration, which must be what the manifest announced.
func (d *Device) fetchOne(ctx context.Context, item item) (*Declaration, error) {
	data, err := d.ask(ctx, "declaration/"+item.endpoint+"/"+item.identifier, nil)
	if err != nil {
		return nil, err
	}
	declaration, err := ParseDeclaration(data)
	if err != nil {
		return nil, err
	}
	if declaration.Identifier != item.identifier || declaration.kind() != item.kind || declaration.ServerToken != item.serverToken {
		return nil, fmt.Errorf("declaration %.80q is not the one that the manifest announced", item.identifier)
	}
	return declaration, nil
}

// settle has the device hold exactly the identities that active configurations ask for.
func (d *Device) settle(ctx context.Context, plan *plan, outcome *Outcome) error {
	memory := &d.Folder.memory
	for _, asset := range slices.Sorted(maps.Keys(memory.Held)) {
		if !slices.Contains(plan.assets, asset) {
			if err := d.remove(asset); err != nil {
				return err
			}
			outcome.Removed = append(outcome.Removed, asset)
			d.observe(StepRemoved, printable(asset), nil)
		}
	}
	for _, asset := range plan.assets {
		declaration := memory.Declarations[asset]
		if memory.Held[asset].ServerToken == declaration.ServerToken {
			continue // it holds the identity for this very declaration
		}
		identity, err := d.enrol(ctx, declaration)
		if err := ctx.Err(); err != nil {
			return err // the run was ended: this says nothing of the asset
		}
		if err != nil {
			plan.failed(asset)
			outcome.Failed = append(outcome.Failed, Failure{asset, err})
		} else {
			outcome.Enrolled = append(outcome.Enrolled, identity)
		}
		if err := d.Folder.save(); err != nil {
			return err
		}
	}
	return nil
}

// enrol resolves an asset, enrols for its identity and puts it in the old one's place.
func (d *Device) enrol(ctx context.Context, declaration *Declaration) (*enroll.Identity, error) {
	asset := declaration.Identifier
	result, err := d.obtain(ctx, declaration)
	if err != nil {
		return nil, err
	}
	identity, err := d.Identities.Save(result, true)
	d.observe(StepIdentity, printable(asset), err)
	if err != nil {
		return nil, err
	}
	memory := &d.Folder.memory
	if memory.Held[asset].ID != identity.ID { // else Save has set the old one aside
		if err := d.remove(asset); err != nil {
			return nil, err
		}
	}
	memory.Held[asset] = Identity{ServerToken: declaration.ServerToken, ID: identity.ID, Certificate: result.Certificate.Raw}
	return identity, nil
}

// obtain fetches the document of an asset and runs ACME with it.
func (d *Device) obtain(ctx context.Context, declaration *Declaration) (*enroll.Result, error) {
	parsed, err := ParseACMEAsset(declaration)
	if err != nil {
		d.observe(StepDocument, printable(declaration.Identifier), err)
		return nil, err
	}
	resolver := &enroll.Resolver{Roots: d.Roots}
	if parsed.MDM {
		resolver.Identity = &d.MDM.Identity
	}
	document, err := resolver.Fetch(ctx, parsed.Reference)
	d.observe(StepDocument, printable(declaration.Identifier), err)
	if err != nil {
		return nil, err
	}
	run := d.run
	if run == nil {
		client := &enroll.Client{Device: d.Device, Keys: d.Keys, Attester: d.Attester, Roots: d.Roots, Observe: d.ACME, Now: d.Now}
		run = client.Enroll
	}
	result, err := run(ctx, document)
	if err != nil {
		d.observe(StepIdentity, printable(declaration.Identifier), err)
	}
	return result, err
}

// remove takes the identity of an asset from the device, if it holds one.
func (d *Device) remove(asset string) error {
	held, ok := d.Folder.memory.Held[asset]
	if !ok {
		return nil
	}
	identity, err := d.Identities.Load(held.ID)
	if err == nil {
		err = d.Identities.SetAside(identity)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(d.Folder.memory.Held, asset)
	return d.Folder.save()
}

// Held are the identities that the device holds, by the Identifier of their asset.
func (d *Device) Held() map[string]Identity { return maps.Clone(d.Folder.memory.Held) }

// printable drops control characters from a text of the MDM's that is shown to people.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
}
