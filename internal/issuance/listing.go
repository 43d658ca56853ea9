package issuance

import (
	"time"

	"assay/policy"
)

// Source is where a value of a device came from, and when.
type Source struct {
	From string    `json:"from"` // "operator:NAME", "token:ID", "evidence", or a list's name such as "csv:fleet.csv"
	At   time.Time `json:"at"`
}

// Names of values in Device.Sources; a label's is LabelSource and its name.
const (
	SerialSource = "serial"
	UDIDSource   = "udid"
	StateSource  = "state"
	LabelSource  = "label:"
)

// FromEvidence is the source of what a device attested.
const FromEvidence = "evidence"

// MaxListings is the most devices that one import takes.
const MaxListings = 500

// Listing is a device as a list has it.
type Listing struct {
	Serial string
	UDID   string
	State  policy.State // "": the list does not say; a device that is new is then expected
	Labels map[string]string
}

// Import is a part of a list.
type Import struct {
	Source string // who says so, such as "csv:fleet.csv"
	// Automatic says that no person chose this very list: then what people wrote down stays.
	Automatic bool
	DryRun    bool      // nothing is written; the results say what would become of the listings
	Listings  []Listing // at most MaxListings
}

// ImportChange is what became of one listing.
type ImportChange string

// What becomes of a listing.
const (
	ImportAdded     ImportChange = "added"
	ImportUpdated   ImportChange = "updated"
	ImportUnchanged ImportChange = "unchanged"
	ImportConflict  ImportChange = "conflict" // something of it contradicts what is known; the rest was taken
)

// ImportResult is what became of one listing, in the order of the import.
type ImportResult struct {
	Device   DeviceID
	Change   ImportChange
	Conflict ConflictKind // "" unless Change is ImportConflict
}

// ConflictKind is in which way two things contradict each other.
type ConflictKind string

// Kinds of conflict.
const (
	// NotListed: a device attested itself, and nobody lists it.
	NotListed ConflictKind = "not-listed"
	// UDIDClaimed: a device is said to have a UDID that another device has.
	UDIDClaimed ConflictKind = "udid-claimed"
	// UDIDDiffers: a device is said to have another UDID than the one that is known; of a Mac, a list may
	// give the hardware UUID where evidence gives the provisioning UDID.
	UDIDDiffers ConflictKind = "udid-differs"
	// SerialDiffers: the device with a UDID is said to have another serial number.
	SerialDiffers ConflictKind = "serial-differs"
)

// Conflict is something that contradicts the inventory.
type Conflict struct {
	ID         ConflictID
	Kind       ConflictKind
	Device     DeviceID
	Other      DeviceID // that claims the same; "" for none
	Source     string   // who says otherwise
	Said       string   // what: a UDID or serial number; personal
	Times      int
	CreatedAt  time.Time
	SeenAt     time.Time // last
	ResolvedAt time.Time // zero while it is open
	ResolvedBy string
}

// ConflictFilter selects conflicts; zero fields select all.
type ConflictFilter struct {
	Page
	Device DeviceID
	Open   bool // only those that nobody resolved
}

// StateChange says where a device stands from now on.
type StateChange struct {
	State policy.State
	// Revoke is whether its valid certificates are revoked with it, and Reason why (RFC 5280, section 5.3.1).
	Revoke bool
	Reason int
}

// Sync is how far a source of the inventory was read.
type Sync struct {
	Source     string
	Cursor     string    // what the source keeps to go on, such as where an interrupted listing was; the store does not read it
	BeganAt    time.Time // the listing under way, or the last one
	FinishedAt time.Time // the last whole listing
	FailedAt   time.Time
	Error      string // of the last try; "" if it went well
	Devices    int    // in the last whole listing
	Changed    int    // by it
}
