package failovertest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxBody       = 64 << 20 // bytes of a request's body
	maxDeliveries = 1 << 16  // deliveries that a datacenter keeps
)

// A Datacenter is a datacenter of an [Org]. It is safe for concurrent use.
type Datacenter struct {
	org    *Org
	hosts  []string // lower case, its own name first
	server *http.Server
	ln     net.Listener

	data   *replica // guarded by org.mu
	fenced bool     // guarded by org.mu
	stale  bool     // has writes of its own that were lost; guarded by org.mu

	mu         sync.Mutex
	suspended  Failure                // by a Recovery, before all others
	next       []countdown            // until they have happened, oldest first, before the following
	when       []conditional          // after those
	lotteries  []lottery              // after those
	failure    Failure                // until Heal
	changed    chan struct{}          // closed and replaced when one of the above changes
	latency    time.Duration          // of every request
	audiences  []string               // accepted ones; nil: all of the organization's
	conns      map[*conn]bool         // open ones
	clients    map[string]*clientConn // open ones, by their local address
	accepted   int                    // connections
	dials      int
	requests   int
	underWay   int // requests
	deliveries []*Delivery
}

type countdown struct {
	left int
	f    Failure
}

type conditional struct {
	match func(*http.Request) bool
	f     Failure
}

// lottery is a failure of some of the requests or dials.
type lottery struct {
	share  float64
	random *rand.Rand
	f      Failure
}

func newDatacenter(o *Org, hosts []string) *Datacenter {
	return &Datacenter{
		org:     o,
		hosts:   hosts,
		data:    newReplica(),
		changed: make(chan struct{}),
		conns:   make(map[*conn]bool),
		clients: make(map[string]*clientConn),
	}
}

// Host returns the datacenter's host name.
func (d *Datacenter) Host() string { return d.hosts[0] }

// answersTo reports whether host, without a port, is one of d's names.
func (d *Datacenter) answersTo(host string) bool {
	return slices.Contains(d.hosts, strings.ToLower(host))
}

// Fail makes the datacenter fail with f until [Datacenter.Heal] or the next Fail. The
// failures of a [Recovery] come first, then those of [Datacenter.FailNext],
// [Datacenter.FailWhen] and [Datacenter.FailShare], in this order, and then that of Fail.
func (d *Datacenter) Fail(f Failure) {
	d.change(f, func() { d.failure = f })
}

// FailNext makes the next n requests fail with f, or the next n connections if f is a failure
// of connecting. Failures of earlier calls of FailNext come first.
func (d *Datacenter) FailNext(n int, f Failure) {
	if n > 0 {
		d.change(f, func() { d.next = append(d.next, countdown{n, f}) })
	}
}

// FailWhen makes the requests for which match reports true fail with f until
// [Datacenter.Heal]. If several match, the earliest call of FailWhen wins. match must not
// read the request's body, and may be called concurrently. FailWhen panics if f is a failure
// of connecting, which happens before there is a request.
func (d *Datacenter) FailWhen(match func(*http.Request) bool, f Failure) {
	if f.stage() != stageRequest {
		panic("failovertest: FailWhen: a failure of connecting: " + f.String())
	}
	d.change(f, func() { d.when = append(d.when, conditional{match, f}) })
}

// FailShare makes a share of the requests fail with f, at random, until [Datacenter.Heal], or
// a share of the new connections if f is a failure of connecting. With 0.17, about every
// sixth request fails: a brown-out. With the same seed, the same requests fail, counted in
// the order of their arrival. Open connections stay open. Several calls are tried in order.
// FailShare panics unless share is between 0 and 1.
func (d *Datacenter) FailShare(share float64, seed uint64, f Failure) {
	if !(share >= 0 && share <= 1) {
		panic(fmt.Sprintf("failovertest: FailShare: %v is not between 0 and 1", share))
	}
	l := lottery{share, rand.New(rand.NewPCG(seed, 0)), f}
	d.change(Failure{}, func() { d.lotteries = append(d.lotteries, l) })
}

// SetLatency delays every request before anything else happens to it, including a failure,
// until [Datacenter.Heal].
func (d *Datacenter) SetLatency(latency time.Duration) {
	d.change(Failure{}, func() { d.latency = latency })
}

// Heal ends all failures except those of a [Recovery]. It does not lift a fence: see
// [Datacenter.Serve].
func (d *Datacenter) Heal() {
	d.change(Failure{}, func() {
		d.failure, d.next, d.when, d.lotteries, d.latency = Failure{}, nil, nil, nil, 0
	})
}

// suspend makes the datacenter fail with f in place of its other failures. If f is none, these
// apply again.
func (d *Datacenter) suspend(f Failure) {
	d.change(f, func() { d.suspended = f })
}

// lasting returns the failure that all requests or connections meet. The
// caller holds d.mu.
func (d *Datacenter) lasting() Failure {
	if d.suspended.kind != none {
		return d.suspended
	}
	return d.failure
}

