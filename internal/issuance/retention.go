package issuance

import (
	"math"
	"time"

	"assay/attest"
)

// Forever is a retention without end.
const Forever = time.Duration(math.MaxInt64)

// Keep says for how long something of a request is kept, from when its evidence came.
type Keep struct {
	// Object is the evidence as received: without it nothing can be verified again.
	Object time.Duration
	// Facts are what verification established, the device's own error text, and everything else that the
	// decision rested on. What is refused or held leaves with them altogether; of a certificate, the
	// decision with its reasons stays.
	Facts time.Duration
}

// Retention is what is kept, by what became of the request.
type Retention struct {
	Issued, Held, Refused Keep
}

// DefaultRetention keeps what certificates rest on for ever, and the rest for as long as people ask.
func DefaultRetention() Retention {
	const day = 24 * time.Hour
	return Retention{
		Issued:  Keep{Object: Forever, Facts: Forever},
		Held:    Keep{Object: 90 * day, Facts: 400 * day},
		Refused: Keep{Object: 30 * day, Facts: 90 * day},
	}
}

// Removed counts what retention removed.
type Removed struct {
	Objects   int64 // evidence of which the facts stay
	Facts     int64 // evidence, and what decisions rested on, of which the decision stays
	Evidence  int64 // evidence altogether
	Decisions int64
	Holds     int64
}

// EvidenceLine is a piece of evidence as lists show it.
type EvidenceLine struct {
	ID         EvidenceID
	Order      OrderID
	ReceivedAt time.Time
	Kind       attest.Kind
	Format     string
	Failed     string // the check it failed; "" if verified or none
	Kept       string // "full", "facts" or "none"
	RemovedAt  time.Time
}

// EvidenceFilter selects evidence; zero fields select all.
type EvidenceFilter struct {
	Page
	Since  time.Time
	Kind   attest.Kind
	Failed bool     // only what a check refused
	Device DeviceID // only what its certificates and decisions rest on, and what orders with its codes were answered with
}
