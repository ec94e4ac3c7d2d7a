package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover"
	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/fallback"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"
)

// Every peer that has the setting gets the same values: the first pause before a retry, the
// number of failures that open a breaker, and how long it stays open.
const (
	peerPause     = 100 * time.Millisecond
	peerThreshold = 3
	peerOpen      = time.Second
)

// A peer is a library that could serve the same purpose, configured as its documentation says,
// over the same http.Transport.
type peer struct {
	name string
	make func(base http.RoundTripper) (rt http.RoundTripper, stop func())
}

var peers = []peer{
	{"bare http.Transport", func(base http.RoundTripper) (http.RoundTripper, func()) { return base, func() {} }},
	{"gobreaker, written by hand", newByHand},
	{"failsafe-go", newFailsafe},
	{"go-retryablehttp", newRetryable},
	{"elastic-transport-go, round robin", func(base http.RoundTripper) (http.RoundTripper, func()) {
		return newElastic(base, nil)
	}},
	{"elastic-transport-go, primary first", func(base http.RoundTripper) (http.RoundTripper, func()) {
		return newElastic(base, primaryFirst{})
	}},
	{"failover", func(base http.RoundTripper) (http.RoundTripper, func()) {
		rt := must(failover.New(orgURL, &failover.Config{Base: base, RetryBackoff: peerPause, FailureThreshold: peerThreshold,
			ProbeInterval: peerOpen, MaxProbeInterval: peerOpen, ProbeTimeout: 2 * time.Second, MinDwell: time.Second,
			Logger: slog.New(slog.DiscardHandler)}))
		return rt, func() { rt.Close() }
	}},
}

// bad reports whether a peer treats a result as a failure of the endpoint.
func bad(resp *http.Response, err error) bool {
	return err != nil || resp != nil && resp.StatusCode >= 500
}

// atAlternate returns a copy of the request for the alternate, with a fresh body.
func atAlternate(req *http.Request) (*http.Request, error) {
	out := req.Clone(req.Context())
	out.URL.Host, out.Host = alternateHost, ""
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	return out, nil
}

// byHand is what a careful programmer builds around gobreaker: a breaker for the primary, the
// alternate while that is open, and one repetition there of what was not sent or what net/http
// would repeat.
type byHand struct {
	base    http.RoundTripper
	breaker *gobreaker.CircuitBreaker[*http.Response]
}

func newByHand(base http.RoundTripper) (http.RoundTripper, func()) {
	return &byHand{base, gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{Timeout: peerOpen,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= peerThreshold }})}, func() {}
}

var errStatus = errors.New("server error")

func (b *byHand) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.breaker.Execute(func() (*http.Response, error) {
		resp, err := b.base.RoundTrip(req)
		if err == nil && bad(resp, nil) {
			err = errStatus
		}
		return resp, err
	})
	if err == nil {
		return resp, nil
	}
	open := errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
	var dial *net.OpError
	if open || req.Method == "GET" || errors.As(err, &dial) && dial.Op == "dial" {
		if resp != nil {
			resp.Body.Close()
		}
		out, err := atAlternate(req)
		if err != nil {
			return nil, err
		}
		return b.base.RoundTrip(out)
	}
	if err == errStatus {
		return resp, nil
	}
	return nil, err
}

type requestKey struct{}

// newFailsafe composes policies of failsafehttp as its documentation does: a fallback to the
// alternate, around retries, around a circuit breaker.
func newFailsafe(base http.RoundTripper) (http.RoundTripper, func()) {
	toAlternate := fallback.NewBuilderWithFunc(func(exec failsafe.Execution[*http.Response]) (*http.Response, error) {
		out, err := atAlternate(exec.Context().Value(requestKey{}).(*http.Request))
		if err != nil {
			return nil, err
		}
		return base.RoundTrip(out)
	}).HandleIf(bad).Build()
	retry := failsafehttp.NewRetryPolicyBuilder().WithBackoff(peerPause, time.Second).Build()
	breaker := circuitbreaker.NewBuilder[*http.Response]().HandleIf(bad).
		WithFailureThreshold(peerThreshold).WithDelay(peerOpen).Build()
	inner := failsafehttp.NewRoundTripper(base, toAlternate, retry, breaker)
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		return inner.RoundTrip(req.WithContext(context.WithValue(req.Context(), requestKey{}, req)))
	}), func() {}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// newRetryable retries at the two endpoints in turn, by PrepareRetry.
func newRetryable(base http.RoundTripper) (http.RoundTripper, func()) {
	c := retryablehttp.NewClient()
	c.HTTPClient = &http.Client{Transport: base}
	c.Logger = nil
	c.RetryWaitMin, c.RetryWaitMax = peerPause, time.Second
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler
	c.PrepareRetry = func(req *http.Request) error {
		u := *req.URL
		if u.Host == primaryHost {
			u.Host = alternateHost
		} else {
			u.Host = primaryHost
		}
		req.URL, req.Host = &u, ""
		return nil
	}
	return &retryablehttp.RoundTripper{Client: c}, func() {}
}

// primaryFirst selects the primary as long as it is among the live nodes.
type primaryFirst struct{}

