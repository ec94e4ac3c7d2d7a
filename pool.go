package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// This file holds the connections that requests and probes go over, and how they are
// renewed.

// pool is what the requests of one epoch go over. Where Base is an *http.Transport,
// its connections were all opened since the epoch began, but for the first pool, which
// may be the caller's own Transport with what it has.
type pool struct {
	base    http.RoundTripper
	closer  closesIdle // base or what it is built around, nil if nothing can be closed
	own     bool       // its connections belong to the Transport
	waits   waits
	retired atomic.Bool
	closing *time.Timer // closes what is idle, once p is retired
}

// firstPool returns the pool that a Transport begins with.
func (t *Transport) firstPool() *pool {
	base, plain := t.base.(*http.Transport)
	if plain && (t.owned || t.cfg.Instrument != nil) {
		return t.freshPool(base)
	}
	closer, _ := t.base.(closesIdle)
	return t.poolOver(t.base, closer)
}

// newPool returns the pool for another epoch. It has no connection yet.
func (t *Transport) newPool() (p *pool) {
	base, plain := t.base.(*http.Transport)
	if !plain {
		closer, _ := t.base.(closesIdle)
		return t.poolOver(t.base, closer)
	}
	// If Instrument panics, traffic goes on over the connections that there are.
	t.protect("Instrument", func() { p = t.freshPool(base) })
	return p
}

// poolAfter returns the pool to go on over if what the probes have found is that the
// active endpoint serves, nil if it is not.
func (t *Transport) poolAfter(found findings) *pool {
	if !found.Reached {
		return nil
	}
	return t.newPool()
}

// freshPool returns a pool over a copy of base.
func (t *Transport) freshPool(base *http.Transport) *pool {
	base = fresh(base)
	p := t.poolOver(t.instrument(base), base)
	p.own = true
	return p
}

func (t *Transport) poolOver(base http.RoundTripper, closer closesIdle) *pool {
	p := &pool{base: base, closer: closer}
	p.waits.init(t, p)
	return p
}

// instrument wraps a Transport that is the library's own, if the program wants that.
func (t *Transport) instrument(base *http.Transport) http.RoundTripper {
	if t.cfg.Instrument == nil {
		return base
	}
	if wrapped := t.cfg.Instrument(base); wrapped != nil {
		return wrapped
	}
	return base
}

// idleTimeout is how long a connection of a pool of ours is kept idle if Base does not
// say: one of a pool that is retired is not to stay for ever.
const idleTimeout = 90 * time.Second

// fresh returns a copy of an *http.Transport that shares no connection with it.
func fresh(base *http.Transport) *http.Transport {
	c := base.Clone()
	if c.TLSNextProto["h2"] != nil {
		// Set up by golang.org/x/net/http2, or by net/http itself: it leads to the
		// connections of the original.
		c.TLSNextProto = nil
		c.ForceAttemptHTTP2 = true
	}
	c.IdleConnTimeout = cmp.Or(c.IdleConnTimeout, idleTimeout)
	typeConnectErrors(c)
	return c
}

// leaveTime is after how long a connection is idle, at the latest, whose last call has
// ended: over HTTP/2, net/http takes note of the end of a stream a little later than its
// caller, and keeps the connection of a dial that was given up too late.
const leaveTime = 100 * time.Millisecond

// retire puts the connections out of use, once, and lets go of those that nobody uses.
// The rest are let go of when the last call over them has ended: see leave.
func (p *pool) retire() {
	p.closing = time.AfterFunc(leaveTime, p.closeIdle)
	p.retired.Store(true)
	p.closeIdle()
}

// leave lets go of the connections that nobody uses, if p is out of use. It is called
// when a call has ended that went over p.
func (p *pool) leave() {
	if p.retired.Load() {
		p.letGo()
	}
}

// letGo is leave for a pool that is out of use.
func (p *pool) letGo() {
	p.closeIdle()
	p.closing.Reset(leaveTime)
}

func (p *pool) closeIdle() {
	if p.closer != nil {
		p.closer.CloseIdleConnections()
	}
}

// defaultBase returns the RoundTripper used when Config.Base is nil, and whether it is
// a copy that belongs to the Transport: of base, which the program uses now. If that is no
// *http.Transport, it is used as it is.
func defaultBase(base http.RoundTripper) (_ http.RoundTripper, owned bool) {
	plain, ok := base.(*http.Transport)
	if !ok {
		return base, false
	}
	c := fresh(plain)
	if c.HTTP2 == nil {
		c.HTTP2 = new(http.HTTP2Config)
	} else {
		own := *c.HTTP2
		c.HTTP2 = &own
	}
	c.HTTP2.SendPingTimeout = cmp.Or(c.HTTP2.SendPingTimeout, 30*time.Second)
	c.HTTP2.PingTimeout = cmp.Or(c.HTTP2.PingTimeout, 15*time.Second)
	return c, true
}

