package chaos

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover"
)

// An outage is one way in which the primary fails under load.
type outage struct {
	name  string
	begin func(s *side)
}

var outages = []outage{
	{"fence", func(*side) {}},
	{"503", func(s *side) { answers(unavailable)(s) }},
	{"refused", (*side).refuse},
	{"data lost", func(s *side) { s.stalled.Store(true) }},
	{"reset after apply", func(s *side) { answers(resetConnection)(s) }},
}

// A load takes many callers through a failover and a fail-back.
type load struct {
	callers int
	h2      bool
	outage  outage
	healthy time.Duration // before the failover, and again after each switch
	timeout time.Duration // AttemptTimeout
}

type loadResult struct {
	load load
	// Calls by result: successes, unavoidable failures (writes whose outcome nobody can know),
	// and avoidable failures.
	calls, unknown, avoidable int64
	samples                   []string // some avoidable failures
	doubled                   int      // writes carried out twice
	decisions, switches       int
	probes                    int
	failover, failback        time.Duration // from the change in the world to the switch
	storm                     int64         // the most connections to the alternate at one time
	// bareStorm is the same for as many callers that start at once over a bare http.Transport.
	// net/http dials for every request that finds no idle connection, and keeps the surplus
	// connections.
	bareStorm            int64
	heapBefore, heapPeak uint64
	goroutines           int // left after Close
	conns                int64
}

// run starts the callers. Each makes one call after another, mostly reads, with a deadline too
// long to matter.
func (l load) run() loadResult {
	r := loadResult{load: l}
	p := startPair(false, newTally())
	defer p.close()
	w := p.newWire(l.h2)
	var events eventLog
	before := runtime.NumGoroutine()
	rt := must(failover.New(orgURL, &failover.Config{Base: w.Transport, AttemptTimeout: l.timeout, ProbeTimeout: l.timeout,
		ProbeInterval: 200 * time.Millisecond, MaxProbeInterval: 200 * time.Millisecond, MinDwell: time.Second,
		Logger: slog.New(slog.DiscardHandler), OnEvent: events.add}))
	r.heapBefore = heap()

	ctx, stop := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	c := &crowd{rt: rt, result: &r, pair: p}
	for n := range l.callers {
		callers.Go(func() { c.caller(ctx, n) })
	}
	watch := time.NewTicker(100 * time.Millisecond)
	peak := make(chan struct{})
	go func() {
		defer close(peak)
		for ctx.Err() == nil {
			<-watch.C
			r.heapPeak = max(r.heapPeak, heap())
		}
	}()
	c.waitForCalls(int64(l.callers)) // on average, one call each
	pause(l.healthy)

	gone := time.Now()
	p.failOver()
	l.outage.begin(p.primary)
	events.wait(failover.Alternate, 1)
	r.failover = events.at(1).Sub(gone)
	pause(l.healthy)

	back := time.Now()
	p.primary.recover()
	p.failBack()
	events.wait(failover.Primary, 2)
	r.failback = events.at(2).Sub(back)
	pause(l.healthy)

	stop()
	callers.Wait()
	<-peak
	watch.Stop()
	rt.Close()
	r.decisions, r.switches, r.probes = events.counts()
	r.storm = w.alternate.most.Load()
	r.doubled = p.writes.doubled()
	r.conns, r.goroutines = settle(w, before)
	r.bareStorm = l.bareStorm()
	return r
}

// bareStorm sends all callers to the primary at once, without a Transport, and returns the
// largest number of connections.
func (l load) bareStorm() int64 {
	p := startPair(false, newTally())
	defer p.close()
	w := p.newWire(l.h2)
	defer w.CloseIdleConnections()
	ctx, stop := context.WithTimeout(context.Background(), l.healthy)
	defer stop()
	c := &crowd{rt: w.Transport, result: new(loadResult), pair: p}
	var callers sync.WaitGroup
	for n := range l.callers {
		callers.Go(func() { c.caller(ctx, n) })
	}
	callers.Wait()
	return w.primary.most.Load()
}

// crowd is what the callers share.
type crowd struct {
	rt     http.RoundTripper
	pair   *pair
	calls  atomic.Int64
	mu     sync.Mutex
	result *loadResult
}

