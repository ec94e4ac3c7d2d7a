package failovertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// dialTimeout bounds dialing into a black hole, as http.DefaultTransport does.
const dialTimeout = 30 * time.Second

// Transport returns a new transport that reaches only the organization, on port 443 of its
// host names; dialing any other name fails with a *[net.DNSError]. It trusts the simulator's
// certificates and has the timeouts of [http.DefaultTransport]. [Org.Close] closes its
// connections.
func (o *Org) Transport() *http.Transport {
	t := &http.Transport{
		DialContext:           o.dial,
		MaxIdleConns:          100,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if o.inMemory {
		t.DialTLSContext = o.dial
	} else {
		t.ForceAttemptHTTP2 = true
		t.TLSClientConfig = &tls.Config{RootCAs: trusted().pool}
	}
	o.netMu.Lock()
	defer o.netMu.Unlock()
	o.transports = append(o.transports, t)
	return t
}

// Client returns a new client with a new [Org.Transport]. It adds no tokens: see
// [Org.Authorize].
func (o *Org) Client() *http.Client { return &http.Client{Transport: o.Transport()} }

// closeIdle closes the idle connections of all transports that Transport returned.
func (o *Org) closeIdle() {
	o.netMu.Lock()
	defer o.netMu.Unlock()
	for _, t := range o.transports {
		t.CloseIdleConnections()
	}
}

// dial connects to the datacenter that has the name in addr.
func (o *Org) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if d := o.resolve(host); d != nil {
		return d.dial(ctx, network, addr, host, port)
	}
	return nil, noHost(network, addr, host)
}

func (d *Datacenter) dial(ctx context.Context, network, addr, host, port string) (net.Conn, error) {
	d.mu.Lock()
	d.dials++
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for {
		f, changed := d.take(stageDial, nil)
		switch {
		case f.kind == noSuchHost:
			return nil, noHost(network, addr, host)
		case f.kind == refuse, f.kind == none && port != "443":
			return nil, netError("dial", addr, os.NewSyscallError("connect", syscall.ECONNREFUSED))
		case f.kind == none && d.org.inMemory:
			return d.dialPipe(ctx, addr, host)
		case f.kind == none:
			return d.dialSocket(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, netError("dial", addr, ctx.Err())
		case <-d.org.closing:
			return nil, netError("dial", addr, net.ErrClosed)
		}
	}
}

func (d *Datacenter) dialSocket(ctx context.Context) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", d.ln.Addr().String())
	if err != nil {
		return nil, err
	}
	c := &clientConn{Conn: nc, dc: d, closed: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[nc.LocalAddr().String()] = c
	return c, nil
}

// dialPipe connects without a socket, and fails as a TLS handshake would.
func (d *Datacenter) dialPipe(ctx context.Context, addr, host string) (net.Conn, error) {
	switch f, _ := d.take(stageTLS, nil); f.kind {
	case badCertificate:
		return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	case expiredCertificate:
		return nil, &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{
			Cert: &x509.Certificate{DNSNames: []string{host}}, Reason: x509.Expired,
			Detail: "the certificate expired an hour ago"}}
	}
	client, server := net.Pipe()
	p := &pipe{Conn: client, addr: addr, remote: d.ln.Addr()}
	select {
	case d.ln.(*pipeListener).conns <- &serverPipe{server, p}:
		return p, nil
	case <-ctx.Done():
		return nil, netError("dial", addr, ctx.Err())
	case <-d.org.closing:
		return nil, netError("dial", addr, os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
}

func noHost(network, addr, host string) error {
	return &net.OpError{Op: "dial", Net: network, Addr: hostAddr(addr),
		Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
}

func netError(op, addr string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: hostAddr(addr), Err: err}
}

// hostAddr is the net.Addr of a host name and port.
type hostAddr string

func (hostAddr) Network() string  { return "tcp" }
func (a hostAddr) String() string { return string(a) }

// listen starts the datacenter's server, on the n-th address.
func (d *Datacenter) listen(n int) {
	d.server = &http.Server{
		Handler:     http.HandlerFunc(d.serveHTTP),
		ErrorLog:    log.New(panicsOnly{}, "", 0),
		ConnContext: withConn,
	}
	if d.org.inMemory {
		d.server.Protocols = new(http.Protocols)
		d.server.Protocols.SetHTTP1(true)
		addr := &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(n)), Port: 443} // RFC 5737
		d.ln = &pipeListener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
		d.org.running.Go(func() { d.server.Serve(connListener{d.ln, d}) })
		return
	}
	var err error
	for _, addr := range []string{fmt.Sprintf("127.0.0.%d:0", n), "127.0.0.1:0", "[::1]:0"} {
		if d.ln, err = net.Listen("tcp", addr); err == nil {
			break
		}
	}
	if err != nil {
		panic("failovertest: cannot listen: " + err.Error())
	}
	d.server.TLSConfig = &tls.Config{GetCertificate: d.certificate}
	d.org.running.Go(func() { d.server.ServeTLS(connListener{d.ln, d}, "", "") })
}

