package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/limits"
)

// Addresses that requests come from.
const (
	fleet     = "203.0.113.7:50000"
	elsewhere = "198.51.100.9:50000"
)

// once lets so many pass at once, and hardly any later: nothing waits.
func once(burst int) limits.Rate { return limits.Rate{Events: 1, Per: 24 * time.Hour, Burst: burst} }

// limit restarts the server with limits, and lets requests come from the fleet's address.
func (h *harness) limit(rates map[limits.Name]limits.Rate) {
	h.t.Helper()
	h.config.Limits = limits.New(limits.Options{Rates: rates, Now: h.clock.Now, Log: h.config.Log,
		Sleep: func(context.Context, time.Duration) error { return nil }})
	h.restart()
	h.comeFrom(fleet)
}

func (h *harness) comeFrom(address string) { h.from.Store(&address) }

// guess is a code that there is not.
func (h *harness) guess() []byte {
	h.t.Helper()
	value, err := issuance.NewCodeValue(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	h.secrets.add("guessed code", value)
	return newOrder("permanent-identifier", value)
}

// over demands the refusal of a limit, and that it says when to try again.
func (r *reply) over(limit limits.Name) {
	r.t.Helper()
	check := ""
	for _, k := range limits.Catalogue() {
		if k.Name == limit {
			check = k.Check
		}
	}
	r.refused(http.StatusTooManyRequests, "rateLimited", check)
	if after := r.header.Get("Retry-After"); after == "" || after == "0" {
		r.t.Errorf("%s: Retry-After is %q", r.what, after)
	}
}

func TestGuesserOfCodesIsStoppedAndTheFleetBesideHimIsNot(t *testing.T) {
	h := newHarness(t)
	value, id := h.mint(issuance.Mint{})
	h.limit(map[limits.Name]limits.Rate{limits.WrongCodes: once(3), limits.Requests: once(10)})
	guesser := h.client(dirDefault)
	for range 3 {
		guesser.post(guesser.url("new-order"), h.guess()).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
	}
	guesser.post(guesser.url("new-order"), h.guess()).over(limits.WrongCodes)
	another := h.client(dirDefault) // another account is no other guesser
	another.post(another.url("new-order"), h.guess()).over(limits.WrongCodes)

	for range 7 { // the address is used up whole
		guesser.get(guesser.kid).want(http.StatusOK)
	}
	guesser.get(guesser.kid).over(limits.Requests)
	device := h.client(dirDefault)
	device.enrol(value, h.device())
	h.code(id, issuance.CodeConsumed, 0)
	guesser.get(guesser.kid).over(limits.Requests)

	h.comeFrom(elsewhere)
	guesser.post(guesser.url("new-order"), h.guess()).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
}

// Guessers with many addresses share one limit in a directory.
func TestGuessersOfManyAddressesAreStopped(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	h.limit(map[limits.Name]limits.Rate{limits.DirectoryWrongCodes: once(5)})
	guesser := h.client(dirDefault)
	for n := range 5 {
		h.comeFrom(fmt.Sprintf("192.0.2.%d:1", n))
		guesser.post(guesser.url("new-order"), h.guess()).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
	}
	h.comeFrom("192.0.2.6:1")
	guesser.post(guesser.url("new-order"), h.guess()).over(limits.DirectoryWrongCodes)
	there := h.client(dirOther)
	there.post(there.url("new-order"), h.guess()).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
	guesser.enrol(value, h.device())
}

// A code that is over is no guess: a fleet whose codes ran out must not stop its address.
func TestDeadCodeIsNoGuess(t *testing.T) {
	h := newHarness(t)
	dead, _ := h.mint(issuance.Mint{Lifetime: time.Minute})
	h.clock.Advance(time.Hour)
	h.limit(map[limits.Name]limits.Rate{limits.WrongCodes: once(1), limits.Codes: once(3), limits.Requests: once(100)})
	c := h.client(dirDefault)
	for range 3 {
		c.post(c.url("new-order"), newOrder("permanent-identifier", dead)).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
	}
	c.post(c.url("new-order"), newOrder("permanent-identifier", dead)).over(limits.Codes)
	c.post(c.url("new-order"), h.guess()).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
}

// What a fleet costs its address: an account a device, and no signed request. The clock stands still, so a device
// that waited would wait for ever.
func TestDeviceStormFromOneAddressPasses(t *testing.T) {
	const devices = 12
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{
		limits.Accounts: once(devices), limits.Requests: once(1), limits.WrongCodes: once(1), limits.Orders: once(1),
		limits.Codes: once(1), limits.Devices: once(1), limits.AccountRequests: once(4), // authorization, challenge, finalize, certificate
	})
	for n := range devices {
		value, _ := h.mint(issuance.Mint{})
		d := h.device()
		d.serial, d.udid = fmt.Sprintf("C39XX0AB%04d", n), fmt.Sprintf("00008120-001A2B3C4D5E%04d", n)
		h.client(dirDefault).enrol(value, d)
	}
	c := h.stranger(dirDefault)
	c.post(c.url("new-account"), []byte(`{}`), withJWK).over(limits.Accounts)
	h.comeFrom(elsewhere)
	c.register()
	c.get(c.kid).want(http.StatusOK)
}