// CloseIdleConnections closes the idle connections of Base, if Base can do that, and those
// of the clones that the Transport uses in its place. Connections in use are not closed.
func (t *Transport) CloseIdleConnections() {
	p := t.state.Load().pool
	if others, ok := t.cfg.Base.(closesIdle); ok && p.own {
		others.CloseIdleConnections()
	}
	p.closeIdle()
}

// closeConnections lets go of the connections that are the Transport's own.
func (t *Transport) closeConnections() {
	if p := t.state.Load().pool; p.own {
		p.retire()
	}
}

// maxProbeTries is how many connections of a wrapped Base a probe wears out at the
// most to get a new one.
const maxProbeTries = 8

// dialAnew sends a request of a probe over a connection of its own: it neither waits
// for the traffic nor keeps its connections alive, and an endpoint of which only an
// old connection is left does not pass. What a wrapped Base does with connections is
// its own affair: there the request asks to be the last of its connection, and is
// repeated if that was an old one.
func (t *Transport) dialAnew(req *http.Request) (*http.Response, error) {
	base := t.cfg.ProbeBase
	if base == nil {
		base = t.base
	}
	if plain, ok := base.(*http.Transport); ok {
		c := fresh(plain)
		c.DisableKeepAlives, c.MaxConnsPerHost = true, 0
		// A dial may outlast its request. Giving it up can come too late; over HTTP/2 its
		// connection then stays, idle, for as long as this.
		c.IdleConnTimeout = time.Second
		resp, err := c.RoundTrip(req)
		if err != nil {
			c.CloseIdleConnections() // gives up the dial
		}
		return resp, err
	}
	if t.cfg.ProbeBase != nil {
		return base.RoundTrip(req)
	}
	for try := 1; ; try++ {
		if closer, ok := base.(closesIdle); ok {
			closer.CloseIdleConnections()
		}
		last := try == maxProbeTries
		resp, err, old := lastOfConnection(base, req, last)
		if !old || last || req.Context().Err() != nil {
			return resp, err
		}
		discard(resp)
	}
}

// lastOfConnection sends a request after which no other is to use its connection. If
// that is an old one, the answer is not waited for, unless any connection will do.
func lastOfConnection(base http.RoundTripper, req *http.Request, anyWill bool) (resp *http.Response, err error, old bool) {
	ctx, cancel := context.WithCancelCause(req.Context())
	var reused atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused.Store(i.Reused) },
		WroteHeaders: func() {
			if reused.Load() && !anyWill {
				cancel(errOldConnection)
			}
		},
	})
	req = req.Clone(ctx)
	req.Close = true
	resp, err = base.RoundTrip(req)
	if resp == nil || resp.Body == nil {
		cancel(nil)
	} else {
		resp.Body = &releasingBody{ReadCloser: resp.Body, cancel: cancel}
	}
	return resp, err, reused.Load()
}

var errOldConnection = errors.New("failover: not a new connection")

// The answers of name servers rotate, are capped, and flicker between old and new for a
// while. Therefore what a name leads to is remembered for addressMemory, and an address
// is another one than before for addressNews, or until a judgement.
const (
	addressMemory = time.Hour
	addressNews   = time.Minute
	maxAddresses  = 16
)

// addresses are those that connections to an endpoint have led to lately.
type addresses struct {
	mu   sync.Mutex
	seen []seenAddress // the latest last
}

type seenAddress struct {
	host        string
	first, last time.Time
	known       bool // a judgement has passed since
}

// see takes note of the address that a connection leads to. If all connections before
// addressNews have led elsewhere, it says so: what is behind the name may have moved. The
// text is what was seen, such as " (192.0.2.1 before, 192.0.2.9 now)".
func (a *addresses) see(address net.Addr, now time.Time) string {
	if address == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		host = address.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = slices.DeleteFunc(a.seen, func(s seenAddress) bool { return now.Sub(s.last) >= addressMemory && s.host == host })
	this := seenAddress{host: host, first: now, known: len(a.seen) == 0}
	if i := slices.IndexFunc(a.seen, func(s seenAddress) bool { return s.host == host }); i >= 0 {
		this = a.seen[i]
		a.seen = slices.Delete(a.seen, i, i+1)
	}
	this.last = now
	a.seen = append(a.seen, this)
	a.seen = a.seen[max(0, len(a.seen)-maxAddresses):]
	return a.newsLocked(now)
}

// news says again what the last call of see did, if it still is news.
func (a *addresses) news(now time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.newsLocked(now)
}

func (a *addresses) newsLocked(now time.Time) string {
	isNews := func(s seenAddress) bool { return !s.known && now.Sub(s.first) < addressNews }
	n := len(a.seen) - 1
	if n < 0 || !isNews(a.seen[n]) {
		return ""
	}
	for _, s := range slices.Backward(a.seen[:n]) {
		if !isNews(s) {
			return fmt.Sprintf(" (%s before, %s now)", s.host, a.seen[n].host)
		}
	}
	return ""
}

// settle takes note of a judgement: what was seen is no news any more.
func (a *addresses) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.seen {
		a.seen[i].known = true
	}
}
