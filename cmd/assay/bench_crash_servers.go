package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"assay/internal/installation"
	"assay/internal/pgcluster"
)

// clusterProcess is a PostgreSQL server.
type clusterProcess struct{ *pgcluster.Cluster }

func (c clusterProcess) start(ctx context.Context) error {
	if !c.Ended() {
		return nil
	}
	return c.Start(ctx)
}

func (c clusterProcess) kill() error { return c.Crash() }

func (c clusterProcess) await(context.Context) error { return nil } // start waits

// replica opens a copy of the rig's installation, whose database is the same: server number n.
func (r *rig) replica(ctx context.Context, n int, now func() time.Time) (*installation.Installation, error) {
	dir := fmt.Sprintf("%s-%d", r.serverDir, n)
	if err := installation.CopyFolder(dir, r.serverDir); err != nil {
		return nil, err
	}
	return installation.Open(ctx, dir, now)
}

// crashUpkeep is how often servers that share a database look for claims of dead ones, so that a run need not wait
// for them long; whoever works on a claim for longer loses it.
const crashUpkeep = 3 * time.Second

// prepare makes what is to be killed: the servers and, if it is wanted, PostgreSQL below them.
func (r *crashRun) prepare(ctx context.Context) (err error) {
	database := ""
	if r.command.Postgres {
		if r.cluster, err = pgcluster.New(ctx, pgcluster.Options{}); err != nil {
			return err
		}
		r.mortals = append(r.mortals, clusterProcess{r.cluster})
		if database, err = r.cluster.CreateDatabase(ctx, "assay", ""); err != nil {
			return err
		}
	}
	r.rig, err = newRig(ctx, r.dir, "Crash", r.term.Now, func(o *installation.InitOptions) { o.Database = database })
	if err != nil {
		return err
	}
	r.opened = append(r.opened, r.inst)
	log, args := &lines{w: r.term.Err}, []string{"--log-level", "error"}
	if r.command.Postgres {
		log.w = io.Discard // that the database is gone is no news
		args = append(args, "--upkeep", crashUpkeep.String())
	}
	for n := range r.command.Replicas {
		inst := r.inst
		if n > 0 { // a server has a folder of its own
			if inst, err = r.replica(ctx, n+1, r.term.Now); err != nil {
				return err
			}
			r.opened = append(r.opened, inst)
		}
		server := &serverProcess{inst: inst, log: log, args: args}
		r.servers, r.mortals = append(r.servers, server), append(r.mortals, server)
	}
	return nil
}

// close ends what still runs, the last first.
func (r *crashRun) close() {
	for _, s := range r.servers {
		_ = s.kill()
	}
	for _, inst := range r.opened {
		_ = inst.Close()
	}
	if r.cluster != nil {
		_ = r.cluster.Close()
	}
}
