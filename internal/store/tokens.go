package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

const tokenColumns = `id, name, scopes, created_at, expires_at, revoked_at, last_used_at`

const tokenByID = `SELECT ` + tokenColumns + ` FROM tokens WHERE id = ?`

func scanToken(row scanner) (issuance.Token, error) {
	var k issuance.Token
	var scopes string
	var created, expires, revoked, used int64
	if err := row.Scan(&k.ID, &k.Name, &scopes, &created, &expires, &revoked, &used); err != nil {
		return issuance.Token{}, notFound(err)
	}
	k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt = timeOf(created), timeOf(expires), timeOf(revoked), timeOf(used)
	if err := json.Unmarshal([]byte(scopes), &k.Scopes); err != nil {
		return issuance.Token{}, fmt.Errorf("scopes of %s: %w", k.ID, err)
	}
	return k, nil
}

// AddToken stores a token by the SHA-256 of its value, with a new id and made at the call's time.
func (s *Store) AddToken(ctx context.Context, call issuance.Call, k issuance.Token, hash [32]byte) (issuance.Token, error) {
	const what = "add token"
	if len(k.Scopes) == 0 || !k.ExpiresAt.After(call.Now) {
		return issuance.Token{}, fmt.Errorf("%s: it needs a scope and an end in the future", what)
	}
	id, err := newID[issuance.TokenID](s.random, call.Now)
	if err != nil {
		return issuance.Token{}, fmt.Errorf("%s: %w", what, err)
	}
	scopes, err := json.Marshal(k.Scopes)
	if err != nil {
		return issuance.Token{}, fmt.Errorf("%s: %w", what, err)
	}
	k = issuance.Token{ID: id, Name: k.Name, Scopes: k.Scopes, CreatedAt: timeOf(stamp(call.Now)), ExpiresAt: timeOf(stamp(k.ExpiresAt))}
	err = s.change(ctx, call, what, func(t *tx) error {
		err := t.write(`INSERT INTO tokens (id, sha256, name, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)`,
			string(k.ID), hash[:], k.Name, string(scopes), stamp(k.CreatedAt), stamp(k.ExpiresAt))
		if err != nil {
			return err
		}
		row := tokenRow(audit.TokenMinted, k.ID)
		row.Detail["scopes"] = strings.Join(k.Scopes, " ")
		return s.record(t, call, row, audit.Personal{Names: []string{k.Name}})
	})
	if err != nil {
		return issuance.Token{}, err
	}
	return k, nil
}

func tokenRow(action audit.Action, id issuance.TokenID) audit.Row {
	return audit.Row{Action: action, Detail: map[string]string{"token": string(id)}}
}

// TokenByHash returns the token whose value has this SHA-256, also one that is over: the caller asks
// its LiveAt.
func (s *Store) TokenByHash(ctx context.Context, hash [32]byte) (issuance.Token, error) {
	k, err := scanToken(s.reads.row(ctx, `SELECT `+tokenColumns+` FROM tokens WHERE sha256 = ?`, hash[:]))
	if err != nil {
		return k, fmt.Errorf("read token: %w", err)
	}
	return k, nil
}

// Tokens lists tokens, oldest first.
func (s *Store) Tokens(ctx context.Context, page issuance.Page) iter.Seq2[issuance.Token, error] {
	l := list[issuance.Token]{
		what: "list tokens", columns: `SELECT ` + tokenColumns + ` FROM tokens`, key: "id",
		scan: scanToken, keyOf: func(k *issuance.Token) []any { return []any{string(k.ID)} },
	}
	return l.rows(ctx, s.reads, &selection{}, page)
}

// RevokeToken ends a token, expired or not. issuance.ErrConflict if it was revoked before.
func (s *Store) RevokeToken(ctx context.Context, call issuance.Call, id issuance.TokenID) (k issuance.Token, err error) {
	err = s.change(ctx, call, "revoke token", func(t *tx) error {
		k, err = scanToken(t.updated(tokenByID, string(id), `UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at = 0`, stamp(call.Now), string(id)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.conflictOrMissing(`SELECT 1 FROM tokens WHERE id = ?`, string(id))
		}
		if err != nil {
			return err
		}
		return s.record(t, call, tokenRow(audit.TokenRevoked, id), audit.Personal{})
	})
	return k, err
}

// usePrecision is how exactly the last use of a token is kept.
const usePrecision = time.Minute

// RecordTokenUse adds the audit row of one use of a token, and notes when it was used if it was not
// refused. Not fsynced.
func (s *Store) RecordTokenUse(ctx context.Context, call issuance.Call, u issuance.TokenUse) error {
	return s.note(ctx, call, "record use of token", func(t *tx) error {
		var used int64
		err := notFound(t.row(`SELECT last_used_at FROM tokens WHERE id = ?`, string(u.Token)).Scan(&used))
		if errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		}
		if err != nil {
			return err
		}
		row := tokenRow(audit.TokenUsed, u.Token)
		row.Detail["request"], row.Detail["status"] = u.Request, strconv.Itoa(u.Status)
		if u.Thing != "" {
			row.Detail["thing"] = u.Thing
		}
		if u.LeftOut > 0 {
			row.Detail["left-out"] = strconv.Itoa(u.LeftOut)
		}
		if u.Check != "" {
			row.Outcome, row.Check = audit.Refused, u.Check
			return s.record(t, call, row, audit.Personal{})
		}
		if used <= stamp(call.Now.Add(-usePrecision)) {
			if err := t.write(`UPDATE tokens SET last_used_at = ? WHERE id = ?`, stamp(call.Now), string(u.Token)); err != nil {
				return err
			}
		}
		return s.record(t, call, row, audit.Personal{})
	})
}
