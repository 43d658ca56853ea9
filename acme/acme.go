// Package acme holds the wire of RFC 8555 as the server and the device both speak it: resource
// objects, signed requests (JWS), identifiers of draft-ietf-acme-device-attest and problem
// documents. It keeps no state and opens no connection.
package acme

import (
	"encoding/json"
	"time"
)

// Directory is the directory object (RFC 8555, section 7.1.1).
type Directory struct {
	NewNonce   string         `json:"newNonce"`
	NewAccount string         `json:"newAccount"`
	NewOrder   string         `json:"newOrder"`
	RevokeCert string         `json:"revokeCert"`
	KeyChange  string         `json:"keyChange"`
	Meta       *DirectoryMeta `json:"meta,omitempty"`
}

// DirectoryMeta is the directory's metadata. StandIn is ours: the directory accepts evidence from a
// stand-in attestation authority and so proves nothing about real hardware.
type DirectoryMeta struct {
	TermsOfService          string   `json:"termsOfService,omitempty"`
	Website                 string   `json:"website,omitempty"`
	CAAIdentities           []string `json:"caaIdentities,omitempty"`
	ExternalAccountRequired bool     `json:"externalAccountRequired,omitempty"`
	StandIn                 bool     `json:"standInAttestation,omitempty"`
}

// Identifier is an order's or authorization's identifier.
type Identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Identifier types of draft-ietf-acme-device-attest.
const (
	PermanentIdentifier = "permanent-identifier"
	HardwareModule      = "hardware-module"
)

// DeviceAttest01 is the challenge type of draft-ietf-acme-device-attest, section 5.
const DeviceAttest01 = "device-attest-01"

// Account is the account object (section 7.1.2).
type Account struct {
	Status               string   `json:"status"`
	Contact              []string `json:"contact,omitempty"`
	TermsOfServiceAgreed bool     `json:"termsOfServiceAgreed,omitempty"`
	Orders               string   `json:"orders"`
}

// NewAccount is the payload of newAccount (section 7.3).
type NewAccount struct {
	Contact                []string        `json:"contact,omitempty"`
	TermsOfServiceAgreed   bool            `json:"termsOfServiceAgreed,omitempty"`
	OnlyReturnExisting     bool            `json:"onlyReturnExisting,omitempty"`
	ExternalAccountBinding json.RawMessage `json:"externalAccountBinding,omitempty"`
}

// Order is the order object (section 7.1.3).
type Order struct {
	Status         string       `json:"status"`
	Expires        *time.Time   `json:"expires,omitempty"`
	Identifiers    []Identifier `json:"identifiers"`
	NotBefore      *time.Time   `json:"notBefore,omitempty"`
	NotAfter       *time.Time   `json:"notAfter,omitempty"`
	Error          *Problem     `json:"error,omitempty"`
	Authorizations []string     `json:"authorizations"`
	Finalize       string       `json:"finalize"`
	Certificate    string       `json:"certificate,omitempty"`
}

// NewOrder is the payload of newOrder (section 7.4).
type NewOrder struct {
	Identifiers []Identifier `json:"identifiers"`
	NotBefore   *time.Time   `json:"notBefore,omitempty"`
	NotAfter    *time.Time   `json:"notAfter,omitempty"`
}

// Orders is a page of an account's orders (section 7.1.2.1).
type Orders struct {
	Orders []string `json:"orders"`
}

// Authorization is the authorization object (section 7.1.4).
type Authorization struct {
	Identifier Identifier  `json:"identifier"`
	Status     string      `json:"status"`
	Expires    *time.Time  `json:"expires,omitempty"`
	Challenges []Challenge `json:"challenges"`
}

// Challenge is the challenge object (section 7.1.5).
type Challenge struct {
	Type      string     `json:"type"`
	URL       string     `json:"url"`
	Status    string     `json:"status"`
	Token     string     `json:"token"`
	Validated *time.Time `json:"validated,omitempty"`
	Error     *Problem   `json:"error,omitempty"`
}

// Finalize is the payload of finalize (section 7.4).
type Finalize struct {
	CSR string `json:"csr"` // base64url of the DER
}

// StatusUpdate is the payload that deactivates an account or authorization.
type StatusUpdate struct {
	Status  string    `json:"status,omitempty"`
	Contact *[]string `json:"contact,omitempty"`
}

// RevokeCert is the payload of revokeCert (section 7.6).
type RevokeCert struct {
	Certificate string `json:"certificate"` // base64url of the DER
	Reason      *int   `json:"reason,omitempty"`
}

// KeyChange is the inner payload of keyChange (section 7.3.5).
type KeyChange struct {
	Account string          `json:"account"`
	OldKey  json.RawMessage `json:"oldKey"`
}
