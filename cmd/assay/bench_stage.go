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
	dir   string
	meter *floorMeter
	stops []func() error
}

// benched runs a bench in a new folder below dir ("": the system's for temporary files), then stops
// whatever it started and removes the folder.
func benched(ctx context.Context, term *terminal, dir string, run func(*stage) error) error {
	dir, err := os.MkdirTemp(dir, "assay-bench-")
	if err != nil {
		return usage(err)
	}
	defer os.RemoveAll(dir)
	s := &stage{ctx: ctx, term: term, dir: dir}
	if s.meter, err = newFloorMeter(term.Now()); err == nil {
		err = run(s)
	}
	for i := len(s.stops) - 1; i >= 0; i-- {
		err = errors.Join(err, s.stops[i]())
	}
	return err
}

// newRig makes an installation in a folder of the stage, without rate limits: all devices have one address.
func (s *stage) newRig(name string, change ...func(*installation.InitOptions)) (*rig, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	change = append(change, func(o *installation.InitOptions) { o.NoLimits = true })
	r, err := newRig(s.ctx, dir, "Bench", s.term.Now, change...)
	if err == nil {
		s.stops = append(s.stops, r.inst.Close)
	}
	return r, err
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
func (s *stage) newServer(name string, o serveOptions) (*contender, error) {
	r, err := s.newRig(name)
	if err != nil {
		return nil, err
	}
	return s.serve(r, o)
}

// newOnPostgres runs a server on a new installation, whose database is in a PostgreSQL server of its own.
func (s *stage) newOnPostgres(o serveOptions) (*contender, error) {
	cluster, err := pgcluster.New(s.ctx, pgcluster.Options{Settings: []string{"max_connections=200"}})
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, cluster.Close)
	database, err := cluster.CreateDatabase(s.ctx, "assay", "")
	if err != nil {
		return nil, err
	}
	r, err := s.newRig("on-postgres", func(o *installation.InitOptions) { o.Database = database })
	if err != nil {
		return nil, err
	}
	c, err := s.serve(r, o)
	if err == nil {
		c.name, c.database = "Assay on PostgreSQL", &process{cluster.Process()}
	}
	return c, err
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