// caller calls until ctx ends: of ten calls, eight are reads, one is a write, and one a
// conditional update.
func (c *crowd) caller(ctx context.Context, n int) {
	for i := 0; ctx.Err() == nil; i++ {
		method := "GET"
		switch rand.IntN(10) {
		case 0:
			method = "POST"
		case 1:
			method = "PUT"
		}
		callCtx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		req := newSmallRequest(callCtx, method, strconv.Itoa(n)+"-"+strconv.Itoa(i))
		resp, err := c.rt.RoundTrip(req)
		good, bodyErr := false, error(nil)
		if err == nil {
			_, bodyErr = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			good = resp.StatusCode == http.StatusOK && bodyErr == nil
		}
		cancel()
		c.note(method, good, resp, err, bodyErr)
		pause(time.Duration(rand.IntN(int(200 * time.Millisecond))))
	}
}

// note classifies a call. Two kinds of failure are unavoidable: a write that was sent and got
// no definite answer, and an answer whose body breaks off.
func (c *crowd) note(method string, good bool, resp *http.Response, err, bodyErr error) {
	c.calls.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.result
	r.calls++
	if good {
		return
	}
	saw := describe(err)
	if resp != nil {
		saw = strconv.Itoa(resp.StatusCode) + " " + describe(bodyErr)
	}
	// Without the fence's code, a 503 proves nothing either.
	unproven := saw == "outcome unknown" || resp != nil && resp.StatusCode == http.StatusServiceUnavailable && c.pair.primary.answer.Load() != nil
	if bodyErr != nil || method == "POST" && unproven {
		r.unknown++
		return
	}
	r.avoidable++
	if len(r.samples) < 10 {
		r.samples = append(r.samples, method+": "+saw)
	}
}

func (c *crowd) waitForCalls(n int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for c.calls.Load() < n {
		<-tick.C
	}
}

// newSmallRequest returns a request with an id, and next to no body.
func newSmallRequest(ctx context.Context, method, id string) *http.Request {
	var body io.Reader
	if method == "POST" || method == "PUT" {
		body = strings.NewReader(`{"name":"Contoso"}`)
	}
	req := must(http.NewRequestWithContext(ctx, method, orgURL+"/api/data/v9.2/accounts?small", body))
	req.Header.Set(idHeader, id)
	req.Header.Set("Content-Type", "application/json")
	return req
}

// eventLog keeps the events that the tables count.
type eventLog struct {
	mu       sync.Mutex
	switched []failover.Event
	tripped  int
	probed   int
	other    []failover.Event
}

func (l *eventLog) add(e failover.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e.Kind {
	case failover.EventSwitched:
		l.switched = append(l.switched, e)
	case failover.EventTripped:
		l.tripped++
	case failover.EventProbed:
		l.probed++
	case failover.EventSwitchRefused, failover.EventDown, failover.EventUp, failover.EventLatched:
		l.other = append(l.other, e)
	}
}

// wait waits for the n-th switch to an endpoint.
func (l *eventLog) wait(to failover.Endpoint, n int) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); <-tick.C {
		l.mu.Lock()
		done := len(l.switched) >= n
		l.mu.Unlock()
		if done {
			return
		}
	}
	panic(fmt.Sprintf("chaos: no switch to the %v within five minutes", to))
}

func (l *eventLog) at(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.switched[n-1].Time
}

// counts returns the number of decisions (switches made or refused), of switches, and of
// probes.
func (l *eventLog) counts() (decisions, switches, probes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.switched) + len(l.other), len(l.switched), l.probed
}

// settle waits for the client's connections and goroutines to end, and returns how many are
// left.
func settle(w *wire, before int) (conns int64, goroutines int) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		w.CloseIdleConnections()
		conns, goroutines = w.open(), max(0, runtime.NumGoroutine()-before)
		if conns == 0 && goroutines == 0 || time.Now().After(end) {
			return conns, goroutines
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// pause sleeps. Tests must not use it to wait for an event.
func pause(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}

// writeLoad writes the results as a Markdown table.
func writeLoad(w io.Writer, results []loadResult) {
	fmt.Fprintln(w, "| outage | | callers | calls | avoidable failures | unavoidable | doubled writes | decisions | probes | failed over after | back after | most connections to the alternate | of a bare transport | heap, before and peak | left |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		proto := "h1"
		if r.load.h2 {
			proto = "h2"
		}
		fmt.Fprintf(w, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %s | %s | %d | %d | %d, %d MiB | %d, %d |\n", r.load.outage.name, proto,
			r.load.callers, r.calls, r.avoidable, r.unknown, r.doubled, r.decisions, r.probes, seconds(r.failover), seconds(r.failback),
			r.storm, r.bareStorm, r.heapBefore>>20, r.heapPeak>>20, r.goroutines, r.conns)
	}
}
