package admin

import (
	"encoding/json"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// List is one page of a list.
type List[T any] struct {
	Items []T    `json:"items" nullable:"false" doc:"At most limit things, fewer where they are large, in the order of the list."`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one."`
}

// Device is a device that Assay knows.
type Device struct {
	ID             string            `json:"id" doc:"Opaque id (dev_…)."`
	Serial         string            `json:"serial,omitempty" doc:"Serial number; compared exactly."`
	UDID           string            `json:"udid,omitempty" doc:"UDID; compared without case. Of a Mac the provisioning UDID."`
	Labels         map[string]string `json:"labels,omitempty" doc:"What operators wrote down of it; templates use it as {device.labels.NAME}."`
	Attested       bool              `json:"attested" doc:"Whether evidence ever established serial and UDID."`
	MDMFingerprint string            `json:"mdmFingerprint,omitempty" doc:"SHA-256 of its MDM identity certificate, lower-case hex, where the MDM registered it."`
	State          string            `json:"state,omitempty" enum:"expected,active,lost,retired" doc:"Where it stands in the inventory; absent: nobody lists it, it only attested itself."`
	Sources        map[string]Source `json:"sources,omitempty" doc:"Where each value came from: serial, udid, state, and label:NAME."`
	LastSeen       time.Time         `json:"lastSeen,omitzero" doc:"Last certificate that it got on its evidence."`
	CreatedAt      time.Time         `json:"createdAt"`
}

// Source is where a value came from, and when.
type Source = issuance.Source

// DeviceChange changes a device; what is left out stays.
type DeviceChange struct {
	Labels         map[string]string `json:"labels,omitzero" doc:"Replaces all labels."`
	MDMFingerprint *string           `json:"mdmFingerprint,omitempty" doc:"SHA-256 of its MDM identity certificate in hex; an empty string removes it."`
}

// Code is a one-time ClientIdentifier. Its value is shown once, when it is minted.
type Code struct {
	ID              string            `json:"id" doc:"Opaque id (code_…)."`
	Code            string            `json:"code,omitempty" doc:"The code itself; only in the answer that mints it."`
	Directory       string            `json:"directory"`
	Status          string            `json:"status" enum:"unused,issuing,consumed,revoked,expired,exhausted"`
	Device          string            `json:"device,omitempty"`
	Serial          string            `json:"serial,omitempty" doc:"Bound serial number."`
	UDID            string            `json:"udid,omitempty" doc:"Bound UDID."`
	Labels          map[string]string `json:"labels,omitempty"`
	AllowUnattested bool              `json:"allowUnattested,omitempty"`
	Minted          *csr.Request      `json:"minted,omitempty" doc:"What the code's document asks for."`
	Order           string            `json:"order,omitempty"`
	Certificate     string            `json:"certificate,omitempty"`
	Tries           int               `json:"tries" doc:"Refused tries."`
	LastRefusal     string            `json:"lastRefusal,omitempty"`
	CreatedAt       time.Time         `json:"createdAt"`
	ExpiresAt       time.Time         `json:"expiresAt"`
	UsedAt          time.Time         `json:"usedAt,omitzero"`
	RevokedAt       time.Time         `json:"revokedAt,omitzero"`
}

// MintCode asks for one code.
type MintCode struct {
	Directory       string            `json:"directory,omitempty" doc:"ACME directory. Default: the only one, or 'default'."`
	Serial          string            `json:"serial,omitempty" doc:"Bind to this serial number."`
	UDID            string            `json:"udid,omitempty" doc:"Bind to this UDID."`
	Labels          map[string]string `json:"labels,omitempty"`
	AllowUnattested bool              `json:"allowUnattested,omitempty"`
	Lifetime        string            `json:"lifetime,omitempty" doc:"How long an unused code lives, e.g. 1h, 30d. Default 24h; at most 365d."`
}

// MintCodes asks for codes, all or none.
type MintCodes struct {
	Codes []MintCode `json:"codes" nullable:"false" minItems:"1" maxItems:"500"`
}

// MintedCodes are fresh codes, with their values, in the order of the request.
type MintedCodes struct {
	Codes []Code `json:"codes" nullable:"false"`
}

// FindCode asks for a code by its value.
type FindCode struct {
	Directory string `json:"directory,omitempty" doc:"ACME directory that the code works in. Default: any."`
	Code      string `json:"code" minLength:"1" maxLength:"255" doc:"The code itself."`
}

// Certificate is an issued certificate, or a serial reserved for one.
type Certificate struct {
	ID              string    `json:"id" doc:"Opaque id (cert_…)."`
	Serial          string    `json:"serial" doc:"Serial number in lower-case hex."`
	Status          string    `json:"status" enum:"reserved,valid,expired,revoked,abandoned"`
	Directory       string    `json:"directory"`
	Issuer          string    `json:"issuer"`
	Profile         string    `json:"profile"`
	ProfileVersion  int       `json:"profileVersion"`
	Device          string    `json:"device,omitempty"`
	DeviceSerial    string    `json:"deviceSerial,omitempty" doc:"Attested serial number."`
	DeviceUDID      string    `json:"deviceUDID,omitempty" doc:"Attested UDID."`
	ExpectedSerial  string    `json:"expectedSerial,omitempty" doc:"The code's binding where the device was not attested."`
	ExpectedUDID    string    `json:"expectedUDID,omitempty"`
	Code            string    `json:"code,omitempty"`
	Order           string    `json:"order"`
	Decision        string    `json:"decision"`
	SPKISHA256      string    `json:"spkiSHA256"`
	AttestationRoot string    `json:"attestationRoot,omitempty"`
	NotBefore       time.Time `json:"notBefore"`
	NotAfter        time.Time `json:"notAfter"`
	IssuedAt        time.Time `json:"issuedAt,omitzero"`
	CollectedAt     time.Time `json:"collectedAt,omitzero" doc:"First download; absent: the device does not have it."`
	RevokedAt       time.Time `json:"revokedAt,omitzero"`
	RevokedReason   string    `json:"revokedReason,omitempty" doc:"RFC 5280, section 5.3.1."`
	SupersededBy    string    `json:"supersededBy,omitempty"`
}

// CertificateDetail is everything that is known of one certificate.
type CertificateDetail struct {
	Certificate
	PEM      string           `json:"pem,omitempty"`
	Decided  *policy.Decision `json:"decided,omitempty" doc:"The decision behind it."`
	Facts    *attest.Facts    `json:"facts,omitempty" doc:"What its evidence established."`
	Warnings []string         `json:"warnings,omitempty"`
}

// RevokeCertificate says why a certificate is revoked.
type RevokeCertificate struct {
	Reason string `json:"reason,omitempty" enum:"unspecified,keyCompromise,cACompromise,affiliationChanged,superseded,cessationOfOperation,certificateHold,privilegeWithdrawn,aACompromise" doc:"RFC 5280, section 5.3.1. Default: unspecified."`
}

// Credential is a credential template on one device.
type Credential struct {
	ID        string `json:"id" doc:"Opaque id (cred_…)."`
	Template  string `json:"template"`
	Directory string `json:"directory"`
	Device    string `json:"device"`
	Serial    string `json:"serial,omitempty"`
	UDID      string `json:"udid,omitempty"`
	Revision  int    `json:"revision" doc:"Raised by every rendering, and by its withdrawal."`
	// State is in short what stands now; Diagnosis says it in words.
	State       string    `json:"state" enum:"delivered,fetched,refused,enrolled,renewing,dead,withdrawn"`
	Diagnosis   Diagnosis `json:"diagnosis"`
	Code        string    `json:"code"`
	CodeStatus  string    `json:"codeStatus"`
	ExpiresAt   time.Time `json:"expiresAt" doc:"When the present code ends unused."`
	FetchedAt   time.Time `json:"fetchedAt,omitzero"`
	Certificate string    `json:"certificate,omitempty"`
	RenewsAt    time.Time `json:"renewsAt,omitzero"`
	RenderedAt  time.Time `json:"renderedAt"`
	WithdrawnAt time.Time `json:"withdrawnAt,omitzero"`

	AssetIdentifier         string       `json:"assetIdentifier"`
	AssetToken              string       `json:"assetToken"`
	ConfigurationIdentifier string       `json:"configurationIdentifier"`
	ConfigurationToken      string       `json:"configurationToken"`
	PushedAt                time.Time    `json:"pushedAt,omitzero"`
	PushError               string       `json:"pushError,omitempty"`
	Report                  *Report      `json:"report,omitempty" doc:"What the device last said of it."`
	Declarations            Declarations `json:"declarations,omitempty" doc:"Only in answers to declare and renew: they hold the document's secret URL."`
}

// Declarations are declarations as an MDM takes them: asset, then configuration, then (if asked for)
// the activation.
type Declarations []json.RawMessage

// Diagnosis says where a device's enrolment stands, and what to do.
type Diagnosis struct {
	Stage  string `json:"stage" doc:"Stable name of what was found."`
	Text   string `json:"text" doc:"What happened, in a sentence."`
	Advice string `json:"advice,omitempty" doc:"What to do next."`
}

// Report is what a device last reported of a credential.
type Report struct {
	ReceivedAt    time.Time         `json:"receivedAt"`
	Asset         *DeclarationState `json:"asset,omitempty"`
	Configuration *DeclarationState `json:"configuration,omitempty"`
	Installed     string            `json:"installed,omitempty" doc:"SHA-256 of the certificate that the device lists for the asset."`
	Uninstalled   bool              `json:"uninstalled,omitempty" doc:"Whether the device listed its certificates, and none was the asset's."`
}

// DeclarationState is the state of one declaration on the device.
type DeclarationState struct {
	Identifier  string   `json:"identifier"`
	ServerToken string   `json:"serverToken,omitempty"`
	Active      bool     `json:"active"`
	Valid       string   `json:"valid"`
	Reasons     []Reason `json:"reasons,omitempty"`
}

// Reason is why a declaration failed on the device.
type Reason struct {
	Code        string `json:"code"`
	Description string `json:"description,omitempty"`
	Details     string `json:"details,omitempty"`
}

// Declare asks for one device's credential.
type Declare struct {
	Serial string            `json:"serial,omitempty"`
	UDID   string            `json:"udid,omitempty"`
	Labels map[string]string `json:"labels,omitempty" doc:"Merged into the device's own."`
}

// DeclareOne asks for the credential of one device.
type DeclareOne struct {
	Template string `json:"template" minLength:"1" maxLength:"63" doc:"Name of the credential template."`
	Declare
}

// DeclareBatch asks for the credentials of several devices.
type DeclareBatch struct {
	Template string    `json:"template" minLength:"1" maxLength:"63" doc:"Name of the credential template."`
	Devices  []Declare `json:"devices" minItems:"1" maxItems:"500"`
}

// DeclareResult is what became of one device of a batch: a credential, or an error.
type DeclareResult struct {
	Credential *Credential `json:"credential,omitempty"`
	Fresh      bool        `json:"fresh" doc:"Whether it was rendered now; false: it stood already, unchanged."`
	Error      string      `json:"error,omitempty"`
	Check      string      `json:"check,omitempty" doc:"Name of the failed check, for an error."`
}

// DeclaredBatch is what became of each device of a batch, in the order of the request.
type DeclaredBatch struct {
	Results []DeclareResult `json:"results" nullable:"false"`
}

// PublishDocument asks to publish a credential document that was written by hand, around a fresh code.
type PublishDocument struct {
	Document json.RawMessage `json:"document" doc:"The ACMECredential document; its ClientIdentifier and DirectoryURL are replaced."`
	MintCode
}

// Publication is a published document, with what an asset declaration says of it.
type Publication struct {
	Code        Code   `json:"code" doc:"The code in the document; its value stands only there."`
	URL         string `json:"url" doc:"Reference.DataURL. A secret: who has it has the code."`
	ContentType string `json:"contentType" doc:"Reference.ContentType."`
	Size        int    `json:"size" doc:"Reference.Size."`
	SHA256      string `json:"sha256" doc:"Reference.Hash-SHA-256."`
}

// StatusResult says which credentials a status report concerned.
type StatusResult struct {
	Credentials []string `json:"credentials" nullable:"false" doc:"Ids of the credentials whose declarations or certificates the report names."`
}

// Template is a credential template.
type Template struct {
	Name           string          `json:"name"`
	Directory      string          `json:"directory"`
	Targets        []string        `json:"targets,omitempty"`
	Authentication string          `json:"authentication" enum:"None,MDM"`
	Placeholders   []string        `json:"placeholders,omitempty" doc:"What it needs to know of a device."`
	RenewBefore    string          `json:"renewBefore,omitempty"`
	Document       json.RawMessage `json:"document" doc:"The ACMECredential document, with placeholders."`
}

// AuditRow is one row of the audit trail. Its salt is never shown.
type AuditRow = audit.Row
