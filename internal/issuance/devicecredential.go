package issuance

import "time"

// DeviceCredential is a credential template on one device: a stable identity for the MDM (its
// declarations' Identifiers come from its id) behind which documents, codes and certificates follow
// one another. A device has at most one of each template.
//
// Document and declarations are frozen when they are rendered. Rendering again (renewal, or a code
// that died unused) replaces them and their ServerTokens, and revokes the old code if it is unused.
type DeviceCredential struct {
	ID        CredentialID
	Device    DeviceID
	Template  string
	Directory string
	Revision  int // 1 for the first rendering, raised by every later one and by its withdrawal

	Document DocumentID // the current one
	Code     CodeID     // the code in it
	// Certificate is the newest one that the device collected; "" for none yet.
	Certificate CertificateID

	AssetToken         string // ServerToken of the asset declaration
	ConfigurationToken string // ServerToken of the configuration declaration

	RenewBefore      time.Duration // how long before its end a collected certificate is renewed; 0: never
	RevokeSuperseded bool          // whether the certificate before is revoked when the new one is collected

	// DueAt is when the credential is rendered again by itself: when a document that was never fetched
	// ends, RetryPause after one that was fetched has ended and no certificate was collected, or when
	// the collected certificate comes up for renewal. Zero where nothing is due: after MaxAttempts, and
	// when its certificate was revoked, a person has to decide.
	DueAt time.Time
	// Attempts counts documents in a row that the device fetched without collecting a certificate,
	// the present one not included.
	Attempts int

	// Pushed is what the MDM holds: the AssetToken+" "+ConfigurationToken that was last pushed to it, ""
	// for nothing, or anything else for what is not known, because a push never came to its end.
	Pushed    string
	PushedAt  time.Time
	PushError string // why the last push failed; "" if it did not

	Report *StatusReport // what the device last said of it; nil: nothing

	CreatedAt   time.Time
	RenderedAt  time.Time // of the current document
	WithdrawnAt time.Time // zero unless withdrawn: then nothing is rendered or delivered any more
}

// A device that fetched a document and did not get a certificate tries again only with a new one.
const (
	RetryPause  = 24 * time.Hour // after the end of the code that came to nothing
	MaxAttempts = 7              // then a person has to look at it
)

// RenderReason is why a credential is rendered, as the audit names it.
type RenderReason string

// Reasons to render.
const (
	RenderDeclared RenderReason = "declared" // it is declared: new, or withdrawn before
	RenderRenewed  RenderReason = "renewed"
	RenderReminted RenderReason = "re-minted" // the code before died unused
)

// Rendering is one rendering of a device's credential: its new code, document and declarations. The
// change is conditional on the credential being at Revision (ErrConflict otherwise, also while a
// certificate is just being issued for its code).
type Rendering struct {
	ID       CredentialID
	Revision int // of the credential that is rendered again; 0: the credential is new
	Reason   RenderReason
	// Device finds or makes the device's row by Serial and UDID. Its Labels are merged into the row's own;
	// ErrConflict if they were read at its Revision (0: they were not) and would undo a later change.
	Device    Device
	Template  string
	Directory string

	Code     Mint     // Value, binding, Lifetime, Minted; its Document is the one below
	Document Document // PathHash, Body, SHA256, MDM, FetchLifetime

	Asset, Configuration []byte // the declarations, JSON; sealed: the asset's DataURL is a secret
	AssetToken           string
	ConfigurationToken   string

	RenewBefore      time.Duration
	RevokeSuperseded bool
}

// RenderResult is what became of one Rendering of several: Credential, or Err, which is ErrConflict.
type RenderResult struct {
	Credential DeviceCredential
	Err        error
}

// UnknownAtMDM begins what Pushed says of an MDM that holds nobody knows what: a push was begun and
// never noted as done, or two went at once. Whatever it is, it is pushed again, or taken back.
const UnknownAtMDM = "?"

// PushOutcome is a step of a push: its beginning, its failure, or (Done) its end.
type PushOutcome struct {
	Before  string // DeviceCredential.Pushed when the push began. If it changed since, another push came between
	Pushed  string // what the MDM holds now
	Failure string // why the push failed; "" if it did not
	Done    bool
}

// Delivery is a device's credential as it is delivered at the moment.
type Delivery struct {
	Credential           DeviceCredential
	Device               Device
	Code                 Code
	Document             Document // its Body is nil once the code in it is dead
	Asset, Configuration []byte   // the declarations, as rendered; nil once withdrawn
}
