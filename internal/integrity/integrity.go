// Package integrity holds a whole database to what must be true of it at any moment, beside a running server,
// after a crash, after a restore: no code has two certificates, every certificate verifies and agrees with its
// row, every reserved serial is accounted for, every order is in a legal state, CRLs name exactly what is
// revoked, the audit is as it was sealed.
//
// It reads only, some rows at a time, so that memory stays flat; with one exception, the serials of one CRL.
// It trusts the issuing certificates in the database and the public key of the audit that it is given.
package integrity

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"iter"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/policy"
)

// Fault is a row that breaks a rule.
type Fault struct {
	Rule string `json:"rule"` // its name
	Of   string `json:"of"`   // id of the row
	What string `json:"what"`
}

// Rule is something that must be true.
type Rule struct{ Name, Meaning string }

// Options says how to check.
type Options struct {
	Now      func() time.Time
	AuditKey ed25519.PublicKey // that verifies the seals
	Found    func(Fault)       // called for each fault, in turn
	Progress func(Counts)      // called now and then; nil: nobody watches
}

// Counts is how many rows were checked.
type Counts struct {
	Certificates int `json:"certificates"`
	Orders       int `json:"orders"`
	Codes        int `json:"codes"`
	Accounts     int `json:"accounts"`
	Evidence     int `json:"evidence"`
	Decisions    int `json:"decisions"`
	Holds        int `json:"holds"`
	CRLs         int `json:"crls"`
	Seals        int `json:"seals"`
	Sealed       int `json:"sealedAuditRows"`
	Unsealed     int `json:"unsealedAuditRows"` // what was changed in them is not found
	PutAway      int `json:"putAway"`           // evidence and decisions that certificates name, of years that were detached
}

// Check checks the whole database. The error is that it could not be read to the end.
func Check(ctx context.Context, s *store.Store, o Options) (Counts, error) {
	c := &check{store: s, options: o}
	if err := c.openIssuers(ctx); err != nil {
		return c.counts, err
	}
	var err error
	if c.putAway, err = s.PutAway(ctx); err != nil {
		return c.counts, fmt.Errorf("check database: %w", err)
	}
	for _, part := range []func(context.Context) error{
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Certificates, with(s.CertificateStates(ctx), c.excuseCertificate), c.certificateRules(ctx), func(r *store.CertificateState) string { return string(r.ID) })
		},
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Orders, with(s.OrderStates(ctx), c.excuseOrder), orderRules, func(r *store.OrderState) string { return string(r.ID) })
		},
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Codes, s.CodeStates(ctx), codeRules, func(r *store.CodeState) string { return string(r.ID) })
		},
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Accounts, s.AccountStates(ctx), accountRules, func(r *store.AccountState) string { return string(r.ID) })
		},
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Evidence, s.EvidenceStates(ctx), evidenceRules, func(r *store.PartState) string { return r.ID })
		},
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Decisions, s.DecisionStates(ctx), decisionRules, func(r *store.PartState) string { return r.ID })
		},
		func(ctx context.Context) error {
			return each(ctx, c, &c.counts.Holds, s.HoldStates(ctx), holdRules, func(r *store.HoldState) string { return string(r.ID) })
		},
		c.checkCRLs, c.checkPublications, c.checkAudit,
	} {
		if err := part(ctx); err != nil {
			return c.counts, fmt.Errorf("check database: %w", err)
		}
	}
	return c.counts, nil
}

// check is one run.
type check struct {
	store   *store.Store
	options Options
	counts  Counts
	issuers map[issuance.IssuerID]issuer
	putAway func(id string) bool
}

// excuseCertificate takes what lies in a year that was detached for right.
func (c *check) excuseCertificate(r *store.CertificateState) {
	if r.DecisionOrder == "" && c.putAway(string(r.Decision)) {
		r.DecisionOrder, r.DecisionOutcome = r.Order, policy.Issue
		c.counts.PutAway++
	}
	if r.EvidenceOrder == "" && c.putAway(string(r.Evidence)) {
		r.EvidenceOrder = r.Order
		c.counts.PutAway++
	}
}

// excuseOrder takes what lies in a year that was detached for right.
func (c *check) excuseOrder(o *store.OrderState) {
	if o.DecisionOrder == "" && c.putAway(string(o.Decision)) {
		o.DecisionOrder = o.ID
	}
	if o.EvidenceOrder == "" && c.putAway(string(o.Evidence)) {
		o.EvidenceOrder = o.ID
	}
}

// with does something to every row of a list.
func with[T any](rows iter.Seq2[T, error], do func(*T)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for row, err := range rows {
			if err == nil {
				do(&row)
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

func (c *check) fault(rule, of, format string, args ...any) {
	c.options.Found(Fault{rule, of, fmt.Sprintf(format, args...)})
}

// progressRows is after how many rows progress is told.
const progressRows = 1000

// rule is a Rule of rows: broken says how one breaks it, "" if it does not.
type rule[T any] struct {
	Rule
	broken func(*T) string
}

// each holds every row of a list to rules.
func each[T any](ctx context.Context, c *check, count *int, rows iter.Seq2[T, error], rules []rule[T], id func(*T) string) error {
	for row, err := range rows {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, r := range rules {
			if what := r.broken(&row); what != "" {
				c.fault(r.Name, id(&row), "%s", what)
			}
		}
		if *count++; *count%progressRows == 0 && c.options.Progress != nil {
			c.options.Progress(c.counts)
		}
	}
	return nil
}

// sealsAtOnce is how many seals are read at a time.
const sealsAtOnce = 50

var sealRule = Rule{"audit-seal", "the audit is as it was sealed, and every row has its place"}

// checkAudit holds the audit to its seals.
func (c *check) checkAudit(ctx context.Context) error {
	for after := int64(0); ; {
		faults, seals, err := c.store.CheckSeals(ctx, c.options.AuditKey, after, sealsAtOnce)
		if err != nil {
			return err
		}
		for _, f := range faults {
			c.fault(sealRule.Name, sealed(f), "%s", f.What)
		}
		c.counts.Seals += len(seals)
		for _, s := range seals {
			c.counts.Sealed += int(s.Last - s.First + 1)
		}
		if len(seals) < sealsAtOnce {
			break
		}
		after = seals[len(seals)-1].Number
		if c.options.Progress != nil {
			c.options.Progress(c.counts)
		}
	}
	unsealed, faults, err := c.store.CheckUnsealed(ctx)
	c.counts.Unsealed = int(unsealed)
	for _, f := range faults {
		c.fault(sealRule.Name, sealed(f), "%s", f.What)
	}
	return err
}

// sealed names what a fault of the audit is about; "" if it is about the whole trail.
func sealed(f audit.Fault) string {
	switch {
	case f.Row != "":
		return f.Row
	case f.Seal > 0:
		return fmt.Sprintf("seal %d", f.Seal)
	}
	return ""
}

// Rules are all rules, in the order in which they are checked.
func Rules() []Rule {
	all := []Rule{chainRule}
	all = append(all, names((&check{}).certificateRules(context.Background()))...)
	all = append(all, names(orderRules)...)
	all = append(all, names(codeRules)...)
	all = append(all, names(accountRules)...)
	all = append(all, names(evidenceRules)...)
	all = append(all, names(decisionRules)...)
	all = append(all, names(holdRules)...)
	return append(all, crlRule, crlEntriesRule, crlNumberRule, sealRule)
}

func names[T any](rules []rule[T]) []Rule {
	var all []Rule
	for _, r := range rules {
		all = append(all, r.Rule)
	}
	return all
}
