package audit

import "time"

// Filter selects audit rows; zero fields select all, and of several all must match. Order, Code,
// Certificate and Device use an index; the others read the whole trail.
type Filter struct {
	Since, Until time.Time // Since included, Until not
	Action       Action
	Refused      bool // refusals only
	Account      string
	Order        string
	Code         string
	Certificate  string
	Device       string
	After        string // the id of the row behind which the list goes on; "" for the start
	Limit        int    // at most so many rows; 0 for all
}