// The same by the defaults, for as many devices as they are made for, and in no time at all: all that the requests
// of a fleet count as.
func TestDefaultsLetTwentyThousandDevicesEnrolAtOnce(t *testing.T) {
	waited := func(context.Context, time.Duration) error { t.Fatal("a device waited"); return nil }
	g := limits.New(limits.Options{Rates: limits.Defaults(), Now: func() time.Time { return epoch }, Sleep: waited})
	pass := func(charges ...limits.Charge) {
		if err := g.Pass(t.Context(), charges...); err != nil {
			t.Fatal(err)
		}
	}
	const devices, fleet = 20_000, "203.0.113.7"
	for n := range devices {
		id := fmt.Sprint(n)
		for range 3 { // document, directory, nonce
			pass(limits.Charge{Limit: limits.Reads, Key: fleet})
		}
		pass(limits.Charge{Limit: limits.Accounts, Key: fleet})
		if n%2 == 0 { // by code
			pass(limits.Charge{Limit: limits.Codes, Key: id})
		} else { // by serial number: until the evidence is there, strangers
			requests := limits.Charge{Limit: limits.Requests, Key: fleet}
			pass(requests, limits.Charge{Limit: limits.Orders, Key: fleet}, limits.Charge{Limit: limits.Identifiers, Key: fleet + id})
			pass(requests)
			pass(requests)
		}
		for range 5 {
			pass(limits.Charge{Limit: limits.AccountRequests, Key: id})
		}
		pass(limits.Charge{Limit: limits.Devices, Key: id})
	}
}

func TestOneCodeIsOrderedSoOftenOnly(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	other, _ := h.mint(issuance.Mint{})
	h.limit(map[limits.Name]limits.Rate{limits.Codes: once(2)})
	c := h.client(dirDefault)
	c.order(value)
	h.client(dirDefault).order(value)
	h.unchanged("an order over the limit", func() {
		c.post(c.url("new-order"), newOrder("permanent-identifier", value)).over(limits.Codes)
	})
	h.comeFrom(elsewhere)
	c.post(c.url("new-order"), newOrder("permanent-identifier", value)).over(limits.Codes)
	c.order(other)
}

func TestOneDeviceProvesItselfSoOftenOnly(t *testing.T) {
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{limits.Devices: once(1)})
	d := h.device()
	first, _ := h.mint(issuance.Mint{})
	second, id := h.mint(issuance.Mint{})
	h.client(dirDefault).enrol(first, d)
	c := h.client(dirDefault)
	o := c.order(second)
	c.post(o.challenge, d.attest(o.token)).over(limits.Devices)
	h.pending(o)
	h.code(id, issuance.CodeUnused, 0)
	d.serial, d.udid = "C39XX0AB0002", "00008120-001A2B3C4D5E0002"
	c.post(o.challenge, d.attest(o.token)).want(http.StatusOK)
}

// An account that is vouched for is not its address's any more, and not without a limit either.
func TestVouchedAccountHasALimitOfItsOwn(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	other, _ := h.mint(issuance.Mint{})
	h.limit(map[limits.Name]limits.Rate{limits.AccountRequests: once(3), limits.Requests: once(1)})
	c, beside := h.client(dirDefault), h.client(dirDefault)
	c.order(value) // and reads the authorization
	c.get(c.kid).want(http.StatusOK)
	c.get(c.kid).want(http.StatusOK)
	c.get(c.kid).over(limits.AccountRequests)
	c.post(c.url("new-order"), newOrder("permanent-identifier", other)).over(limits.AccountRequests)
	h.comeFrom(elsewhere)
	c.get(c.kid).over(limits.AccountRequests)
	h.comeFrom(fleet)
	beside.order(other)
}

// Whoever knows a vouched account's id, but not its key, neither passes by it nor spends its limit.
func TestForgedAccountIsItsAddresss(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	h.limit(map[limits.Name]limits.Rate{limits.AccountRequests: once(5), limits.Requests: once(2)})
	c := h.client(dirDefault)
	c.order(value)
	forger := &client{h: h, t: t, dir: dirDefault, key: newKey(t), kid: c.kid}
	h.comeFrom(elsewhere)
	for range 2 {
		forger.get(c.kid).refused(http.StatusBadRequest, "malformed", "jws-signature")
	}
	for range 5 {
		forger.get(c.kid).over(limits.Requests)
	}
	forger.post(c.url("new-order"), newOrder("permanent-identifier", value)).over(limits.Requests)
	c.get(c.kid).want(http.StatusOK)
}

