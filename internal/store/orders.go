package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

const orderColumns = `id, account, directory, identifier_type, identifier_kind, identifier_sealed, coalesce(code, ''), status,
	authz, token, challenge, validated_at, challenge_refusal, refusal, tries, coalesce(evidence, ''), coalesce(certificate, ''),
	created_at, expires_at`

const orderByID = `SELECT ` + orderColumns + ` FROM orders WHERE id = ?`

// scanOrder reads a row of orderColumns. ErrNotFound if there is none.
func (s *Store) scanOrder(row scanner) (issuance.Order, error) {
	var o issuance.Order
	var sealed []byte
	var challengeRefusal, refusal string
	var validated, created, expires int64
	err := row.Scan(&o.ID, &o.Account, &o.Directory, &o.Identifier.Type, &o.Identifier.Kind, &sealed, &o.Code, &o.Status,
		&o.Authorization, &o.Challenge.Token, &o.Challenge.Status, &validated, &challengeRefusal, &refusal, &o.Tries,
		&o.Evidence, &o.Certificate, &created, &expires)
	if err != nil {
		return issuance.Order{}, notFound(err)
	}
	value, err := s.seal.unseal(sealed, string(o.ID))
	if err != nil {
		return issuance.Order{}, err
	}
	o.Identifier.Value = string(value)
	o.Challenge.ValidatedAt, o.CreatedAt, o.ExpiresAt = timeOf(validated), timeOf(created), timeOf(expires)
	if o.Challenge.Refusal, err = refusalOf(challengeRefusal); err != nil {
		return issuance.Order{}, fmt.Errorf("challenge refusal of %s: %w", o.ID, err)
	}
	if o.Refusal, err = refusalOf(refusal); err != nil {
		return issuance.Order{}, fmt.Errorf("refusal of %s: %w", o.ID, err)
	}
	return o, nil
}

// CreateOrder stores a pending order of a valid account, which lives issuance.OrderLifetime. It
// looks the code up, and refuses with *issuance.CodeUnusableError or *issuance.TooManyOrdersError;
// it takes nothing from the code. issuance.ErrConflict: the account is not valid in that directory.
func (s *Store) CreateOrder(ctx context.Context, call issuance.Call, n issuance.NewOrder) (issuance.Order, error) {
	id, err := newID[issuance.OrderID](s.random, call.Now)
	if err != nil {
		return issuance.Order{}, fmt.Errorf("create order: %w", err)
	}
	o := issuance.Order{
		ID: id, Account: n.Account, Directory: n.Directory, Identifier: n.Identifier,
		Status: issuance.OrderPending, Authorization: issuance.AuthorizationPending,
		Challenge: issuance.Challenge{Token: n.Token, Status: issuance.ChallengePending},
		CreatedAt: timeOf(stamp(call.Now)), ExpiresAt: timeOf(stamp(call.Now.Add(issuance.OrderLifetime))),
	}
	sealed, err := s.seal.seal([]byte(n.Identifier.Value), string(id))
	if err != nil {
		return issuance.Order{}, fmt.Errorf("create order: %w", err)
	}
	err = s.step(ctx, call, "create order", func(t *tx) error {
		p, err := t.partiesTo(call, &n)
		if err != nil {
			return err
		}
		if n.Identifier.Kind == policy.ByCode {
			if err := s.checkOrderable(t, call, &n, &p); err != nil {
				return err
			}
			o.Code = p.code.ID
		}
		if !p.account {
			return keep(issuance.ErrConflict)
		}
		return s.insertOrder(t, call, o, sealed, p.orders == 0)
	})
	if err != nil {
		return issuance.Order{}, err
	}
	return o, nil
}

// parties are the account and the code of a new order, which nobody changes until it is made.
type parties struct {
	account bool          // whether it is valid
	orders  int64         // that it has
	code    issuance.Code // id, status, expiry and tries; zero if the order names none that there is
	live    int           // orders that name the code and are not over
}

