package delivery

import (
	"context"
	"iter"
	"time"

	"assay/internal/issuance"
)

// Minter stores codes, each with the document that delivers it.
type Minter interface {
	MintCodes(ctx context.Context, call issuance.Call, mints []issuance.Mint) ([]issuance.Code, error)
}

// Documents reads published documents.
type Documents interface {
	// DocumentByPath returns a document, also one that is over: then its Body is nil.
	DocumentByPath(ctx context.Context, pathHash [32]byte, now time.Time) (issuance.FetchedDocument, error)
	// MarkFetched notes the first fetch, from which the code's remaining life counts. It fails with
	// issuance.ErrConflict if the code died meanwhile: then nothing may be served.
	MarkFetched(ctx context.Context, call issuance.Call, id issuance.DocumentID) error
	// RefuseFetch notes that a document was asked for in vain; at most one audit row a minute each.
	RefuseFetch(ctx context.Context, call issuance.Call, id issuance.DocumentID, check string) error
}

// Credentials keeps the credentials of devices.
type Credentials interface {
	// DeviceLike finds a device by its serial (compared exactly), else by its UDID (without case).
	DeviceLike(ctx context.Context, serial, udid string) (issuance.Device, error)
	// Delivery returns a device's credential with its device, code, document and declarations.
	Delivery(ctx context.Context, id issuance.CredentialID) (issuance.Delivery, error)
	// DeliveryOf is Delivery by device and template.
	DeliveryOf(ctx context.Context, device issuance.DeviceID, template string) (issuance.Delivery, error)
	// UpdateDevice replaces a device's labels if it is at the revision, else issuance.ErrConflict.
	UpdateDevice(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, labels map[string]string, mdmFingerprint *string) (issuance.Device, error)
	// RenderCredentials stores renderings, each for itself: one that conflicts leaves the others alone.
	RenderCredentials(ctx context.Context, call issuance.Call, renderings []issuance.Rendering) ([]issuance.RenderResult, error)
	DeviceCredentials(ctx context.Context, f issuance.CredentialFilter) iter.Seq2[issuance.DeviceCredential, error]
}

// Pushed keeps what was pushed to an MDM.
type Pushed interface {
	// MarkPushed notes how a push goes.
	MarkPushed(ctx context.Context, call issuance.Call, id issuance.CredentialID, o issuance.PushOutcome) error
}

// Refusals keeps an audit row of a refusal that changed nothing.
type Refusals interface {
	RecordRefusal(ctx context.Context, call issuance.Call, r issuance.ClientRefusal) (known bool, err error)
}
