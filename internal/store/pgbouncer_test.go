package store_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/internal/counterpart"
	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

// TestBehindPgBouncer: in transaction mode each transaction, and each single statement, may run on another
// connection to PostgreSQL.
func TestBehindPgBouncer(t *testing.T) {
	program := counterpart.Require(t, "pgbouncer")
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	address := startBouncer(t, program, direct)
	for _, mode := range []string{"cache_describe", "exec"} {
		t.Run(mode, func(t *testing.T) {
			through := *direct
			through.Host = address
			through.RawQuery = "sslmode=disable&default_query_exec_mode=" + mode
			s := openAt(t, through.String())
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 3 {
						c := storetest.NewBench(t, s).Issued()
						if _, err := s.Enrolment(t.Context(), c.Order); err != nil {
							t.Error(err)
						}
						subject := issuance.Subject{Directory: c.Directory, Code: c.Code, Serial: c.DeviceSerial, SPKISHA256: c.SPKISHA256}
						if _, err := s.Circumstances(t.Context(), time.Now(), subject); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// startBouncer runs PgBouncer in transaction mode, with fewer connections to the database than are made to it.
func startBouncer(t *testing.T, program string, database *url.URL) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	address = counterpart.FreeAddress(t)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = %s
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
`, database.Hostname(), database.Port(), host, port)
	// With auth_type any, PgBouncer connects as the user that the database entry names.
	config = strings.Replace(config, "\n[pgbouncer]", " user="+database.User.Username()+"\n[pgbouncer]", 1)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if os.Geteuid() == 0 { // as whom it does not run
		args = append([]string{"-u", "postgres"}, args...)
	}
	cmd := exec.Command(program, args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
