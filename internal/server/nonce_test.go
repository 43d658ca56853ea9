package server_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/issuance"
)

func TestNonceIsGoodOnce(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	answered := c.ready(value, d)
	enrolledValue, _ := h.mint(issuance.Mint{})
	_, certificate := c.enrol(enrolledValue, d)
	for name, request := range map[string]struct {
		url     string
		payload []byte
		jwk     bool
	}{
		"new account":       {c.url("new-account"), []byte(`{"termsOfServiceAgreed":true}`), true},
		"existing account":  {c.url("new-account"), []byte(`{"onlyReturnExisting":true}`), true},
		"read account":      {c.kid, nil, false},
		"update account":    {c.kid, []byte(`{"contact":["mailto:it@example.com"]}`), false},
		"deactivate":        {c.kid, []byte(`{"status":"deactivated"}`), false},
		"list orders":       {c.kid + "/orders", nil, false},
		"new order":         {c.url("new-order"), newOrder("permanent-identifier", value), false},
		"read order":        {o.url, nil, false},
		"read authz":        {o.authorization, nil, false},
		"deactivate authz":  {o.authorization, []byte(`{"status":"deactivated"}`), false},
		"read challenge":    {o.challenge, nil, false},
		"answer challenge":  {o.challenge, d.attest(o.token), false},
		"finalize":          {answered.finalize, finalizeWith(d.csr()), false},
		"faulty CSR":        {answered.finalize, finalizeWith([]byte("no CSR")), false},
		"fetch certificate": {certificate.url, nil, false},
		"revoke":            {c.url("revoke-cert"), revocation(certificate, 0), false},
	} {
		h.subtest(name, func(t *testing.T) {
			var options []option
			if request.jwk {
				options = append(options, withJWK)
			}
			used := c.nonce()
			c.get(o.url, withNonce(used)).want(http.StatusOK)
			h.unchangedButTrail("a spent nonce", func() {
				c.post(request.url, request.payload, append(options, withNonce(used))...).refused(http.StatusBadRequest, "badNonce", "nonce-used")
			})
		})
	}
	h.pending(o)
	h.code(id, issuance.CodeUnused, 0)
	c.collect(c.finalize(answered, d.csr()))
}

func TestRefusedRequestSpendsItsNonce(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	owner, c := h.client(dirDefault), h.client(dirDefault)
	o := owner.order(value)
	for name, refuse := range map[string]func(nonce option){
		"stranger's": func(n option) { c.post(c.url("new-order"), newOrder("permanent-identifier", "unknown"), n) },
		"known":      func(n option) { c.get(o.url, n).refused(http.StatusForbidden, "unauthorized", "order-account") },
		"payload": func(n option) {
			owner.post(o.challenge, []byte(`[]`), n).refused(http.StatusBadRequest, "malformed", "challenge-response")
		},
		"conflict": func(n option) {
			owner.finalize(o, nil, n).refused(http.StatusForbidden, "orderNotReady", "order-ready")
		},
	} {
		h.subtest(name, func(*testing.T) {
			used := c.nonce()
			refuse(withNonce(used))
			c.get(c.kid, withNonce(used)).refused(http.StatusBadRequest, "badNonce", "nonce-used")
		})
	}
}

// Of 32 requests with one nonce one succeeds: where the nonce is spent alone, and where it is spent
// inside a state change.
func TestOneOfManyWithOneNonceSucceeds(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	for name, request := range map[string]struct {
		url     string
		payload []byte
	}{
		"read":   {c.kid, nil},
		"change": {c.url("new-order"), newOrder("permanent-identifier", value)},
	} {
		h.subtest(name, func(t *testing.T) {
			before := h.count(`orders`)
			nonce := withNonce(c.nonce())
			replies := atOnce(32, func(int) *reply { return c.post(request.url, request.payload, nonce) })
			succeeded := 0
			for _, r := range replies {
				if r.status < 300 {
					succeeded++
				} else {
					r.refused(http.StatusBadRequest, "badNonce", "nonce-used")
				}
			}
			if succeeded != 1 {
				t.Errorf("%d of 32 succeeded", succeeded)
			}
			if made := h.count(`orders`) - before; made > 1 {
				t.Errorf("one nonce made %d orders", made)
			}
		})
	}
}

// atOnce runs something n times at once.
func atOnce[T any](n int, run func(i int) T) []T {
	out := make([]T, n)
	start := make(chan struct{})
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() {
			<-start
			out[i] = run(i)
		})
	}
	close(start)
	done.Wait()
	return out
}

func TestNoncesOutliveARestart(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	spent, fresh := c.nonce(), c.nonce()
	c.get(c.kid, withNonce(spent)).want(http.StatusOK)
	h.restart()
	c.get(c.kid, withNonce(spent)).refused(http.StatusBadRequest, "badNonce", "nonce-used")
	c.get(c.kid, withNonce(fresh)).want(http.StatusOK)
	if keys := h.count(`nonce_keys`); keys != 1 {
		t.Errorf("%d nonce keys after a restart, want the one", keys)
	}
}

func TestRestartedServerMintsUnderTheSameKey(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	h.restart()
	atOnce(16, func(int) string { return c.nonce() })
	if keys := h.count(`nonce_keys`); keys != 1 {
		t.Errorf("%d nonce keys, want one", keys)
	}
}

