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
	maxDeliveries = 1 << 16  // deliveries kept per datacenter
)

// A Datacenter is one of the places where an [Org] can be. Its methods may be called
// by several goroutines at once.
type Datacenter struct {
	org    *Org
	hosts  []string // lower case, its own name first
	server *http.Server
	ln     net.Listener

	data   *replica // guarded by org.mu
	fenced bool     // guarded by org.mu
	stale  bool     // left with writes of its own; guarded by org.mu

	mu         sync.Mutex
	suspended  Failure                // by a Recovery, before all others
	next       []countdown            // until they have happened, oldest first
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

// Fail makes the datacenter fail with f until [Datacenter.Heal] or the next Fail.
func (d *Datacenter) Fail(f Failure) {
	d.change(f, func() { d.failure = f })
}

// FailNext makes the next n requests fail with f; for a failure of connecting
// the next n connections. It comes before any other failure, and after those
// of earlier FailNext calls that have not happened yet.
func (d *Datacenter) FailNext(n int, f Failure) {
	if n > 0 {
		d.change(f, func() { d.next = append(d.next, countdown{n, f}) })
	}
}

// FailWhen makes the requests for which match reports true fail with f until
// [Datacenter.Heal]. The first of several that match counts. match must not
// read the request's body, and may be called by several goroutines at once.
// FailWhen panics if f is a failure of connecting, which happens before there
// is a request.
func (d *Datacenter) FailWhen(match func(*http.Request) bool, f Failure) {
	if f.stage() != stageRequest {
		panic("failovertest: FailWhen with a failure of connecting: " + f.String())
	}
	d.change(f, func() { d.when = append(d.when, conditional{match, f}) })
}

// FailShare makes a share of the requests fail with f, at random, until
// [Datacenter.Heal]; for a failure of connecting a share of the new connections.
// Of 0.17 about every sixth request fails: a brown-out. Equal seeds choose alike,
// in the order in which the requests arrive. Connections that exist stay. A
// failure of FailNext or FailWhen comes first, then those of FailShare in the
// order of the calls, then that of Fail. FailShare panics unless share is between 0 and 1.
func (d *Datacenter) FailShare(share float64, seed uint64, f Failure) {
	if !(share >= 0 && share <= 1) {
		panic(fmt.Sprintf("failovertest: a share of %v", share))
	}
	l := lottery{share, rand.New(rand.NewPCG(seed, 0)), f}
	d.change(Failure{}, func() { d.lotteries = append(d.lotteries, l) })
}

// SetLatency makes every request wait for this long before anything else
// happens to it, also a failure, until [Datacenter.Heal].
func (d *Datacenter) SetLatency(latency time.Duration) {
	d.change(Failure{}, func() { d.latency = latency })
}

// Heal ends all failures but those of a [Recovery]. It does not lift a fence:
// see [Datacenter.Serve].
func (d *Datacenter) Heal() {
	d.change(Failure{}, func() {
		d.failure, d.next, d.when, d.lotteries, d.latency = Failure{}, nil, nil, nil, 0
	})
}

// suspend makes the datacenter fail with f, whatever its other failures, or
// with those again if f is none.
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

// change sets a failure and does to the existing connections what it implies.
func (d *Datacenter) change(f Failure, set func()) {
	d.mu.Lock()
	before := d.lasting().kind
	set()
	close(d.changed)
	d.changed = make(chan struct{})
	var doomed []*conn
	swallow := d.lasting().kind == blackHole
	cut := f.stage() != stageRequest && !(f.kind == blackHole && swallow) ||
		before == blackHole && !swallow // they have lost what was sent
	for c := range d.conns {
		if cut {
			doomed = append(doomed, c)
		} else if swallow {
			c.swallow.Store(true)
		}
	}
	d.mu.Unlock()
	if cut {
		// Cutting alone would leave a moment in which a transport still holds
		// a dead connection for a live one.
		d.org.closeIdle()
	}
	d.cut(doomed)
}

// Fence makes the datacenter answer every authorised operation with the fence,
// fault code 0x8004B065, and carry none out. [Org.FailOver] and [Org.FailBack]
// fence and serve by themselves.
func (d *Datacenter) Fence() { d.setFenced(true) }

// Serve lifts the fence. What is written to a datacenter that serves but is
// not the active one is not replicated: that is split brain.
func (d *Datacenter) Serve() { d.setFenced(false) }

func (d *Datacenter) setFenced(fenced bool) {
	d.org.mu.Lock()
	defer d.org.mu.Unlock()
	d.fenced = fenced
}

// Addr returns the network address of the datacenter's server, for proxies and
// programs that do not use [Org.Transport]. In memory it is that of no server,
// and connections show it as their RemoteAddr.
func (d *Datacenter) Addr() net.Addr { return d.ln.Addr() }

// Requests returns the number of requests that were sent to the datacenter so
// far, including those that a [BlackHole] swallowed.
func (d *Datacenter) Requests() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requests
}

// OpenConnections returns the number of connections that are open now.
func (d *Datacenter) OpenConnections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Connections returns the number of connections accepted so far.
func (d *Datacenter) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

// Dials returns how often one of the datacenter's names was dialed so far and
// led here, with success or without.
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
	// ConnOpened is when the request's connection was accepted.
	ConnOpened time.Time
	Path       string
	Query      string // without the question mark
	// Header of the request without Authorization and Cookie.
	Header http.Header
	// Audience of the bearer token, "" if there was none that was valid.
	Audience string
	// ID is the request's X-Test-Id header, for tests that want to recognise
	// their requests.
	ID string
	// BodyHash is the SHA-256 of the body in hexadecimal, "" if it was not
	// read whole.
	BodyHash string
	// Failure that happened to the request; the zero Failure if none did.
	Failure Failure
	// Status answered, 0 if none was (yet).
	Status int
	// Applied reports whether the request changed a record.
	Applied bool
}

// Deliveries returns the requests that reached the datacenter, oldest first;
// of more than 65,536 only the newest half. Requests a [BlackHole] swallowed are
// not among them.
func (d *Datacenter) Deliveries() []Delivery {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Delivery, len(d.deliveries))
	for i, e := range d.deliveries {
		list[i] = *e
	}
	return list
}

// record enters r into the log.
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

// complete enters what became of a delivery.
func (d *Datacenter) complete(e *Delivery, set func(*Delivery)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	set(e)
}

// take returns the failure that happens now at stage s, to r if s is
// [stageRequest], and a channel that is closed when that may have changed.
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
		d.mu.Unlock() // match is the test's: it may call d
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
