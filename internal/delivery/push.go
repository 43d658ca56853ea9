package delivery

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"assay/internal/issuance"
)

// Pusher brings declarations to an MDM that keeps them for its devices.
type Pusher interface {
	// Push makes the MDM hold the declarations for an enrollment, or hold them no more. To push what
	// the MDM has already changes nothing.
	Push(ctx context.Context, push Push) error
}

// Push is the declarations of one credential for one enrollment.
type Push struct {
	Enrollment string // the MDM's id of the device
	// Identifiers of the declarations.
	AssetIdentifier, ConfigurationIdentifier, ActivationIdentifier string
	// Asset, Configuration and Activation are the declarations; nil if Withdrawn.
	Asset, Configuration, Activation json.RawMessage
	// Withdrawn says that the MDM shall delete what it has under the Identifiers.
	Withdrawn bool
}

// DefaultEnrollment is how an MDM names a device on its device channel.
const DefaultEnrollment = "{device.udid}"

const (
	pushBatch      = 100              // credentials that one run of PushDue pushes at most
	pushTimeout    = 15 * time.Second // for one push
	maxPushFaults  = 5                // failures one after another, after which a run gives the MDM a rest
	maxPushFailure = 500              // bytes kept of why a push failed
	firstPushPause = time.Minute
	lastPushPause  = time.Hour
)

// Outbox pushes the declarations that are not at the MDM yet.
type Outbox struct {
	// Metrics count the pushes. Default: kept but not registered anywhere.
	Metrics *Metrics

	store      PushStore
	pusher     Pusher
	enrollment text
	log        *slog.Logger
	waiting    backoff[issuance.CredentialID]
	tried      issuance.CredentialID // the last that PushDue tried; its one caller's alone
}

// PushStore is what an Outbox needs of the store.
type PushStore interface {
	Credentials
	Pushed
}

// NewOutbox makes an outbox. enrollment is what the MDM calls a device, with placeholders such as
// {device.udid}; "" is DefaultEnrollment. log may be nil.
func NewOutbox(store PushStore, pusher Pusher, enrollment string, log *slog.Logger) (*Outbox, error) {
	if enrollment == "" {
		enrollment = DefaultEnrollment
	}
	t, err := parseText(enrollment)
	if err != nil {
		return nil, fmt.Errorf("push enrollment: %w", err)
	}
	// Every device's declarations under one name would reach whoever has it.
	if len(t.placeholders()) == 0 {
		return nil, fmt.Errorf("push enrollment: %s names no device: it needs {device.udid}, {device.serial} or {device.labels.NAME}", quote(enrollment))
	}
	return &Outbox{Metrics: NewMetrics(), store: store, pusher: pusher, enrollment: t, log: logger(log)}, nil
}

// PushDue pushes what was never pushed in its present form, at most pushBatch credentials. It goes on
// behind the last one that it tried, then from the start, so that nobody waits for ever behind others
// that fail. What fails is noted with the credential and tried again later, a minute at first and an
// hour at last; an MDM (or a store) that fails several times on end is left alone until the next run.
// It returns how many were pushed; err is the store's alone.
func (o *Outbox) PushDue(ctx context.Context, now time.Time) (pushed int, err error) {
	run := pushRun{Outbox: o, now: now}
	last := o.tried
	for _, after := range []issuance.CredentialID{last, ""} {
		for c, err := range o.store.DeviceCredentials(ctx, issuance.CredentialFilter{NotPushed: true, Page: issuance.Page{After: string(after)}}) {
			if err != nil {
				return run.pushed, fmt.Errorf("push declarations: %w", err)
			}
			if after == "" && last != "" && c.ID > last {
				break
			}
			if !o.waiting.ready(c.ID, now) {
				continue
			}
			if !run.push(ctx, c.ID) {
				return run.pushed, run.err
			}
		}
		if last == "" {
			break
		}
	}
	return run.pushed, run.err
}

// pushRun is one run of PushDue.
type pushRun struct {
	*Outbox
	now                   time.Time
	pushed, asked, faults int   // faults one after another, but those of devices
	err                   error // the store's
}

// push pushes one credential, and says whether the run goes on.
func (r *pushRun) push(ctx context.Context, id issuance.CredentialID) (more bool) {
	r.tried = id
	err := r.Push(ctx, issuance.Call{Now: r.now}, id)
	failed, isPush := errors.AsType[*PushError](err)
	switch {
	case err == nil:
		r.pushed, r.faults = r.pushed+1, 0
		r.asked++
	case ctx.Err() != nil:
		r.err = ctx.Err()
		return false
	case isPush && !failed.device:
		r.faults++
		r.asked++
	case !isPush: // of one credential's row; the others' may be sound
		r.waiting.failed(id, r.now, firstPushPause, lastPushPause)
		r.faults++
		r.err = err
	}
	return r.asked < pushBatch && r.faults < maxPushFaults
}

