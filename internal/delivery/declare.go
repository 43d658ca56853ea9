package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"

	"assay/internal/issuance"
)

// MaxRequests is the largest batch of Declare.
const MaxRequests = 500

// maxRereads is how often a declaration that lost to another is tried again: the winner's is there to
// be read, so more than once is rare.
const maxRereads = 4

// Names of the checks that a Declare or Renew can fail; the last two are Declare's alone.
const (
	CheckDeviceNamed    = "device-named"    // a request names its device
	CheckDeviceState    = "device-state"    // it is neither lost nor retired
	CheckDeviceConflict = "device-conflict" // serial and UDID belong to one device
	CheckLabels         = "labels"          // its labels, with those that it has, are not too many
	CheckTemplateKnown  = "template-known"  // the template exists
	CheckMDMListener    = "mdm-listener"    // templates with Authentication MDM need the MDM listener
	CheckRendering      = "rendering"       // the device has what the template needs, and the result is sound
	CheckDirectoryKnown = "directory-known" // the template's directory exists
	CheckWithdrawn      = "withdrawn"       // the credential was not withdrawn
	CheckCodeRevoked    = "code-revoked"    // nor was its code revoked
)

// RefusedError says why a device cannot have a credential.
type RefusedError struct {
	Check string // stable kebab-case name of the failed check
	Text  string // what is wrong and what to do; names the device
	Err   error  // such as a *RenderError; may be nil
}

func (e *RefusedError) Error() string { return e.Text }
func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(check, format string, args ...any) *RefusedError {
	return &RefusedError{Check: check, Text: fmt.Sprintf(format, args...)}
}

// Declarer gives devices their credentials.
type Declarer struct {
	Store     Credentials
	Templates *Templates
	// BaseURL is the https URL of the main listener, MDMURL that of the MDM one; "" where there is none:
	// templates with Authentication MDM are then refused.
	BaseURL, MDMURL string
	// DirectoryURL is the URL of an ACME directory by name; it fails for one that does not exist.
	DirectoryURL func(directory string) (string, error)
	// Refusals keeps what RenderDue could not render. Default: the log alone.
	Refusals Refusals
	Random   io.Reader    // default crypto/rand
	Log      *slog.Logger // default none

	waiting backoff[issuance.CredentialID] // what RenderDue could not render
}

// Request asks for a template on a device: one with this serial and UDID, of which one is enough.
type Request struct {
	Template     string
	Serial, UDID string
	// Labels are merged into the device's own when a credential is rendered.
	Labels map[string]string
}

// Declared is a device's credential as it stands now.
type Declared struct {
	issuance.Delivery
	Fresh bool // whether it was rendered now
}

// Result is what became of one Request: Declared, or Err.
type Result struct {
	Declared *Declared
	Err      error // *RefusedError; issuance.ErrConflict while others keep changing the credential
}

// Declare gives devices their credentials, at most MaxRequests at once. What stands already (its
// code is alive, or was used for a certificate) is returned as it is, and nothing is written but the
// device's labels, where the request has other ones: they count from the next rendering on. What
// does not exist, or whose code died unused, is rendered. What a person ended (withdrawn, or its code
// revoked) is refused: whoever declares again and again must not undo it. Errors of one device are
// in its Result; err is everybody's.
func (d *Declarer) Declare(ctx context.Context, call issuance.Call, requests []Request) ([]Result, error) {
	if len(requests) > MaxRequests {
		return nil, fmt.Errorf("declare credentials: %d at once, but the limit is %d", len(requests), MaxRequests)
	}
	results := make([]Result, len(requests))
	open := make([]int, len(requests))
	for i := range open {
		open[i] = i
	}
	for range maxRereads {
		var err error
		if open, err = d.declareOnce(ctx, &call, requests, results, open); err != nil {
			return nil, fmt.Errorf("declare credentials: %w", err)
		}
		if len(open) == 0 {
			return results, nil
		}
	}
	for _, i := range open {
		results[i] = Result{Err: fmt.Errorf("declare credential %s: %w", requests[i].Template, issuance.ErrConflict)}
	}
	return results, nil
}

