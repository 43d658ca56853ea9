package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"assay/internal/issuance"
)

// maxApproval is the longest life of an approval.
const maxApproval = 90 * 24 * time.Hour

func (a *API) addHolds() {
	missing := "There is no such hold."
	over := "A certificate is just being issued for it, or was: there is nothing left to say."
	add(a, route{
		method: http.MethodGet, path: "/holds", id: "list-holds", tag: "decisions", scope: DecisionsRead,
		summary: "List holds", description: "Devices that a policy held back until a person says whether they may have a certificate; oldest first.",
	}, a.listHolds)
	add(a, route{
		method: http.MethodGet, path: "/holds/{hold}", id: "show-hold", tag: "decisions", scope: DecisionsRead,
		summary: "Show a hold", description: "With the newest decision that held the device, and what to do.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showHold)
	add(a, route{
		method: http.MethodPost, path: "/holds/{hold}/approve", id: "approve-hold", tag: "decisions", scope: DecisionsWrite,
		summary:     "Approve a held device",
		description: "Its next try succeeds, once, until the approval expires. The approval is bound to the attested device; of an unattested one to its credential, else to its code. Apple's client does not try again by itself: the answer's next says what to push.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusConflict: over,
			http.StatusPreconditionFailed: "The hold was changed since the ETag in If-Match was answered."},
	}, a.approveHold)
	add(a, route{
		method: http.MethodPost, path: "/holds/{hold}/decline", id: "decline-hold", tag: "decisions", scope: DecisionsWrite,
		summary: "Decline a held device", description: "It stays refused, however often it tries, and leaves the list of those that wait. Takes back an approval that was not used. A declined device can be approved later.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusConflict: over,
			http.StatusPreconditionFailed: "The hold was changed since the ETag in If-Match was answered."},
	}, a.declineHold)
}

// Hold is a device that a policy held back until a person says whether it may have a certificate.
type Hold struct {
	ID         string    `json:"id" doc:"Opaque id (hold_…)."`
	Directory  string    `json:"directory"`
	Status     string    `json:"status" enum:"held,approved,expired,declined,claimed,used" doc:"expired: approved, but not used in time; claimed: its certificate is just being issued."`
	Device     string    `json:"device,omitempty" doc:"The device: attested, or else expected by the code."`
	Serial     string    `json:"serial,omitempty"`
	UDID       string    `json:"udid,omitempty"`
	Attested   bool      `json:"attested" doc:"Whether the newest try attested the device; else an approval is bound to its credential or code."`
	Code       string    `json:"code,omitempty" doc:"Of the newest try."`
	Credential string    `json:"credential,omitempty" doc:"The device's credential that the code belongs to."`
	Decision   string    `json:"decision" doc:"The newest decision that held it."`
	Score      int       `json:"score"`
	Why        string    `json:"why,omitempty" doc:"In a sentence, from the newest decision."`
	Tries      int       `json:"tries" doc:"How often it was held."`
	CreatedAt  time.Time `json:"createdAt"`
	HeldAt     time.Time `json:"heldAt" doc:"Last."`
	DecidedBy  string    `json:"decidedBy,omitempty" doc:"Who approved or declined."`
	DecidedAt  time.Time `json:"decidedAt,omitzero"`
	ExpiresAt  time.Time `json:"expiresAt,omitzero" doc:"Of the approval."`
	Order      string    `json:"order,omitempty" doc:"The order that used the approval."`
	Next       string    `json:"next,omitempty" doc:"What a person has to do next."`
}

// ApproveHold says for how long.
type ApproveHold struct {
	Lifetime string `json:"lifetime,omitempty" doc:"How long the approval lives unused, e.g. 8h, 7d; at most 90d. Default: as the policy has it."`
}

type listHoldsInput struct {
	Paging
	Status    string `query:"status" enum:"held,approved,expired,declined,claimed,used" doc:"Only holds of this status."`
	Directory string `query:"directory" maxLength:"63" doc:"Only holds of this ACME directory."`
	Device    string `query:"device" maxLength:"64" doc:"Only holds about this device, by its id."`
}

func (a *API) listHolds(ctx context.Context, in *listHoldsInput) (*page[Hold], error) {
	filter := issuance.HoldFilter{Status: issuance.HoldStatus(in.Status), Directory: in.Directory, Device: issuance.DeviceID(in.Device)}
	byTime := filter.Status == issuance.HoldExpired || filter.Status == issuance.HoldApproved
	if byTime {
		filter.Status = issuance.HoldApproved // the store tells the two apart by nothing but the time
	}
	list := listing[issuance.Hold, Hold]{
		prefix: "hold_",
		rows: func(p issuance.Page) iter.Seq2[issuance.Hold, error] {
			filter.Page = p
			return a.config.Store.Holds(ctx, filter)
		},
		id: func(h *issuance.Hold) string { return string(h.ID) },
		wire: func(h *issuance.Hold) (Hold, bool, error) {
			if byTime && string(h.StatusAt(a.config.Now())) != in.Status {
				return Hold{}, false, nil
			}
			out, err := a.holdOf(ctx, h)
			return out, true, err
		},
		filtered: byTime,
	}
	return list.read(in.Paging)
}

