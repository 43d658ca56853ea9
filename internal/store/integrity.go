package store

import (
	"context"
	"fmt"
	"iter"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// The lists here are for whoever checks the whole database: each row comes with what must agree with it, read
// by the same statement, so that they are of one moment even beside a server that changes them.

// CertificateState is a certificate with what must agree with it.
type CertificateState struct {
	issuance.Certificate
	OrderStatus      issuance.OrderStatus // "": there is no such order
	OrderCode        issuance.CodeID
	OrderCertificate issuance.CertificateID
	OrderDecision    issuance.DecisionID
	OrderEvidence    issuance.EvidenceID
	CodeStatus       issuance.CodeStatus // "": it names none, or there is none
	DecisionOrder    issuance.OrderID    // that its decision is about; "": there is no such decision
	DecisionOutcome  policy.Outcome
	EvidenceOrder    issuance.OrderID // that its evidence answered; "": it names none, or there is none
	DeviceSerial     string           // of its device's row now
	CRLs             int              // of its issuer and shard: 0 or 1
	Completed        int              // audit rows that say so
	Abandoned        int
	Revoked          int
}

// CertificateStates lists every certificate and reserved serial, oldest first.
func (s *Store) CertificateStates(ctx context.Context) iter.Seq2[CertificateState, error] {
	const ofOrder, ofCode, ofDecision = ` FROM orders WHERE orders.id = certificates.order_id), '')`,
		` FROM codes WHERE codes.id = certificates.code), '')`, ` FROM decisions WHERE decisions.id = certificates.decision), '')`
	const audited = `(SELECT count(*) FROM audit WHERE audit.order_id = certificates.order_id AND audit.certificate = certificates.id AND audit.action = `
	l := list[CertificateState]{
		what: "list certificates to check", key: "id",
		columns: `SELECT ` + certificateColumns + `,
			coalesce((SELECT orders.status` + ofOrder + `, coalesce((SELECT orders.code` + ofOrder + `,
			coalesce((SELECT orders.certificate` + ofOrder + `, coalesce((SELECT orders.decision` + ofOrder + `,
			coalesce((SELECT orders.evidence` + ofOrder + `, coalesce((SELECT codes.status` + ofCode + `,
			coalesce((SELECT decisions.order_id` + ofDecision + `, coalesce((SELECT decisions.outcome` + ofDecision + `,
			coalesce((SELECT evidence.order_id FROM evidence WHERE evidence.id = certificates.evidence), ''),
			coalesce((SELECT devices.serial FROM devices WHERE devices.id = certificates.device), ''),
			(SELECT count(*) FROM crls WHERE crls.issuer = certificates.issuer AND crls.shard = certificates.crl_shard),
			` + audited + `'issue.completed'), ` + audited + `'issue.abandoned'), ` + audited + `'certificate.revoked')
			FROM certificates`,
		scan: func(row scanner) (c CertificateState, err error) {
			c.Certificate, err = scanCertificate(also{row, []any{&c.OrderStatus, &c.OrderCode, &c.OrderCertificate, &c.OrderDecision,
				&c.OrderEvidence, &c.CodeStatus, &c.DecisionOrder, &c.DecisionOutcome, &c.EvidenceOrder, &c.DeviceSerial, &c.CRLs,
				&c.Completed, &c.Abandoned, &c.Revoked}})
			return c, err
		},
		keyOf: func(c *CertificateState) []any { return []any{string(c.ID)} },
	}
	return l.rows(ctx, s.reads, &selection{}, issuance.Page{})
}

// also is a row whose last columns go elsewhere than the first.
type also struct {
	row  scanner
	rest []any
}

func (a also) Scan(into ...any) error { return a.row.Scan(append(into, a.rest...)...) }

// OrderState is an order with what must agree with it.
type OrderState struct {
	ID                issuance.OrderID
	Status            issuance.OrderStatus
	Authorization     issuance.AuthorizationStatus
	Challenge         issuance.ChallengeStatus
	Claimed           bool // it has, or had, a serial
	Refused           bool // it says why it is invalid
	Directory         string
	AccountDirectory  string // "": there is no such account
	Code              issuance.CodeID
	CodeStatus        issuance.CodeStatus
	CodeOrder         issuance.OrderID // that the code says it is of
	Certificate       issuance.CertificateID
	Evidence          issuance.EvidenceID
	EvidenceOrder     issuance.OrderID // "": there is no such evidence
	Decision          issuance.DecisionID
	DecisionOrder     issuance.OrderID           // "": there is no such decision
	Serial            issuance.CertificateID     // the row that was reserved for the order; "" for none
	SerialStatus      issuance.CertificateStatus // of that row
	SerialReservedFor issuance.CodeID
}

// OrderStates lists every order, oldest first.
func (s *Store) OrderStates(ctx context.Context) iter.Seq2[OrderState, error] {
	const ofCode, ofSerial = ` FROM codes WHERE codes.id = orders.code), '')`, ` FROM certificates WHERE certificates.order_id = orders.id), '')`
	l := list[OrderState]{
		what: "list orders to check", key: "id",
		columns: `SELECT id, status, authz, challenge, claimed_at, refusal, directory,
			coalesce((SELECT accounts.directory FROM accounts WHERE accounts.id = orders.account), ''),
			coalesce(code, ''), coalesce((SELECT codes.status` + ofCode + `, coalesce((SELECT codes.order_id` + ofCode + `,
			coalesce(certificate, ''), coalesce(evidence, ''),
			coalesce((SELECT evidence.order_id FROM evidence WHERE evidence.id = orders.evidence), ''), coalesce(decision, ''),
			coalesce((SELECT decisions.order_id FROM decisions WHERE decisions.id = orders.decision), ''),
			coalesce((SELECT certificates.id` + ofSerial + `, coalesce((SELECT certificates.status` + ofSerial + `,
			coalesce((SELECT certificates.code` + ofSerial + ` FROM orders`,
		scan: func(row scanner) (o OrderState, err error) {
			var claimed int64
			var refusal string
			err = row.Scan(&o.ID, &o.Status, &o.Authorization, &o.Challenge, &claimed, &refusal, &o.Directory, &o.AccountDirectory,
				&o.Code, &o.CodeStatus, &o.CodeOrder, &o.Certificate, &o.Evidence, &o.EvidenceOrder, &o.Decision, &o.DecisionOrder,
				&o.Serial, &o.SerialStatus, &o.SerialReservedFor)
			o.Claimed, o.Refused = claimed != 0, refusal != ""
			return o, err
		},
		keyOf: func(o *OrderState) []any { return []any{string(o.ID)} },
	}
	return l.rows(ctx, s.reads, &selection{}, issuance.Page{})
}

// CodeState is a code with what must agree with it.
type CodeState struct {
	ID                issuance.CodeID
	Status            issuance.CodeStatus
	Order             issuance.OrderID
	OrderStatus       issuance.OrderStatus // "": there is no such order
	OrderCode         issuance.CodeID
	Certificate       issuance.CertificateID
	CertificateStatus issuance.CertificateStatus // "": there is no such certificate
	CertificateCode   issuance.CodeID
	Certificates      int // that name the code, abandoned ones left out
	Documents         int // with the code in them, that were not erased
}

// CodeStates lists every code, oldest first.
func (s *Store) CodeStates(ctx context.Context) iter.Seq2[CodeState, error] {
	const ofOrder, ofCertificate = ` FROM orders WHERE orders.id = codes.order_id), '')`, ` FROM certificates WHERE certificates.id = codes.certificate), '')`
	l := list[CodeState]{
		what: "list codes to check", key: "id",
		columns: `SELECT id, status, coalesce(order_id, ''), coalesce((SELECT orders.status` + ofOrder + `, coalesce((SELECT orders.code` + ofOrder + `,
			coalesce(certificate, ''), coalesce((SELECT certificates.status` + ofCertificate + `, coalesce((SELECT certificates.code` + ofCertificate + `,
			(SELECT count(*) FROM certificates WHERE certificates.code = codes.id AND certificates.status <> 'abandoned'),
			(SELECT count(*) FROM documents WHERE documents.code = codes.id AND documents.sealed IS NOT NULL) FROM codes`,
		scan: func(row scanner) (c CodeState, err error) {
			return c, row.Scan(&c.ID, &c.Status, &c.Order, &c.OrderStatus, &c.OrderCode, &c.Certificate, &c.CertificateStatus,
				&c.CertificateCode, &c.Certificates, &c.Documents)
		},
		keyOf: func(c *CodeState) []any { return []any{string(c.ID)} },
	}
	return l.rows(ctx, s.reads, &selection{}, issuance.Page{})
}

// AccountState is how many orders an account says that it has, and how many it has.
type AccountState struct {
	ID           issuance.AccountID
	Orders, Says int
}

// AccountStates lists every account, oldest first.
func (s *Store) AccountStates(ctx context.Context) iter.Seq2[AccountState, error] {
	l := list[AccountState]{
		what: "list accounts to check", key: "id",
		columns: `SELECT id, orders, (SELECT count(*) FROM orders AS o WHERE o.account = accounts.id) FROM accounts`,
		scan:    func(row scanner) (a AccountState, err error) { return a, row.Scan(&a.ID, &a.Says, &a.Orders) },
		keyOf:   func(a *AccountState) []any { return []any{string(a.ID)} },
	}
	return l.rows(ctx, s.reads, &selection{}, issuance.Page{})
}

// PartState is a piece of evidence or a decision, and the order that it is of.
type PartState struct {
	ID          string
	Outcome     policy.Outcome // of a piece of evidence "" while its order may still be decided
	Order       issuance.OrderID
	OrderStatus issuance.OrderStatus // "": the order left, or never was
	OrderPart   string               // that the order names
}

// EvidenceStates lists every piece of evidence, oldest first.
func (s *Store) EvidenceStates(ctx context.Context) iter.Seq2[PartState, error] {
	return s.partStates(ctx, "evidence", "evidence")
}

// DecisionStates lists every decision, oldest first.
func (s *Store) DecisionStates(ctx context.Context) iter.Seq2[PartState, error] {
	return s.partStates(ctx, "decisions", "decision")
}

// partStates lists the rows of a table that a column of orders names.
func (s *Store) partStates(ctx context.Context, table, column string) iter.Seq2[PartState, error] {
	l := list[PartState]{
		what: "list " + table + " to check", key: "id",
		columns: fmt.Sprintf(`SELECT id, outcome, order_id, coalesce((SELECT orders.status FROM orders WHERE orders.id = %[1]s.order_id), ''),
			coalesce((SELECT orders.%[2]s FROM orders WHERE orders.id = %[1]s.order_id), '') FROM %[1]s`, table, column),
		scan: func(row scanner) (p PartState, err error) {
			return p, row.Scan(&p.ID, &p.Outcome, &p.Order, &p.OrderStatus, &p.OrderPart)
		},
		keyOf: func(p *PartState) []any { return []any{p.ID} },
	}
	return l.rows(ctx, s.reads, &selection{}, issuance.Page{})
}

// HoldState is a hold with what must agree with it.
type HoldState struct {
	ID            issuance.HoldID
	Status        issuance.HoldStatus
	OrderStatus   issuance.OrderStatus // "": it names none, or there is none
	DecisionOrder issuance.OrderID     // that its decision is about; "": there is no such decision
}

// HoldStates lists every hold, oldest first.
func (s *Store) HoldStates(ctx context.Context) iter.Seq2[HoldState, error] {
	l := list[HoldState]{
		what: "list holds to check", key: "id",
		columns: `SELECT id, status, coalesce((SELECT orders.status FROM orders WHERE orders.id = holds.order_id), ''),
			coalesce((SELECT decisions.order_id FROM decisions WHERE decisions.id = holds.decision), '') FROM holds`,
		scan: func(row scanner) (h HoldState, err error) {
			return h, row.Scan(&h.ID, &h.Status, &h.OrderStatus, &h.DecisionOrder)
		},
		keyOf: func(h *HoldState) []any { return []any{string(h.ID)} },
	}
	return l.rows(ctx, s.reads, &selection{}, issuance.Page{})
}

// CRLs lists the newest CRL of every issuer and shard that has one, or has revocations.
func (s *Store) CRLs(ctx context.Context) ([]issuance.CRL, error) {
	type place struct {
		issuer issuance.IssuerID
		shard  int
	}
	var places []place
	err := s.reads.rows(ctx, func(row scanner) error {
		var p place
		err := row.Scan(&p.issuer, &p.shard)
		places = append(places, p)
		return err
	}, `SELECT issuer, shard FROM crls ORDER BY issuer, shard`)
	if err != nil {
		return nil, fmt.Errorf("list CRLs: %w", err)
	}
	crls := make([]issuance.CRL, len(places))
	for n, p := range places {
		if crls[n], err = s.CRL(ctx, p.issuer, p.shard); err != nil {
			return nil, err
		}
	}
	return crls, nil
}

// Publication is the audit's word of a CRL that was published.
type Publication struct {
	Row    string // of the audit
	Issuer issuance.IssuerID
	Detail map[string]string // shard and number
	Times  int               // how often the audit says so
}

// Publications lists what the audit says of CRLs, in the order of its clock, which is not always that of commits.
func (s *Store) Publications(ctx context.Context) iter.Seq2[Publication, error] {
	l := list[Publication]{
		what: "list publications of CRLs", key: "a.id", columns: `SELECT a.id, coalesce(a.issuer, ''), a.detail, 1 FROM audit AS a`,
		scan: scanPublication, keyOf: func(p *Publication) []any { return []any{p.Row} },
	}
	var q selection
	q.and("a.action = ?", string(audit.CRLPublished), true)
	return l.rows(ctx, s.reads, &q, issuance.Page{})
}

// DoublePublications returns the numbers of CRLs that were published more than once.
func (s *Store) DoublePublications(ctx context.Context) (double []Publication, err error) {
	err = s.reads.rows(ctx, func(row scanner) error {
		p, err := scanPublication(row)
		double = append(double, p)
		return err
	}, `SELECT max(a.id), a.issuer, a.detail, count(*) FROM audit AS a WHERE a.action = ? GROUP BY a.issuer, a.detail HAVING count(*) > 1`, string(audit.CRLPublished))
	if err != nil {
		return nil, fmt.Errorf("list double publications of CRLs: %w", err)
	}
	return double, nil
}

func scanPublication(row scanner) (p Publication, err error) {
	var detail string
	if err = row.Scan(&p.Row, &p.Issuer, &detail, &p.Times); err == nil {
		p.Detail, err = labelsOf(detail)
	}
	return p, err
}
