package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// rendered is one rendering ready to be stored: what could be made of it outside the writer.
type rendered struct {
	issuance.Rendering
	code                 issuance.Code
	asset, configuration []byte // sealed
}

func (s *Store) prepareRendering(now time.Time, r issuance.Rendering) (*rendered, error) {
	if r.ID == "" || r.Template == "" || len(r.Asset) == 0 || len(r.Configuration) == 0 {
		return nil, errors.New("rendering lacks an id, a template or a declaration")
	}
	if r.Device.Serial == "" && r.Device.UDID == "" {
		return nil, errors.New("rendering names no device")
	}
	p := &rendered{Rendering: r}
	var err error
	if p.code, err = s.newCode(now, &r.Code); err != nil {
		return nil, err
	}
	if p.asset, err = s.seal.seal(r.Asset, assetName(r.ID)); err != nil {
		return nil, err
	}
	p.configuration, err = s.seal.seal(r.Configuration, configurationName(r.ID))
	return p, err
}

// RenderCredentials stores renderings of devices' credentials, at most MaxMint, in one transaction
// but each for itself: one that conflicts leaves the others alone. Every rendering brings a new code
// with its document; the code before is revoked if nobody used it. If none could be stored, the
// call's idempotency key stays unknown.
func (s *Store) RenderCredentials(ctx context.Context, call issuance.Call, renderings []issuance.Rendering) ([]issuance.RenderResult, error) {
	const what = "render credentials"
	if len(renderings) > MaxMint {
		return nil, fmt.Errorf("%s: %d at once, but the limit is %d", what, len(renderings), MaxMint)
	}
	prepared := make([]*rendered, len(renderings))
	for i, r := range renderings {
		var err error
		if prepared[i], err = s.prepareRendering(call.Now, r); err != nil {
			return nil, fmt.Errorf("%s: %d of %d: %w", what, i+1, len(renderings), err)
		}
	}
	results := make([]issuance.RenderResult, len(renderings))
	err := s.change(ctx, call, what, func(t *tx) error {
		stored := 0
		for i, p := range prepared {
			k, err := s.render(t, call, p)
			switch {
			case errors.Is(err, issuance.ErrConflict):
				results[i] = issuance.RenderResult{Err: issuance.ErrConflict}
			case err != nil:
				return fmt.Errorf("%d of %d: %w", i+1, len(renderings), err)
			default:
				results[i] = issuance.RenderResult{Credential: k}
				stored++
			}
		}
		if stored == 0 {
			return keep(issuance.ErrConflict)
		}
		return nil
	})
	if err != nil && !errors.Is(err, issuance.ErrConflict) {
		return nil, err
	}
	return results, nil
}

// render stores one rendering. Nothing was written if it is issuance.ErrConflict.
func (s *Store) render(t *tx, call issuance.Call, p *rendered) (issuance.DeviceCredential, error) {
	k, err := t.renderable(p)
	if err != nil {
		return k, err
	}
	if p.Revision != 0 {
		if err := s.endCode(t, call, k.Code); err != nil {
			return k, err
		}
		if k.Attempts, err = t.attempts(&k); err != nil {
			return k, err
		}
	}
	if k.Device, err = s.renderedDevice(t, call, p.Device); err != nil {
		return k, err
	}
	code, document := p.code, p.Document
	if code.Serial != "" || code.UDID != "" {
		code.Device = k.Device
	}
	if document.ID, err = newID[issuance.DocumentID](s.random, call.Now); err != nil {
		return k, err
	}
	document.Credential = k.ID
	k.Directory, k.Document, k.Code, k.Revision = p.Directory, document.ID, code.ID, p.Revision+1
	k.AssetToken, k.ConfigurationToken = p.AssetToken, p.ConfigurationToken
	k.RenewBefore, k.RevokeSuperseded = p.RenewBefore, p.RevokeSuperseded
	k.RenderedAt, k.DueAt, k.WithdrawnAt, k.Report = code.CreatedAt, code.ExpiresAt, time.Time{}, nil
	if k.CreatedAt.IsZero() {
		k.CreatedAt = k.RenderedAt
	}
	if err := s.insertCode(t, call, &p.Code, &code); err != nil {
		return k, err
	}
	if err := t.putCredential(&k, p); err != nil {
		return k, err
	}
	if err := s.insertDocument(t, &document, &code, k.Revision); err != nil {
		return k, err
	}
	row := credentialRow(audit.CredentialRendered, &k)
	row.Detail["reason"] = string(p.Reason)
	return k, s.record(t, call, row, audit.Personal{Serial: p.Device.Serial, UDID: p.Device.UDID})
}