func TestFaultyOrdersAreTheAddresss(t *testing.T) {
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{limits.Requests: once(2)})
	c := h.client(dirDefault)
	for range 2 {
		c.post(c.url("new-order"), []byte(`{}`)).refused(http.StatusBadRequest, "malformed", "identifier-count")
	}
	c.post(c.url("new-order"), []byte(`{}`)).over(limits.Requests)
	c.post(c.url("new-order"), []byte(`{`)).over(limits.Requests)
}

// Requests that cannot even be read count, too.
func TestUnreadableRequestsAreTheAddresss(t *testing.T) {
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{limits.Requests: once(2), limits.Accounts: once(1)})
	c := h.client(dirDefault)
	c.get(c.kid, withType("application/json")).refused(http.StatusUnsupportedMediaType, "malformed", "content-type")
	broken := withBody(func([]byte) []byte { return []byte("{") })
	c.post(c.url("new-order"), nil, broken).refused(http.StatusBadRequest, "malformed", "jws-syntax")
	c.get(c.kid, withType("application/json")).over(limits.Requests)
	c.get(c.kid, broken).over(limits.Requests)
	c.post(c.url("new-order"), nil, broken).over(limits.Requests)
	c.post(c.url("new-account"), nil, broken).over(limits.Accounts)
}

// Where orders name serial numbers, strangers can order: what they leave behind is bounded by address and in all.
func TestRefusedEvidenceWithoutACodeIsBounded(t *testing.T) {
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{limits.Evidence: once(3), limits.DirectoryEvidence: once(5)})
	garbage, err := json.Marshal(map[string]string{"attObj": b64.EncodeToString(bytes.Repeat([]byte{0xa0}, 48<<10))})
	if err != nil {
		t.Fatal(err)
	}
	stranger := h.client(dirSerialOnly)
	answer := func() (*order, *reply) {
		o := stranger.order("C39XX0AB9999")
		return o, stranger.post(o.challenge, garbage)
	}
	spoil := func(n int) {
		for range n {
			o, r := answer()
			r.refused(http.StatusForbidden, "badAttestationStatement", "object-well-formed")
			h.dead(o, "object-well-formed")
		}
	}
	spoil(3)
	o, r := answer()
	r.over(limits.Evidence)
	h.pending(o)
	h.comeFrom(elsewhere)
	spoil(2)
	o, r = answer()
	r.over(limits.DirectoryEvidence)
	h.pending(o)
	if n := h.count("evidence"); n != 5 {
		t.Errorf("%d objects are kept", n)
	}
	// Devices are none the worse for it, not even behind the stranger's address, and codes have their own bound.
	d := h.device()
	h.list(d.serial, d.udid)
	h.client(dirSerialOnly).enrol(d.serial, d)
	h.comeFrom(fleet)
	value, id := h.mint(issuance.Mint{Directory: dirSerial})
	c := h.client(dirSerial)
	o = c.order(value)
	c.post(o.challenge, garbage).refused(http.StatusForbidden, "badAttestationStatement", "object-well-formed")
	h.code(id, issuance.CodeUnused, 1)
}

func TestOrdersWithoutACodeAreBoundedByAddressAndIdentifier(t *testing.T) {
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{limits.Orders: once(3), limits.Identifiers: once(2)})
	c := h.client(dirSerial)
	order := func(serial string) *reply {
		return c.post(c.url("new-order"), newOrder("permanent-identifier", serial))
	}
	order("C39XX0AB0001").want(http.StatusCreated)
	order("C39XX0AB0001").want(http.StatusCreated)
	order("C39XX0AB0001").over(limits.Identifiers)
	order("C39XX0AB0002").want(http.StatusCreated)
	order("C39XX0AB0003").over(limits.Orders)
	// A stranger who knows a device's serial number cannot lock it out.
	h.comeFrom(elsewhere)
	order("C39XX0AB0001").want(http.StatusCreated)
	h.comeFrom(fleet)
	value, _ := h.mint(issuance.Mint{Directory: dirSerial})
	c.order(value)
}

// A device that proved itself vouches for its account, where codes are no use.
func TestProvenDeviceVouchesForItsAccount(t *testing.T) {
	h := newHarness(t)
	h.limit(map[limits.Name]limits.Rate{limits.Requests: once(3)}) // order, authorization, challenge
	d := h.device()
	h.list(d.serial, d.udid)
	h.client(dirSerialOnly).enrol(d.serial, d)
	stranger := h.client(dirSerialOnly)
	stranger.get(stranger.kid).over(limits.Requests)
}