// declareOnce reads what stands and renders the rest of the open requests, and returns those that
// lost to another change: they are to be read again. The call's Once is spent by the first rendering.
func (d *Declarer) declareOnce(ctx context.Context, call *issuance.Call, requests []Request, results []Result, open []int) (lost []int, err error) {
	var renderings []issuance.Rendering
	var of []int // the request of each rendering
	for _, i := range open {
		standing, rendering, err := d.prepare(ctx, *call, requests[i])
		if refused, ok := errors.AsType[*RefusedError](err); ok {
			results[i] = Result{Err: refused}
			continue
		} else if errors.Is(err, issuance.ErrConflict) {
			lost = append(lost, i)
			continue
		} else if err != nil {
			return nil, err
		}
		if standing != nil {
			results[i] = Result{Declared: &Declared{Delivery: *standing}}
			continue
		}
		renderings, of = append(renderings, *rendering), append(of, i)
	}
	if len(renderings) == 0 {
		return lost, nil
	}
	rendered, err := d.Store.RenderCredentials(ctx, *call, renderings)
	if _, repeated := errors.AsType[*issuance.RepeatedError](err); repeated {
		return d.declaredBefore(ctx, requests, results, slices.Concat(of, lost))
	} else if err != nil {
		return nil, err
	}
	for n, r := range rendered {
		i := of[n]
		if errors.Is(r.Err, issuance.ErrConflict) {
			lost = append(lost, i)
			continue
		} else if r.Err != nil {
			return nil, r.Err
		}
		call.Once = nil // spent, unless all were lost
		delivery, err := d.Store.Delivery(ctx, r.Credential.ID)
		if err != nil {
			return nil, err
		}
		results[i] = Result{Declared: &Declared{Delivery: delivery, Fresh: true}}
	}
	return lost, nil
}

// declaredBefore answers requests that were made before under the same key: with what stands now.
func (d *Declarer) declaredBefore(ctx context.Context, requests []Request, results []Result, of []int) ([]int, error) {
	for _, i := range of {
		standing, err := d.standing(ctx, requests[i])
		if refused, ok := errors.AsType[*RefusedError](err); ok {
			results[i] = Result{Err: refused}
		} else if errors.Is(err, issuance.ErrNotFound) {
			results[i] = Result{Err: &issuance.RepeatedError{}}
		} else if err != nil {
			return nil, err
		} else {
			results[i] = Result{Declared: &Declared{Delivery: standing}}
		}
	}
	return nil, nil
}

// standing is the delivery of what a request names, in whatever state.
func (d *Declarer) standing(ctx context.Context, r Request) (issuance.Delivery, error) {
	device, err := d.device(ctx, r)
	if err != nil {
		return issuance.Delivery{}, err
	}
	return d.Store.DeliveryOf(ctx, device.ID, r.Template)
}

// prepare reads what a request asks for: the delivery that stands, or else the rendering that is
// needed. What the device cannot have is a *RefusedError.
func (d *Declarer) prepare(ctx context.Context, call issuance.Call, r Request) (*issuance.Delivery, *issuance.Rendering, error) {
	device, err := d.device(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	rendering := issuance.Rendering{Reason: issuance.RenderDeclared, Device: device, Template: r.Template}
	if device.ID != "" {
		standing, err := d.Store.DeliveryOf(ctx, device.ID, r.Template)
		switch {
		case errors.Is(err, issuance.ErrNotFound):
		case err != nil:
			return nil, nil, err
		case !standing.Credential.WithdrawnAt.IsZero():
			return nil, nil, refuse(CheckWithdrawn, "credential %s was withdrawn at %s: renew it to bring it back", standing.Credential.ID, moment(standing.Credential.WithdrawnAt))
		case standing.Code.Status == issuance.CodeRevoked:
			return nil, nil, refuse(CheckCodeRevoked, "the code of credential %s was revoked at %s: renew the credential if the device shall have another one", standing.Credential.ID, moment(standing.Code.RevokedAt))
		case stands(&standing, call):
			if maps.Equal(device.Labels, standing.Device.Labels) {
				return &standing, nil, nil
			}
			call.Once = nil // for the rendering, if there is one; labels are the same however often they are set
			standing.Device, err = d.Store.UpdateDevice(ctx, call, device.ID, standing.Device.Revision, device.Labels, nil)
			return &standing, nil, err
		default:
			rendering.ID, rendering.Revision, rendering.Reason = standing.Credential.ID, standing.Credential.Revision, issuance.RenderReminted
		}
	}
	if err := d.render(&rendering, call.Now); err != nil {
		return nil, nil, err
	}
	return nil, &rendering, nil
}

// stands reports whether a delivery needs no new code: its own is alive, or made a certificate.
func stands(delivery *issuance.Delivery, call issuance.Call) bool {
	switch delivery.Code.StatusAt(call.Now) {
	case issuance.CodeUnused:
		return delivery.Document.Body != nil // erased by a clean-up whose clock was ahead
	case issuance.CodeIssuing, issuance.CodeConsumed:
		return true
	}
	return false
}
