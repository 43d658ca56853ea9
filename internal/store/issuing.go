package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// RejectCSR counts a finalize request whose CSR was refused. The order stays ready until
// issuance.MaxTries of them, then becomes invalid with the check "too-many-tries".
func (s *Store) RejectCSR(ctx context.Context, call issuance.Call, r issuance.CSRRejection) (o issuance.Order, err error) {
	last, err := refusalText(&issuance.Refusal{Problem: r.Refusal.Problem, Check: "too-many-tries", Detail: "too many certificate requests were refused; the last one: " + r.Refusal.Detail})
	if err != nil {
		return o, fmt.Errorf("reject CSR: %w", err)
	}
	err = s.step(ctx, call, "reject CSR", func(t *tx) error {
		o, err = s.scanOrder(t.row(`UPDATE orders SET tries = tries + 1,
				status = CASE WHEN tries + 1 >= ?1 THEN 'invalid' ELSE status END, refusal = CASE WHEN tries + 1 >= ?1 THEN ?2 ELSE refusal END
			WHERE id = ?3 AND account = ?4 AND status = 'ready' AND expires_at > ?5 RETURNING `+orderColumns,
			issuance.MaxTries, last, string(r.Order), string(r.Account), stamp(call.Now)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.orderConflict(r.Account, r.Order)
		}
		if err != nil {
			return err
		}
		return s.record(t, call, refused(orderRow(audit.CSRChecked, &o), &r.Refusal), audit.Personal{})
	})
	return o, err
}

// RefuseOrder stores a decision to refuse or to hold, makes the ready order invalid and counts a try on
// its code.
func (s *Store) RefuseOrder(ctx context.Context, call issuance.Call, r issuance.OrderRefusal) (o issuance.Order, err error) {
	const what = "refuse order"
	why, err := refusalText(&r.Refusal)
	if err != nil {
		return o, fmt.Errorf("%s: %w", what, err)
	}
	decision, err := s.prepareDecision(r.Decision, call.Now)
	if err != nil {
		return o, fmt.Errorf("%s: %w", what, err)
	}
	kind := changeByRow
	// A hold finds or makes the device's row, and a row that bars the device may be on record as a conflict.
	barred := r.Refusal.Check == policy.CheckDeviceState
	if decision.Decision.Decision.Outcome == policy.Hold || barred {
		kind = changeDurable
	}
	err = s.transaction(ctx, kind, call, what, func(t *tx) error {
		o, err = s.scanOrder(t.row(`UPDATE orders SET status = 'invalid', refusal = ?, decision = ?
			WHERE id = ? AND account = ? AND status = 'ready' AND expires_at > ? RETURNING `+orderColumns,
			why, string(decision.ID), string(r.Order), string(r.Account), stamp(call.Now)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.orderConflict(r.Account, r.Order)
		}
		if err != nil {
			return err
		}
		if decision.Decision.Decision.Outcome == policy.Hold {
			if err := s.hold(t, call, &o, &decision, r.Attested); err != nil {
				return err
			}
		}
		if err := decision.insert(t, &o); err != nil {
			return err
		}
		if err := t.write(`UPDATE evidence SET outcome = ? WHERE id = ?`, string(decision.Decision.Decision.Outcome), string(o.Evidence)); err != nil {
			return err
		}
		if err := t.countTry(o.Code, r.Refusal.Check); err != nil {
			return err
		}
		if barred {
			if err := s.contradicted(t, call, decision.Device, r.Attested); err != nil {
				return err
			}
		}
		row := refused(orderRow(audit.DecisionTaken, &o), &r.Refusal)
		row.Device, row.Detail["decision"] = string(decision.Device), string(decision.ID)
		return s.record(t, call, row, audit.Personal{Serial: r.Attested.Serial, UDID: r.Attested.UDID})
	})
	return o, err
}

// contradicted puts on record that evidence says otherwise than the row that bars its device: that row may be
// of another device, with a serial number or UDID that is mistyped.
func (s *Store) contradicted(t *tx, call issuance.Call, row issuance.DeviceID, attested issuance.Device) error {
	d, err := scanDevice(t.row(deviceByID, string(row)))
	if errors.Is(err, issuance.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	c := issuance.Conflict{Device: d.ID, Source: issuance.FromEvidence}
	switch {
	case d.Serial != "" && attested.Serial != "" && d.Serial != attested.Serial && deviceid.SameUDID(d.UDID, attested.UDID):
		c.Kind, c.Said = issuance.SerialDiffers, attested.Serial
	case d.UDID != "" && attested.UDID != "" && d.Serial == attested.Serial && !deviceid.SameUDID(d.UDID, attested.UDID):
		c.Kind, c.Said = issuance.UDIDDiffers, attested.UDID
	default:
		return nil
	}
	return s.conflict(t, call, c, d.Serial)
}

// BeginIssue is the exclusive step before the CA key signs: it takes the order from ready to
// processing and its code from unused to issuing, stores the decision and reserves the serial.
// Account, Order, Code, Evidence and Directory of the certificate are the order's own. Of all who
// want one code one wins; for every other the order becomes invalid and the error is
// issuance.ErrCodeTaken. So it is with an approval that the decision rests on: issuance.ErrApprovalTaken;
// and with a device that became lost or retired meanwhile: issuance.ErrDeviceBarred.
func (s *Store) BeginIssue(ctx context.Context, call issuance.Call, c issuance.Claim) (cert issuance.Certificate, err error) {
	const what = "begin issue"
	decision, err := s.prepareDecision(c.Decision, call.Now)
	if err != nil {
		return cert, fmt.Errorf("%s: %w", what, err)
	}
	err = s.step(ctx, call, what, func(t *tx) error {
		o, code, barred, err := t.claimable(call, &c)
		if errors.Is(err, issuance.ErrNotFound) {
			return t.orderConflict(c.Account, c.Order)
		}
		if err != nil {
			return err
		}
		cert = c.Certificate
		switch {
		case barred.ID != "":
			return s.loseClaim(t, call, &o, barredMeanwhile(barred), issuance.ErrDeviceBarred)
		case o.Code != "" && !code.usable:
			return s.loseClaim(t, call, &o, codeTaken, issuance.ErrCodeTaken)
		}
		if hold := issuance.HoldID(decision.Decision.Decision.Approval); hold != "" {
			if err := s.claimApproval(t, call, &o, hold); err != nil {
				return err
			}
			decision.Hold = hold
		}
		if o.Code != "" {
			err := t.must(errNotAsRead("code"), `UPDATE codes SET status = 'issuing', order_id = ? WHERE id = ? AND status = 'unused' AND expires_at > ?`,
				string(o.ID), string(o.Code), stamp(call.Now))
			if err != nil {
				return err
			}
			cert.Device = cmp.Or(cert.Device, code.device)
		}
		err = t.must(errNotAsRead("order"), `UPDATE orders SET status = 'processing', claimed_at = ?1, decision = ?4
			WHERE id = ?2 AND account = ?3 AND status = 'ready' AND expires_at > ?1`, stamp(call.Now), string(c.Order), string(c.Account), string(decision.ID))
		if err != nil {
			return err
		}
		if err := decision.insert(t, &o); err != nil {
			return err
		}
		cert.Decision, cert.Status, cert.ReservedAt = decision.ID, issuance.CertificateReserved, timeOf(stamp(call.Now))
		cert.Account, cert.Order, cert.Code, cert.Evidence, cert.Directory = o.Account, o.ID, o.Code, o.Evidence, o.Directory
		cert.NotBefore, cert.NotAfter = timeOf(stamp(cert.NotBefore)), timeOf(stamp(cert.NotAfter))
		if err := insertCertificate(t, &cert); err != nil {
			return err
		}
		row := orderRow(audit.IssueBegun, &o)
		row.Certificate, row.Issuer = string(cert.ID), string(cert.Issuer)
		row.Detail = map[string]string{"certificateSerial": cert.Serial, "decision": string(cert.Decision)}
		return s.record(t, call, row, audit.Personal{})
	})
	if err != nil {
		return issuance.Certificate{}, err
	}
	return cert, nil
}

// codeTaken is what a claim is lost by whose code another one has, or that is over.
var codeTaken = &issuance.Refusal{Problem: "unauthorized", Check: "code-live", Detail: "the code is no longer usable"}

// barredMeanwhile is what a claim is lost by whose device the inventory bars by now, in this row.
func barredMeanwhile(row issuance.Device) *issuance.Refusal {
	return &issuance.Refusal{Problem: "unauthorized", Check: policy.CheckDeviceState,
		Detail: fmt.Sprintf("the device became %s meanwhile, says the inventory of %s", row.State, row.ID)}
}

// claimedCode is the code of an order, as a claim finds it.
type claimedCode struct {
	usable bool
	device issuance.DeviceID // that it is bound to
}

// claimable reads and locks what a claim takes: the order, which must be ready (else issuance.ErrNotFound), and its
// code; and the row by which the inventory bars the device, zero if there is none: a person may have said so since the
// decision was taken.
func (t *tx) claimable(call issuance.Call, c *issuance.Claim) (o issuance.Order, code claimedCode, barred issuance.Device, err error) {
	o = issuance.Order{Account: c.Account}
	var n namesakes
	err = t.ask(
		locking(func(row scanner) error {
			o.ID = c.Order
			return row.Scan(&o.Directory, &o.Code, &o.Evidence)
		}, `SELECT directory, coalesce(code, ''), coalesce(evidence, '') FROM orders
			WHERE id = ? AND account = ? AND status = 'ready' AND expires_at > ?`, string(c.Order), string(c.Account), stamp(call.Now)),
		locking(func(row scanner) error {
			code.usable = true
			return row.Scan(&code.device)
		}, `SELECT coalesce(device, '') FROM codes
			WHERE id = (SELECT code FROM orders WHERE id = ?) AND status = 'unused' AND expires_at > ?`, string(c.Order), stamp(call.Now)),
		n.byNames(c.Certificate.Device, c.Certificate.DeviceSerial, c.Certificate.DeviceUDID),
	)
	if err == nil && o.ID == "" {
		err = issuance.ErrNotFound
	}
	return o, code, n.barred(), err
}

// loseClaim makes the order invalid whose claim came too late. What is lost is kept, and returned.
func (s *Store) loseClaim(t *tx, call issuance.Call, o *issuance.Order, why *issuance.Refusal, lost error) error {
	text, err := refusalText(why)
	if err != nil {
		return err
	}
	if err := t.must(errNotAsRead("order"), `UPDATE orders SET status = 'invalid', refusal = ? WHERE id = ? AND status = 'ready'`, text, string(o.ID)); err != nil {
		return err
	}
	return s.refuse(t, call, refused(orderRow(audit.IssueBegun, o), why), audit.Personal{}, lost)
}

// CompleteIssue delivers a claim's certificate: certificate and order become valid, the code is
// consumed, its document erased, and the attested device's row found or made.
// issuance.ErrConflict: the claim was undone meanwhile; issuance.ErrDeviceBarred: the device became lost or
// retired, and nothing was changed. The certificate must not be delivered.
func (s *Store) CompleteIssue(ctx context.Context, call issuance.Call, c issuance.Completion) (o issuance.Order, err error) {
	if len(c.DER) == 0 {
		return o, errors.New("complete issue: no certificate")
	}
	err = s.end(ctx, call, "complete issue", func(t *tx) error {
		// Whoever bars a device revokes what it has, and does not find this one, which is not valid yet. So they
		// begin again once this is committed, or this waits for them.
		if err := t.contestDevices(c.Certificate, c.Attested.Serial, c.Attested.UDID); err != nil {
			return err
		}
		var n namesakes
		var device issuance.DeviceID
		live := false
		questions := append([]question{
			locking(func(row scanner) (err error) {
				o, err = s.scanOrder(row)
				return err
			}, orderByID, string(c.Order)),
			locking(func(row scanner) error {
				live = true
				return row.Scan(&device)
			}, `SELECT coalesce(device, '') FROM certificates WHERE id = ? AND order_id = ? AND status = 'reserved'`,
				string(c.Certificate), string(c.Order)),
		}, n.byClaim(c.Certificate, c.Attested.Serial, c.Attested.UDID)...)
		err := t.ask(questions...)
		switch {
		case err != nil:
			return err
		case !live:
			return t.conflictOrMissing(`SELECT 1 FROM certificates WHERE id = ? AND order_id = ?`, string(c.Certificate), string(c.Order))
		case n.barred().ID != "":
			return issuance.ErrDeviceBarred
		case c.Attested.Serial != "" || c.Attested.UDID != "":
			if device, err = s.identified(t, call, &n, c.Attested, byCertificate); err != nil {
				return err
			}
		}
		if err := t.completeRows(call.Now, c, device, o.Code); err != nil {
			return err
		}
		o.Status, o.Certificate = issuance.OrderValid, c.Certificate
		row := orderRow(audit.IssueCompleted, &o)
		row.Certificate, row.Device = string(c.Certificate), string(device)
		return s.record(t, call, row, audit.Personal{Serial: c.Attested.Serial, UDID: c.Attested.UDID})
	})
	return o, err
}

// completeRows makes certificate and order valid, and consumes code and approval. The claim is known to be live, so
// a row that is missing is a broken database, and nothing is kept.
func (t *tx) completeRows(now time.Time, c issuance.Completion, device issuance.DeviceID, code issuance.CodeID) error {
	err := t.must(errNotAsRead("certificate"), `UPDATE certificates SET status = 'valid', der = ?, issued_at = ?, device = ? WHERE id = ? AND status = 'reserved'`,
		c.DER, stamp(now), null(device), string(c.Certificate))
	if err == nil && code != "" {
		err = t.must(errNotAsRead("code"), `UPDATE codes SET status = 'consumed', used_at = ?, certificate = ?, device = coalesce(device, ?)
			WHERE id = ? AND status = 'issuing' AND order_id = ?`,
			stamp(now), string(c.Certificate), null(device), string(code), string(c.Order))
		if err == nil {
			err = t.eraseDocument(string(code))
		}
	}
	if err == nil && c.Approval != "" {
		err = t.must(errNotAsRead("approval"), `UPDATE holds SET status = 'used', revision = revision + 1 WHERE id = ? AND order_id = ? AND status = 'claimed'`,
			string(c.Approval), string(c.Order))
	}
	if err == nil {
		err = t.must(errNotAsRead("order"), `UPDATE orders SET status = 'valid', certificate = ? WHERE id = ? AND status = 'processing'`,
			string(c.Certificate), string(c.Order))
	}
	return err
}

// errNotAsRead: a row is not in the state in which the same transaction found and locked it, or of a live claim not in
// the one that goes with it. A fault of the program or of the database.
type errNotAsRead string

func (e errNotAsRead) Error() string {
	return "the " + string(e) + " is not as it was read, under lock"
}

// changedOne turns a write that should have changed one row, and did not, into an error.
func changedOne(n int64, err error, what string) error {
	if err == nil && n != 1 {
		err = fmt.Errorf("%s: %d rows changed, not 1", what, n)
	}
	return err
}

// AbandonIssue undoes a claim that cannot be completed: order invalid, code unused, serial abandoned.
func (s *Store) AbandonIssue(ctx context.Context, call issuance.Call, order issuance.OrderID, why issuance.Refusal) error {
	return s.end(ctx, call, "abandon issue", func(t *tx) error {
		done, err := s.abandon(t, call, order, &why)
		if err == nil && !done {
			return t.conflictOrMissing(`SELECT 1 FROM orders WHERE id = ?`, string(order))
		}
		return err
	})
}

// abandon undoes an order's claim; false if it has none.
func (s *Store) abandon(t *tx, call issuance.Call, order issuance.OrderID, why *issuance.Refusal) (bool, error) {
	text, err := refusalText(why)
	if err != nil {
		return false, err
	}
	o := issuance.Order{ID: order}
	err = notFound(t.row(`UPDATE orders SET status = 'invalid', refusal = ? WHERE id = ? AND status = 'processing'
		RETURNING account, directory, coalesce(code, '')`, text, string(order)).Scan(&o.Account, &o.Directory, &o.Code))
	if errors.Is(err, issuance.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var cert, serial string
	err = t.row(`UPDATE certificates SET status = 'abandoned' WHERE order_id = ? AND status = 'reserved' RETURNING id, serial`, string(order)).Scan(&cert, &serial)
	if err != nil {
		return false, fmt.Errorf("reserved serial of a live claim: %w", err)
	}
	if o.Code != "" {
		n, err := t.exec(`UPDATE codes SET status = 'unused', order_id = NULL WHERE id = ? AND status = 'issuing' AND order_id = ?`, string(o.Code), string(order))
		if err := changedOne(n, err, "code of a live claim"); err != nil {
			return false, err
		}
	}
	if err := t.returnApproval(order); err != nil {
		return false, err
	}
	row := refused(orderRow(audit.IssueAbandoned, &o), why)
	row.Certificate, row.Detail["certificateSerial"] = cert, serial
	return true, s.record(t, call, row, audit.Personal{})
}

// UndoDeadClaims undoes every claim made before the time: nobody is working on it any more, because
// the server that made it ended. It returns how many.
func (s *Store) UndoDeadClaims(ctx context.Context, call issuance.Call, claimedBefore time.Time) (int, error) {
	why := &issuance.Refusal{Problem: "serverInternal", Check: "claim-died", Detail: "the server stopped while it was issuing"}
	undone := 0
	for {
		var n int
		err := s.change(ctx, call, "undo dead claims", func(t *tx) error {
			n = 0
			var orders []issuance.OrderID
			err := t.rows(func(row scanner) error {
				var id issuance.OrderID
				err := row.Scan(&id)
				orders = append(orders, id)
				return err
			}, `SELECT order_id FROM certificates WHERE status = 'reserved' AND reserved_at < ? ORDER BY reserved_at LIMIT 100`, stamp(claimedBefore))
			for _, id := range orders {
				done, abandonErr := s.abandon(t, call, id, why)
				if abandonErr != nil {
					return abandonErr
				}
				if !done {
					return fmt.Errorf("order %s of a reserved serial is not processing", id)
				}
				n++
			}
			return err
		})
		call.Nonce, call.Once = issuance.Nonce{}, nil
		if err != nil {
			return undone, err
		}
		undone += n
		if n == 0 {
			return undone, nil
		}
	}
}