func (primaryFirst) Select(live []*elastictransport.Connection) (*elastictransport.Connection, error) {
	for _, c := range live {
		if c.URL.Host == primaryHost {
			return c, nil
		}
	}
	return live[0], nil
}

func newElastic(base http.RoundTripper, selector elastictransport.Selector) (http.RoundTripper, func()) {
	options := []elastictransport.Option{
		elastictransport.WithURLs(&url.URL{Scheme: "https", Host: primaryHost}, &url.URL{Scheme: "https", Host: alternateHost}),
		elastictransport.WithTransport(base),
		elastictransport.WithRetryBackoff(func(int) time.Duration { return peerPause }),
	}
	if selector != nil {
		options = append(options, elastictransport.WithSelector(selector))
	}
	c := must(elastictransport.NewClient(options...))
	return roundTripper(c.Perform), func() { c.Close(context.Background()) }
}

// peerOutages are the outages that the peers go through.
var peerOutages = []outage{
	{"refused", (*side).refuse},
	{"503, not carried out", func(s *side) { before := http.HandlerFunc(unavailable); s.front.Store(&before) }},
	{"fence code, status 503", func(*side) {}},
	{"fence code, status 500", func(s *side) { before := http.HandlerFunc(fence500); s.front.Store(&before) }},
	{"data lost", func(s *side) { s.stalled.Store(true) }},
	{"504, carried out", answers(gatewayTimeout)},
	{"reset, carried out", answers(resetConnection)},
}

func fence500(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusInternalServerError)
	io.WriteString(w, fenceBody)
}

func gatewayTimeout(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusGatewayTimeout)
	io.WriteString(w, "<h1>504 Gateway Time-out</h1>")
}

// A contest takes one peer through one outage: first without the primary, then with the
// primary back and the alternate fenced.
type contest struct {
	peer     peer
	outage   outage
	callers  int
	duration time.Duration // of each part
}

type contestResult struct {
	contest contest
	out     phase // the primary is gone
	back    phase // the primary is back
	doubled int   // writes carried out twice
}

// A phase counts what callers see in one part of a contest.
type phase struct {
	calls, failures int
	asked           int64         // attempts, probes included, at the endpoint that does not serve
	until           time.Duration // the last failure, from the beginning of the part
}

// String returns the failures, the time of the last one, and the wasted attempts.
func (p phase) String() string {
	if p.failures == 0 {
		return fmt.Sprintf("0 of %d | – | %d", p.calls, p.asked)
	}
	return fmt.Sprintf("%d of %d | %s | %d", p.failures, p.calls, seconds(p.until), p.asked)
}

func (c contest) run() contestResult {
	r := contestResult{contest: c}
	p := startPair(false, newTally())
	defer p.close()
	w := p.newWire(false)
	defer w.CloseIdleConnections()
	w.ResponseHeaderTimeout, w.TLSHandshakeTimeout = 2*time.Second, 2*time.Second
	var asked [2]atomic.Int64
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == primaryHost {
			asked[0].Add(1)
		} else {
			asked[1].Add(1)
		}
		return w.Transport.RoundTrip(req)
	})
	rt, stop := c.peer.make(base)
	defer stop()

	c.play(rt, "warm", min(c.duration, 500*time.Millisecond))
	p.failOver()
	c.outage.begin(p.primary)
	pause(50 * time.Millisecond) // transports need this time to notice closed idle connections
	before := asked[0].Load()
	r.out = c.play(rt, "out", c.duration)
	r.out.asked = asked[0].Load() - before

	p.primary.recover()
	p.failBack()
	before = asked[1].Load()
	r.back = c.play(rt, "back", c.duration)
	r.back.asked = asked[1].Load() - before
	r.doubled = p.writes.doubled()
	return r
}

// play runs the callers for a while. One call in four is a write.
func (c contest) play(rt http.RoundTripper, name string, duration time.Duration) (sum phase) {
	var mu sync.Mutex
	var callers sync.WaitGroup
	begun := time.Now()
	for n := range c.callers {
		callers.Go(func() {
			for i := 0; time.Since(begun) < duration; i++ {
				method := "GET"
				if (n+i)%4 == 0 {
					method = "POST"
				}
				good := tryOnce(rt, method, name+"-"+strconv.Itoa(n)+"-"+strconv.Itoa(i))
				mu.Lock()
				sum.calls++
				if !good {
					sum.failures++
					sum.until = max(sum.until, time.Since(begun))
				}
				mu.Unlock()
				pause(c.duration / 8)
			}
		})
	}
	callers.Wait()
	return sum
}

func tryOnce(rt http.RoundTripper, method, id string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, err := rt.RoundTrip(newSmallRequest(ctx, method, id))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// writePeers writes the results as a Markdown table.
func writePeers(w io.Writer, results []contestResult) {
	fmt.Fprintln(w, "| outage | client | failures without the primary | the last after | dead primary asked | failures after its return | the last after | fenced alternate asked | doubled writes |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		fmt.Fprintf(w, "| %s | %s | %v | %v | %d |\n", r.contest.outage.name, r.contest.peer.name, r.out, r.back, r.doubled)
	}
}