// attempts are a credential's documents in a row, with the present one, that were fetched without a
// certificate being collected.
func (t *tx) attempts(k *issuance.DeviceCredential) (int, error) {
	var fetched, collected bool
	err := t.row(`SELECT fetched_at <> 0, EXISTS (SELECT 1 FROM certificates AS c WHERE c.code = documents.code AND c.status <> 'abandoned' AND c.collected_at <> 0)
		FROM documents WHERE id = ?`, string(k.Document)).Scan(&fetched, &collected)
	switch {
	case err != nil:
		return 0, fmt.Errorf("document of a credential: %w", err)
	case collected:
		return 0, nil
	case fetched:
		return k.Attempts + 1, nil
	}
	return k.Attempts, nil
}

// renderable returns the credential that is rendered, or what is known of a new one.
// issuance.ErrConflict if it is no longer, or not yet, as the rendering takes it to be.
func (t *tx) renderable(p *rendered) (issuance.DeviceCredential, error) {
	var n namesakes
	if err := t.ask(n.byNames("", p.Device.Serial, p.Device.UDID)); err != nil {
		return issuance.DeviceCredential{}, err
	}
	device := n.device(p.Device.Serial)
	if n.byUDID.ID != "" && n.byUDID.ID != device.ID { // another device got the UDID since it was looked for
		return issuance.DeviceCredential{}, issuance.ErrConflict
	}
	// Labels of an earlier state of the device would undo what an operator changed since.
	if p.Device.Revision != 0 && p.Device.Revision != device.Revision && !maps.Equal(device.Labels, issuance.MergeLabels(device.Labels, p.Device.Labels)) {
		return issuance.DeviceCredential{}, issuance.ErrConflict
	}
	if p.Revision == 0 {
		taken, err := t.exists(`SELECT 1 FROM device_credentials WHERE id = ?1 OR device = ?2 AND template = ?3`, string(p.ID), string(device.ID), p.Template)
		if err == nil && taken {
			err = issuance.ErrConflict
		}
		return issuance.DeviceCredential{ID: p.ID, Template: p.Template}, err
	}
	k, err := scanCredential(t.row(credentialByID, string(p.ID)))
	switch {
	case errors.Is(err, issuance.ErrNotFound):
		return k, issuance.ErrConflict
	case err != nil:
		return k, err
	case k.Revision != p.Revision:
		return k, issuance.ErrConflict
	case k.Device != device.ID, k.Template != p.Template:
		return k, issuance.ErrConflict
	}
	return k, nil
}

// renderedDevice finds or makes the device's row and merges the labels into its own.
func (s *Store) renderedDevice(t *tx, call issuance.Call, d issuance.Device) (issuance.DeviceID, error) {
	id, err := s.knownDevice(t, call, issuance.Device{Serial: d.Serial, UDID: d.UDID, Labels: issuance.MergeLabels(nil, d.Labels)}, byDeclaring)
	if err != nil || len(d.Labels) == 0 {
		return id, err
	}
	known, err := scanDevice(t.row(deviceByID, string(id)))
	if err != nil {
		return id, err
	}
	labels := issuance.MergeLabels(known.Labels, d.Labels)
	if maps.Equal(labels, known.Labels) {
		return id, nil
	}
	text, err := labelsText(labels)
	if err != nil {
		return id, err
	}
	n, err := t.exec(`UPDATE devices SET labels = ?, revision = revision + 1 WHERE id = ?`, text, string(id))
	return id, changedOne(n, err, "labels of a known device")
}

// putCredential stores a credential's row: a new one, or one that is still at the revision that was
// rendered.
func (t *tx) putCredential(k *issuance.DeviceCredential, p *rendered) error {
	n, err := t.exec(`INSERT INTO device_credentials (id, device, template, directory, revision, document, code, asset_token,
			configuration_token, renew_before, revoke_superseded, due_at, created_at, rendered_at, asset_sealed, configuration_sealed)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13, ?14, ?15)
		ON CONFLICT (id) DO UPDATE SET directory = ?4, revision = ?5, document = ?6, code = ?7, asset_token = ?8,
			configuration_token = ?9, renew_before = ?10, revoke_superseded = ?11, due_at = ?12, rendered_at = ?13,
			asset_sealed = ?14, configuration_sealed = ?15, report = '', withdrawn_at = 0, attempts = ?17
		WHERE device_credentials.revision = ?16`,
		string(k.ID), string(k.Device), k.Template, k.Directory, k.Revision, string(k.Document), string(k.Code), k.AssetToken,
		k.ConfigurationToken, k.RenewBefore.Microseconds(), flag(k.RevokeSuperseded), stamp(k.DueAt), stamp(k.RenderedAt),
		p.asset, p.configuration, p.Revision, k.Attempts)
	return changedOne(n, err, "rendered credential")
}
