package ddm

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Status items that the device knows. management.declarations is reported without subscription.
const (
	itemDeclarations = "management.declarations"
	itemCertificates = "security.certificate.list"
)

// certificateStatus is an element of security.certificate.list.
type certificateStatus struct {
	Identifier  string `json:"identifier"`
	Removed     bool   `json:"_removed,omitempty"`
	Declaration string `json:"declaration-identifier,omitempty"`
	Summary     string `json:"subject-summary,omitempty"`
	IsIdentity  bool   `json:"is-identity,omitempty"`
	Data        []byte `json:"data,omitempty"` // DER
}

// report sends a StatusReport of what has changed since the last one; the first is a full report. It
// returns whether there was anything to send.
func (d *Device) report(ctx context.Context, plan *plan) (bool, error) {
	memory := &d.Folder.memory
	items, err := d.items(plan)
	if err != nil {
		return false, err
	}
	changed := map[string]json.RawMessage{}
	for name, value := range items {
		if memory.Reported[name] == value {
			continue
		}
		changed[name] = json.RawMessage(value)
		if name == itemCertificates {
			if changed[name], err = certificateChanges(memory.Reported[name], value); err != nil {
				return false, err
			}
		}
	}
	if len(changed) == 0 {
		return false, nil
	}
	body := map[string]any{"StatusItems": nested(changed), "Errors": []any{}}
	if len(memory.Reported) == 0 {
		body["FullReport"] = true
	}
	data, err := json.Marshal(body)
	if err != nil {
		return false, fmt.Errorf("make status report: %w", err)
	}
	_, err = d.ask(ctx, "status", data)
	d.observe(StepReport, strings.Join(slices.Sorted(maps.Keys(changed)), " "), err)
	if err != nil {
		return false, err
	}
	memory.Reported = items
	return true, d.Folder.save()
}

// items are the status items to be known to the MDM, as JSON. Subscribed items that the device does
// not know are left out.
func (d *Device) items(plan *plan) (map[string]string, error) {
	values := map[string]any{itemDeclarations: declarationStates(d.Folder.memory.Declarations, plan)}
	for name, value := range map[string]string{
		"device.identifier.serial-number": d.Device.Serial,
		"device.identifier.udid":          d.Device.UDID,
		"device.model.identifier":         d.Device.ProductType,
		"device.operating-system.version": d.Device.OSVersion,
	} {
		if plan.subscribed[name] {
			values[name] = value
		}
	}
	if plan.subscribed[itemCertificates] {
		list, err := d.certificates()
		if err != nil {
			return nil, err
		}
		values[itemCertificates] = list
	}
	items := map[string]string{}
	for name, value := range values {
		data, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("make status item %s: %w", name, err)
		}
		items[name] = string(data)
	}
	return items, nil
}

// declarationStates are the states of all declarations by kind.
func declarationStates(held map[string]*Declaration, plan *plan) map[Kind][]*State {
	states := map[Kind][]*State{}
	for _, k := range kinds {
		states[k.kind] = []*State{}
		for _, id := range sorted(held, k.kind) {
			states[k.kind] = append(states[k.kind], plan.states[id])
		}
	}
	return states
}

// certificates are the identities on the device.
func (d *Device) certificates() ([]certificateStatus, error) {
	list := []certificateStatus{}
	held := d.Folder.memory.Held
	for _, asset := range slices.Sorted(maps.Keys(held)) {
		certificate, err := x509.ParseCertificate(held[asset].Certificate)
		if err != nil {
			return nil, fmt.Errorf("identity of asset %s: %w", asset, err)
		}
		sum := sha256.Sum256(certificate.Raw)
		list = append(list, certificateStatus{
			Identifier: hex.EncodeToString(sum[:]), Declaration: asset,
			Summary: certificate.Subject.CommonName, IsIdentity: true, Data: certificate.Raw,
		})
	}
	return list, nil
}

// certificateChanges are the elements that are new, and those that are gone, which are reported with
// _removed.
func certificateChanges(before, now string) (json.RawMessage, error) {
	var old, current []certificateStatus
	if before != "" {
		if err := json.Unmarshal([]byte(before), &old); err != nil {
			return nil, fmt.Errorf("last report of %s: %w", itemCertificates, err)
		}
	}
	if err := json.Unmarshal([]byte(now), &current); err != nil {
		return nil, fmt.Errorf("report of %s: %w", itemCertificates, err)
	}
	has := func(list []certificateStatus, id string) bool {
		return slices.ContainsFunc(list, func(c certificateStatus) bool { return c.Identifier == id })
	}
	changes := []certificateStatus{}
	for _, c := range old {
		if !has(current, c.Identifier) {
			changes = append(changes, certificateStatus{Identifier: c.Identifier, Removed: true})
		}
	}
	for _, c := range current {
		if !has(old, c.Identifier) {
			changes = append(changes, c)
		}
	}
	return json.Marshal(changes)
}

// nested turns names with dots into nested objects, as status reports have them.
func nested(items map[string]json.RawMessage) map[string]any {
	root := map[string]any{}
	for name, value := range items {
		parts := strings.Split(name, ".")
		at := root
		for _, part := range parts[:len(parts)-1] {
			next, ok := at[part].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[part] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = value
	}
	return root
}
