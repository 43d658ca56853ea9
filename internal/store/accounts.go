package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"assay/internal/audit"
	"assay/internal/issuance"
)

const accountColumns = `id, directory, status, contacts, terms_agreed, jwk, thumbprint, created_at`

func scanAccount(row scanner, more ...any) (issuance.Account, error) {
	var a issuance.Account
	var contacts string
	var terms, created int64
	into := []any{&a.ID, &a.Directory, &a.Status, &contacts, &terms, &a.JWK, &a.Thumbprint, &created}
	if err := row.Scan(append(into, more...)...); err != nil {
		return issuance.Account{}, notFound(err)
	}
	a.TermsAgreed = terms == 1
	a.CreatedAt = timeOf(created)
	if contacts != "[]" {
		if err := json.Unmarshal([]byte(contacts), &a.Contacts); err != nil {
			return issuance.Account{}, fmt.Errorf("contacts of %s: %w", a.ID, err)
		}
	}
	return a, nil
}

func contactsText(contacts []string) (string, error) {
	if len(contacts) == 0 {
		return "[]", nil
	}
	text, err := json.Marshal(contacts)
	return string(text), err
}

// RegisterAccount stores the account, with a new id, as valid and made at the call's time; or it
// returns the account of that directory that has the key already, in whatever status. No audit row:
// an account is a stranger's until it holds an order.
func (s *Store) RegisterAccount(ctx context.Context, call issuance.Call, a issuance.Account) (account issuance.Account, created bool, err error) {
	contacts, err := contactsText(a.Contacts)
	if err != nil {
		return issuance.Account{}, false, fmt.Errorf("register account: %w", err)
	}
	_, changes, _ := s.accounts.get("")
	err = s.step(ctx, call, "register account", func(t *tx) error {
		id, err := newID[issuance.AccountID](s.random, call.Now)
		if err != nil {
			return err
		}
		n, err := t.exec(`INSERT INTO accounts (id, directory, status, contacts, terms_agreed, jwk, thumbprint, created_at)
			VALUES (?, ?, 'valid', ?, ?, ?, ?, ?) ON CONFLICT (directory, thumbprint) DO NOTHING`,
			string(id), a.Directory, contacts, flag(a.TermsAgreed), a.JWK, a.Thumbprint, stamp(call.Now))
		if err != nil {
			return err
		}
		if created = n == 1; !created {
			account, err = scanAccount(t.row(accountByKey, a.Directory, a.Thumbprint))
			return err
		}
		account = a
		account.ID, account.Status, account.CreatedAt = id, issuance.AccountValid, timeOf(stamp(call.Now))
		return nil
	})
	if err != nil {
		return issuance.Account{}, false, err
	}
	s.remember(account, changes)
	return account, created, nil
}

const accountByKey = `SELECT ` + accountColumns + ` FROM accounts WHERE directory = ? AND thumbprint = ?`

// Account returns an account by id, from memory where it was read before.
func (s *Store) Account(ctx context.Context, id issuance.AccountID) (issuance.Account, error) {
	a, changes, ok := s.accounts.get(id)
	if ok {
		return a, nil
	}
	a, err := scanAccount(s.reads.row(ctx, `SELECT `+accountColumns+` FROM accounts WHERE id = ?`, string(id)))
	if err != nil {
		return a, fmt.Errorf("read account: %w", err)
	}
	s.remember(a, changes)
	return a, nil
}

// remember keeps an account in memory, if nobody else can change it.
func (s *Store) remember(a issuance.Account, changes uint64) {
	if s.db.alone() {
		s.accounts.put(a, changes)
	}
}

// AccountByKey returns the account of a directory that has the key with this RFC 7638 thumbprint.
func (s *Store) AccountByKey(ctx context.Context, directory, thumbprint string) (issuance.Account, error) {
	a, err := scanAccount(s.reads.row(ctx, accountByKey, directory, thumbprint))
	if err != nil {
		return a, fmt.Errorf("read account by key: %w", err)
	}
	return a, nil
}

