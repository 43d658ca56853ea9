// Package limits says how much a stranger, or a faulty device, may ask of a server: token buckets by address,
// identifier, code, account and device, kept in memory.
//
// A request over its limit waits for its turn, up to MaxWait, and is refused only then: a refusal ends the
// enrolment of a device that retries nothing, and a flood that is refused at once comes again at once. What the package keeps is bounded whatever strangers
// do: buckets, waiting requests, vouched accounts and log lines. Where strangers need more buckets than there
// are, those without one share a common one: nobody passes uncounted.
//
// It trusts its caller's word on who asks: an address must be the connection's own, or come from Proxies.
package limits

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Name is the name of a limit, as the configuration has it.
type Name string

// The limits. Catalogue says what each counts.
const (
	Reads               Name = "reads"
	Accounts            Name = "accounts"
	Requests            Name = "requests"
	WrongCodes          Name = "wrongCodes"
	DirectoryWrongCodes Name = "directoryWrongCodes"
	Orders              Name = "orders"
	Identifiers         Name = "identifiers"
	Evidence            Name = "evidence"
	DirectoryEvidence   Name = "directoryEvidence"
	Codes               Name = "codes"
	AccountRequests     Name = "accountRequests"
	Devices             Name = "devices"
)

// Kind describes a limit.
type Kind struct {
	Name    Name
	Check   string // the name of the check that refuses
	Counts  string // what is counted, for people
	By      string // what has a bucket of its own, for people
	Default Rate
	// Ours says that only codes, accounts and devices of the fleet have buckets. Where they are too many,
	// the one used longest ago makes room; strangers' share a common one instead.
	Ours bool
}

// Catalogue lists every limit. The defaults let 20,000 devices enrol at once from one address.
func Catalogue() []Kind {
	return []Kind{
		{Reads, "limit-reads", "unsigned requests: directory, nonces, documents, CRLs", "address", every(time.Second, 200, 60_000), false},
		{Accounts, "limit-accounts", "new accounts", "address", every(time.Second, 50, 20_000), false},
		{Requests, "limit-requests", "other signed requests, unless a live code or attested device vouches for them", "address", every(time.Second, 100, 60_000), false},
		{WrongCodes, "limit-wrong-codes", "orders that name a code which there is not", "address", every(time.Minute, 10, 100), false},
		{DirectoryWrongCodes, "limit-directory-wrong-codes", "the same", "directory", every(time.Second, 10, 1000), false},
		{Orders, "limit-orders", "orders by serial number or UDID", "address", every(time.Second, 2, 20_000), false},
		{Identifiers, "limit-identifiers", "orders by one serial number or UDID", "address and identifier", every(time.Hour, 30, 30), false},
		{Evidence, "limit-evidence", "refused evidence in orders by serial number or UDID", "address", every(time.Hour, 60, 100), false},
		{DirectoryEvidence, "limit-directory-evidence", "the same", "directory", every(time.Hour, 600, 1000), false},
		{Codes, "limit-codes", "orders that name one code", "code", every(time.Hour, 30, 30), true},
		{AccountRequests, "limit-account-requests", "signed requests of an account that is vouched for", "account", every(time.Second, 5, 100), true},
		{Devices, "limit-devices", "evidence that proves one device", "device", every(time.Hour, 30, 30), true},
	}
}

// Rate is how much passes: Burst at once, and Events in each Per from then on. The zero value is no limit.
type Rate struct {
	Events int
	Per    time.Duration
	Burst  int
}

func every(per time.Duration, events, burst int) Rate {
	return Rate{Events: events, Per: per, Burst: burst}
}

// maxEvents bounds the numbers of a rate.
const maxEvents = 1_000_000_000

// off is how a configuration says that there is no limit.
const off = "off"

var units = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// ParseRate reads "10/m burst 100" (per s, m, h or d), or "off".
func ParseRate(text string) (Rate, error) {
	if text == off {
		return Rate{}, nil
	}
	malformed := fmt.Errorf("%q is no limit: say how much passes, such as 10/m burst 100 (per s, m, h or d), or off", text)
	fields := strings.Fields(text)
	if len(fields) != 3 || fields[1] != "burst" {
		return Rate{}, malformed
	}
	events, unit, _ := strings.Cut(fields[0], "/")
	r := Rate{Per: units[unit]}
	var errEvents, errBurst error
	r.Events, errEvents = strconv.Atoi(events)
	r.Burst, errBurst = strconv.Atoi(fields[2])
	if errEvents != nil || errBurst != nil || r.Per == 0 {
		return Rate{}, malformed
	}
	if r.Events < 1 || r.Burst < 1 || r.Events > maxEvents || r.Burst > maxEvents {
		return Rate{}, fmt.Errorf("%q: both numbers are from 1 to %d; for no limit say off", text, maxEvents)
	}
	return r, nil
}

// String is the form that ParseRate reads.
func (r Rate) String() string {
	if r == (Rate{}) {
		return off
	}
	for unit, per := range units {
		if per == r.Per {
			return fmt.Sprintf("%d/%s burst %d", r.Events, unit, r.Burst)
		}
	}
	return fmt.Sprintf("%d per %s burst %d", r.Events, r.Per, r.Burst)
}

// perSecond is how many tokens come in a second.
func (r Rate) perSecond() float64 { return float64(r.Events) / r.Per.Seconds() }

// Defaults are the rates of the catalogue.
func Defaults() map[Name]Rate {
	rates := map[Name]Rate{}
	for _, k := range Catalogue() {
		rates[k.Name] = k.Default
	}
	return rates
}

// Refused is a request that was over a limit, also after it waited.
type Refused struct {
	Limit      Name
	Check      string
	RetryAfter time.Duration // when it might pass; whole seconds, at least one
	Left       bool          // whoever asked went away while he waited
}

func (e *Refused) Error() string {
	if e.Left {
		return fmt.Sprintf("the client left while it waited for the limit %s", e.Limit)
	}
	return fmt.Sprintf("over the limit %s: try again in %s", e.Limit, e.RetryAfter)
}
