package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// proxy passes TCP connections on to a server, or to several in turn, and cuts, delays or loses what passes.
type proxy struct {
	listener *net.TCPListener
	targets  []string

	mu     sync.Mutex
	opened int                       // connections so far
	conns  map[*net.TCPConn]struct{} // of both sides
	cut    *cut                      // armed, for the first that it fits
	delay  time.Duration             // at most, of each packet
}

// cut is where the next connection that something passes on is cut.
type cut struct {
	answer bool   // in what the server sends, else in what the client sends
	in     string // only where this is in it; TLS shows nothing
	after  int    // so many bytes
}

func newProxy(targets ...string) (*proxy, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // which takes no filters: see deafen
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	listener := l.(*net.TCPListener)
	p := &proxy{listener: listener, targets: targets, conns: map[*net.TCPConn]struct{}{}}
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return // it was closed
			}
			go p.pass(conn)
		}
	}()
	return p, nil
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.sever()
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) url() string { return "https://" + p.address() }

// arm cuts what passes next.
func (p *proxy) arm(c cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = &c
}

// armed reports whether what it was armed with has not been met yet.
func (p *proxy) armed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut != nil
}

func (p *proxy) late(most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = most
}

// sever cuts every connection.
func (p *proxy) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// lose loses every packet from now on, those that open a connection, too. What it returns lets them arrive again;
// with forget, connections that there are stay dead, and neither side is told.
func (p *proxy) lose() (again func(forget bool) error, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lost := make([]syscall.Conn, 0, len(p.conns))
	for c := range p.conns {
		if deafen(c) == nil { // else it was just closed
			lost = append(lost, c)
		}
	}
	return func(forget bool) error {
		if !forget {
			for _, c := range lost {
				_ = hear(c)
			}
		}
		return hear(p.listener)
	}, deafen(p.listener)
}

// deafen lets a socket drop what arrives before TCP sees it, so nothing is acknowledged.
func deafen(c syscall.Conn) error {
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return control(c, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
}

func hear(c syscall.Conn) error {
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
}

func control(c syscall.Conn, set func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = set(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func (p *proxy) pass(client *net.TCPConn) {
	defer client.Close()
	p.mu.Lock()
	target := p.targets[p.opened%len(p.targets)]
	p.opened++
	p.mu.Unlock()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer conn.Close()
	server := conn.(*net.TCPConn)
	p.mu.Lock()
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client, false) })
	both.Go(func() { p.copy(client, server, true) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// copy passes one direction on until one side ends or it is to be cut; then both connections end.
func (p *proxy) copy(to, from net.Conn, answer bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		pass, over, wait := p.judge(buffer[:n], answer)
		time.Sleep(wait)
		if _, err := to.Write(buffer[:pass]); err != nil || over {
			return
		}
		if err != nil {
			return
		}
	}
}

// judge says how much of a packet passes, whether the connection ends then, and how late the packet is.
func (p *proxy) judge(packet []byte, answer bool) (pass int, over bool, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.delay > 0 {
		wait = rand.N(p.delay)
	}
	n := len(packet)
	if n == 0 || p.cut == nil || p.cut.answer != answer || !bytes.Contains(packet, []byte(p.cut.in)) {
		return n, false, wait
	}
	if n <= p.cut.after {
		p.cut.after -= n
		return n, false, wait
	}
	pass = p.cut.after
	p.cut = nil
	return pass, true, wait
}
