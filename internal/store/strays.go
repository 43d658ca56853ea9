package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"assay/internal/issuance"
)

// strays finds rows that hold the device's serial number or UDID, and that no reference leads to, such as
// evidence that was refused. It reads by indexes, page by page, beside the writer: of evidence and decisions what was
// not issued, and of the personal values of the audit those of this name.
func (s *Store) strays(ctx context.Context, d issuance.Device) (found, error) {
	rows := found{evidence: map[string]bool{}, decisions: map[string]bool{}, audit: map[string]bool{}}
	for _, value := range []string{d.Serial, d.UDID} {
		if value == "" {
			continue
		}
		quoted, err := json.Marshal(lowerASCII(value))
		if err != nil {
			return rows, err
		}
		search := straySearch{store: s, value: value, inJSON: string(quoted[1 : len(quoted)-1]), into: &rows}
		if err := search.run(ctx, d); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// straySearch looks for one name of a device.
type straySearch struct {
	store         *Store
	value, inJSON string // the name, and as it stands in JSON, in lower case
	into          *found
}

// naming is a table that may hold the name, and what of a row says so.
type naming struct {
	name, key, condition, columns string
	args                          []any
}

func (l *straySearch) evidence() naming {
	lower := lowerASCII(l.value)
	return naming{"evidence", "id", "instr(lower(p.facts), ?1) > 0 OR instr(lower(p.device_error), ?2) > 0 OR instr(p.object, ?3) > 0 OR instr(p.object, ?4) > 0 OR instr(p.object, ?5) > 0",
		"coalesce(facts, ''), device_error, object", []any{l.inJSON, lower, []byte(l.value), []byte(lower), []byte(strings.ToUpper(l.value))}}
}

func (l *straySearch) decisions() naming {
	return naming{"decisions", "id", "instr(lower(p.input), ?1) > 0", "coalesce(input, ''), '', NULL", []any{l.inJSON}}
}

func (l *straySearch) personal() naming {
	return naming{"audit_personal", "audit", `instr(lower(p."values"), ?1) > 0`, `"values", '', NULL`, []any{l.inJSON}}
}

// run looks wherever a row may be that no reference leads to.
func (l *straySearch) run(ctx context.Context, d issuance.Device) error {
	evidence, decisions, personal := l.evidence(), l.decisions(), l.personal()
	type place struct {
		naming
		from, key string // rows that may name it: p, in an order
		into      map[string]bool
	}
	places := []place{
		{evidence, `evidence AS p WHERE p.outcome <> '' AND p.outcome <> 'issue'`, "p.id", l.into.evidence},
		// What may still be decided: orders that claim nothing leave a day after they expire.
		{evidence, `orders AS o JOIN evidence AS p ON p.id = o.evidence WHERE o.claimed_at = 0`, "o.expires_at, o.id", l.into.evidence},
		{decisions, `decisions AS p WHERE p.outcome <> 'issue'`, "p.id", l.into.decisions},
		{personal, `audit_personal AS p WHERE (instr(p."values", '"deviceError":"') > 0 OR instr(p."values", '"names":[') > 0)`, "p.audit", l.into.audit},
	}
	for _, unissued := range []struct{ status, key string }{{"abandoned", "c.id"}, {"reserved", "c.reserved_at, c.id"}} {
		const from = `certificates AS c JOIN %s AS p ON p.id = c.%s WHERE c.status = '%s'`
		places = append(places,
			place{evidence, fmt.Sprintf(from, "evidence", "evidence", unissued.status), unissued.key, l.into.evidence},
			place{decisions, fmt.Sprintf(from, "decisions", "decision", unissued.status), unissued.key, l.into.decisions})
	}
	for _, at := range places {
		if err := l.search(ctx, at.naming, at.from, at.key, at.into); err != nil {
			return err
		}
	}
	key, _, _ := strings.Cut(l.inJSON, `"`) // as the index has it
	for _, name := range []string{"serial", "udid"} {
		if err := l.lookUp(ctx, personal, l.into.audit, `SELECT audit FROM audit_personal WHERE `+personalIs(name), key); err != nil {
			return err
		}
	}
	for _, expected := range expectations(d) {
		for _, of := range []struct {
			naming
			query string
			into  map[string]bool
		}{
			{evidence, `SELECT coalesce(evidence, '') FROM certificates WHERE `, l.into.evidence},
			{decisions, `SELECT decision FROM certificates WHERE `, l.into.decisions},
		} {
			if err := l.lookUp(ctx, of.naming, of.into, of.query+expected.condition, expected.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// personalIs is a condition on personal values of the audit, written as the index of serial numbers and that of
// UDIDs have it: their member of this name, as it stands in JSON, is the value.
func personalIs(member string) string {
	begins := fmt.Sprintf(`instr("values", '"%s":"')`, member)
	from := fmt.Sprintf(`%s + %d`, begins, len(`"":"`)+len(member))
	return fmt.Sprintf(`%[1]s > 0 AND lower(substr("values", %[2]s, instr(substr("values", %[2]s) || '"', '"') - 1)) = ?`, begins, from)
}

// expectation finds certificates that were to go to a device, and went to another.
type expectation struct{ column, condition, value string }

func expectations(d issuance.Device) (all []expectation) {
	for _, name := range []struct{ column, got, value string }{{"expected_serial", "device_serial", d.Serial}, {"expected_udid", "device_udid", d.UDID}} {
		if name.value != "" {
			all = append(all, expectation{name.column, fmt.Sprintf("%[1]s <> '' AND lower(%[1]s) <> lower(%[2]s) AND lower(%[1]s) = ?", name.column, name.got), lowerASCII(name.value)})
		}
	}
	return all
}

// search goes through rows, a page at a time.
func (l *straySearch) search(ctx context.Context, of naming, from, key string, into map[string]bool) error {
	type row struct {
		id  string
		key []any
		hit bool
	}
	width := len(strings.Split(key, ", "))
	rows, conditions, _ := strings.Cut(from, " WHERE ")
	list := list[row]{
		what: "search " + of.name, key: key,
		columns: fmt.Sprintf("SELECT p.%s, CASE WHEN %s THEN 1 ELSE 0 END, %s FROM %s", of.key, of.condition, key, rows),
		scan: func(from scanner) (r row, err error) {
			r.key = make([]any, width)
			columns := []any{&r.id, &r.hit}
			for i := range r.key {
				columns = append(columns, &r.key[i])
			}
			return r, from.Scan(columns...)
		},
		keyOf: func(r *row) []any { return r.key },
	}
	for r, err := range list.rows(ctx, l.store.reads, &selection{where: []string{conditions}, args: of.args}, issuance.Page{}) {
		if err != nil {
			return err
		}
		if r.hit {
			if err := l.judge(ctx, of, r.id, into); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookUp judges the rows whose ids a query gives.
func (l *straySearch) lookUp(ctx context.Context, of naming, into map[string]bool, query, value string) error {
	var ids []string
	err := l.store.reads.rows(ctx, func(row scanner) error {
		var id string
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, query, value)
	for _, id := range ids {
		if err == nil {
			err = l.judge(ctx, of, id, into)
		}
	}
	if err != nil {
		return fmt.Errorf("search %s: %w", of.name, err)
	}
	return nil
}

// judge takes a row that names the device.
func (l *straySearch) judge(ctx context.Context, of naming, id string, into map[string]bool) error {
	return l.store.reads.rows(ctx, func(row scanner) error {
		var r stray
		err := row.Scan(&r.json, &r.text, &r.object)
		if err == nil && r.names(l.value) {
			into[id] = true
		}
		return err
	}, fmt.Sprintf("SELECT %s FROM %s WHERE %s = ?", of.columns, of.name, of.key), id)
}

// stray is a row that may name a device.
type stray struct {
	json, text string
	object     []byte
}

// names reports whether the row names the device with this serial number or UDID, and not merely one whose
// name holds that one: what is erased of another device is lost.
func (r *stray) names(value string) bool {
	var v any
	if json.Unmarshal([]byte(r.json), &v) != nil { // then it is empty, or nothing that was written as JSON
		v = r.json
	}
	return valueNames(v, value) || namedIn(r.text, value) || namedIn(string(r.object), value)
}

// valueNames looks for a name in every text of a JSON value.
func valueNames(v any, name string) bool {
	switch v := v.(type) {
	case string:
		return namedIn(v, name)
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return valueNames(one, name) })
	case map[string]any:
		for _, one := range v {
			if valueNames(one, name) {
				return true
			}
		}
	}
	return false
}

// namedIn reports whether a text or an object in DER holds a name as a whole: between other characters than
// letters and digits, or behind its length. UDIDs compare without case, and lists write them either way.
func namedIn(text, name string) bool {
	text, name = lowerASCII(text), lowerASCII(name)
	isWord := func(b byte) bool { return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' }
	for from := 0; ; {
		at := strings.Index(text[from:], name)
		if at < 0 {
			return false
		}
		at += from
		end := at + len(name)
		begins, ends := at == 0 || !isWord(text[at-1]), end == len(text) || !isWord(text[end])
		if begins && ends || at > 0 && int(text[at-1]) == len(name) {
			return true
		}
		from = at + 1
	}
}

// lowerASCII keeps every byte where it is, also of what is no text.
func lowerASCII(text string) string {
	b := []byte(text)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + ('a' - 'A')
		}
	}
	return string(b)
}
