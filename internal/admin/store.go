package admin

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"iter"

	"assay/internal/audit"
	"assay/internal/delivery"
	"assay/internal/issuance"
)

// Codes keeps codes.
type Codes interface {
	delivery.Minter
	Code(ctx context.Context, id issuance.CodeID) (issuance.Code, error)
	CodeByValue(ctx context.Context, directory, value string) (issuance.Code, error)
	Codes(ctx context.Context, f issuance.CodeFilter) iter.Seq2[issuance.Code, error]
	RevokeCode(ctx context.Context, call issuance.Call, id issuance.CodeID) (issuance.Code, error)
}

// Certificates keeps certificates and what they were issued for.
type Certificates interface {
	Certificate(ctx context.Context, id issuance.CertificateID) (issuance.Certificate, error)
	CertificateBySerial(ctx context.Context, serial string) (issuance.Certificate, error)
	Certificates(ctx context.Context, f issuance.CertificateFilter) iter.Seq2[issuance.Certificate, error]
	RevokeCertificate(ctx context.Context, call issuance.Call, r issuance.Revocation) (issuance.Certificate, error)
	Decision(ctx context.Context, id issuance.DecisionID) (issuance.Decision, error)
	Evidence(ctx context.Context, id issuance.EvidenceID) (issuance.Evidence, error)
	EvidenceList(ctx context.Context, f issuance.EvidenceFilter) iter.Seq2[issuance.EvidenceLine, error]
	Order(ctx context.Context, id issuance.OrderID) (issuance.Order, error)
	Issuers(ctx context.Context) ([]issuance.Issuer, error)
}

// Decisions keeps decisions, the policies that took them, and what waits for a person's word.
type Decisions interface {
	Decisions(ctx context.Context, f issuance.DecisionFilter) iter.Seq2[issuance.Decision, error]
	PolicyUses(ctx context.Context) iter.Seq2[issuance.PolicyUse, error]
	Policy(ctx context.Context, sha256 string) (issuance.StoredPolicy, error)
	Hold(ctx context.Context, id issuance.HoldID) (issuance.Hold, error)
	Holds(ctx context.Context, f issuance.HoldFilter) iter.Seq2[issuance.Hold, error]
	// SayOfHold keeps a person's word about a hold that is at the revision (0: at any); else, and for a
	// hold that is or was used, issuance.ErrConflict.
	SayOfHold(ctx context.Context, call issuance.Call, id issuance.HoldID, ifRevision int, w issuance.Word) (issuance.Hold, error)
}

// Devices keeps devices.
type Devices interface {
	Device(ctx context.Context, id issuance.DeviceID) (issuance.Device, error)
	Devices(ctx context.Context, f issuance.DeviceFilter) iter.Seq2[issuance.Device, error]
	// UpdateDevice replaces the labels and the MDM certificate's fingerprint, each unless nil, if the
	// device is at the revision (0: at any); else issuance.ErrConflict.
	UpdateDevice(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, labels map[string]string, mdmFingerprint *string) (issuance.Device, error)
}

// Inventory keeps where devices stand and what contradicts that.
type Inventory interface {
	ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error)
	// SetDeviceState is for a device that is at the revision (0: at any); else issuance.ErrConflict. It
	// returns how many certificates were revoked.
	SetDeviceState(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, change issuance.StateChange) (issuance.Device, int, error)
	// ForgetDevice erases what is stored about a device and its owner. *issuance.HasCertificatesError while
	// it has valid certificates that are not to be revoked; issuance.ErrConflict while one is being issued.
	ForgetDevice(ctx context.Context, call issuance.Call, id issuance.DeviceID, revoke bool) (issuance.Forgotten, error)
	Conflicts(ctx context.Context, f issuance.ConflictFilter) iter.Seq2[issuance.Conflict, error]
	// ResolveConflict ends an open conflict; issuance.ErrConflict if it is over.
	ResolveConflict(ctx context.Context, call issuance.Call, id issuance.ConflictID) (issuance.Conflict, error)
}

// Credentials keeps the credentials of devices.
type Credentials interface {
	Delivery(ctx context.Context, id issuance.CredentialID) (issuance.Delivery, error)
	DeviceCredentials(ctx context.Context, f issuance.CredentialFilter) iter.Seq2[issuance.DeviceCredential, error]
	// WithdrawCredential withdraws a credential that is at the revision (0: at any); else
	// issuance.ErrConflict.
	WithdrawCredential(ctx context.Context, call issuance.Call, id issuance.CredentialID, ifRevision int) (issuance.DeviceCredential, error)
}

// Reports keeps what devices report.
type Reports interface {
	// RecordReports stores reports and returns the devices' credentials that they concern; reports of
	// unknown credentials are left out.
	RecordReports(ctx context.Context, call issuance.Call, reports []issuance.CredentialReport) ([]issuance.CredentialID, error)
}

// Tokens keeps bearer tokens.
type Tokens interface {
	// TokenByHash returns a token, live or not, or issuance.ErrNotFound.
	TokenByHash(ctx context.Context, hash [sha256.Size]byte) (issuance.Token, error)
	RecordTokenUse(ctx context.Context, call issuance.Call, use issuance.TokenUse) error
}

// Audit reads the audit trail.
type Audit interface {
	Audit(ctx context.Context, f audit.Filter) iter.Seq2[audit.Row, error]
	// Seal returns a seal by its number; LastSeal the newest, nil if there is none.
	Seal(ctx context.Context, number int64) (audit.Seal, error)
	LastSeal(ctx context.Context) (*audit.Seal, error)
	// CheckSeals checks the seals behind a number, at most so many.
	CheckSeals(ctx context.Context, key ed25519.PublicKey, after int64, most int) ([]audit.Fault, []audit.Seal, error)
	// CheckUnsealed counts rows that are not sealed yet, and finds what no program of ours leaves behind the last seal.
	CheckUnsealed(ctx context.Context) (unsealed int64, faults []audit.Fault, err error)
}

// Store is everything that the API keeps and reads.
type Store interface {
	Codes
	Certificates
	Decisions
	Devices
	Inventory
	Credentials
	Reports
	Tokens
	Audit
}
