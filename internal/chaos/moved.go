package chaos

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/machine"
)

// A failover that keeps the address: the name now leads new connections to another place,
// while open connections keep leading to the old one.

// A place is where an organization can be: a server that records what arrives, with or without
// a front end before it.
type place struct {
	*side
	mode    atomic.Int32
	front   *runningFront    // or nil
	backend *httptest.Server // behind the front end

	mu      sync.Mutex
	arrived map[string]bool // by request id
}

// The modes of a place.
const (
	placeServes int32 = iota
	placeFenced
	place503
	placeHangs
)

// newPlace starts a place at an IP address, behind a front end unless front is nil.
func newPlace(p *pair, address string, front *front) (*place, error) {
	l := &place{arrived: make(map[string]bool)}
	serve := http.HandlerFunc(l.serve)
	if front == nil {
		l.side = newSideAt(p, primaryHost, address+":0", false)
		l.side.front.Store(&serve)
		return l, nil
	}
	// Its port, once it is gone, is nobody else's.
	l.backend = &httptest.Server{Config: &http.Server{Handler: serve},
		Listener: must(net.Listen("tcp", net.JoinHostPort(oldIP, machine.FreePort(oldIP))))}
	l.backend.Start()
	var err error
	if l.front, err = front.start(address, l.backend.Listener.Addr().String()); err != nil {
		l.backend.Close()
	}
	return l, err
}

// addr returns the address that new connections are led to.
func (l *place) addr() string {
	if l.front != nil {
		return l.front.addr
	}
	return l.side.addr()
}

func (l *place) close() {
	if l.front == nil {
		l.side.close()
		return
	}
	l.front.stop()
	l.backend.CloseClientConnections()
	l.backend.Close()
}

func (l *place) serve(w http.ResponseWriter, r *http.Request) {
	if id := r.Header.Get(idHeader); id != "" {
		l.mu.Lock()
		l.arrived[id] = true
		l.mu.Unlock()
	}
	io.Copy(io.Discard, r.Body)
	switch l.mode.Load() {
	case placeFenced:
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, fenceBody)
		return
	case place503:
		unavailable(w, r)
		return
	case placeHangs:
		<-r.Context().Done()
		return
	}
	if r.URL.RawQuery == "silent" {
		<-r.Context().Done()
		return
	}
	if r.URL.RawQuery == "slow" { // lasts until the caller gives up
		w.Header().Set("X-Accel-Buffering", "no") // keeps nginx from buffering the answer
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			io.WriteString(w, " ")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	}
	io.WriteString(w, whoAmI)
}

func (l *place) ids() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.arrived)
}

// The addresses of the two places.
const (
	oldIP  = "127.0.0.1"
	nextIP = "127.0.0.2"
)

// A movable is an organization that can move behind its name.
type movable struct {
	*pair     // its primary is unused; its alternate answers with the fence
	old, next *place
	behind    atomic.Pointer[place] // where new connections are led
	gone      atomic.Bool           // new connections are refused
}

// newMovable starts an organization, with a front end before each place unless front is nil.
func newMovable(front *front) (*movable, error) {
	m := &movable{pair: newPair(false)}
	var err error
	if m.old, err = newPlace(m.pair, oldIP, front); err != nil {
		m.pair.close()
		return nil, err
	}
	if m.next, err = newPlace(m.pair, nextIP, front); err != nil {
		m.old.close()
		m.pair.close()
		return nil, err
	}
	m.next.mode.Store(placeFenced)
	m.behind.Store(m.old)
	return m, nil
}

func (m *movable) close() {
	m.old.close()
	m.next.close()
	m.pair.close()
}

// base returns an *http.Transport that connects to the organization.
func (m *movable) base(h2 bool) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			to := m.alternate.addr()
			if strings.HasPrefix(addr, primaryHost+":") {
				to = m.behind.Load().addr()
				if m.gone.Load() {
					to = refusing
				}
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
		TLSClientConfig:     &tls.Config{RootCAs: certs().pool},
		ForceAttemptHTTP2:   h2,
		MaxIdleConnsPerHost: 64,
	}
}

// A baseKind is one kind of Base.
type baseKind struct {
	name string
	// exact: no request at all may use an old connection. Otherwise a few may.
	exact  bool
	onlyH2 bool
	make   func(base *http.Transport) *failover.Config
}

// tracing wraps a RoundTripper as tracing libraries do. It does not forward
// CloseIdleConnections.
type tracing struct{ http.RoundTripper }

// forwarding forwards CloseIdleConnections.
type forwarding struct{ *http.Transport }

func (f forwarding) RoundTrip(req *http.Request) (*http.Response, error) {
	return f.Transport.RoundTrip(req)
}

var baseKinds = []baseKind{
	{name: "plain", exact: true, make: func(b *http.Transport) *failover.Config { return &failover.Config{Base: b} }},
	{name: "Instrument", exact: true, make: func(b *http.Transport) *failover.Config {
		return &failover.Config{Base: b, Instrument: func(rt http.RoundTripper) http.RoundTripper { return tracing{rt} }}
	}},
	{name: "x/net http2", exact: true, onlyH2: true, make: func(b *http.Transport) *failover.Config {
		must(http2.ConfigureTransports(b))
		return &failover.Config{Base: b}
	}},
	{name: "wrapped", make: func(b *http.Transport) *failover.Config {
		return &failover.Config{Base: struct{ forwarding }{forwarding{b}}}
	}},
	{name: "wrapped, cannot close", make: func(b *http.Transport) *failover.Config { return &failover.Config{Base: tracing{b}} }},
}

// A departure is what the old place does after the organization has left it.
type departure struct {
	name string
	act  func(old *place)
}

var departures = []departure{
	{"fence", func(old *place) { old.mode.Store(placeFenced) }},
	{"black hole", func(old *place) { old.stalled.Store(true) }},
	{"503", func(old *place) { old.mode.Store(place503) }},
	{"refused", func(old *place) { old.refuse() }},
}

// frontDepartures are those of a place behind a front end.
var frontDepartures = []departure{
	{"fence", func(old *place) { old.mode.Store(placeFenced) }},
	{"backend hangs", func(old *place) { old.mode.Store(placeHangs) }},
	{"backend gone", func(old *place) { old.backend.CloseClientConnections(); old.backend.Listener.Close() }},
	{"frozen", func(old *place) { old.front.signal(syscall.SIGSTOP) }},
	{"killed", func(old *place) { old.front.signal(syscall.SIGKILL) }},
}

func (l *place) has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived[id]
}