func (t *tx) partiesTo(call issuance.Call, n *issuance.NewOrder) (p parties, err error) {
	account := locking(func(row scanner) error {
		p.account = true
		return row.Scan(&p.orders)
	}, `SELECT orders FROM accounts WHERE id = ? AND directory = ? AND status = 'valid'`, string(n.Account), n.Directory)
	if n.Identifier.Kind != policy.ByCode {
		err = t.ask(account)
		return p, err
	}
	hash := sha256.Sum256([]byte(n.Identifier.Value))
	code := locking(func(row scanner) error {
		var expires int64
		err := row.Scan(&p.code.ID, &p.code.Status, &expires, &p.code.Tries)
		p.code.ExpiresAt = timeOf(expires)
		return err
	}, `SELECT id, status, expires_at, tries FROM codes WHERE directory = ? AND value_sha256 = ?`, n.Directory, hash[:])
	live := asking(func(row scanner) error { return row.Scan(&p.live) }, `SELECT count(*) FROM orders
		WHERE code = (SELECT id FROM codes WHERE directory = ? AND value_sha256 = ?) AND status <> 'valid' AND status <> 'invalid' AND expires_at > ?`,
		n.Directory, hash[:], stamp(call.Now))
	err = t.ask(code, live, account)
	return p, err
}

// checkOrderable refuses a code that cannot be ordered by. A refusal about a known code leaves an audit row; the
// nonce stays spent.
func (s *Store) checkOrderable(t *tx, call issuance.Call, n *issuance.NewOrder, p *parties) error {
	if p.code.ID == "" {
		return keep(&issuance.CodeUnusableError{})
	}
	row := audit.Row{Action: audit.OrderCreated, Outcome: audit.Refused, Directory: n.Directory, Account: string(n.Account), Code: string(p.code.ID)}
	if status := p.code.StatusAt(call.Now); status != issuance.CodeUnused {
		row.Check, row.Detail = "code-usable", map[string]string{"status": string(status)}
		return s.refuse(t, call, row, audit.Personal{}, &issuance.CodeUnusableError{Code: p.code.ID, Status: status})
	}
	if p.live >= issuance.MaxLiveOrdersPerCode {
		row.Check = "live-orders"
		return s.refuse(t, call, row, audit.Personal{}, &issuance.TooManyOrdersError{Code: p.code.ID, Limit: issuance.MaxLiveOrdersPerCode})
	}
	return nil
}

func (s *Store) insertOrder(t *tx, call issuance.Call, o issuance.Order, sealed []byte, first bool) error {
	err := t.must(errNotAsRead("account"),
		`UPDATE accounts SET orders = orders + 1 WHERE id = ? AND directory = ? AND status = 'valid'`, string(o.Account), o.Directory)
	if err != nil {
		return err
	}
	err = t.write(`INSERT INTO orders (id, account, directory, identifier_type, identifier_kind, identifier_sealed, code,
			status, authz, token, challenge, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', 'pending', ?, 'pending', ?, ?)`,
		string(o.ID), string(o.Account), o.Directory, o.Identifier.Type, string(o.Identifier.Kind), sealed, null(o.Code),
		o.Challenge.Token, stamp(o.CreatedAt), stamp(o.ExpiresAt))
	if err != nil {
		return err
	}
	row := orderRow(audit.OrderCreated, &o)
	if first {
		row.Detail = map[string]string{"account": "first order"}
	}
	return s.record(t, call, row, audit.Personal{})
}

// refuse writes the audit row of a refusal and returns why, to be kept.
func (s *Store) refuse(t *tx, call issuance.Call, row audit.Row, p audit.Personal, why error) error {
	if err := s.record(t, call, row, p); err != nil {
		return err
	}
	return keep(why)
}

// orderRow is an audit row about an order.
func orderRow(action audit.Action, o *issuance.Order) audit.Row {
	return audit.Row{Action: action, Directory: o.Directory, Account: string(o.Account), Order: string(o.ID), Code: string(o.Code)}
}

// Order returns an order by id.
func (s *Store) Order(ctx context.Context, id issuance.OrderID) (issuance.Order, error) {
	o, err := s.scanOrder(s.reads.row(ctx, orderByID, string(id)))
	if err != nil {
		return o, fmt.Errorf("read order: %w", err)
	}
	return o, nil
}

