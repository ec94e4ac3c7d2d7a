package chaos

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"

	"github.com/d365failover/failover"
)

// A failover that keeps the address: the name leads new connections to another place, and old
// connections keep leading to the old one.

// A place is where an organization can be: a server that notes what arrives, and may
// have a front end.
type place struct {
	*side
	mode    atomic.Int32
	front   *runningFront    // or nil
	backend *httptest.Server // of the front end

	mu      sync.Mutex
	arrived map[string]bool // ids of requests
}

// What a place does.
const (
	placeServes int32 = iota
	placeFenced
	place503
	placeHangs
)

// newPlace starts a place at an IP address, behind a front end if front is not nil.
func newPlace(p *pair, address string, front *front) (*place, error) {
	l := &place{arrived: make(map[string]bool)}
	serve := http.HandlerFunc(l.serve)
	if front == nil {
		l.side = newSideAt(p, primaryHost, address+":0", false)
		l.side.front.Store(&serve)
		return l, nil
	}
	l.backend = httptest.NewServer(serve)
	var err error
	if l.front, err = front.start(address, l.backend.Listener.Addr().String()); err != nil {
		l.backend.Close()
	}
	return l, err
}

// addr is where new connections lead to.
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
	if r.URL.RawQuery == "slow" { // for as long as the caller wants
		w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it
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

// Where the places are.
const (
	oldIP  = "127.0.0.1"
	nextIP = "127.0.0.2"
)

// A movable is an organization that can move behind its name.
type movable struct {
	*pair     // its primary is not used; its alternate answers the fence
	old, next *place
	behind    atomic.Pointer[place] // where new connections lead to
	gone      atomic.Bool           // new connections are refused
}

// newMovable starts an organization, with front ends of both places if front is not nil.
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

// base returns an *http.Transport that finds the organization.
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

// A baseKind is what a program gives the Transport to send requests with.
type baseKind struct {
	name string
	// exact: not one request goes over an old connection. Otherwise as few as possible do.
	exact  bool
	onlyH2 bool
	make   func(base *http.Transport) *failover.Config
}

// tracing wraps a RoundTripper as tracing does. It cannot close connections.
type tracing struct{ http.RoundTripper }

// forwarding can.
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

// A departure is what the old place does once the organization has left it.
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

// frontDepartures are those of a place with a front end.
var frontDepartures = []departure{
	{"fence", func(old *place) { old.mode.Store(placeFenced) }},
	{"backend hangs", func(old *place) { old.mode.Store(placeHangs) }},
	{"backend gone", func(old *place) { old.backend.CloseClientConnections(); old.backend.Listener.Close() }},
	{"frozen", func(old *place) { old.front.signal(syscall.SIGSTOP) }},
	{"killed", func(old *place) { old.front.signal(syscall.SIGKILL) }},
}

// A movedCell is one experiment.
type movedCell struct {
	kind       *baseKind
	front      *front // of both places, or nil
	departure  *departure
	h2         bool
	downtime   time.Duration // between the two places
	oneAddress bool
}

func (c movedCell) String() string {
	proto := "h1"
	if c.h2 {
		proto = "h2"
	}
	front := "no front end"
	if c.front != nil {
		front = c.front.name
	}
	return fmt.Sprintf("%s/%s/%s/%s/down %v/one address %v", c.kind.name, front, c.departure.name, proto, c.downtime, c.oneAddress)
}

func movedCells() (all []movedCell) {
	for k := range baseKinds {
		for d := range departures {
			for _, h2 := range []bool{false, true} {
				if baseKinds[k].onlyH2 && !h2 {
					continue
				}
				for _, downtime := range []time.Duration{0, 400 * time.Millisecond} {
					all = append(all, movedCell{&baseKinds[k], nil, &departures[d], h2, downtime, downtime > 0 != h2})
				}
			}
		}
	}
	return all
}

// frontCells are those behind a front end.
func frontCells(f *front) (all []movedCell) {
	for d := range frontDepartures {
		for _, downtime := range []time.Duration{0, 400 * time.Millisecond} {
			all = append(all, movedCell{&baseKinds[0], f, &frontDepartures[d], f.h2, downtime, downtime > 0})
		}
	}
	return all
}

// A movedResult is what a cell came to.
type movedResult struct {
	cell    movedCell
	first   time.Duration // from the new place's serving to its first answer to a caller
	judged  time.Duration // to the first event that says so
	old     int           // requests begun after that, and arrived at the old place
	after   int           // requests begun after that
	failed  int           // of these
	reports int
	reason  string
	wrong   []string // of the report
}

const (
	movedCallers = 6
	movedAfter   = 40 // requests of each caller once the organization has moved
	movedRPO     = 300 * time.Millisecond
)

// ended is a write as its caller saw it end.
type ended struct {
	began, at      time.Time
	acked, unknown bool
}

func (c movedCell) run() movedResult {
	m, err := newMovable(c.front)
	if err != nil {
		return movedResult{cell: c, wrong: []string{err.Error()}}
	}
	defer m.close()
	var mu sync.Mutex
	var left, served, judged time.Time
	var reports []*failover.LossReport
	r := movedResult{cell: c}
	cfg := c.kind.make(m.base(c.h2))
	cfg.RPO, cfg.SuspectAfter, cfg.ProbeTimeout = movedRPO, time.Second, 2*time.Second
	cfg.Logger = slog.New(slog.DiscardHandler)
	if c.oneAddress {
		cfg.Alternate = failover.NoAlternate
	}
	over := make(chan struct{}) // closed by the judgement
	cfg.OnEvent = func(e failover.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch e.Kind {
		case failover.EventUp, failover.EventRenewed:
			if !served.IsZero() && e.Time.After(served) && judged.IsZero() {
				judged = time.Now()
				r.judged, r.reason = e.Time.Sub(served), e.Reason
				close(over)
			}
		case failover.EventSwitched:
			r.wrong = append(r.wrong, "it has switched")
		}
		if e.Loss != nil && e.Kind != failover.EventLossGrown && !left.IsZero() {
			reports = append(reports, e.Loss)
		}
	}
	rt := must(failover.New(orgURL, cfg))
	defer rt.Close()
	if base, ok := cfg.Base.(interface{ CloseIdleConnections() }); ok {
		defer base.CloseIdleConnections()
	}

	// Calls that are under way all the time keep connections to the old place busy.
	slow, endSlow := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer endSlow()
	for range 3 {
		req := must(http.NewRequestWithContext(slow, "GET", orgURL+"/api/data/v9.2/accounts?slow", nil))
		resp := must(rt.RoundTrip(req))
		readers.Go(func() { io.Copy(io.Discard, resp.Body); resp.Body.Close() })
	}

	writes := make(map[string]ended)
	began := make(map[string]time.Time) // of every request
	went := make(map[string]string)     // where its last connection led to
	var firstNew time.Time
	var workers sync.WaitGroup
	for worker := range movedCallers {
		workers.Go(func() {
			more := movedAfter
			for n := 0; more > 0; n++ {
				pause(10 * time.Millisecond)
				id, method := fmt.Sprintf("%s/%d-%d", m.old.addr(), worker, n), "GET" // of no other experiment
				if worker%2 == 0 {
					method = "POST"
				}
				ctx, cancel := context.WithTimeout(failover.WithLabel(context.Background(), id), 3*time.Second)
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
					ip, _, _ := net.SplitHostPort(i.Conn.RemoteAddr().String())
					mu.Lock()
					went[id] = ip
					mu.Unlock()
				}})
				req := newSmallRequest(ctx, method, id)
				begun := time.Now()
				resp, err := rt.RoundTrip(req)
				status := 0
				if err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					status = resp.StatusCode
				}
				_, doubt := failover.InDoubt(resp, err)
				cancel()
				mu.Lock()
				began[id] = begun
				if method == "POST" {
					writes[id] = ended{begun, time.Now(), status == http.StatusOK, doubt}
				}
				if m.next.has(id) && status == http.StatusOK && firstNew.IsZero() {
					firstNew = time.Now()
				}
				if !judged.IsZero() && begun.After(judged) {
					more--
					r.failed += count(status != http.StatusOK)
				}
				if !served.IsZero() && time.Since(served) > 20*time.Second {
					more = 0
				}
				mu.Unlock()
			}
		})
	}
	pause(700 * time.Millisecond)
	mu.Lock()
	left = time.Now()
	mu.Unlock()
	c.departure.act(m.old)
	pause(c.downtime)
	m.behind.Store(m.next)
	mu.Lock()
	served = time.Now()
	m.next.mode.Store(placeServes)
	mu.Unlock()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		r.wrong = append(r.wrong, "nothing was judged")
	}
	workers.Wait()
	mu.Lock()
	defer mu.Unlock()
	if r.first = firstNew.Sub(served); firstNew.IsZero() {
		r.wrong = append(r.wrong, "the new place has answered nobody")
	}
	old := m.old.ids()
	toOld := func(id string) bool { return old[id] || went[id] == oldIP }
	for id, at := range began {
		if !judged.IsZero() && at.After(judged) {
			r.after++
			r.old += count(toOld(id))
		}
	}
	r.reports = len(reports)
	if len(reports) > 0 {
		r.wrong = append(r.wrong, c.check(reports[0], writes, toOld)...)
	}
	return r
}

