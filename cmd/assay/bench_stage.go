package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"assay/attest/standin"
	"assay/enroll"
	"assay/internal/counterpart/stepca"
	"assay/internal/installation"
	"assay/internal/pgcluster"
)

// stage is where contenders run: a folder that is removed afterwards, and the meter of the floor.
type stage struct {
	ctx   context.Context
	term  *terminal
	dir   string // its folder
	in    string // where that is
	meter *floorMeter
	stops []func() error
}

// benched runs a bench in a new folder below in ("": the system's for temporary files), then stops
// whatever it started and removes the folder.
func benched(ctx context.Context, term *terminal, in string, run func(*stage) error) error {
	dir, err := os.MkdirTemp(in, "assay-bench-")
	if err != nil {
		return usage(err)
	}
	defer os.RemoveAll(dir)
	s := &stage{ctx: ctx, term: term, dir: dir, in: in}
	if s.meter, err = newFloorMeter(term.Now()); err == nil {
		err = run(s)
	}
	for i := len(s.stops) - 1; i >= 0; i-- {
		err = errors.Join(err, s.stops[i]())
	}
	return err
}

// newRig makes an installation in a folder of the stage, without rate limits: all devices have one address. Its
// database is a file, or in a PostgreSQL server of its own.
func (s *stage) newRig(name string, onPostgres bool) (*rig, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	var location string
	var database *process
	if onPostgres {
		cluster, err := pgcluster.New(s.ctx, pgcluster.Options{In: s.in, Settings: []string{"max_connections=200"}})
		if err != nil {
			return nil, err
		}
		s.stops = append(s.stops, cluster.Close)
		if location, err = cluster.CreateDatabase(s.ctx, "assay", ""); err != nil {
			return nil, err
		}
		database = &process{cluster.Process()}
	}
	r, err := newRig(s.ctx, dir, "Bench", s.term.Now, func(o *installation.InitOptions) { o.NoLimits, o.Database = true, location })
	if err != nil {
		return nil, err
	}
	r.database = database
	s.stops = append(s.stops, r.inst.Close)
	return r, nil
}

// serve runs a server on the rig until the bench ends.
func (s *stage) serve(r *rig, o serveOptions) (*contender, error) {
	c, err := r.serve(s.ctx, s.term, o)
	if err == nil {
		s.stops = append(s.stops, c.stop)
	}
	return c, err
}

// newServer runs a server on a new installation in a folder of the stage.
func (s *stage) newServer(name string, onPostgres bool, o serveOptions) (*contender, error) {
	r, err := s.newRig(name, onPostgres)
	if err != nil {
		return nil, err
	}
	return s.serve(r, o)
}

// newStepCA runs a step-ca on its embedded store, which accepts the attestations of a new stand-in
// authority. It takes serial numbers as identifiers, and needs nothing prepared.
func (s *stage) newStepCA(program string) (*contender, error) {
	dir := filepath.Join(s.dir, "step-ca")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	authority, err := standin.New(rand.Reader, s.term.Now())
	if err != nil {
		return nil, err
	}
	if err := authority.Save(dir); err != nil {
		return nil, err
	}
	root, err := os.ReadFile(filepath.Join(dir, standin.RootFile))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	config, roots, err := stepca.Configure(dir, address, root, s.term.Now())
	if err != nil {
		return nil, err
	}
	command := exec.Command(program, config)
	command.Env = append(os.Environ(), "STEPPATH="+dir, "HOME="+dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	running, err := startProcess(command, log)
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, running.stop)
	simulated := devices{roots, standInAttester{authority, s.term.Now}}
	enrol := func(ctx context.Context, _ int) (*enroll.Result, error) {
		return simulated.enrol(ctx, "https://"+address+stepca.DirectoryPath, func(d *enroll.Device) string { return d.Serial })
	}
	c := &contender{name: "step-ca", process: running.process, stop: running.stop, prepare: func(context.Context, int) (func(context.Context, int) (*enroll.Result, error), error) {
		return enrol, nil
	}}
	return c, c.awaitListener(s.ctx, address)
}

// awaitListener waits until somebody listens on the address.
func (c *contender) awaitListener(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			return connection.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", c.name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
