package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// A device retries nothing. So what goes wrong between server and database has to be mended by the server, within
// the fifteen seconds that a device waits for an answer.

// againAndAgain does something to the database, each time after a pause of so long and up to twice that, until the
// context ends.
func (t *trial) againAndAgain(ctx context.Context, pause time.Duration, do func(context.Context) error) (stop func() (times int)) {
	var doing sync.WaitGroup
	var failed error
	times := 0
	doing.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause + rand.N(pause)):
			}
			if failed = do(ctx); failed != nil {
				return
			}
			times++
		}
	})
	return func() int {
		doing.Wait()
		switch {
		case failed != nil:
			t.fault("the scenario broke off: %v", failed)
		case times == 0:
			t.fault("nothing was done to the database: --duration is too short")
		}
		return times
	}
}

var postgresRestartScenario = scenario{
	name:     "postgres-restart",
	postgres: true,
	pair:     true,
	did:      "PostgreSQL is restarted in order (as pg_ctl restart -m fast), again and again, while devices enrol at two servers",
	expected: "every device gets its certificate at its first try",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, 0, func(ctx context.Context) func() string {
			stop := t.againAndAgain(ctx, time.Second, func(ctx context.Context) error {
				if err := t.cluster.Stop(); err != nil {
					return err
				}
				return t.cluster.Start(context.WithoutCancel(ctx))
			})
			return func() string { return counted(stop(), "restart") }
		})
	},
}

// databaseCuts are where connections to PostgreSQL are cut.
var databaseCuts = []struct {
	where string
	cut   cut
}{
	{"before a commit arrived", cut{in: "COMMIT\x00"}},
	{"before its answer", cut{in: "COMMIT\x00", answer: true}},
	{"in its answer", cut{in: "COMMIT\x00", answer: true, after: 20}},
	{"before a statement", cut{}},
	{"in a statement", cut{after: 100}},
	{"in an answer", cut{answer: true, after: 30}},
}

var postgresCutScenario = scenario{
	name:     "postgres-cut",
	postgres: true,
	pair:     true,
	did: "connections between two servers and PostgreSQL are cut while devices enrol: before and in statements, commits and their answers in turn; and now " +
		"and then all at once",
	expected: "every device gets its certificate at its first try: what became of a commit without an answer is found out",
	run: func(ctx context.Context, t *trial) (string, error) {
		t.options = "&default_query_exec_mode=exec" // no prepared statements: a packet shows what it asks for
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, 0, func(ctx context.Context) func() string {
			counts, all, next := make([]int, len(databaseCuts)), 0, 0
			stop := t.againAndAgain(ctx, 20*time.Millisecond, func(ctx context.Context) error {
				if rand.N(20) == 0 {
					all++
					t.database.sever()
					return nil
				}
				at := next % len(databaseCuts)
				next++
				t.database.arm(databaseCuts[at].cut)
				for t.database.armed() {
					if ctx.Err() != nil {
						return nil
					}
					time.Sleep(time.Millisecond)
				}
				counts[at]++
				return nil
			})
			return func() string {
				stop()
				var said []string
				for n, c := range databaseCuts {
					if counts[n] == 0 {
						t.fault("nothing was cut %s", c.where)
					}
					said = append(said, fmt.Sprintf("%d %s", counts[n], c.where))
				}
				return "cuts: " + strings.Join(said, ", ") + fmt.Sprintf("; %d times all connections", all)
			}
		})
	},
}

const databaseDelay = 50 * time.Millisecond

var postgresSlowScenario = scenario{
	name:     "postgres-slow",
	postgres: true,
	pair:     true,
	did:      fmt.Sprintf("every packet between two servers and PostgreSQL is up to %s late, both ways", databaseDelay),
	expected: "every device gets its certificate",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, 0, func(context.Context) func() string {
			t.database.late(databaseDelay)
			return func() string { t.database.late(0); return "" }
		})
	},
}

var postgresLostScenario = scenario{
	name:     "postgres-lost",
	postgres: true,
	pair:     true,
	did: "packets between two servers and PostgreSQL vanish for one to three seconds, every five to ten; each second time the connections that " +
		"there are stay dead, as where a firewall forgot them",
	expected: "every device gets its certificate at its first try",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, 0, func(ctx context.Context) func() string {
			forget := false
			stop := t.againAndAgain(ctx, 5*time.Second, func(context.Context) error {
				again, err := t.database.lose()
				if err != nil {
					return err
				}
				time.Sleep(time.Second + rand.N(2*time.Second))
				err = again(forget)
				forget = !forget
				return err
			})
			return func() string { return counted(stop(), "time") }
		})
	},
}
