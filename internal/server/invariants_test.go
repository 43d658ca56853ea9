package server_test

import (
	"github.com/google/go-cmp/cmp"

	"context"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// verify holds, after each test, what must hold whatever clients did.
func (h *harness) verify() {
	h.verifyCertificates()
	h.verifyOrders()
	h.verifyCodes()
	h.verifyHolds()
	h.verifyDecisions()
	h.verifyTrail()
	h.verifyNoSecrets()
}

// verifyCertificates: no code has two certificates; each certificate is what its row says, certifies
// the key that its own evidence attests (unless the decision names that none was), and every
// reserved serial was completed or abandoned.
func (h *harness) verifyCertificates() {
	ofCode, ofOrder := map[issuance.CodeID]int{}, map[issuance.OrderID]int{}
	for c, err := range h.store.Certificates(h.ctx(), issuance.CertificateFilter{}) {
		if err != nil {
			h.t.Fatal(err)
		}
		switch c.Status {
		case issuance.CertificateAbandoned:
			if c.DER != nil {
				h.t.Errorf("abandoned %s has a certificate", c.ID)
			}
			continue
		case issuance.CertificateReserved:
			if !h.leavesRow {
				h.t.Errorf("serial of %s is still reserved: neither completed nor abandoned", c.ID)
			}
			continue
		}
		ofOrder[c.Order]++
		if c.Code != "" {
			ofCode[c.Code]++
		}
		h.verifyCertificate(c)
	}
	for code, n := range ofCode {
		if n > 1 {
			h.t.Errorf("%s has %d certificates", code, n)
		}
	}
	for order, n := range ofOrder {
		if n > 1 {
			h.t.Errorf("%s has %d certificates", order, n)
		}
	}
}

func (h *harness) verifyCertificate(c issuance.Certificate) {
	leaf, err := x509.ParseCertificate(c.DER)
	if err != nil {
		h.t.Errorf("%s: %v", c.ID, err)
		return
	}
	issuer := h.config.Issuers[c.Issuer]
	if err := leaf.CheckSignatureFrom(issuer.Certificate); err != nil {
		h.t.Errorf("%s is not signed by its issuer: %v", c.ID, err)
	}
	if serial := fmt.Sprintf("%040x", leaf.SerialNumber); serial != c.Serial {
		h.t.Errorf("%s has serial %s, its row says %s", c.ID, serial, c.Serial)
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		h.t.Errorf("%s is a CA", c.ID)
	}
	if !leaf.NotBefore.Equal(c.NotBefore) || !leaf.NotAfter.Equal(c.NotAfter) {
		h.t.Errorf("%s is valid %v to %v, its row says %v to %v", c.ID, leaf.NotBefore, leaf.NotAfter, c.NotBefore, c.NotAfter)
	}
	if url := issuer.CRLURL(c.CRLShard); !slices.Equal(leaf.CRLDistributionPoints, []string{url}) {
		h.t.Errorf("%s names CRLs %q, its row means %s", c.ID, leaf.CRLDistributionPoints, url)
	}
	if sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != c.SPKISHA256 {
		h.t.Errorf("%s certifies another key than its row says", c.ID)
	}
	decision, err := h.store.Decision(h.ctx(), c.Decision)
	if err != nil {
		h.t.Errorf("decision of %s: %v", c.ID, err)
		return
	}
	evidence, err := h.store.Evidence(h.ctx(), c.Evidence)
	if err != nil {
		h.t.Errorf("evidence of %s: %v", c.ID, err)
		return
	}
	if decision.Decision.Outcome != policy.Issue || decision.Order != c.Order || evidence.Order != c.Order {
		h.t.Errorf("%s rests on decision %q of %s and evidence of %s, not of its order %s", c.ID,
			decision.Decision.Outcome, decision.Order, evidence.Order, c.Order)
	}
	switch unattested := decision.Decision.Key.Unattested; {
	case unattested && (c.DeviceSerial != "" || c.DeviceUDID != "" || c.AttestationRoot != "" || evidence.Facts != nil):
		h.t.Errorf("%s is of an unattested device, and names one as attested", c.ID)
	case !unattested && evidence.Facts == nil:
		h.t.Errorf("%s rests on no facts", c.ID)
	case !unattested && string(evidence.Facts.PublicKey) != string(leaf.RawSubjectPublicKeyInfo):
		h.t.Errorf("%s certifies a key that its evidence does not attest", c.ID)
	}
}

// verifyOrders: order, authorization and challenge stand in a legal combination, and an order is
// valid if and only if its certificate is.
func (h *harness) verifyOrders() {
	legal := []string{
		"pending/pending/pending", "ready/valid/valid", "valid/valid/valid", "valid/deactivated/valid",
		"invalid/invalid/invalid",     // a refused challenge
		"invalid/valid/valid",         // a refused decision, too many tries, a signature that failed
		"invalid/deactivated/valid",   // given up when ready
		"invalid/deactivated/invalid", // given up when pending
	}
	for _, row := range h.rows(`SELECT id, status, authz, challenge, ifnull(certificate, ''), refusal FROM orders`) {
		state := strings.Join(row[1:4], "/")
		if !slices.Contains(legal, state) && !(h.leavesRow && state == "processing/valid/valid") {
			h.t.Errorf("%s is %s", row[0], state)
		}
		if row[1] == "invalid" && row[5] == "" {
			h.t.Errorf("%s is invalid without a reason", row[0])
		}
		if row[1] != "valid" {
			continue
		}
		c, err := h.store.Certificate(h.ctx(), issuance.CertificateID(row[4]))
		if err != nil || string(c.Order) != row[0] || c.DER == nil {
			h.t.Errorf("%s is valid, but its certificate %q is not: %v", row[0], row[4], err)
		}
	}
}

// verifyCodes: a code is consumed if and only if it has a certificate, and none is left claimed.
func (h *harness) verifyCodes() {
	for _, row := range h.rows(`SELECT id, status, (SELECT count(*) FROM certificates
			WHERE code = codes.id AND certificates.status IN ('valid', 'revoked')) FROM codes`) {
		consumed, has := row[1] == "consumed", row[2] == "1"
		if consumed != has || row[1] == "issuing" && !h.leavesRow {
			h.t.Errorf("%s is %s and has %s certificates", row[0], row[1], row[2])
		}
	}
}

// verifyHolds: an approval gave at most one certificate, and exactly one if it is used up; none is left
// claimed.
func (h *harness) verifyHolds() {
	for _, row := range h.rows(`SELECT id, status, (SELECT count(*) FROM certificates JOIN decisions ON decisions.id = certificates.decision
			WHERE decisions.hold = holds.id AND decisions.outcome = 'issue' AND certificates.der IS NOT NULL) FROM holds`) {
		used, has := row[1] == "used", row[2]
		if used != (has == "1") || !used && has != "0" || row[1] == "claimed" && !h.leavesRow {
			h.t.Errorf("%s is %s and gave %s certificates", row[0], row[1], has)
		}
	}
}

// verifyDecisions: the policy that took a decision is kept, and takes it again on what it was taken on.
func (h *harness) verifyDecisions() {
	for d, err := range h.store.Decisions(h.ctx(), issuance.DecisionFilter{}) {
		if err != nil {
			h.t.Fatal(err)
		}
		kept, err := h.store.Policy(h.ctx(), d.Decision.Policy.SHA256)
		if err != nil {
			h.t.Errorf("policy of %s: %v", d.ID, err)
			continue
		}
		p, err := policy.Parse(kept.Name, []byte(kept.Text))
		if err != nil {
			h.t.Error(err)
			continue
		}
		again := p.Decide(h.ctx(), *d.Input)
		again.Dropped = d.Decision.Dropped // by the certificate profile, not by the policy
		if diff := cmp.Diff(d.Decision, again); diff != "" {
			h.t.Errorf("%s, decided again: %s", d.ID, diff)
		}
	}
}

// verifyTrail: every audit row's personal values are those that it commits to.
func (h *harness) verifyTrail() {
	for row, err := range h.store.Audit(h.ctx(), audit.Filter{}) {
		if err != nil {
			h.t.Fatal(err)
		}
		if err := audit.VerifyPersonal(row); err != nil {
			h.t.Errorf("audit row %s: %v", row.ID, err)
		}
	}
}

// verifyNoSecrets: neither a log line nor an audit row holds a code, a token or a document's URL.
func (h *harness) verifyNoSecrets() {
	logs := h.logs.String()
	var trail strings.Builder
	for _, table := range []string{"audit", "audit_personal"} {
		for _, row := range h.rows(`SELECT * FROM ` + table) {
			fmt.Fprintln(&trail, row)
		}
	}
	h.secrets.mu.Lock()
	defer h.secrets.mu.Unlock()
	for secret, what := range h.secrets.values {
		if strings.Contains(logs, secret) {
			h.t.Errorf("the log holds a %s", what)
		}
		if strings.Contains(trail.String(), secret) {
			h.t.Errorf("the audit trail holds a %s", what)
		}
	}
}

// rows runs a query beside the server and returns every value as text.
func (h *harness) rows(query string) [][]string {
	h.t.Helper()
	found, err := h.beside.Query(query)
	if err != nil {
		h.t.Fatal(err)
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		h.t.Fatal(err)
	}
	var out [][]string
	for found.Next() {
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := found.Scan(into...); err != nil {
			h.t.Fatal(err)
		}
		row := make([]string, len(columns))
		for i, v := range values {
			row[i] = v.String
		}
		out = append(out, row)
	}
	if err := found.Err(); err != nil {
		h.t.Fatal(err)
	}
	return out
}

// count counts rows, such as `certificates WHERE status = 'valid'`.
func (h *harness) count(from string) int {
	h.t.Helper()
	var n int
	if _, err := fmt.Sscan(h.rows(`SELECT count(*) FROM ` + from)[0][0], &n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// contents is a digest of every row of every table but the nonces.
func (h *harness) contents() string {
	h.t.Helper()
	var tables []string
	for _, table := range h.rows(`SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'nonces' ORDER BY name`) {
		tables = append(tables, table[0])
	}
	return h.contentsOf(tables)
}

func (h *harness) contentsOf(tables []string) string {
	h.t.Helper()
	sum := sha256.New()
	for _, table := range tables {
		fmt.Fprintln(sum, table)
		var lines []string
		for _, row := range h.rows(`SELECT * FROM "` + table + `"`) {
			lines = append(lines, fmt.Sprintf("%q\n", row))
		}
		slices.Sort(lines)
		fmt.Fprint(sum, lines)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// unchanged runs something and demands that nothing in the database changed but spent nonces.
func (h *harness) unchanged(what string, do func()) {
	h.t.Helper()
	before := h.contents()
	do()
	if h.contents() != before {
		h.t.Errorf("%s changed the database", what)
	}
}

// state demands the statuses of an order, its authorization and its challenge.
func (h *harness) state(o *order, status issuance.OrderStatus, authorization issuance.AuthorizationStatus, challenge issuance.ChallengeStatus) issuance.Order {
	h.t.Helper()
	row, err := h.store.Order(h.ctx(), o.id)
	if err != nil {
		h.t.Fatal(err)
	}
	if row.Status != status || row.Authorization != authorization || row.Challenge.Status != challenge {
		h.t.Errorf("order/authorization/challenge is %s/%s/%s, want %s/%s/%s",
			row.Status, row.Authorization, row.Challenge.Status, status, authorization, challenge)
	}
	return row
}

func (h *harness) pending(o *order) issuance.Order {
	h.t.Helper()
	return h.state(o, "pending", "pending", "pending")
}
func (h *harness) isReady(o *order) issuance.Order {
	h.t.Helper()
	return h.state(o, "ready", "valid", "valid")
}

// dead demands that a challenge was refused for good, with this check as the reason.
func (h *harness) dead(o *order, check string) {
	h.t.Helper()
	row := h.state(o, "invalid", "invalid", "invalid")
	if row.Refusal == nil || row.Refusal.Check != check || row.Challenge.Refusal == nil || row.Challenge.Refusal.Check != check ||
		row.Challenge.Refusal.Problem != "badAttestationStatement" {
		h.t.Errorf("the order says %+v and its challenge %+v, want check %s", row.Refusal, row.Challenge.Refusal, check)
	}
	h.noCertificate(o)
}

// refusedOrder demands that finalize made the order invalid for this check.
func (h *harness) refusedOrder(o *order, check string) {
	h.t.Helper()
	row := h.state(o, "invalid", "valid", "valid")
	if row.Refusal == nil || row.Refusal.Check != check {
		h.t.Errorf("the order says %+v, want check %s", row.Refusal, check)
	}
	h.noCertificate(o)
}

func (h *harness) noCertificate(o *order) {
	h.t.Helper()
	if n := h.count(`certificates WHERE status <> 'abandoned' AND order_id = '` + string(o.id) + `'`); n != 0 {
		h.t.Errorf("%d certificate rows name %s", n, o.id)
	}
}

// code demands a code's status and number of tries.
func (h *harness) code(id issuance.CodeID, status issuance.CodeStatus, tries int) issuance.Code {
	h.t.Helper()
	c, err := h.store.Code(h.ctx(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	if got := c.StatusAt(h.clock.Now()); got != status || c.Tries != tries {
		h.t.Errorf("code is %s after %d tries, want %s after %d", got, c.Tries, status, tries)
	}
	return c
}

// stillGood demands that a code can be used by a new order of a new account.
func (h *harness) stillGood(dir, value string, d *device) *identity {
	h.t.Helper()
	_, id := h.client(dir).enrol(value, d)
	return id
}

// audited returns the refusals of the trail that match, with the check.
func (h *harness) audited(f audit.Filter, check string) []audit.Row {
	h.t.Helper()
	var rows []audit.Row
	for row, err := range h.store.Audit(h.ctx(), f) {
		if err != nil {
			h.t.Fatal(err)
		}
		if row.Outcome == audit.Refused && row.Check == check {
			rows = append(rows, row)
		}
	}
	return rows
}

// ctx is for reading the store: it outlives the test, whose own context ends before its clean-up.
func (h *harness) ctx() context.Context { return context.WithoutCancel(h.t.Context()) }

// subtest makes the harness report to a subtest while it runs.
func (h *harness) subtest(name string, run func(t *testing.T)) {
	outer := h.t
	outer.Run(name, func(t *testing.T) {
		h.t = t
		defer func() { h.t = outer }()
		run(t)
	})
}
