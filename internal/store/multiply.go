package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"assay/internal/issuance"
)

// multiplyBatch is how many copies one transaction stores.
const multiplyBatch = 200

// Multiply stores so many copies of a valid certificate with all that its enrolment left: account, device,
// code, order, evidence, decision, audit rows. It is how a measurement comes by a large
// database, and nothing for one that serves devices: what is sealed in an audit row's commitment, the
// device's key and the signed certificate are the original's. Ids, names and whatever else is unique are
// fresh, and evenly spread; the copies' times lie evenly in the period before the original's, so that what
// comes later sorts behind them. The audit rows are left to be sealed. Progress, after each transaction, may
// end it by an error; what was stored stays. Not fsynced.
func (s *Store) Multiply(ctx context.Context, original issuance.CertificateID, copies int, period time.Duration, progress func(stored int) error) error {
	const what = "multiply certificate"
	e, err := s.readEnrolment(ctx, original)
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, original, err)
	}
	for stored := 0; stored < copies; {
		end := min(stored+multiplyBatch, copies)
		err := s.note(ctx, issuance.Call{}, what, func(t *tx) error {
			for i := stored; i < end; i++ {
				ago := time.Duration(float64(period) * float64(copies-i) / float64(copies))
				if err := s.storeCopy(t, e, place{i, copies}, ago); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		stored = end
		if err := progress(stored); err != nil {
			return fmt.Errorf("%s: after %d copies: %w", what, stored, err)
		}
	}
	return nil
}

// enrolmentTables are the tables that an enrolment leaves rows in, in an order in which each refers only to
// those before. The condition finds the rows of a certificate.
var enrolmentTables = []struct{ name, columns, condition string }{
	{"accounts", `id, directory, status, contacts, terms_agreed, jwk, thumbprint, orders, created_at`,
		`id = (SELECT account FROM certificates WHERE id = ?)`},
	{"devices", `id, serial, udid, udid_key, labels, attested, created_at, mdm_fingerprint, revision, state, sources, seen_at`,
		`id = (SELECT device FROM certificates WHERE id = ?)`},
	{"codes", `id, directory, value_sha256, status, device, serial, udid, labels, allow_unattested, minted, order_id, certificate,
			tries, last_refusal, created_at, expires_at, used_at, revoked_at`,
		`id = (SELECT code FROM certificates WHERE id = ?)`},
	{"orders", `id, account, directory, identifier_type, identifier_kind, identifier_sealed, code, status, authz, token, challenge,
			validated_at, challenge_refusal, refusal, tries, evidence, decision, certificate, claimed_at, created_at, expires_at`,
		`id = (SELECT order_id FROM certificates WHERE id = ?)`},
	{"evidence", `id, order_id, received_at, kind, format, object, device_error, token, key_auth, facts, facts_schema, failed,
			kept, outcome, removed_at`,
		`id = (SELECT evidence FROM certificates WHERE id = ?)`},
	{"decisions", `id, order_id, code, evidence, time, schema, decision, input, directory, policy, outcome, device, hold`,
		`id = (SELECT decision FROM certificates WHERE id = ?)`},
	{"certificates", `id, serial, status, directory, issuer, profile, profile_version, crl_shard, account, order_id, code, device,
			decision, evidence, device_serial, device_udid, expected_serial, expected_udid, attestation_root, spki_sha256,
			not_before, not_after, der, reserved_at, issued_at, collected_at, revoked_at, revoked_reason, superseded_by`,
		`id = ?`},
	{"audit", auditTable, `order_id = (SELECT order_id FROM certificates WHERE id = ?)`},
	{"audit", auditTable, `order_id IS NULL AND code = (SELECT code FROM certificates WHERE id = ?)`},
	{"audit_personal", `audit, salt, "values"`,
		`audit IN (SELECT a.id FROM certificates AS c JOIN audit AS a ON a.order_id = c.order_id OR a.order_id IS NULL AND a.code = c.code WHERE c.id = ?)`},
}

const auditTable = `id, time, action, outcome, directory, account, order_id, code, certificate, device, issuer, failed, detail, commitment`

// enrolment is what an enrolment left.
type enrolment struct {
	rows        []storedRow
	certificate issuance.Certificate
	thumbprint  string // of the account's key
	identifier  string // of the order, unsealed
	audit       []string
}

// storedRow is a row of a table, as it is.
type storedRow struct {
	table, insert string
	columns       []string
	values        []any
}

func (r *storedRow) value(column string) any {
	for i, name := range r.columns {
		if name == column {
			return r.values[i]
		}
	}
	return nil
}

func (s *Store) readEnrolment(ctx context.Context, id issuance.CertificateID) (*enrolment, error) {
	certificate, err := s.Certificate(ctx, id)
	if err != nil {
		return nil, err
	}
	if certificate.Status != issuance.CertificateValid || certificate.Device == "" || certificate.Code == "" {
		return nil, errors.New("only a valid certificate of a device that enrolled with a code can be multiplied")
	}
	e := &enrolment{certificate: certificate}
	for _, table := range enrolmentTables {
		columns := strings.FieldsFunc(table.columns, func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
		insert := `INSERT INTO ` + table.name + ` (` + table.columns + `) VALUES (?` + strings.Repeat(`, ?`, len(columns)-1) + `)`
		err := s.reads.rows(ctx, func(row scanner) error {
			r := storedRow{table.name, insert, columns, make([]any, len(columns))}
			into := make([]any, len(columns))
			for i := range into {
				into[i] = &r.values[i]
			}
			err := row.Scan(into...)
			e.rows = append(e.rows, r)
			return err
		}, `SELECT `+table.columns+` FROM `+table.name+` WHERE `+table.condition, string(id))
		if err != nil {
			return nil, err
		}
	}
	for i := range e.rows {
		switch r := &e.rows[i]; r.table {
		case "accounts":
			e.thumbprint, _ = r.value("thumbprint").(string)
		case "audit":
			name, _ := r.value("id").(string)
			e.audit = append(e.audit, name)
		case "orders":
			sealed, _ := r.value("identifier_sealed").([]byte)
			value, err := s.seal.unseal(sealed, string(certificate.Order))
			if err != nil {
				return nil, err
			}
			e.identifier = string(value)
		}
	}
	return e, nil
}

// storeCopy stores one copy, so long before the original.
func (s *Store) storeCopy(t *tx, e *enrolment, p place, ago time.Duration) error {
	names, order, err := s.freshNames(e, p, ago)
	if err != nil {
		return err
	}
	fresh := strings.NewReplacer(names...)
	for _, row := range e.rows {
		values := make([]any, len(row.values))
		for i, value := range row.values {
			switch v := value.(type) {
			case int64:
				if isTime(row.columns[i]) && v != 0 {
					v -= ago.Microseconds()
				}
				value = v
			case string:
				if row.columns[i] != `"values"` { // an audit row's commitment is over them
					value = fresh.Replace(v)
				}
			case []byte:
				switch row.columns[i] {
				case "value_sha256":
					value = p.spread(32)
				case "identifier_sealed":
					value, err = s.seal.seal([]byte(e.identifier), order)
				}
			}
			if err != nil {
				return err
			}
			values[i] = value
		}
		if err := t.write(row.insert, values...); err != nil {
			return fmt.Errorf("copy row of %s: %w", row.table, err)
		}
		if row.table == "audit" {
			if err := t.write(`INSERT INTO audit_unsealed (audit) VALUES (?)`, values[0]); err != nil {
				return fmt.Errorf("write audit row to seal: %w", err)
			}
		}
	}
	return nil
}

// isTime tells columns with a point in time from other numbers.
func isTime(column string) bool {
	return strings.HasSuffix(column, "_at") || column == "time" || column == "not_before" || column == "not_after"
}

// freshNames are pairs of a name in the original and the copy's, and the copy's order.
func (s *Store) freshNames(e *enrolment, p place, ago time.Duration) (pairs []string, order string, err error) {
	c := &e.certificate
	made := c.IssuedAt.Add(-ago)
	add := func(old, fresh string, failed error) {
		if old != "" {
			pairs = append(pairs, old, fresh)
		}
		err = errors.Join(err, failed)
	}
	copyID(add, s, c.Account, made)
	copyID(add, s, c.Device, made)
	copyID(add, s, c.Code, made)
	copyID(add, s, c.Order, made)
	order = pairs[len(pairs)-1]
	copyID(add, s, c.Evidence, made)
	copyID(add, s, c.Decision, made)
	copyID(add, s, c.ID, made)
	for _, id := range e.audit {
		copyID(add, s, issuance.AuditID(id), made)
	}
	add(e.thumbprint, hex.EncodeToString(p.spread(22)), nil)
	add(c.Serial, hex.EncodeToString(p.spread(len(c.Serial)/2)), nil)
	add(c.SPKISHA256, hex.EncodeToString(p.spread(32)), nil)
	serial := strings.ToUpper(hex.EncodeToString(p.spread(8)))
	add(c.DeviceSerial, serial, nil)
	if c.DeviceUDID != "" {
		add(c.DeviceUDID, "00008110-"+serial, nil)
		add(udidKey(c.DeviceUDID), udidKey("00008110-"+serial), nil)
	}
	return pairs, order, err
}

// copyID adds a fresh id for one of the original's.
func copyID[T issuance.ID](add func(old, fresh string, failed error), s *Store, old T, made time.Time) {
	fresh, err := newID[T](s.random, made)
	add(string(old), string(fresh), err)
}

// place is that of one copy among all.
type place struct{ number, of int }

// spread makes random bytes, at least eight, that lie in the copy's part of all values: those of all copies
// are spread as random ones are, and come in order, so that storing them goes through an index once.
func (p place) spread(size int) []byte {
	value := make([]byte, size)
	_, _ = rand.Read(value) // never fails
	width := math.MaxUint64 / uint64(p.of)
	binary.BigEndian.PutUint64(value, uint64(p.number)*width+binary.BigEndian.Uint64(value)%width)
	return value
}
