package issuance

import (
	"time"

	"assay/policy"
)

// Page is a part of a list.
type Page struct {
	After string // the id of the row behind which the list goes on; "" for the start
	Limit int    // at most so many rows; 0 for all
}

// CodeFilter selects codes; zero fields select all.
type CodeFilter struct {
	Page
	Directory string
	Status    CodeStatus // as of Now
	Now       time.Time  // tells unused, expired and exhausted apart; needed with those
	Device    DeviceID
	Serial    string // bound serial
}

// CertificateFilter selects certificates; zero fields select all.
type CertificateFilter struct {
	Page
	Status         CertificateStatus
	Directory      string
	Device         DeviceID
	DeviceSerial   string // of the device's row: attested, or expected by an operator
	Code           CodeID
	SPKISHA256     string    // lower-case hex
	NeverCollected bool      // valid, but nobody ever downloaded its chain
	ExpiringBefore time.Time // lists by expiry, first to expire first
}

// DeviceFilter selects devices; zero fields select all.
type DeviceFilter struct {
	Page
	Serial     string // compared exactly
	UDID       string // compared without case
	State      policy.State
	NotListed  bool   // those that nobody lists
	LabelName  string // those with this label, and LabelValue as its value
	LabelValue string
}

// CredentialFilter selects the credentials of devices; zero fields select all.
type CredentialFilter struct {
	Page
	Device   DeviceID
	Template string
	// DueBefore selects those whose renewal or new code is due before this time, first due first.
	DueBefore time.Time
	// NotPushed selects those whose declarations were never pushed in their present form; of those that
	// were withdrawn, the ones that the MDM still has.
	NotPushed bool
}