// PushError says why declarations did not reach the MDM. It is kept with the credential.
type PushError struct {
	Credential issuance.CredentialID
	Err        error

	device bool // the MDM was not even asked
}

func (e *PushError) Error() string {
	return fmt.Sprintf("push declarations of %s: %v", e.Credential, e.Err)
}
func (e *PushError) Unwrap() error { return e.Err }

// Push pushes one credential's declarations now, or takes them back if it was withdrawn, and notes
// the outcome with the credential. It fails with issuance.ErrNotFound or a *PushError.
//
// Before the MDM is asked, the credential is marked: what the MDM holds is not known from here on.
// Only where the mark still stands afterwards, so that no other push came between, is the outcome
// taken for what the MDM holds; else it is pushed again.
func (o *Outbox) Push(ctx context.Context, call issuance.Call, id issuance.CredentialID) error {
	standing, err := o.store.Delivery(ctx, id)
	if err != nil {
		return fmt.Errorf("push declarations: %w", err)
	}
	c := &standing.Credential
	before := c.Pushed
	push, failed := o.prepare(&standing)
	if failed == nil {
		mark := issuance.UnknownAtMDM + rand.Text()
		if err := o.store.MarkPushed(ctx, call, id, issuance.PushOutcome{Before: before, Pushed: mark}); err != nil {
			return fmt.Errorf("note push of %s: %w", id, err)
		}
		before = mark
		failed = o.push(ctx, id, push)
	}
	if failed == nil {
		o.waiting.succeeded(id)
		o.Metrics.pushed.Inc()
		o.log.InfoContext(ctx, "declarations pushed", "credential", id, "device", deviceName(standing.Device), "withdrawn", !c.WithdrawnAt.IsZero())
		if err := o.store.MarkPushed(ctx, call, id, issuance.PushOutcome{Before: before, Pushed: pushMark(c), Done: true}); err != nil {
			return fmt.Errorf("note push of %s: %w", id, err)
		}
		return nil
	}
	if ctx.Err() != nil { // the server stops, or nobody waits for it: no failure of the MDM's
		return failed
	}
	o.Metrics.notPushed.Inc()
	until, _ := o.waiting.failed(id, call.Now, firstPushPause, lastPushPause)
	why := pushFailure(failed, &standing)
	o.log.WarnContext(ctx, "declarations not pushed", "credential", id, "device", deviceName(standing.Device), "error", why, "again", until)
	if err := o.store.MarkPushed(ctx, call, id, issuance.PushOutcome{Before: before, Pushed: before, Failure: why}); err != nil {
		return fmt.Errorf("note push of %s: %w", id, err)
	}
	return failed
}

// pushMark is what the MDM has once a credential is pushed: its ServerTokens, or nothing.
func pushMark(c *issuance.DeviceCredential) string {
	if !c.WithdrawnAt.IsZero() {
		return ""
	}
	return c.AssetToken + " " + c.ConfigurationToken
}

// prepare makes what is pushed of a delivery. It fails where the MDM's id of the device is not known.
func (o *Outbox) prepare(standing *issuance.Delivery) (*Push, *PushError) {
	id := standing.Credential.ID
	enrollment, leftOut, refusal := o.enrollment.expand(standing.Device)
	if leftOut {
		refusal = "it has no value for push.enrollment"
	}
	if refusal != "" {
		return nil, &PushError{Credential: id, Err: errors.New("the MDM's id of the device is not known: " + refusal), device: true}
	}
	push := &Push{
		Enrollment:      enrollment,
		AssetIdentifier: AssetIdentifier(id), ConfigurationIdentifier: ConfigurationIdentifier(id), ActivationIdentifier: ActivationIdentifier(id),
		Withdrawn: !standing.Credential.WithdrawnAt.IsZero(),
	}
	if !push.Withdrawn {
		push.Asset, push.Configuration, push.Activation = standing.Asset, standing.Configuration, Activation(id)
	}
	return push, nil
}

func (o *Outbox) push(ctx context.Context, id issuance.CredentialID, push *Push) *PushError {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	if err := o.pusher.Push(ctx, *push); err != nil {
		return &PushError{Credential: id, Err: err}
	}
	return nil
}

// pushFailure is what is kept and logged of a failed push: of bounded length, and without the
// secret of the document's URL, which an MDM may have quoted.
func pushFailure(failed *PushError, standing *issuance.Delivery) string {
	why := failed.Err.Error()
	if url := dataURL(standing.Asset); url != "" {
		why = strings.ReplaceAll(why, url[strings.LastIndexByte(url, '/')+1:], "…")
	}
	return bound(why, maxPushFailure)
}

// dataURL is the secret URL in an asset declaration; "" if it has none.
func dataURL(asset []byte) string {
	var d struct {
		Payload struct{ Reference struct{ DataURL string } }
	}
	if json.Unmarshal(asset, &d) != nil {
		return ""
	}
	return d.Payload.Reference.DataURL
}
