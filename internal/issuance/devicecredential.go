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

	// Pushed is the AssetToken+" "+ConfigurationToken that was last pushed to the MDM; "" for never.
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

// Rendering reasons, as the audit names them.
const (
	Declared = "declared" // first rendering
	Renewed  = "renewed"
	Reminted = "re-minted" // the code before died unused
)

// Rendering is one rendering of a device's credential: its new code, document and declarations. The
// change is conditional on the credential being at Revision (ErrConflict otherwise, also while a
// certificate is just being issued for its code).
type Rendering struct {
	ID       CredentialID
	Revision int    // of the credential that is rendered again; 0: the credential is new
	Reason   string // Declared, Renewed or Reminted
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

// Delivery is a device's credential as it is delivered at the moment.
type Delivery struct {
	Credential           DeviceCredential
	Device               Device
	Code                 Code
	Document             Document // its Body is nil once the code in it is dead
	Asset, Configuration []byte   // the declarations, as rendered; nil once withdrawn
}

// StatusReport is what a device reported of one credential over the DDM status channel.
type StatusReport struct {
	ReceivedAt time.Time `json:"receivedAt"`
	// Asset and Configuration are the states of the two declarations; nil if the report does not name it.
	Asset         *DeclarationState `json:"asset,omitempty"`
	Configuration *DeclarationState `json:"configuration,omitempty"`
	// Installed is the SHA-256 (lower-case hex) of the certificate that security.certificate.list shows
	// for the asset; "" if it shows none.
	Installed string `json:"installed,omitempty"`
	// Uninstalled says that the device listed its certificates, and none was the asset's.
	Uninstalled bool `json:"uninstalled,omitempty"`
}

// DeclarationState is the state of one declaration on the device.
type DeclarationState struct {
	Identifier  string              `json:"identifier"`
	ServerToken string              `json:"serverToken"` // an MDM may have replaced Assay's
	Active      bool                `json:"active"`
	Valid       string              `json:"valid"` // valid, invalid or unknown
	Reasons     []DeclarationReason `json:"reasons,omitempty"`
}

// DeclarationReason is why a declaration is not valid or not active. Its texts come from the device.
type DeclarationReason struct {
	Code        string `json:"code"` // such as Error.AssetCannotBeDownloaded
	Description string `json:"description,omitempty"`
	Details     string `json:"details,omitempty"` // JSON
}

// CredentialReport is a status report that was matched to a credential by a declaration's Identifier.
type CredentialReport struct {
	Credential CredentialID
	Report     StatusReport
}
