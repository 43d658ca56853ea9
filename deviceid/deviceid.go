// Package deviceid holds the names by which a device is known: the serial number and UDID that
// attestations vouch for, and the permanent-identifier and hardware-module values that ACME
// orders and certificates carry, with their grammar and their SAN encodings.
//
// It refuses values outside the grammar of draft-ietf-acme-device-attest and never normalises a
// value: identifiers compare octet for octet, except UDIDs, which compare without case.
package deviceid

import "strings"

// Kind says what an identifier identifies.
type Kind string

// The kinds of identifier that evidence can establish.
const (
	Serial         Kind = "serial"          // the manufacturer's serial number
	UDID           Kind = "udid"            // Apple's unique device identifier (on a Mac, the provisioning UDID)
	HardwareSerial Kind = "hardware-serial" // a secure cryptoprocessor's serial, with the hardware type as assigner
)

// Identifier is one identifier of a device as evidence established it.
type Identifier struct {
	Kind     Kind   `json:"kind"`
	Assigner string `json:"assigner,omitempty"` // dotted OID of who assigned it; empty if the format names none
	Value    string `json:"value"`
}

// SameSerial reports whether two serial numbers name the same device: exact comparison.
func SameSerial(a, b string) bool { return a == b }

// SameUDID reports whether two UDIDs name the same device: comparison without case.
func SameUDID(a, b string) bool { return strings.EqualFold(a, b) }