// HoldPath is the path of one hold. It is exported for huma, which reads no others that are embedded.
type HoldPath struct {
	Hold string `path:"hold" maxLength:"64" doc:"Id of the hold (hold_…)."`
}

type showHoldInput struct {
	HoldPath
	Known
}

func (a *API) showHold(ctx context.Context, in *showHoldInput) (*tagged[Hold], error) {
	h, err := a.config.Store.Hold(ctx, issuance.HoldID(in.Hold))
	if err != nil {
		return nil, err
	}
	return a.taggedHold(ctx, &h)
}

func (a *API) taggedHold(ctx context.Context, h *issuance.Hold) (*tagged[Hold], error) {
	out, err := a.holdOf(ctx, h)
	if err != nil {
		return nil, err
	}
	return tag(h.Revision, out)
}

type approveHoldInput struct {
	HoldPath
	Conditions
	Body ApproveHold
}

func (a *API) approveHold(ctx context.Context, in *approveHoldInput) (*tagged[Hold], error) {
	word := issuance.Word{Approve: true}
	if in.Body.Lifetime != "" {
		var err error
		if word.Lifetime, err = parseLifetime(in.Body.Lifetime, maxApproval); err != nil {
			return nil, malformedMember("lifetime", "body.lifetime", err.Error())
		}
	}
	return a.sayOfHold(ctx, in.Hold, in.Conditions, word)
}

type declineHoldInput struct {
	HoldPath
	Conditions
}

func (a *API) declineHold(ctx context.Context, in *declineHoldInput) (*tagged[Hold], error) {
	return a.sayOfHold(ctx, in.Hold, in.Conditions, issuance.Word{})
}

func (a *API) sayOfHold(ctx context.Context, id string, conditions Conditions, word issuance.Word) (*tagged[Hold], error) {
	revision, p := conditions.revision()
	if p != nil {
		return nil, p
	}
	word.By = useOf(ctx).who()
	h, err := a.config.Store.SayOfHold(ctx, a.call(ctx), issuance.HoldID(id), revision, word)
	if errors.Is(err, issuance.ErrConflict) {
		if now, readErr := a.config.Store.Hold(ctx, issuance.HoldID(id)); revision != 0 && readErr == nil && now.Revision != revision {
			return nil, changed()
		}
		return nil, refuse(http.StatusConflict, "hold-open", "a certificate is just being issued for it, or was issued: there is nothing left to say")
	} else if err != nil {
		return nil, err
	}
	return a.taggedHold(ctx, &h)
}

// holdOf is a hold with what a person needs to know to say something about it. Device and decision may
// have been erased meanwhile.
func (a *API) holdOf(ctx context.Context, h *issuance.Hold) (Hold, error) {
	out := Hold{
		ID: string(h.ID), Directory: h.Directory, Status: string(h.StatusAt(a.config.Now())), Device: string(h.Device), Code: string(h.Code),
		Credential: string(h.Credential), Decision: string(h.Decision), Tries: h.Tries, CreatedAt: h.CreatedAt, HeldAt: h.HeldAt,
		DecidedBy: h.DecidedBy, DecidedAt: h.DecidedAt, ExpiresAt: h.ExpiresAt, Order: string(h.Order),
	}
	if h.Device != "" {
		device, err := a.config.Store.Device(ctx, h.Device)
		if err == nil {
			out.Serial, out.UDID = device.Serial, device.UDID
		} else if !errors.Is(err, issuance.ErrNotFound) {
			return Hold{}, err
		}
	}
	decision, err := a.config.Store.Decision(ctx, h.Decision)
	if err == nil {
		out.Attested, out.Score = decision.Decision.Verified, decision.Decision.Score
		if failed := decision.Decision.Refused(); failed != nil {
			out.Why = failed.Detail
		}
	} else if !errors.Is(err, issuance.ErrNotFound) {
		return Hold{}, err
	}
	out.Next, err = a.nextOf(ctx, h)
	return out, err
}

// nextOf is what a person has to do about a hold.
func (a *API) nextOf(ctx context.Context, h *issuance.Hold) (string, error) {
	now := a.config.Now()
	switch h.StatusAt(now) {
	case issuance.HoldHeld, issuance.HoldExpired:
		return "approve or decline it", nil
	case issuance.HoldApproved:
	default:
		return "", nil
	}
	if h.Credential != "" {
		return fmt.Sprintf("renew credential %s, so that the device tries again: it does not by itself", h.Credential), nil
	}
	if h.Code == "" {
		return "let the device try again: it does not by itself", nil
	}
	code, err := a.config.Store.Code(ctx, h.Code)
	if err != nil && !errors.Is(err, issuance.ErrNotFound) {
		return "", err
	}
	if err == nil && code.StatusAt(now) == issuance.CodeUnused {
		return fmt.Sprintf("push again what delivered code %s: the device does not try again by itself, and the code is good until %s",
			h.Code, code.ExpiresAt.UTC().Format(time.RFC3339)), nil
	}
	if h.Device == "" {
		return "its code is over, and the approval with it: give the device another code, and approve it when it is held again", nil
	}
	return "its code is over: give the device another one", nil
}