// change calls set and then cuts or silences the open connections as f requires.
func (d *Datacenter) change(f Failure, set func()) {
	d.mu.Lock()
	before := d.lasting().kind
	set()
	close(d.changed)
	d.changed = make(chan struct{})
	var doomed []*conn
	swallow := d.lasting().kind == blackHole
	cut := f.stage() != stageRequest && !(f.kind == blackHole && swallow) ||
		before == blackHole && !swallow // what was sent on them is lost
	for c := range d.conns {
		if cut {
			doomed = append(doomed, c)
		} else if swallow {
			c.swallow.Store(true)
		}
	}
	d.mu.Unlock()
	if cut {
		// Without this, a transport could use a dead connection until it has noticed.
		d.org.closeIdle()
	}
	d.cut(doomed)
}

// Fence makes the datacenter answer every authorized operation with the fence, fault code
// 0x8004B065, and carry none out. The failovers of [Org] set and lift fences by themselves.
func (d *Datacenter) Fence() { d.setFenced(true) }

// Serve lifts the fence. Writes to a datacenter that serves without being the active one are
// not replicated: the copies diverge (split brain).
func (d *Datacenter) Serve() { d.setFenced(false) }

func (d *Datacenter) setFenced(fenced bool) {
	d.org.mu.Lock()
	defer d.org.mu.Unlock()
	d.fenced = fenced
}

// Addr returns the network address of the datacenter's server, for proxies and programs that
// do not use [Org.Transport]. In memory, nothing listens there, and connections only report
// it as their RemoteAddr.
func (d *Datacenter) Addr() net.Addr { return d.ln.Addr() }

// Requests returns the number of requests that have arrived at the datacenter, including
// those that a [BlackHole] swallowed.
func (d *Datacenter) Requests() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requests
}

// OpenConnections returns the number of open connections.
func (d *Datacenter) OpenConnections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Connections returns the number of connections that the datacenter has accepted.
func (d *Datacenter) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

// Dials returns how many dials were directed to the datacenter, successful or not.
func (d *Datacenter) Dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// A Delivery is a request that reached a datacenter.
type Delivery struct {
	Time   time.Time
	Proto  string // "HTTP/1.1" or "HTTP/2.0"
	Method string
	Host   string
	// ConnOpened is when the datacenter accepted the connection of the request.
	ConnOpened time.Time
	Path       string
	Query      string // without the question mark
	// Header is the header of the request without Authorization, Proxy-Authorization and
	// Cookie.
	Header http.Header
	// Audience is the audience of the bearer token, "" if there was no valid one.
	Audience string
	// ID is the request's X-Test-Id header, by which tests can recognize their requests.
	ID string
	// BodyHash is the SHA-256 of the body in hexadecimal, "" if the body was not read to
	// its end.
	BodyHash string
	// Failure is what happened to the request; the zero Failure if nothing did.
	Failure Failure
	// Status is the status of the answer, 0 if there is none (yet).
	Status int
	// Applied reports whether the request changed a record.
	Applied bool
}

// Deliveries returns the requests that reached the datacenter, oldest first: all of up to
// 65,536, or else at least the latest 32,768. They do not include requests that a
// [BlackHole] swallowed.
func (d *Datacenter) Deliveries() []Delivery {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Delivery, len(d.deliveries))
	for i, e := range d.deliveries {
		list[i] = *e
	}
	return list
}

// record adds r to the deliveries.
func (d *Datacenter) record(r *http.Request, f Failure) *Delivery {
	header := maps.Clone(r.Header)
	for _, secret := range []string{"Authorization", "Proxy-Authorization", "Cookie"} {
		header.Del(secret)
	}
	e := &Delivery{
		Time: time.Now(), ConnOpened: connOf(r.Context()).opened, Proto: r.Proto, Method: r.Method, Host: r.Host,
		Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
		Header: header, ID: r.Header.Get("X-Test-Id"), Failure: f,
	}
	e.Audience, _ = d.org.audience(r.Header)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.deliveries) == maxDeliveries {
		d.deliveries = slices.Delete(d.deliveries, 0, maxDeliveries/2)
	}
	d.deliveries = append(d.deliveries, e)
	return e
}

// complete records the result of a delivery.
func (d *Datacenter) complete(e *Delivery, set func(*Delivery)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	set(e)
}

// take returns the failure that happens now at stage s, to r if s is stageRequest, and a
// channel that is closed when that may have changed.
func (d *Datacenter) take(s stage, r *http.Request) (Failure, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.suspended.kind != none {
		if d.suspended.stage() == s {
			return d.suspended, d.changed
		}
		return Failure{}, d.changed
	}
	if len(d.next) > 0 && d.next[0].f.stage() == s {
		f := d.next[0].f
		if d.next[0].left--; d.next[0].left == 0 {
			d.next = d.next[1:]
		}
		return f, d.changed
	}
	if r != nil {
		when := d.when
		d.mu.Unlock() // match belongs to the test and may call d
		i := slices.IndexFunc(when, func(c conditional) bool { return c.match(r) })
		d.mu.Lock()
		if i >= 0 {
			return when[i].f, d.changed
		}
	}
	for _, l := range d.lotteries {
		if l.f.stage() == s && l.random.Float64() < l.share {
			return l.f, d.changed
		}
	}
	if d.failure.stage() == s {
		return d.failure, d.changed
	}
	return Failure{}, d.changed
}