// Enrolment returns an order with the code that it names and the evidence that answered its challenge, without the
// object.
func (s *Store) Enrolment(ctx context.Context, id issuance.OrderID) (issuance.Enrolment, error) {
	var e issuance.Enrolment
	err := s.reads.ask(ctx,
		asking(func(row scanner) (err error) {
			e.Order, err = s.scanOrder(row)
			return err
		}, orderByID, string(id)),
		asking(func(row scanner) (err error) {
			e.Code, err = scanCode(row)
			return err
		}, `SELECT `+codeColumns+` FROM codes WHERE id = (SELECT code FROM orders WHERE id = ?)`, string(id)),
		asking(func(row scanner) (err error) {
			e.Evidence, err = scanEvidence(row)
			return err
		}, `SELECT `+evidenceColumns+`, NULL FROM evidence WHERE id = (SELECT evidence FROM orders WHERE id = ?)`, string(id)),
	)
	if err == nil && e.Order.ID == "" {
		err = issuance.ErrNotFound
	}
	if err != nil {
		return issuance.Enrolment{}, fmt.Errorf("read enrolment: %w", notFound(err))
	}
	return e, nil
}

// ReadOrder spends the call's nonce and returns an order by id. Not fsynced.
func (s *Store) ReadOrder(ctx context.Context, call issuance.Call, id issuance.OrderID) (o issuance.Order, err error) {
	err = s.noteStep(ctx, call, "read order", func(t *tx) error {
		o, err = s.scanOrder(t.row(orderByID, string(id)))
		if errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		}
		return err
	})
	return o, err
}

// OrdersOf lists at most limit orders of an account, oldest first, after the cursor ("" for the
// start).
func (s *Store) OrdersOf(ctx context.Context, account issuance.AccountID, after issuance.OrderID, limit int) ([]issuance.OrderID, error) {
	var ids []issuance.OrderID
	err := s.reads.rows(ctx, func(row scanner) error {
		var id issuance.OrderID
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM orders WHERE account = ? AND id > ? ORDER BY id`+pageLimit, string(account), string(after), max(0, limit))
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return ids, nil
}

// DeactivateAuthorization gives up a pending or valid authorization (RFC 8555, section 7.5.2). A
// pending or ready order becomes invalid; a valid one keeps its certificate. ErrConflict while the
// certificate is being signed.
func (s *Store) DeactivateAuthorization(ctx context.Context, call issuance.Call, account issuance.AccountID, order issuance.OrderID) (o issuance.Order, err error) {
	why, err := refusalText(&issuance.Refusal{Problem: "unauthorized", Check: "authorization-deactivated", Detail: "the authorization was deactivated"})
	if err != nil {
		return o, fmt.Errorf("deactivate authorization: %w", err)
	}
	err = s.change(ctx, call, "deactivate authorization", func(t *tx) error {
		o, err = s.scanOrder(t.row(`UPDATE orders SET authz = 'deactivated',
				refusal = CASE WHEN status = 'valid' THEN refusal ELSE ?1 END,
				challenge_refusal = CASE WHEN challenge = 'pending' THEN ?1 ELSE challenge_refusal END,
				challenge = CASE WHEN challenge = 'pending' THEN 'invalid' ELSE challenge END,
				status = CASE WHEN status = 'valid' THEN 'valid' ELSE 'invalid' END
			WHERE id = ?2 AND account = ?3 AND authz IN ('pending', 'valid')
				AND (status = 'valid' OR status IN ('pending', 'ready') AND expires_at > ?4)
			RETURNING `+orderColumns, why, string(order), string(account), stamp(call.Now)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.orderConflict(account, order)
		}
		if err != nil {
			return err
		}
		return s.record(t, call, orderRow(audit.AuthorizationDeactivated, &o), audit.Personal{})
	})
	return o, err
}

// orderConflict says why no order was in the state that a change needs.
func (t *tx) orderConflict(account issuance.AccountID, order issuance.OrderID) error {
	return t.conflictOrMissing(`SELECT 1 FROM orders WHERE id = ? AND account = ?`, string(order), string(account))
}

// countTry counts a refused challenge or decision on the order's code, if it has one.
func (t *tx) countTry(code issuance.CodeID, check string) error {
	if code == "" {
		return nil
	}
	err := t.write(`UPDATE codes SET tries = tries + 1, last_refusal = ? WHERE id = ?`, check, string(code))
	return err
}
