package chaos

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// orgURL is the URL of the organization.
const orgURL = "https://" + primaryHost

// A pair is an organization with two endpoints, a network between them and the client, and a
// name server. At first the primary serves, and the alternate answers with the fence.
type pair struct {
	primary, alternate *side
	names              *nameServer
	resolver           *net.Resolver
	running            sync.WaitGroup
	// writes, if set, counts only POSTs that were carried out, at either endpoint, instead of
	// all deliveries at each.
	writes *tally
}

// A tally counts by id how often something happened. To bound its memory, it forgets an id
// that was not seen between two calls of rotate.
type tally struct {
	mu             sync.Mutex
	recent, former map[string]int
	twice          int // ids seen more than once
}

func newTally() *tally {
	return &tally{recent: make(map[string]int), former: make(map[string]int)}
}

func (t *tally) add(id string) {
	if t == nil || id == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.recent[id] + t.former[id] + 1
	if n == 2 {
		t.twice++
	}
	delete(t.former, id)
	t.recent[id] = n
}

func (t *tally) rotate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.former, t.recent = t.recent, make(map[string]int)
}

func (t *tally) doubled() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.twice
}

// newPair starts an organization, behind proxies if proxied is set.
func newPair(proxied bool) *pair {
	return startPair(proxied, nil)
}

func startPair(proxied bool, writes *tally) *pair {
	p := &pair{writes: writes}
	p.primary = newSide(p, primaryHost, proxied)
	p.alternate = newSide(p, alternateHost, proxied)
	p.alternate.fenced.Store(true)
	p.names = must(newNameServer(func(name string) bool {
		s := p.side(name)
		return s != nil && !s.nameGone.Load()
	}))
	p.resolver = p.names.resolver()
	p.running.Go(p.names.serve)
	return p
}

func (p *pair) close() {
	p.primary.close()
	p.alternate.close()
	p.names.conn.Close()
	p.running.Wait()
}

func (p *pair) side(host string) *side {
	switch host {
	case primaryHost:
		return p.primary
	case alternateHost:
		return p.alternate
	}
	return nil
}

// failOver does what Microsoft does when the primary is lost: it makes the alternate serve.
// failBack undoes it, after which the alternate answers with the fence again.
func (p *pair) failOver() {
	p.primary.fenced.Store(true)
	p.alternate.fenced.Store(false)
}

func (p *pair) failBack() {
	p.alternate.fenced.Store(true)
	p.primary.fenced.Store(false)
}

// A wire is the client's way to the organization: a transport that counts its connections by
// endpoint.
type wire struct {
	*http.Transport
	primary, alternate connections
}

// connections counts a client's connections to one endpoint.
type connections struct {
	dialed, open, most atomic.Int64
}

// newWire returns a transport for the organization: HTTP/2 if h2 is set,
// HTTP/1.1 otherwise, with the time limits of http.DefaultTransport.
func (p *pair) newWire(h2 bool) *wire {
	w := new(wire)
	w.Transport = &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return p.dial(ctx, w, network, addr)
		},
		TLSClientConfig:       &tls.Config{RootCAs: certs().pool},
		ForceAttemptHTTP2:     h2,
		MaxIdleConnsPerHost:   4096,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return w
}

// dial resolves the name and connects to the endpoint, or to what stands in for it.
func (p *pair) dial(ctx context.Context, w *wire, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if _, err := p.resolver.LookupIP(ctx, "ip4", host+"."); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	s, count := p.side(host), &w.primary
	if s == p.alternate {
		count = &w.alternate
	}
	c, err := new(net.Dialer).DialContext(ctx, network, s.addr())
	if err != nil {
		return nil, err
	}
	count.dialed.Add(1)
	for n := count.open.Add(1); ; {
		most := count.most.Load()
		if n <= most || count.most.CompareAndSwap(most, n) {
			break
		}
	}
	return &countedConn{Conn: c, count: count}, nil
}

// open returns the number of the client's open connections.
func (w *wire) open() int64 { return w.primary.open.Load() + w.alternate.open.Load() }

type countedConn struct {
	net.Conn
	count  *connections
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.count.open.Add(-1)
	}
	return c.Conn.Close()
}
