package delivery

import (
	"context"
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
	store      PushStore
	pusher     Pusher
	enrollment text
	log        *slog.Logger
	waiting    backoff[issuance.CredentialID]
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
	return &Outbox{store: store, pusher: pusher, enrollment: t, log: logger(log)}, nil
}

// PushDue pushes what was never pushed in its present form. What fails is noted with the credential
// and tried again later, a minute at first and an hour at last; an MDM that fails several times on end
// is left alone until the next run. It returns how many were pushed; err is the store's alone.
func (o *Outbox) PushDue(ctx context.Context, now time.Time) (pushed int, err error) {
	due, err := o.due(ctx, now)
	if err != nil {
		return 0, fmt.Errorf("push declarations: %w", err)
	}
	faults := 0
	for _, id := range due {
		err := o.Push(ctx, issuance.Call{Now: now}, id)
		failed, isPush := errors.AsType[*PushError](err)
		switch {
		case err == nil:
			pushed, faults = pushed+1, 0
		case ctx.Err() != nil:
			return pushed, ctx.Err()
		case isPush:
			if !failed.device {
				faults++
			}
			if faults == maxPushFaults {
				return pushed, nil
			}
		default:
			return pushed, err
		}
	}
	return pushed, nil
}

// due are the first credentials that are to be pushed and were not put off.
func (o *Outbox) due(ctx context.Context, now time.Time) ([]issuance.CredentialID, error) {
	var due []issuance.CredentialID
	for c, err := range o.store.DeviceCredentials(ctx, issuance.CredentialFilter{NotPushed: true}) {
		if err != nil {
			return nil, err
		}
		if !o.waiting.ready(c.ID, now) {
			continue
		}
		if due = append(due, c.ID); len(due) == pushBatch {
			break
		}
	}
	return due, nil
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
func (o *Outbox) Push(ctx context.Context, call issuance.Call, id issuance.CredentialID) error {
	standing, err := o.store.Delivery(ctx, id)
	if err != nil {
		return fmt.Errorf("push declarations: %w", err)
	}
	c := &standing.Credential
	failed := o.push(ctx, &standing)
	if failed == nil {
		o.waiting.succeeded(id)
		o.log.InfoContext(ctx, "declarations pushed", "credential", id, "device", deviceName(standing.Device), "withdrawn", !c.WithdrawnAt.IsZero())
		if err := o.store.MarkPushed(ctx, call, id, pushMark(c), ""); err != nil {
			return fmt.Errorf("note push of %s: %w", id, err)
		}
		return nil
	}
	if ctx.Err() != nil { // the server stops, or nobody waits for it: no failure of the MDM's
		return failed
	}
	until := o.waiting.failed(id, call.Now, firstPushPause, lastPushPause)
	why := pushFailure(failed, &standing)
	o.log.WarnContext(ctx, "declarations not pushed", "credential", id, "device", deviceName(standing.Device), "error", why, "again", until)
	if err := o.store.MarkPushed(ctx, call, id, heldAfter(failed, c), why); err != nil {
		return fmt.Errorf("note push of %s: %w", id, err)
	}
	return failed
}

// maybePushed stands for what an MDM may hold after the first push to it failed half-way.
const maybePushed = "?"

// heldAfter is what is known of the MDM's state after a failed push: some of it may have arrived, so
// that it has to be taken back should the credential be withdrawn.
func heldAfter(failed *PushError, c *issuance.DeviceCredential) string {
	if c.Pushed == "" && c.WithdrawnAt.IsZero() && !failed.device {
		return maybePushed
	}
	return c.Pushed
}

// pushMark is what the MDM has once a credential is pushed: its ServerTokens, or nothing.
func pushMark(c *issuance.DeviceCredential) string {
	if !c.WithdrawnAt.IsZero() {
		return ""
	}
	return c.AssetToken + " " + c.ConfigurationToken
}

func (o *Outbox) push(ctx context.Context, standing *issuance.Delivery) *PushError {
	id := standing.Credential.ID
	enrollment, leftOut, refusal := o.enrollment.expand(standing.Device)
	if leftOut {
		refusal = "it has no value for push.enrollment"
	}
	if refusal != "" {
		return &PushError{Credential: id, Err: errors.New("the MDM's id of the device is not known: " + refusal), device: true}
	}
	push := Push{
		Enrollment:      enrollment,
		AssetIdentifier: AssetIdentifier(id), ConfigurationIdentifier: ConfigurationIdentifier(id), ActivationIdentifier: ActivationIdentifier(id),
		Withdrawn: !standing.Credential.WithdrawnAt.IsZero(),
	}
	if !push.Withdrawn {
		push.Asset, push.Configuration, push.Activation = standing.Asset, standing.Configuration, Activation(id)
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	if err := o.pusher.Push(ctx, push); err != nil {
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
