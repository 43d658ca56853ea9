// Package pgcluster runs a PostgreSQL server of its own in a temporary folder, on loopback, for tests and benches:
// with nothing in it that anybody needs later, and free to be killed.
package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Binaries finds the folder with PostgreSQL's server programs: where initdb is, or the newest version where
// Debian puts them.
func Binaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err != nil { // the others are where it is itself
			return "", err
		}
		return filepath.Dir(path), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("PostgreSQL's server programs (initdb, postgres) are not installed")
	}
	newest, best := "", -1
	for _, path := range found {
		version, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if version > best {
			newest, best = filepath.Dir(path), version
		}
	}
	return newest, nil
}

// Options is how a cluster runs.
type Options struct {
	// In is the folder that its own is made in, which PostgreSQL's user can enter: a short path, because a socket
	// lies in it. Default: the system's for temporary files.
	In       string
	Settings []string // such as fsync=off
}

// Cluster is a PostgreSQL server.
type Cluster struct {
	binaries, dir string
	settings      []string
	address       string
	credential    *syscall.Credential // whom it runs as, if we are root, as whom it does not run
	process       *exec.Cmd
	said          bytes.Buffer
	ended         chan struct{}
}

const (
	superuser = "assay"
	starting  = 60 * time.Second
	stopping  = 30 * time.Second
)

// New makes a cluster, and starts it. Close it.
func New(ctx context.Context, o Options) (*Cluster, error) {
	binaries, err := Binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{binaries: binaries, settings: o.Settings}
	if c.dir, err = os.MkdirTemp(o.In, "assay-pg-"); err != nil {
		return nil, err
	}
	if err := c.make(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) make(ctx context.Context) error {
	if os.Geteuid() == 0 {
		if err := c.leaveRoot(); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.address = listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	initdb := c.command(ctx, "initdb", "-D", c.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("make a PostgreSQL cluster: %w\n%s", err, out)
	}
	return c.Start(ctx)
}

// Close stops the server, if it runs, and removes all that it had.
func (c *Cluster) Close() error {
	var stopped error
	if c.process != nil {
		stopped = c.Stop()
	}
	return errors.Join(stopped, os.RemoveAll(c.dir))
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// leaveRoot gives the folder to the user that PostgreSQL's packages make.
func (c *Cluster) leaveRoot() error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	c.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(c.dir, int(uid), int(gid))
}

func (c *Cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.binaries, program), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.credential}
	return cmd
}

// Start starts the server, which was stopped or killed, and waits until it can be used.
func (c *Cluster) Start(ctx context.Context) error {
	_, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return err
	}
	args := []string{"-D", c.data(), "-c", "listen_addresses=127.0.0.1", "-c", "port=" + port, "-c", "unix_socket_directories=" + c.dir}
	for _, s := range c.settings {
		args = append(args, "-c", s)
	}
	c.said.Reset()
	process, ended := c.command(context.WithoutCancel(ctx), "postgres", args...), make(chan struct{})
	process.Stdout, process.Stderr = &c.said, &c.said
	if err := process.Start(); err != nil {
		return err
	}
	c.process, c.ended = process, ended
	go func() { _ = process.Wait(); close(ended) }()
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.ended:
			return fmt.Errorf("PostgreSQL ended: %s", c.said.String())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not start: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Address is the host and port that it listens on.
func (c *Cluster) Address() string { return c.address }

// Ended reports whether the server has ended, by itself or because it was stopped.
func (c *Cluster) Ended() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// URL is where a database of the cluster is.
func (c *Cluster) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Host: c.address, Path: "/" + database, RawQuery: "sslmode=disable"}).String()
}

// CreateDatabase makes a database, as a copy of a template ("" for an empty one), and returns its URL.
func (c *Cluster) CreateDatabase(ctx context.Context, name, template string) (string, error) {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return "", err
	}
	text := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize()
	if template != "" {
		text += " TEMPLATE " + pgx.Identifier{template}.Sanitize()
	}
	_, err = conn.Exec(ctx, text)
	return c.URL(name), errors.Join(err, conn.Close(ctx))
}

// Process is the id of the server's first process, whose children the others are.
func (c *Cluster) Process() int { return c.process.Process.Pid }

// Stop stops the server, waiting for no client: what is being committed is undone, and nothing needs to be
// recovered.
func (c *Cluster) Stop() error { return c.signal(syscall.SIGINT) }

// Crash stops the server at once, as a failed machine does: the next start recovers from its log.
func (c *Cluster) Crash() error { return c.signal(syscall.SIGQUIT) }

func (c *Cluster) signal(s os.Signal) error {
	if err := c.process.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.ended:
		return nil
	case <-time.After(stopping):
		return errors.Join(errors.New("PostgreSQL does not stop"), c.process.Process.Kill())
	}
}

// Run runs one of PostgreSQL's programs, such as pg_dump, and returns what it writes.
func (c *Cluster) Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := c.command(ctx, program, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}
