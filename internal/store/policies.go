package store

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// UsePolicy keeps a policy's text, and that a directory uses it from now on, unless that is so already.
// Decisions name only policies that are kept.
func (s *Store) UsePolicy(ctx context.Context, call issuance.Call, directory string, v policy.Version, text string) error {
	return s.change(ctx, call, "use policy", func(t *tx) error {
		err := t.write(`INSERT INTO policies (sha256, name, text, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			v.SHA256, v.Name, text, stamp(call.Now))
		if err != nil {
			return fmt.Errorf("keep policy %s: %w", v.Name, err)
		}
		n, err := t.exec(`INSERT INTO policy_uses (directory, since, policy) SELECT ?1, coalesce((SELECT max(since) + 1 FROM policy_uses WHERE directory = ?1 AND since >= ?2), ?2), ?3
			WHERE ?3 IS DISTINCT FROM (SELECT policy FROM policy_uses WHERE directory = ?1 ORDER BY since DESC LIMIT 1)`,
			directory, stamp(call.Now), v.SHA256)
		if err != nil || n == 0 {
			return err
		}
		row := audit.Row{Action: audit.PolicyActivated, Directory: directory, Detail: map[string]string{"policy": v.Name, "sha256": v.SHA256}}
		return s.record(t, call, row, audit.Personal{})
	})
}

// Policy returns a policy by the SHA-256 of its text.
func (s *Store) Policy(ctx context.Context, sha256 string) (issuance.StoredPolicy, error) {
	p := issuance.StoredPolicy{Version: policy.Version{SHA256: sha256}}
	var created int64
	err := s.reads.row(ctx, `SELECT name, text, created_at FROM policies WHERE sha256 = ?`, sha256).Scan(&p.Name, &p.Text, &created)
	if err != nil {
		return issuance.StoredPolicy{}, fmt.Errorf("read policy: %w", notFound(err))
	}
	p.CreatedAt = timeOf(created)
	return p, nil
}

// PolicyUses lists which policies the directories used, oldest first.
func (s *Store) PolicyUses(ctx context.Context) iter.Seq2[issuance.PolicyUse, error] {
	var none selection
	l := list[issuance.PolicyUse]{
		what:    "list policies",
		columns: `SELECT u.directory, u.since, u.policy, p.name FROM policy_uses AS u JOIN policies AS p ON p.sha256 = u.policy`,
		key:     "u.since, u.directory",
		scan: func(row scanner) (u issuance.PolicyUse, err error) {
			var since int64
			err = row.Scan(&u.Directory, &since, &u.SHA256, &u.Name)
			u.Since = timeOf(since)
			return u, err
		},
		keyOf: func(u *issuance.PolicyUse) []any { return []any{stamp(u.Since), u.Directory} },
		find: func(string) (issuance.PolicyUse, error) {
			return issuance.PolicyUse{}, errors.New("policy uses have no id")
		},
	}
	return l.rows(ctx, s.reads, &none, issuance.Page{})
}
