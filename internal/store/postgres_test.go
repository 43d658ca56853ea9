package store_test

import (
	"testing"

	"assay/internal/counterpart"
	"assay/internal/pgcluster"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

func TestPostgres(t *testing.T) {
	cluster := newPostgres(t)
	storetest.Run(t, func(t *testing.T) storetest.Store {
		s := openURL(t, cluster.database(t))
		checkWhole(t, s)
		return s
	})
}

// postgres is a PostgreSQL server whose databases are Assay's, and empty.
type postgres struct {
	*pgcluster.Cluster
}

func newPostgres(t testing.TB, settings ...string) *postgres {
	t.Helper()
	c := counterpart.Postgres(t, settings...)
	url, err := c.CreateDatabase(t.Context(), "template", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Migrate(t.Context(), url, false); err != nil {
		t.Fatal(err)
	}
	return &postgres{c}
}

// database is the URL of a new database.
func (p *postgres) database(t testing.TB) string {
	t.Helper()
	return counterpart.Database(t, p.Cluster, "template")
}

// openURL opens a database until the test ends.
func openURL(t testing.TB, url string) *store.Store {
	t.Helper()
	return openAt(t, url)
}
