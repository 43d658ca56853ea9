package storetest

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"assay/internal/issuance"
)

// walk is a store beside what is known to be true of it: the last status seen of everything.
type walk struct {
	*Bench
	orders map[issuance.OrderID]issuance.OrderStatus
	codes  map[issuance.CodeID]issuance.CodeStatus
	certs  map[issuance.CertificateID]issuance.CertificateStatus

	values  []string
	orderOf []issuance.Order
	claims  []issuance.Certificate
	codeIDs []issuance.CodeID

	serial      string // of the one device that has credentials
	credentials []issuance.CredentialID
}

// randomWalk runs random operations, most of them at the wrong moment, and checks after each one
// that every status moved along a legal transition, and at the end that no code has two certificates.
func randomWalk(t *testing.T, open func(t *testing.T) Store) {
	s := open(t)
	rapid.Check(t, func(rt *rapid.T) {
		w := &walk{
			Bench:  NewBench(t, s),
			orders: map[issuance.OrderID]issuance.OrderStatus{},
			codes:  map[issuance.CodeID]issuance.CodeStatus{},
			certs:  map[issuance.CertificateID]issuance.CertificateStatus{},
			serial: rand.Text(),
		}
		rt.Repeat(map[string]func(*rapid.T){
			"mint":   w.mint,
			"order":  w.order,
			"answer": w.answer,
			"rejectCSR": func(rt *rapid.T) {
				o := pick(rt, w.orderOf)
				_, err := w.RejectCSR(w.ctx(), w.Call(), issuance.CSRRejection{Account: o.Account, Order: o.ID, Refusal: issuance.Refusal{Check: "csr"}})
				expect(rt, err, issuance.ErrConflict)
			},
			"refuse": func(rt *rapid.T) {
				o := pick(rt, w.orderOf)
				_, err := w.RefuseOrder(w.ctx(), w.Call(), issuance.OrderRefusal{Account: o.Account, Order: o.ID, Decision: w.ClaimFor(o).Decision, Refusal: issuance.Refusal{Check: "no"}})
				expect(rt, err, issuance.ErrConflict)
			},
			"render":   w.render,
			"fetch":    w.fetch,
			"withdraw": w.withdraw,
			"collect": func(rt *rapid.T) {
				_, err := w.CollectCertificate(w.ctx(), w.Call(), pick(rt, w.claims).ID, anyone)
				expect(rt, err, issuance.ErrConflict)
			},
			"begin":    w.begin,
			"complete": w.complete,
			"abandon": func(rt *rapid.T) {
				o := pick(rt, w.orderOf)
				expect(rt, w.AbandonIssue(w.ctx(), w.Operator(), o.ID, issuance.Refusal{Check: "key"}), issuance.ErrConflict)
			},
			"undo": func(rt *rapid.T) {
				_, err := w.UndoDeadClaims(w.ctx(), w.Operator(), w.Now.Add(-10*time.Minute))
				expect(rt, err)
			},
			"revokeCode": func(rt *rapid.T) {
				_, err := w.RevokeCode(w.ctx(), w.Operator(), pick(rt, w.codeIDs))
				expect(rt, err, issuance.ErrConflict)
			},
			"revokeCertificate": func(rt *rapid.T) {
				_, err := w.RevokeCertificate(w.ctx(), w.Operator(), issuance.Revocation{Certificate: pick(rt, w.claims).ID})
				expect(rt, err, issuance.ErrConflict)
			},
			"deactivateAuthorization": func(rt *rapid.T) {
				o := pick(rt, w.orderOf)
				_, err := w.DeactivateAuthorization(w.ctx(), w.Call(), o.Account, o.ID)
				expect(rt, err, issuance.ErrConflict)
			},
			"wait": func(rt *rapid.T) {
				w.Now = w.Now.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "minutes")) * time.Minute)
			},
			"": w.check,
		})
		CheckInvariants(rt, w.Store)
		w.checkCredentials(rt)
	})
}

// pick draws one of the values, or skips the operation while there is none.
func pick[T any](rt *rapid.T, values []T) T {
	if len(values) == 0 {
		rt.SkipNow()
	}
	return values[rapid.IntRange(0, len(values)-1).Draw(rt, "which")]
}

// expect allows success and the errors named.
func expect(rt *rapid.T, err error, allowed ...error) {
	if err == nil {
		return
	}
	for _, a := range allowed {
		if errors.Is(err, a) {
			return
		}
	}
	rt.Fatalf("error %v", err)
}

func (w *walk) mint(rt *rapid.T) {
	code, value := w.Mint(func(m *issuance.Mint) { m.Lifetime = 2 * time.Hour })
	w.values, w.codeIDs = append(w.values, value), append(w.codeIDs, code.ID)
	w.codes[code.ID] = code.Status
}