func (l *place) has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived[id]
}

// check compares a report with what the callers know: each write that the old place
// has acknowledged since RPO before the last success, and each in doubt. A write may
// be a little older for the ledger than for its caller.
func (c movedCell) check(r *failover.LossReport, writes map[string]ended, toOld func(string) bool) (wrong []string) {
	atRisk, unknown := labels(r.AtRisk), labels(r.Unknown)
	from := r.LastSuccess.Add(-r.RPO)
	for id, w := range writes {
		if w.at.After(r.Time) {
			continue
		}
		switch _, listed := atRisk[id]; {
		case w.acked && w.began.After(from) && !listed:
			wrong = append(wrong, fmt.Sprintf("acknowledged %v after the window began, and not listed: %s", w.at.Sub(from), id))
		case listed && (!w.acked || w.at.Before(from)):
			wrong = append(wrong, "listed and not of the window: "+id)
		}
		if _, listed := unknown[id]; listed != w.unknown && toOld(id) {
			wrong = append(wrong, fmt.Sprintf("in doubt %v, listed %v: %s", w.unknown, listed, id))
		}
	}
	if len(atRisk) == 0 {
		wrong = append(wrong, "nothing is at risk")
	}
	slices.Sort(wrong)
	return wrong[:min(len(wrong), 3)]
}

func labels(list []failover.Write) map[string]bool {
	m := make(map[string]bool)
	for _, w := range list {
		m[w.Label] = true
	}
	return m
}

// writeMoved writes the results as a table in Markdown.
func writeMoved(w io.Writer, results []movedResult) {
	fmt.Fprintln(w, "| Base | front end | old place | | downtime | first answer after | judged after | requests since, at the old place, failed | reason |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		front := "none"
		if r.cell.front != nil {
			front = r.cell.front.name
		}
		proto := "HTTP/1.1"
		if r.cell.h2 {
			proto = "HTTP/2"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %v | %s | %s | %d, %d, %d | %s |\n", r.cell.kind.name, front, r.cell.departure.name, proto, r.cell.downtime,
			seconds(r.first), seconds(r.judged), r.after, r.old, r.failed, r.reason)
	}
}
