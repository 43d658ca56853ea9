package store_test

import (
	"fmt"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
	"assay/policy"
)

// layouts are how the tables that grow may lie, as statements for an empty database. "whole" is how they lay
// before there were years, with the references that they had.
func layouts() map[string][]string {
	whole := []string{}
	for _, table := range []string{"evidence", "decisions", "audit", "audit_personal"} {
		whole = append(whole, fmt.Sprintf(`CREATE TABLE whole (LIKE %[1]s INCLUDING ALL); DROP TABLE %[1]s; ALTER TABLE whole RENAME TO %[1]s`, table))
	}
	whole = append(whole, `ALTER TABLE audit_personal ADD FOREIGN KEY (audit) REFERENCES audit (id)`, `ALTER TABLE audit_unsealed ADD FOREIGN KEY (audit) REFERENCES audit (id)`)
	return map[string][]string{"whole": whole, "years=2": {}, "years=6": {`SELECT make_year(name, year, NULL) FROM tables_in_years, generate_series(2022, 2027) AS year`}}
}

// BenchmarkYears is what an enrolment and reads cost PostgreSQL by how its tables lie, in one run.
func BenchmarkYears(b *testing.B) {
	p := newPostgres(b)
	for layout, statements := range layouts() {
		url := p.database(b)
		if err := p.run(b, url, statements...); err != nil {
			b.Fatal(err)
		}
		b.Run("enrolment/"+layout, func(b *testing.B) {
			before := serverCPU(b, p.Process())
			benchEnrolment(b, url, 16)
			b.ReportMetric(float64(serverCPU(b, p.Process())-before)/float64(b.N), "postgres-cpu-ns/op")
		})
		s := openAt(b, url)
		bench := storetest.NewBench(b, s)
		var issued []issuance.Certificate
		for range 200 {
			issued = append(issued, bench.Issued())
		}
		for name, read := range readsOfYears(b, s, bench.Now) {
			b.Run(name+"/"+layout, func(b *testing.B) {
				before := serverCPU(b, p.Process())
				for i := range b.N {
					read(issued[i%len(issued)])
				}
				b.ReportMetric(float64(serverCPU(b, p.Process())-before)/float64(b.N), "postgres-cpu-ns/op")
			})
		}
	}
}

// readsOfYears are reads of the tables that lie in years.
func readsOfYears(b *testing.B, s *store.Store, now time.Time) map[string]func(issuance.Certificate) {
	trail := func(f audit.Filter) {
		for _, err := range s.Audit(b.Context(), f) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	return map[string]func(issuance.Certificate){
		"trail-of-code":  func(c issuance.Certificate) { trail(audit.Filter{Code: string(c.Code)}) },
		"trail-of-order": func(c issuance.Certificate) { trail(audit.Filter{Order: string(c.Order)}) },
		"evidence":       func(c issuance.Certificate) { _, err := s.Evidence(b.Context(), c.Evidence); check(err) },
		"circumstances": func(c issuance.Certificate) {
			_, err := s.Circumstances(b.Context(), now, issuance.Subject{Directory: c.Directory, Code: c.Code, CodeDevice: c.Device, Serial: c.DeviceSerial, UDID: c.DeviceUDID, SPKISHA256: c.SPKISHA256})
			check(err)
		},
		"refused-decisions": func(issuance.Certificate) {
			for _, err := range s.Decisions(b.Context(), issuance.DecisionFilter{Outcome: policy.Refuse}) {
				check(err)
			}
		},
	}
}
