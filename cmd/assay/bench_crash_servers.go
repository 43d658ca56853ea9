package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"assay/internal/installation"
	"assay/internal/pgcluster"
)

// clusterProcess is a PostgreSQL server.
type clusterProcess struct {
	*pgcluster.Cluster
	down bool
}

func (c *clusterProcess) start(ctx context.Context) error {
	if !c.down {
		return nil
	}
	c.down = false
	return c.Start(ctx)
}

func (c *clusterProcess) kill() error {
	if c.down {
		return nil
	}
	c.down = true
	return c.Crash()
}

func (c *clusterProcess) await(context.Context) error { return nil } // start waits

// prepare makes what is to be killed: the servers and, if it is wanted, PostgreSQL below them.
func (r *crashRun) prepare(ctx context.Context) (err error) {
	database := ""
	if r.command.Postgres {
		folder, err := os.MkdirTemp("", "assay-pg-") // of its own: PostgreSQL may run as another user
		if err != nil {
			return err
		}
		r.folders = append(r.folders, folder)
		cluster, err := pgcluster.New(ctx, pgcluster.Options{Dir: folder})
		if err != nil {
			return err
		}
		r.mortals = append(r.mortals, &clusterProcess{Cluster: cluster})
		if database, err = cluster.CreateDatabase(ctx, "assay", ""); err != nil {
			return err
		}
	}
	r.rig, err = newRig(ctx, r.dir, "Crash", r.term.Now, func(o *installation.InitOptions) { o.Database = database })
	if err != nil {
		return err
	}
	r.opened = append(r.opened, r.inst)
	log := &lines{w: r.term.Err}
	if r.command.Postgres {
		log.w = io.Discard // that the database is gone is no news
	}
	for n := range r.command.Replicas {
		inst := r.inst
		if n > 0 { // a server has a folder of its own
			dir := fmt.Sprintf("%s-%d", r.serverDir, n+1)
			if err := installation.CopyFolder(dir, r.serverDir); err != nil {
				return err
			}
			if inst, err = installation.Open(ctx, dir, r.term.Now); err != nil {
				return err
			}
			r.opened = append(r.opened, inst)
		}
		server := &serverProcess{inst: inst, log: log}
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
	for _, m := range r.mortals {
		_ = m.kill()
	}
	for _, folder := range r.folders {
		_ = os.RemoveAll(folder)
	}
}
