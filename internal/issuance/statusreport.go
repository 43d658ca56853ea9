package issuance

import "time"

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

// Merge is what is known after a newer report: devices send what changed, so what the newer report
// does not name stays as it was.
func (r StatusReport) Merge(newer StatusReport) StatusReport {
	r.ReceivedAt = newer.ReceivedAt
	if newer.Asset != nil {
		r.Asset = newer.Asset
	}
	if newer.Configuration != nil {
		r.Configuration = newer.Configuration
	}
	if newer.Installed != "" || newer.Uninstalled {
		r.Installed, r.Uninstalled = newer.Installed, newer.Uninstalled
	}
	return r
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