func (w *walk) order(rt *rapid.T) {
	o, err := w.OrderFor(w.Account, pick(rt, w.values))
	if _, refused := errors.AsType[*issuance.CodeUnusableError](err); refused {
		return
	}
	expect(rt, err)
	w.orderOf = append(w.orderOf, o)
	w.orders[o.ID] = o.Status
}

func (w *walk) answer(rt *rapid.T) {
	a := AnswerFor(pick(rt, w.orderOf))
	if rapid.IntRange(0, 4).Draw(rt, "refused") == 0 {
		a.Refusal = &issuance.Refusal{Check: "freshness"}
	}
	_, err := w.AnswerChallenge(w.ctx(), w.Call(), a)
	expect(rt, err, issuance.ErrConflict)
}

func (w *walk) begin(rt *rapid.T) {
	o := pick(rt, w.orderOf)
	code, err := w.Code(w.ctx(), o.Code)
	expect(rt, err)
	before, err := w.Order(w.ctx(), o.ID)
	expect(rt, err)
	c, err := w.BeginIssue(w.ctx(), w.Call(), w.ClaimFor(o))
	expect(rt, err, issuance.ErrConflict, issuance.ErrCodeTaken)
	if may := before.StatusAt(w.Now) == issuance.OrderReady && code.StatusAt(w.Now) == issuance.CodeUnused; may != (err == nil) {
		rt.Fatalf("order %s, code %s: claim ended with %v", before.StatusAt(w.Now), code.StatusAt(w.Now), err)
	}
	if err == nil {
		w.claims = append(w.claims, c)
		w.certs[c.ID] = c.Status
	}
}

func (w *walk) complete(rt *rapid.T) {
	c := pick(rt, w.claims)
	_, err := w.CompleteIssue(w.ctx(), w.Operator(), CompletionFor(c))
	expect(rt, err, issuance.ErrConflict)
	if may := w.certs[c.ID] == issuance.CertificateReserved; may != (err == nil) {
		rt.Fatalf("certificate %s: completion ended with %v", w.certs[c.ID], err)
	}
}

// render renders one of two templates for the device, for the first time or again.
func (w *walk) render(rt *rapid.T) {
	r := w.Rendering(w.serial, rapid.SampledFrom([]string{"wifi", "vpn"}).Draw(rt, "template"))
	r.Code.Lifetime, r.RevokeSuperseded = 2*time.Hour, rapid.Bool().Draw(rt, "revoke superseded")
	before := issuance.CodeUnused
	if device, err := w.DeviceLike(w.ctx(), w.serial, ""); err == nil {
		if standing, err := w.DeliveryOf(w.ctx(), device.ID, r.Template); err == nil {
			r.ID, r.Revision, before = standing.Credential.ID, standing.Credential.Revision, standing.Code.Status
		}
	}
	k, err := w.Bench.render(r)
	if may := before != issuance.CodeIssuing; may != (err == nil) {
		rt.Fatalf("code before is %s: rendering ended with %v", before, err)
	}
	if err != nil {
		expect(rt, err, issuance.ErrConflict)
		return
	}
	w.values, w.codeIDs = append(w.values, r.Code.Value), append(w.codeIDs, k.Code)
	w.codes[k.Code] = issuance.CodeUnused
	if r.Revision == 0 {
		w.credentials = append(w.credentials, k.ID)
	}
}

func (w *walk) fetch(rt *rapid.T) {
	d, err := w.Delivery(w.ctx(), pick(rt, w.credentials))
	expect(rt, err)
	err = w.MarkFetched(w.ctx(), w.Call(), d.Document.ID)
	if may := d.Code.StatusAt(w.Now) == issuance.CodeUnused; may != (err == nil) {
		rt.Fatalf("code is %s: fetch ended with %v", d.Code.StatusAt(w.Now), err)
	}
}

func (w *walk) withdraw(rt *rapid.T) {
	d, err := w.Delivery(w.ctx(), pick(rt, w.credentials))
	expect(rt, err)
	_, err = w.WithdrawCredential(w.ctx(), w.Operator(), d.Credential.ID, d.Credential.Revision)
	if may := d.Code.Status != issuance.CodeIssuing || !d.Credential.WithdrawnAt.IsZero(); may != (err == nil) {
		rt.Fatalf("code is %s: withdrawal ended with %v", d.Code.Status, err)
	}
}