// UpdateContacts replaces the contacts of a valid account.
func (s *Store) UpdateContacts(ctx context.Context, call issuance.Call, id issuance.AccountID, contacts []string) (a issuance.Account, err error) {
	text, err := contactsText(contacts)
	if err != nil {
		return a, fmt.Errorf("update contacts: %w", err)
	}
	defer s.accounts.forget(id)
	err = s.change(ctx, call, "update contacts", func(t *tx) error {
		a, err = s.changeAccount(t, call, id, audit.AccountUpdated, audit.Personal{Names: contacts},
			t.row(`UPDATE accounts SET contacts = ? WHERE id = ? AND status = 'valid' RETURNING `+accountColumns+`, orders`, text, string(id)))
		return err
	})
	return a, err
}

// changeAccount finishes a conditional update of an account: its row, or why there is none. The
// audit row is left out while the account holds no order.
func (s *Store) changeAccount(t *tx, call issuance.Call, id issuance.AccountID, action audit.Action, p audit.Personal, updated scanner) (issuance.Account, error) {
	var orders int64
	a, err := scanAccount(updated, &orders)
	if errors.Is(err, issuance.ErrNotFound) {
		return a, t.conflictOrMissing(`SELECT 1 FROM accounts WHERE id = ?`, string(id))
	}
	if err != nil || orders == 0 {
		return a, err
	}
	return a, s.record(t, call, audit.Row{Action: action, Directory: a.Directory, Account: string(a.ID)}, p)
}

// conflictOrMissing says why a conditional update found no row: ErrConflict if the query finds it,
// else ErrNotFound. What was done so far (the nonce) stays.
func (t *tx) conflictOrMissing(query string, args ...any) error {
	found, err := t.exists(query, args...)
	switch {
	case err != nil:
		return err
	case found:
		return keep(issuance.ErrConflict)
	}
	return keep(issuance.ErrNotFound)
}

// DeactivateAccount deactivates a valid account and makes its pending and ready orders invalid
// (RFC 8555, section 7.3.6). An order whose certificate is being signed is left to finish.
func (s *Store) DeactivateAccount(ctx context.Context, call issuance.Call, id issuance.AccountID) (a issuance.Account, err error) {
	why := &issuance.Refusal{Problem: "unauthorized", Check: "account-deactivated", Detail: "the account was deactivated"}
	text, err := refusalText(why)
	if err != nil {
		return a, fmt.Errorf("deactivate account: %w", err)
	}
	defer s.accounts.forget(id)
	err = s.change(ctx, call, "deactivate account", func(t *tx) error {
		a, err = s.changeAccount(t, call, id, audit.AccountDeactivated, audit.Personal{},
			t.row(`UPDATE accounts SET status = 'deactivated' WHERE id = ? AND status = 'valid' RETURNING `+accountColumns+`, orders`, string(id)))
		if err != nil {
			return err
		}
		err = t.write(`UPDATE orders SET status = 'invalid', refusal = ?1,
				authz = CASE WHEN authz = 'valid' THEN 'deactivated' ELSE 'invalid' END,
				challenge_refusal = CASE WHEN challenge = 'pending' THEN ?1 ELSE challenge_refusal END,
				challenge = CASE WHEN challenge = 'pending' THEN 'invalid' ELSE challenge END
			WHERE account = ?2 AND status IN ('pending', 'ready')`, text, string(id))
		return err
	})
	return a, err
}

// ChangeKey gives a valid account a new key (RFC 8555, section 7.3.5), if it still has the old one:
// else issuance.ErrConflict. *issuance.KeyInUseError names the account that has the new key already.
func (s *Store) ChangeKey(ctx context.Context, call issuance.Call, id issuance.AccountID, oldThumbprint string, jwk []byte, thumbprint string) (a issuance.Account, err error) {
	defer s.accounts.forget(id)
	err = s.change(ctx, call, "change account key", func(t *tx) error {
		var owner issuance.AccountID
		err := notFound(t.row(`SELECT id FROM accounts WHERE thumbprint = ?
			AND directory = (SELECT directory FROM accounts WHERE id = ?)`, thumbprint, string(id)).Scan(&owner))
		if err == nil {
			return keep(&issuance.KeyInUseError{Account: owner})
		}
		if !errors.Is(err, issuance.ErrNotFound) {
			return err
		}
		a, err = s.changeAccount(t, call, id, audit.AccountKeyChanged, audit.Personal{},
			t.row(`UPDATE accounts SET jwk = ?, thumbprint = ? WHERE id = ? AND thumbprint = ? AND status = 'valid'
				RETURNING `+accountColumns+`, orders`, jwk, thumbprint, string(id), oldThumbprint))
		return err
	})
	return a, err
}
