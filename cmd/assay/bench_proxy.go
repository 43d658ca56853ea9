package main

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// proxy passes TCP connections on to a server, and cuts or delays what passes. It sees ciphertext only.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	cut   *cut          // armed, for the first that it fits
	delay time.Duration // at most, of each packet
}

// cut is where the next connection that something passes on is cut.
type cut struct {
	answer bool // in what the server sends, else in what the device sends
	after  int  // so many bytes
}

func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, target: target}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			go p.pass(conn)
		}
	}()
	return p, nil
}

func (p *proxy) url() string { return "https://" + p.listener.Addr().String() }

// arm cuts what passes next.
func (p *proxy) arm(c cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = &c
}

func (p *proxy) late(most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = most
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client, false) })
	both.Go(func() { p.copy(client, server, true) })
	both.Wait()
}

// copy passes one direction on until one side ends or it is to be cut; then both connections end.
func (p *proxy) copy(to, from net.Conn, answer bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		pass, over, wait := p.judge(n, answer)
		time.Sleep(wait)
		if _, err := to.Write(buffer[:pass]); err != nil || over {
			return
		}
		if err == io.EOF || err != nil {
			return
		}
	}
}

// judge says how much of a packet passes, whether the connection ends then, and how late the packet is.
func (p *proxy) judge(n int, answer bool) (pass int, over bool, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.delay > 0 {
		wait = rand.N(p.delay)
	}
	if n == 0 || p.cut == nil || p.cut.answer != answer {
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