// check compares everything with what was true before the operation.
func (w *walk) check(rt *rapid.T) {
	for id, was := range w.orders {
		o, err := w.Order(w.ctx(), id)
		expect(rt, err)
		if o.Status != was && !was.CanBecome(o.Status) {
			rt.Fatalf("order went from %s to %s", was, o.Status)
		}
		w.orders[id] = o.Status
	}
	for id, was := range w.codes {
		c, err := w.Code(w.ctx(), id)
		expect(rt, err)
		if c.Status != was && !was.CanBecome(c.Status) {
			rt.Fatalf("code went from %s to %s", was, c.Status)
		}
		w.codes[id] = c.Status
	}
	for id, was := range w.certs {
		c, err := w.Certificate(w.ctx(), id)
		expect(rt, err)
		if c.Status != was && !was.CanBecome(c.Status) {
			rt.Fatalf("certificate went from %s to %s", was, c.Status)
		}
		w.certs[id] = c.Status
	}
}

// checkCredentials checks what must be true of the device's credentials: the current code alone may
// be alive, nothing dead is kept, and the newest collected certificate alone is superseded by none.
func (w *walk) checkCredentials(rt *rapid.T) {
	for _, id := range w.credentials {
		d, err := w.Delivery(w.ctx(), id)
		expect(rt, err)
		k := &d.Credential
		withdrawn := !k.WithdrawnAt.IsZero()
		if withdrawn && (!k.DueAt.IsZero() || d.Asset != nil || d.Configuration != nil || d.Code.Status == issuance.CodeUnused) {
			rt.Fatalf("withdrawn: %+v", d)
		}
		if d.Document.Code != k.Code || (d.Document.Body != nil) != (d.Code.Status == issuance.CodeUnused) {
			rt.Fatalf("code is %s: %+v", d.Code.Status, d.Document)
		}
		due := d.Code.ExpiresAt
		if !d.Document.FetchedAt.IsZero() {
			due = due.Add(issuance.RetryPause)
		}
		if k.Attempts >= issuance.MaxAttempts && !d.Document.FetchedAt.IsZero() {
			due = time.Time{}
		}
		if alive := d.Code.Status == issuance.CodeUnused; alive && !k.DueAt.Equal(due) {
			rt.Fatalf("fetched at %v, due at %v: %+v", d.Document.FetchedAt, k.DueAt, k)
		}
		if k.Certificate == "" {
			continue
		}
		c, err := w.Certificate(w.ctx(), k.Certificate)
		expect(rt, err)
		if c.SupersededBy != "" || c.CollectedAt.IsZero() {
			rt.Fatalf("current certificate %+v", c)
		}
	}
	alive := 0
	for _, id := range w.codeIDs {
		if c, err := w.Code(w.ctx(), id); err == nil && c.Serial == w.serial && c.Status == issuance.CodeUnused {
			alive++
		}
	}
	if alive > len(w.credentials) {
		rt.Fatalf("%d codes of %d credentials are unused", alive, len(w.credentials))
	}
}

// Failer is what a check reports to.
type Failer interface {
	Fatalf(format string, args ...any)
}

// CheckInvariants checks what must be true of a store at any moment, after a crash too: every
// serial agrees with its order and its code, and no code has two certificates.
func CheckInvariants(f Failer, s Store) {
	ctx := (&Bench{}).ctx()
	holders := make(map[issuance.CodeID]issuance.CertificateID)
	for c, err := range s.Certificates(ctx, issuance.CertificateFilter{}) {
		if err != nil {
			f.Fatalf("list certificates: %v", err)
		}
		o, err := s.Order(ctx, c.Order)
		if err != nil {
			f.Fatalf("order of certificate %s: %v", c.ID, err)
		}
		want := map[issuance.CertificateStatus]issuance.OrderStatus{
			issuance.CertificateReserved: issuance.OrderProcessing, issuance.CertificateValid: issuance.OrderValid,
			issuance.CertificateRevoked: issuance.OrderValid, issuance.CertificateAbandoned: issuance.OrderInvalid,
		}[c.Status]
		if o.Status != want {
			f.Fatalf("%s certificate %s of a %s order", c.Status, c.ID, o.Status)
		}
		if c.Status == issuance.CertificateAbandoned || c.Code == "" {
			continue
		}
		if other, twice := holders[c.Code]; twice {
			f.Fatalf("code %s has certificates %s and %s", c.Code, other, c.ID)
		}
		holders[c.Code] = c.ID
	}
	for c, err := range s.Codes(ctx, issuance.CodeFilter{}) {
		if err != nil {
			f.Fatalf("list codes: %v", err)
		}
		held := c.Status == issuance.CodeIssuing || c.Status == issuance.CodeConsumed
		if _, holds := holders[c.ID]; holds != held {
			f.Fatalf("code %s is %s, but has a certificate: %v", c.ID, c.Status, holds)
		}
		if c.Status == issuance.CodeConsumed && c.Certificate != holders[c.ID] {
			f.Fatalf("code %s names certificate %q, but %s has it", c.ID, c.Certificate, holders[c.ID])
		}
	}
}
