package store_test

import (
	"bytes"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/issuance"
)

// cutter stands between a store and its database, and cuts a connection at its commit.
type cutter struct {
	listener net.Listener
	database string
	when     atomic.Int32 // cutNever, or one of the others for the next commit
	cuts     atomic.Int32
}

const (
	cutNever  = iota
	cutBefore // the database never hears of the commit
	cutAfter  // the store never hears of it
	cutThen   // the store hears of it, and then of nothing more
)

func newCutter(t *testing.T, database string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, database: database}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go c.carry(client)
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return c
}

func (c *cutter) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.database)
	if err != nil {
		return
	}
	defer server.Close()
	var ending atomic.Int32
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		answers := make([]byte, 64<<10)
		for {
			n, err := server.Read(answers)
			if err != nil || ending.Load() == cutAfter {
				return
			}
			said := answers[:n]
			if ending.Load() == cutThen { // the end of the connection in place of ReadyForQuery
				said = append(said[:n-len("Z....I")], "E\x00\x00\x00\x25SFATAL\x00VFATAL\x00C57P01\x00Mshut down\x00\x00"...)
			}
			if _, err := client.Write(said); err != nil || ending.Load() == cutThen {
				return
			}
		}
	}()
	asked := make([]byte, 64<<10)
	for {
		n, err := client.Read(asked)
		if err != nil {
			return
		}
		when := c.when.Load()
		if when != cutNever && isCommit(asked[:n]) && c.when.CompareAndSwap(when, cutNever) {
			c.cuts.Add(1)
			if when == cutBefore {
				return
			}
			ending.Store(when)
			_, _ = server.Write(asked[:n])
			<-answered
			return
		}
		if _, err := server.Write(asked[:n]); err != nil {
			return
		}
	}
}

// isCommit reports whether a message executes COMMIT: by its text, because these stores keep no statements
// prepared.
func isCommit(message []byte) bool { return bytes.Contains(message, []byte("COMMIT\x00")) }

// TestConnectionLostAtCommit: the change is made once, whether or not the commit reached the database.
func TestConnectionLostAtCommit(t *testing.T) {
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, direct.Host)
	through := *direct
	through.Host = cut.listener.Addr().String()
	through.RawQuery += "&default_query_exec_mode=exec"
	s := openAt(t, through.String())
	for name, when := range map[string]int32{"before": cutBefore, "after": cutAfter, "then": cutThen} {
		minted := func() (n int) {
			for _, err := range s.Codes(t.Context(), issuance.CodeFilter{}) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			return n
		}
		before, cuts := minted(), cut.cuts.Load()
		cut.when.Store(when)
		codes, err := s.MintCodes(t.Context(), issuance.Call{Now: time.Now()}, []issuance.Mint{{Directory: "default", Value: "a code of a connection cut " + name, Lifetime: time.Hour}})
		if err != nil || len(codes) != 1 {
			t.Errorf("%s: %v, %v", name, codes, err)
		}
		if cut.cuts.Load() != cuts+1 {
			t.Errorf("%s: nothing was cut", name)
		}
		if n := minted() - before; n != 1 {
			t.Errorf("%s: %d codes were minted", name, n)
		}
	}
	if retries := s.Retries(); retries != 1 {
		t.Errorf("%v retries, want one: for the commit that never arrived", retries)
	}
}
