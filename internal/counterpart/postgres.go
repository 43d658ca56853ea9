package counterpart

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"assay/internal/pgcluster"
)

// Postgres starts a PostgreSQL server, until the test ends; it skips or fails the test if there is none. What
// is in it need not survive a crash of the machine.
func Postgres(t testing.TB, settings ...string) *pgcluster.Cluster {
	t.Helper()
	if _, err := pgcluster.Binaries(); err != nil {
		missing(t, "postgres", err)
	}
	c, err := pgcluster.New(t.Context(), pgcluster.Options{Settings: append([]string{"fsync=off", "max_connections=300"}, settings...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

var databases atomic.Int64

// Database makes a database with a name of its own, as a copy of a template ("" for an empty one).
func Database(t testing.TB, c *pgcluster.Cluster, template string) (url string) {
	t.Helper()
	url, err := c.CreateDatabase(context.WithoutCancel(t.Context()), fmt.Sprintf("test%d", databases.Add(1)), template)
	if err != nil {
		t.Fatal(err)
	}
	return url
}
