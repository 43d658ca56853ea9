package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// renderBatch is how many credentials RenderDue renders in one change.
const renderBatch = 100

// Renew renders a credential again, whatever its code's state: a new code, document and
// declarations under the same Identifiers. The old code is revoked if it is unused; the old
// certificate stays valid until the new one is collected. ifRevision is the revision that the caller
// saw; 0 renews any. It fails with issuance.ErrNotFound; issuance.ErrConflict for another revision,
// or while a certificate is being issued; *RefusedError. A call that was made before under its Once
// gets what stands now.
func (d *Declarer) Renew(ctx context.Context, call issuance.Call, id issuance.CredentialID, ifRevision int) (*Declared, error) {
	standing, err := d.Store.Delivery(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("renew credential: %w", err)
	}
	c := &standing.Credential
	rendering := issuance.Rendering{ID: id, Revision: c.Revision, Reason: issuance.RenderRenewed, Device: standing.Device, Template: c.Template}
	if ifRevision != 0 {
		rendering.Revision = ifRevision
	}
	if err := d.render(&rendering, call.Now); err != nil {
		return nil, err
	}
	results, err := d.Store.RenderCredentials(ctx, call, []issuance.Rendering{rendering})
	_, repeated := errors.AsType[*issuance.RepeatedError](err)
	if err != nil && !repeated {
		return nil, fmt.Errorf("renew credential %s: %w", id, err)
	}
	if !repeated && results[0].Err != nil {
		return nil, fmt.Errorf("renew credential %s: %w", id, results[0].Err)
	}
	if standing, err = d.Store.Delivery(ctx, id); err != nil {
		return nil, fmt.Errorf("renew credential: %w", err)
	}
	return &Declared{Delivery: standing, Fresh: !repeated}, nil
}

// RenderDue renders what is due at a time, at most limit credentials: certificates that come up for
// renewal, and documents that ended without anybody fetching them. What cannot be rendered is
// reported and left alone for a while, an hour at first and a day at last, and holds up nothing else.
// Each credential is looked at once, and a run ends after maxPutOff of them were put off.
func (d *Declarer) RenderDue(ctx context.Context, now time.Time, limit int) (rendered int, err error) {
	var batch []issuance.DeviceCredential
	putOff := 0
	flush := func() error {
		n, err := d.renderDue(ctx, issuance.Call{Now: now}, batch)
		rendered, putOff, batch = rendered+n, putOff+len(batch)-n, batch[:0]
		return err
	}
	for c, err := range d.Store.DeviceCredentials(ctx, issuance.CredentialFilter{DueBefore: now}) {
		if err != nil {
			return rendered, fmt.Errorf("render what is due: %w", err)
		}
		if !c.WithdrawnAt.IsZero() || !d.waiting.ready(c.ID, now) {
			continue
		}
		if batch = append(batch, c); len(batch) < min(renderBatch, limit-rendered) {
			continue
		}
		if err := flush(); err != nil {
			return rendered, fmt.Errorf("render what is due: %w", err)
		}
		if rendered >= limit || putOff >= maxPutOff {
			return rendered, nil
		}
	}
	if err := flush(); err != nil {
		return rendered, fmt.Errorf("render what is due: %w", err)
	}
	return rendered, nil
}

// maxPutOff bounds how many credentials one run puts off: each leaves an audit row.
const maxPutOff = 1000

// renderDue renders a batch of what is due and puts off what cannot be rendered.
func (d *Declarer) renderDue(ctx context.Context, call issuance.Call, due []issuance.DeviceCredential) (rendered int, err error) {
	var renderings []issuance.Rendering
	for _, c := range due {
		standing, err := d.Store.Delivery(ctx, c.ID)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil { // one row that cannot be read
			d.putOff(ctx, call, &issuance.Delivery{Credential: c, Device: issuance.Device{ID: c.Device}}, err)
			continue
		}
		now := standing.Credential
		if now.DueAt.IsZero() || now.DueAt.After(call.Now) || !now.WithdrawnAt.IsZero() {
			continue // fetched, renewed or withdrawn since it was listed
		}
		rendering := issuance.Rendering{ID: c.ID, Revision: now.Revision, Reason: issuance.RenderReminted, Device: standing.Device, Template: now.Template}
		if standing.Code.Status == issuance.CodeConsumed {
			rendering.Reason = issuance.RenderRenewed
		}
		if err := d.render(&rendering, call.Now); err != nil {
			d.putOff(ctx, call, &standing, err)
			continue
		}
		renderings = append(renderings, rendering)
	}
	if len(renderings) == 0 {
		return 0, nil
	}
	results, err := d.Store.RenderCredentials(ctx, call, renderings)
	if err != nil {
		return 0, err
	}
	for i, r := range results {
		id := renderings[i].ID
		switch {
		case errors.Is(r.Err, issuance.ErrConflict): // somebody else is at it
			until, _ := d.waiting.failed(id, call.Now, conflictPause, lastRenderPause)
			logger(d.Log).InfoContext(ctx, "credential not rendered: it was changed meanwhile", "credential", id, "again", until)
		case r.Err != nil:
			return rendered, r.Err
		default:
			rendered++
			d.waiting.succeeded(id)
			logger(d.Log).InfoContext(ctx, "credential rendered", "credential", id, "device", deviceName(renderings[i].Device),
				"template", renderings[i].Template, "reason", renderings[i].Reason, "revision", r.Credential.Revision)
		}
	}
	return rendered, nil
}

// How long a credential that cannot be rendered is left alone.
const (
	conflictPause    = time.Minute
	firstRenderPause = time.Hour
	lastRenderPause  = 24 * time.Hour
)

// putOff reports a credential that is due and cannot be rendered, and leaves it alone for a while.
func (d *Declarer) putOff(ctx context.Context, call issuance.Call, standing *issuance.Delivery, why error) {
	c := &standing.Credential
	until, again := d.waiting.failed(c.ID, call.Now, firstRenderPause, lastRenderPause)
	check := CheckRendering
	if refused, ok := errors.AsType[*RefusedError](why); ok {
		check = refused.Check
	}
	log := logger(d.Log)
	log.WarnContext(ctx, "credential cannot be rendered", "credential", c.ID, "device", deviceName(standing.Device),
		"template", c.Template, "check", check, "error", why, "again", until)
	if d.Refusals == nil || again { // the trail has it
		return
	}
	// The trail outlives what is personal: it names the field, the log the value.
	detail := "template " + c.Template
	if lacking, ok := errors.AsType[*RenderError](why); ok {
		detail += ", " + lacking.Field
	}
	_, err := d.Refusals.RecordRefusal(ctx, call, issuance.ClientRefusal{Directory: c.Directory, Code: c.Code,
		Refusal: issuance.Refusal{Problem: renderProblem, Check: check, Detail: detail}})
	if err != nil {
		log.ErrorContext(ctx, "note credential that cannot be rendered", "credential", c.ID, "error", err)
	}
}

// renderProblem marks audit rows of credentials that were due and could not be rendered.
const renderProblem = "rendering"
