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

// This file holds the connections that requests and probes use, and renews them.

// A pool has the connections for the requests of one epoch. Where Base is an *http.Transport,
// all of them were opened since the epoch began. The exception is the first pool, which may be
// the caller's own Transport with its connections.
type pool struct {
	base    http.RoundTripper
	closer  closesIdle // Base, or what it is built around; nil if nothing can be closed
	own     bool       // its connections belong to the Transport
	waits   waits
	retired atomic.Bool
	closing *time.Timer // closes idle connections after p was retired
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

// newPool returns the pool for the next epoch. It has no connection yet.
func (t *Transport) newPool() (p *pool) {
	base, plain := t.base.(*http.Transport)
	if !plain {
		closer, _ := t.base.(closesIdle)
		return t.poolOver(t.base, closer)
	}
	// If Instrument panics, traffic continues over the existing connections.
	t.protect("Instrument", func() { p = t.freshPool(base) })
	return p
}

// poolAfter returns the pool for an active endpoint that, by the findings, serves. It returns
// nil if it does not.
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

// instrument applies Config.Instrument to an *http.Transport of the library's own.
func (t *Transport) instrument(base *http.Transport) http.RoundTripper {
	if t.cfg.Instrument == nil {
		return base
	}
	if wrapped := t.cfg.Instrument(base); wrapped != nil {
		return wrapped
	}
	return base
}

// idleTimeout is how long an idle connection of our own pools is kept if Base does not say.
// Without a limit, a retired pool could keep one for ever.
const idleTimeout = 90 * time.Second

// fresh returns a copy of an *http.Transport that shares no connection with it.
func fresh(base *http.Transport) *http.Transport {
	c := base.Clone()
	if c.TLSNextProto["h2"] != nil {
		// golang.org/x/net/http2, or net/http itself, has set it up, and it leads to the
		// connections of the original.
		c.TLSNextProto = nil
		c.ForceAttemptHTTP2 = true
	}
	c.IdleConnTimeout = cmp.Or(c.IdleConnTimeout, idleTimeout)
	typeConnectErrors(c)
	return c
}

// leaveTime is the time after which a connection is idle whose last call has ended. Over
// HTTP/2, net/http notices the end of a stream a little later than its caller does, and keeps
// a connection whose dial was abandoned too late.
const leaveTime = 100 * time.Millisecond

// retire puts the pool out of use, once, and closes its idle connections. The others are
// closed when the last call over them has ended: see leave.
func (p *pool) retire() {
	p.closing = time.AfterFunc(leaveTime, p.closeIdle)
	p.retired.Store(true)
	p.closeIdle()
}

// leave closes the idle connections of a retired pool. It is called at the end of each call
// that used p.
func (p *pool) leave() {
	if p.retired.Load() {
		p.letGo()
	}
}

// letGo is leave for a retired pool.
func (p *pool) letGo() {
	p.closeIdle()
	p.closing.Reset(leaveTime)
}

func (p *pool) closeIdle() {
	if p.closer != nil {
		p.closer.CloseIdleConnections()
	}
}

// defaultBase returns the RoundTripper for a Config without Base, and whether it belongs to
// the Transport. It is a copy of base, which the program uses now. A base that is not an
// *http.Transport is used as it is.
func defaultBase(base http.RoundTripper) (_ http.RoundTripper, owned bool) {
	plain, ok := base.(*http.Transport)
	if !ok {
		return base, false
	}
	c := fresh(plain)
	if c.HTTP2 == nil {
		c.HTTP2 = new(http.HTTP2Config)
	}
	c.HTTP2.SendPingTimeout = cmp.Or(c.HTTP2.SendPingTimeout, 30*time.Second)
	c.HTTP2.PingTimeout = cmp.Or(c.HTTP2.PingTimeout, 15*time.Second)
	return c, true
}

// CloseIdleConnections closes the idle connections of Base, if Base can do that, and those
// of the clones that the Transport uses in its place. Connections in use are not closed.
func (t *Transport) CloseIdleConnections() {
	p := t.state.Load().pool
	if p.own {
		t.cfg.Base.(*http.Transport).CloseIdleConnections()
	}
	p.closeIdle()
}

// closeConnections closes the connections that belong to the Transport.
func (t *Transport) closeConnections() {
	if p := t.state.Load().pool; p.own {
		p.retire()
	}
}

// maxProbeTries is how many connections of a wrapped Base a probe may use up to get a new one.
const maxProbeTries = 8

// dialAnew sends a request of a probe over a connection of its own. Therefore a probe neither
// waits behind the traffic nor keeps the traffic's connections alive, and an endpoint that
// answers only over an old connection does not pass. A wrapped Base decides itself which
// connection to use: there the request asks that its connection be closed afterwards, and is
// repeated if that was an old one.
func (t *Transport) dialAnew(req *http.Request) (*http.Response, error) {
	base := t.cfg.ProbeBase
	if base == nil {
		base = t.base
	}
	if plain, ok := base.(*http.Transport); ok {
		c := fresh(plain)
		c.DisableKeepAlives, c.MaxConnsPerHost = true, 0
		// A dial may outlast its request. If it is abandoned too late, its connection stays
		// idle over HTTP/2 for this long.
		c.IdleConnTimeout = time.Second
		resp, err := c.RoundTrip(req)
		if err != nil {
			c.CloseIdleConnections() // abandons the dial
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

// lastOfConnection sends a request and asks that its connection be closed afterwards. If the
// connection is an old one, it does not wait for the answer, unless any connection will do.
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

// Name servers rotate their answers, limit their number, and for a while flicker between old
// and new ones. Therefore addresses are remembered for addressMemory. An address that differs
// from the earlier ones is news for addressNews, or until a judgement, unless there were
// maxAddresses within addressMemory: those of a load balancer tell nothing.
const (
	addressMemory = time.Hour
	addressNews   = time.Minute
	maxAddresses  = 16
)

// addresses are those that the latest connections to an endpoint led to.
type addresses struct {
	mu   sync.Mutex
	seen []seenAddress // the latest is last
}

type seenAddress struct {
	host        string
	first, last time.Time
	known       bool // there was a judgement since
}

// see records the address of a connection. If all connections before addressNews led
// elsewhere, what is behind the name may have moved; see then returns what it saw, such as "
// (192.0.2.1 before, 192.0.2.9 now)".
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
	rotates := len(a.seen) == maxAddresses && now.Sub(a.seen[0].last) < addressMemory
	this := seenAddress{host: host, first: now, known: len(a.seen) == 0 || rotates}
	if i := slices.IndexFunc(a.seen, func(s seenAddress) bool { return s.host == host }); i >= 0 {
		this = a.seen[i]
		a.seen = slices.Delete(a.seen, i, i+1)
	}
	this.last = now
	a.seen = append(a.seen, this)
	a.seen = a.seen[max(0, len(a.seen)-maxAddresses):]
	return a.newsLocked(now)
}

// news repeats what the last call of see returned, if that is still news.
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

// settle records a judgement, after which nothing seen before is news.
func (a *addresses) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.seen {
		a.seen[i].known = true
	}
}