// panicsOnly copies the panics in a server's log to standard error. The rest is about
// connections and handshakes that fail on purpose.
type panicsOnly struct{}

func (panicsOnly) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("panic serving")) {
		return os.Stderr.Write(p)
	}
	return len(p), nil
}

// shutDown stops the server and cuts all connections.
func (d *Datacenter) shutDown() {
	d.ln.Close()
	d.org.closeIdle()
	d.mu.Lock()
	open := slices.Collect(maps.Keys(d.conns))
	d.mu.Unlock()
	d.cut(open)
	d.server.Close()
}

// connListener makes a *conn of every connection accepted.
type connListener struct {
	net.Listener
	dc *Datacenter
}

func (l connListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, dc: l.dc, opened: time.Now()}
	l.dc.mu.Lock()
	defer l.dc.mu.Unlock()
	l.dc.accepted++
	l.dc.conns[c] = true
	c.swallow.Store(l.dc.lasting().kind == blackHole)
	return c, nil
}

// conn is a datacenter's end of a connection, below TLS.
type conn struct {
	net.Conn
	dc      *Datacenter
	opened  time.Time
	swallow atomic.Bool // nothing is sent; requests that arrive are only counted
}

func (c *conn) Write(p []byte) (int, error) {
	if c.swallow.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	c.dc.mu.Lock()
	delete(c.dc.conns, c)
	c.dc.mu.Unlock()
	return c.Conn.Close()
}

// reset closes the connection in a way that the client sees as ECONNRESET.
func (c *conn) reset() {
	switch nc := c.Conn.(type) {
	case *net.TCPConn:
		nc.SetLinger(0)
	case *serverPipe:
		nc.client.wasReset.Store(true)
	}
	c.Close()
}

type connKey struct{}

// withConn is the http.Server.ConnContext of the datacenters.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

func connOf(ctx context.Context) *conn { return ctx.Value(connKey{}).(*conn) }

// cutGrace is how long a datacenter waits for clients to notice that their
// connections were cut.
const cutGrace = 250 * time.Millisecond

// cut resets the connections and waits until the transports that dialed them have closed
// them, because an HTTP/2 transport uses a dead connection until it has read the reset. It
// waits no longer than cutGrace, for clients that do not read.
func (d *Datacenter) cut(conns []*conn) {
	var clients []*clientConn
	d.mu.Lock()
	for _, c := range conns {
		if client := d.clients[c.RemoteAddr().String()]; client != nil {
			clients = append(clients, client)
		}
	}
	d.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
	if len(clients) == 0 {
		return
	}
	timer := time.NewTimer(cutGrace)
	defer timer.Stop()
	for _, client := range clients {
		select {
		case <-client.closed:
		case <-timer.C:
			return
		}
	}
}

// clientConn is the client's end of a socket, below TLS.
type clientConn struct {
	net.Conn
	dc     *Datacenter
	once   sync.Once
	closed chan struct{}
}

func (c *clientConn) Close() error {
	c.once.Do(func() {
		c.dc.mu.Lock()
		delete(c.dc.clients, c.LocalAddr().String())
		c.dc.mu.Unlock()
		close(c.closed)
	})
	return c.Conn.Close()
}

// pipeListener accepts the server's ends of pipes.
type pipeListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.addr }

// serverPipe is the server's end of a pipe.
type serverPipe struct {
	net.Conn
	client *pipe
}

// pipe is the client's end of a pipe. Its errors are those of a TCP connection.
type pipe struct {
	net.Conn
	addr     string      // as dialed
	remote   net.Addr    // of the datacenter
	wasReset atomic.Bool // by the server
	closed   atomic.Bool // by the client
}

func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	return n, p.explain("read", err)
}

func (p *pipe) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	return n, p.explain("write", err)
}

func (p *pipe) Close() error {
	p.closed.Store(true)
	return p.Conn.Close()
}

func (p *pipe) RemoteAddr() net.Addr { return p.remote }

// explain turns the errors of net.Pipe into those of package net.
func (p *pipe) explain(op string, err error) error {
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case p.closed.Load():
		return netError(op, p.addr, net.ErrClosed)
	case p.wasReset.Load():
		return netError(op, p.addr, os.NewSyscallError(op, syscall.ECONNRESET))
	case op == "write":
		return netError(op, p.addr, os.NewSyscallError(op, syscall.EPIPE))
	}
	return err
}