func TestUnsignedRequestsAreLimitedByAddress(t *testing.T) {
	h := newHarness(t)
	for _, path := range []string{
		"/acme/default/directory", "/acme/default/new-nonce", "/acme/default/new-order", "/crl/" + string(h.issuer) + "/0",
		"/issuer/" + string(h.issuer), "/credential/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
	} {
		h.subtest(path, func(t *testing.T) {
			h.limit(map[limits.Name]limits.Rate{limits.Reads: once(1)})
			if r := h.do(t, http.MethodGet, baseURL+path, nil, nil); r.status == http.StatusTooManyRequests {
				t.Errorf("the first is refused: %s", r.body)
			}
			r := h.do(t, http.MethodGet, baseURL+path, nil, nil)
			if r.status != http.StatusTooManyRequests || r.header.Get("Retry-After") != "86400" {
				t.Errorf("the second got %d, Retry-After %q", r.status, r.header.Get("Retry-After"))
			}
			h.comeFrom(elsewhere)
			if r := h.do(t, http.MethodGet, baseURL+path, nil, nil); r.status == http.StatusTooManyRequests {
				t.Errorf("another address is refused: %s", r.body)
			}
		})
	}
}

// A flood writes nothing, neither rows nor lines, but for one line a second and one audit row a minute.
func TestRefusedFloodWritesNothing(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	h.limit(map[limits.Name]limits.Rate{limits.Requests: once(1), limits.AccountRequests: once(1)})
	c, known := h.client(dirDefault), h.client(dirDefault)
	known.order(value) // so that the trail would have rows about it
	c.post(c.url("new-order"), h.guess()).refused(http.StatusBadRequest, "rejectedIdentifier", "code-usable")
	h.clock.Advance(time.Second)
	rows := func() [3]int { return [3]int{h.count("nonces"), h.count("audit"), h.count("orders")} }
	before := rows()
	for range 20 {
		c.post(c.url("new-order"), h.guess()).over(limits.Requests)
		c.get(c.kid).over(limits.Requests)
		known.post(c.url("new-order"), h.guess()).over(limits.AccountRequests)
	}
	if after := rows(); after != before {
		t.Errorf("refused requests left nonces, audit rows and orders: %v, before %v", after, before)
	}
	lines := 0
	for _, line := range h.logs.lines(t, "refused") {
		if line["check"] == "limit-requests" {
			lines++
			if line["who"] != "203.0.113.7" || !strings.Contains(fmt.Sprint(line["hint"]), "limits.requests") {
				t.Errorf("the log says %v", line)
			}
		}
	}
	if lines != 1 {
		t.Errorf("%d lines of 40 refusals", lines)
	}
	if err := h.serving.Load().FlushStrangers(h.ctx()); err != nil {
		t.Fatal(err)
	}
	if rows := h.audited(audit.Filter{Action: audit.StrangersRefused}, ""); len(rows) != 1 || rows[0].Detail["limit-requests"] != "40" {
		t.Errorf("the trail says %+v", rows)
	}
}

// A request that waits for its turn is answered then, and does not wait on for a client that is gone.
func TestWaitingEndsWithTheClient(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	waits := make(chan context.Context)
	second := limits.Rate{Events: 1, Per: time.Second, Burst: 1}
	h.config.Limits = limits.New(limits.Options{Now: h.clock.Now,
		Rates: map[limits.Name]limits.Rate{limits.Requests: second, limits.Codes: second, limits.Devices: second, limits.Accounts: second},
		Sleep: func(ctx context.Context, _ time.Duration) error { waits <- ctx; <-ctx.Done(); return ctx.Err() }})
	h.restart()
	h.comeFrom(fleet)
	d := h.device()
	for _, m := range []struct {
		limit limits.Charge
		sent  *message
	}{
		{limits.Charge{Limit: limits.Requests, Key: "203.0.113.7"}, c.message(c.kid, nil)},
		{limits.Charge{Limit: limits.Codes, Key: h.rows(`SELECT id FROM codes`)[0][0]}, c.message(c.url("new-order"), newOrder("permanent-identifier", value))},
		{limits.Charge{Limit: limits.Devices, Key: d.serial}, c.message(o.challenge, d.attest(o.token))},
	} {
		h.subtest(string(m.limit.Limit), func(t *testing.T) {
			h.clock.Advance(time.Minute)
			if err := h.config.Limits.Pass(t.Context(), m.limit); err != nil {
				t.Fatal(err)
			}
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.sent.target, bytes.NewReader(signJWS(t, m.sent)))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", m.sent.contentType)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if response, err := h.http.Do(request); err == nil { // the answer may overtake the closing of the connection
					response.Body.Close()
				}
			}()
			waiting := <-waits
			leave()
			<-done
			<-waiting.Done()
			if err := waiting.Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("the wait ended with %v, not with the client", err)
			}
		})
	}
	h.pending(o)
}
