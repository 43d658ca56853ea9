package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"assay/internal/audit"
	"assay/internal/issuance"
)

const issuerColumns = `id, name, chain, key, active, created_at`

func scanIssuer(row scanner) (issuance.Issuer, error) {
	var i issuance.Issuer
	var chain string
	var active, created int64
	if err := row.Scan(&i.ID, &i.Name, &chain, &i.Key, &active, &created); err != nil {
		return issuance.Issuer{}, notFound(err)
	}
	i.Active, i.CreatedAt = active == 1, timeOf(created)
	if err := json.Unmarshal([]byte(chain), &i.Chain); err != nil {
		return issuance.Issuer{}, fmt.Errorf("chain of %s: %w", i.ID, err)
	}
	return i, nil
}

// Issuers returns all issuing CAs, oldest first.
func (s *Store) Issuers(ctx context.Context) ([]issuance.Issuer, error) {
	var issuers []issuance.Issuer
	err := s.reads.rows(ctx, func(row scanner) error {
		i, err := scanIssuer(row)
		issuers = append(issuers, i)
		return err
	}, `SELECT `+issuerColumns+` FROM issuers ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("list issuers: %w", err)
	}
	return issuers, nil
}

// AddIssuer adds an issuing CA with a new id. If it is to be active, the one that was is no longer.
func (s *Store) AddIssuer(ctx context.Context, call issuance.Call, i issuance.Issuer) (issuance.Issuer, error) {
	const what = "add issuer"
	if len(i.Chain) == 0 {
		return issuance.Issuer{}, fmt.Errorf("%s: no certificate", what)
	}
	chain, err := json.Marshal(i.Chain)
	if err != nil {
		return issuance.Issuer{}, fmt.Errorf("%s: %w", what, err)
	}
	if i.ID, err = newID[issuance.IssuerID](s.random, call.Now); err != nil {
		return issuance.Issuer{}, fmt.Errorf("%s: %w", what, err)
	}
	i.CreatedAt = timeOf(stamp(call.Now))
	err = s.change(ctx, call, what, func(t *tx) error {
		if i.Active {
			if err := t.write(`UPDATE issuers SET active = 0 WHERE active = 1`); err != nil {
				return err
			}
		}
		err := t.write(`INSERT INTO issuers (id, name, chain, key, active, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
			string(i.ID), i.Name, string(chain), i.Key, flag(i.Active), stamp(i.CreatedAt))
		if err != nil {
			return err
		}
		return s.record(t, call, audit.Row{Action: audit.IssuerAdded, Issuer: string(i.ID), Detail: map[string]string{"name": i.Name}}, audit.Personal{})
	})
	if err != nil {
		return issuance.Issuer{}, err
	}
	return i, nil
}

// ActivateIssuer makes an issuing CA the active one.
func (s *Store) ActivateIssuer(ctx context.Context, call issuance.Call, id issuance.IssuerID) (i issuance.Issuer, err error) {
	err = s.change(ctx, call, "activate issuer", func(t *tx) error {
		known, err := t.exists(`SELECT 1 FROM issuers WHERE id = ?`, string(id))
		if err != nil {
			return err
		}
		if !known {
			return keep(issuance.ErrNotFound)
		}
		if err := t.write(`UPDATE issuers SET active = 0 WHERE active = 1`); err != nil {
			return err
		}
		i, err = scanIssuer(t.row(`UPDATE issuers SET active = 1 WHERE id = ? RETURNING `+issuerColumns, string(id)))
		if err != nil {
			return errors.Join(errors.New("set active"), err)
		}
		return s.record(t, call, audit.Row{Action: audit.IssuerActivated, Issuer: string(i.ID)}, audit.Personal{})
	})
	return i, err
}