// Neither minting nor honest nor forged nonces make the server read its keys again and again.
func TestNonceKeysAreReadOnce(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	h.clock.Advance(time.Minute)
	nonce := c.nonce()
	before := h.hooked.keyReads.Load()
	for range 10 {
		c.get(c.kid).want(http.StatusOK)
	}
	if n := h.hooked.keyReads.Load() - before; n != 0 {
		t.Errorf("honest requests made the server read its keys %d times", n)
	}
	h.clock.Advance(6 * time.Second)
	for range 10 {
		c.get(c.kid, withNonce("_____"+nonce[5:])).refused(http.StatusBadRequest, "badNonce", "nonce")
	}
	if n := h.hooked.keyReads.Load() - before; n != 1 {
		t.Errorf("nonces under an unknown key made the server read its keys %d times, want 1", n)
	}
}

func TestNonceKeysAreRotatedDaily(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	h.clock.Advance(24*time.Hour - time.Minute)
	late := c.nonce()
	h.clock.Advance(2 * time.Minute)
	early := c.nonce()
	if keys := h.count(`nonce_keys`); keys != 2 {
		t.Errorf("%d nonce keys after a day, want 2", keys)
	}
	keyOf := func(nonce string) string {
		raw, err := b64.DecodeString(nonce)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw[:4])
	}
	if keyOf(early) != keyOf(late) {
		t.Error("a new key is in use before other servers have had time to read it")
	}
	h.clock.Advance(2 * time.Minute)
	if latest := c.nonce(); keyOf(latest) == keyOf(late) {
		t.Error("the new key never comes into use")
	}
	c.get(c.kid, withNonce(late)).want(http.StatusOK)
	c.get(c.kid, withNonce(early)).want(http.StatusOK)
	h.restart()
	c.nonce()
	if keys := h.count(`nonce_keys`); keys != 2 {
		t.Errorf("%d nonce keys after a restart, want 2: the newest mints", keys)
	}
}

func TestNonceIsGoodForAnHour(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	early, late := c.nonce(), c.nonce()
	h.clock.Advance(issuance.NonceLifetime - time.Second)
	c.get(c.kid, withNonce(early)).want(http.StatusOK)
	h.clock.Advance(time.Second)
	c.get(c.kid, withNonce(late)).refused(http.StatusBadRequest, "badNonce", "nonce")
}

func TestNonceFromTheFutureIsRefused(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	skewed, future := c.nonce(), c.nonce()
	h.clock.Advance(-time.Minute)
	c.get(c.kid, withNonce(skewed)).want(http.StatusOK) // another server's clock may be ahead a little
	h.clock.Advance(-time.Second)
	c.get(c.kid, withNonce(future)).refused(http.StatusBadRequest, "badNonce", "nonce")
}

func TestNonceThatNobodyMintedIsRefused(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	good := c.nonce()
	raw, err := b64.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	forged := map[string]string{
		"too short": good[:len(good)-2], "too long": good + "AAAA", "zeros": strings.Repeat("A", len(good)), "two characters": "AA",
		"of text": b64.EncodeToString([]byte("../../../../etc/passwd")), "128 characters": strings.Repeat("z", 128),
		// 40 bytes fill 53 1/3 characters: the last one's stray bits would give one nonce many names.
		"stray bits": good[:len(good)-1] + strayed(good[len(good)-1]),
	}
	for i := range raw {
		changed := []byte(string(raw))
		changed[i] ^= 1
		forged["byte "+string(rune('0'+i/10))+string(rune('0'+i%10))] = b64.EncodeToString(changed)
	}
	// A key that nobody has must not stand for the empty key.
	unknown := append([]byte{0xff, 0xff, 0xff, 0xff}, raw[4:24]...)
	forged["under an unknown key"] = b64.EncodeToString(append(unknown, hmacSignature(nil)(unknown)[:16]...))
	for name, nonce := range forged {
		h.subtest(name, func(*testing.T) {
			c.get(c.kid, withNonce(nonce)).refused(http.StatusBadRequest, "badNonce", "nonce")
		})
	}
	c.get(c.kid, withNonce(good)).want(http.StatusOK)
}

// strayed is a base64url character with its lowest bit turned.
func strayed(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

func TestRequestWithoutProperNonceIsRefused(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	c.get(c.kid, withoutNonce).refused(http.StatusBadRequest, "badNonce", "jws-nonce")
	c.get(c.kid, withNonce("")).refused(http.StatusBadRequest, "badNonce", "jws-nonce")
	for _, absurd := range []any{7, nil, []string{"a"}, "../../etc/passwd", "a b", strings.Repeat("a", 129), "nonce\n", "=="} {
		c.get(c.kid, withHeader("nonce", absurd)).refused(http.StatusBadRequest, "malformed", "jws-nonce")
	}
}

func TestUnsignedTrafficWritesNothing(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	other := newKey(t)
	nonce := c.nonce()
	tables := []string{"nonces", "nonce_keys", "accounts", "audit", "audit_personal", "orders"}
	before := h.contentsOf(tables)
	for range 20 {
		c.nonce()
	}
	h.do(t, http.MethodGet, c.url("directory"), nil, nil).want(http.StatusOK)
	c.get(c.kid, withKey(other), withNonce(nonce)).refused(http.StatusBadRequest, "malformed", "jws-signature")
	c.get(c.kid, withNonce("AAAA")).refused(http.StatusBadRequest, "badNonce", "nonce")
	c.get(c.kid, withURL(c.url("directory"))).refused(http.StatusForbidden, "unauthorized", "jws-url")
	c.get(c.kid, withKid(c.url("account", "nobody"))).refused(http.StatusBadRequest, "accountDoesNotExist", "account")
	c.post(c.url("new-account"), []byte(`{}`), withJWK, withSignature(func([]byte) []byte { return make([]byte, 64) })).
		refused(http.StatusBadRequest, "malformed", "jws-signature")
	if h.contentsOf(tables) != before {
		t.Error("requests whose signature does not hold changed the database")
	}
	c.get(c.kid, withNonce(nonce)).want(http.StatusOK) // nor did the forger spend it
}
