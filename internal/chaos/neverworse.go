package chaos

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/d365failover/failover"
)

// A brownOut is a primary of which a share of the answers are faults, at random. Client
// and service are in memory, and everything happens in a testing/synctest bubble: ten
// minutes take no time.
type brownOut struct {
	kind      string  // of the faults: one of kinds
	rate      float64 // share of the arrivals that meet one
	load      string  // busy or quiet
	alternate string  // what the alternate does: one of standbys
	method    string  // GET or POST
	length    time.Duration
}

var (
	kinds    = []string{"503", "503, Retry-After", "reset", "refused", "fence", "hang", "slow"}
	rates    = []float64{0.06, 0.17, 0.30, 0.50, 0.70, 0.90, 0.97}
	loads    = []string{"busy", "quiet"}
	standbys = []string{"absent", "fenced", "401", "429", "serves"}
)

const (
	// Eight callers, each of which thinks for half a second between two calls, or a
	// single one that calls every fifteen seconds.
	busyCallers  = 8
	busyThink    = 500 * time.Millisecond
	quietThink   = 15 * time.Second
	callPatience = 30 * time.Second // the deadline of a call
	roundTripsIn = 20 * time.Millisecond
)

// slowest is the longest that a slow answer takes: all of them come in time.
const slowest = 25 * time.Second

func (b brownOut) String() string {
	return fmt.Sprintf("%s, %.0f %%, %s, alternate %s, %s", b.kind, 100*b.rate, b.load, b.alternate, b.method)
}

// brownOuts returns all cells of the table that a filter wants.
func brownOuts(length time.Duration, want func(brownOut) bool) (all []brownOut) {
	for _, kind := range kinds {
		for _, alternate := range standbys {
			for _, load := range loads {
				for _, method := range []string{"GET", "POST"} {
					for _, rate := range rates {
						if b := (brownOut{kind, rate, load, alternate, method, length}); want(b) {
							all = append(all, b)
						}
					}
				}
			}
		}
	}
	return all
}

// pairOfEndpoints is the service, as a RoundTripper. What an arrival at the primary meets
// depends on the seed, the call, and how often that has arrived before: each client
// meets the same faults, whatever else it sends.
type pairOfEndpoints struct {
	brownOut
	seed     uint64
	mu       sync.Mutex
	arrivals map[string]int // by id of the call; "" for probes
}

func (p *pairOfEndpoints) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	if err := wait(req.Context(), roundTripsIn); err != nil {
		return nil, err
	}
	if req.URL.Host == alternateHost {
		return p.atAlternate(req)
	}
	drawn := p.draw(req.Header.Get(idHeader))
	if drawn.Float64() >= p.rate {
		return healthy(req)
	}
	switch p.kind {
	case "503":
		return answered(req, 503, "<h1>Service Unavailable</h1>", "Content-Type", "text/html")
	case "503, Retry-After":
		return answered(req, 503, "<h1>Service Unavailable</h1>", "Content-Type", "text/html", "Retry-After", "5")
	case "reset":
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	case "refused":
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	case "fence":
		return answered(req, 503, fenceBody, "Content-Type", "application/json")
	case "slow":
		if err := wait(req.Context(), time.Duration(drawn.Int64N(int64(slowest)))); err != nil {
			return nil, err
		}
		return healthy(req)
	default:
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
}

// draw returns the chance of an arrival.
func (p *pairOfEndpoints) draw(id string) *rand.Rand {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.arrivals[id]
	p.arrivals[id]++
	h := fnv.New64a()
	fmt.Fprint(h, id, "/", n)
	return rand.New(rand.NewPCG(p.seed, h.Sum64()))
}

func (p *pairOfEndpoints) atAlternate(req *http.Request) (*http.Response, error) {
	switch p.alternate {
	case "fenced":
		return answered(req, 503, fenceBody, "Content-Type", "application/json")
	case "401":
		return answered(req, 401, "", "WWW-Authenticate", "Bearer")
	case "429":
		return answered(req, 429, "", "Retry-After", "30")
	case "serves":
		return healthy(req)
	default:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: req.URL.Host, IsNotFound: true}}
	}
}

func healthy(req *http.Request) (*http.Response, error) {
	switch {
	case strings.HasSuffix(req.URL.Path, "/WhoAmI"):
		return answered(req, 200, `{"OrganizationId":"11111111-2222-3333-4444-555555555555"}`, "Content-Type", "application/json")
	case req.Method == "GET":
		return answered(req, 200, `{"value":[]}`, "Content-Type", "application/json")
	default:
		return answered(req, 204, "")
	}
}

func answered(req *http.Request, status int, body string, header ...string) (*http.Response, error) {
	h := make(http.Header)
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Request: req, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}, nil
}

// wait returns early, with an error, if the context ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// contenders are measured in brown-outs. The first is what the others are held against.
var contenders = []peer{
	peers[0],
	{"failover", func(base http.RoundTripper) (http.RoundTripper, func()) {
		rt := must(failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)}))
		return rt, func() { rt.Close() }
	}},
	{"failsafe-go", newFailsafe},
	{"gobreaker, written by hand", newByHand},
	{"go-retryablehttp", newRetryable},
}

// play has the callers call for as long as the brown-out lasts, over a client. It
// returns what each of them got, call by call. It runs in a bubble.
func (b brownOut) play(seed uint64, client peer) (got [][]bool) {
	rt, stop := client.make(&pairOfEndpoints{brownOut: b, seed: seed, arrivals: make(map[string]int)})
	defer stop()
	callers, think := busyCallers, busyThink
	if b.load == "quiet" {
		callers, think = 1, quietThink
	}
	got = make([][]bool, callers)
	begun := time.Now()
	var all sync.WaitGroup
	for n := range callers {
		all.Go(func() {
			pause(time.Duration(n) * think / time.Duration(callers))
			for i := 0; time.Since(begun) < b.length; i++ {
				got[n] = append(got[n], b.call(rt, strconv.Itoa(n)+"-"+strconv.Itoa(i)))
				pause(think)
			}
		})
	}
	all.Wait()
	return got
}

// call makes one call and reports whether it was answered in good health.
func (b brownOut) call(rt http.RoundTripper, id string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	req := newSmallRequest(ctx, b.method, id)
	req.Header.Set("Authorization", "Bearer contoso")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode < 300
}

// A share is what became of the calls of one client in one cell, beside the first
// contender's: call by call, over the calls that both have made.
type share struct {
	calls, good  int
	bare         int       // of the same calls, the bare client's good ones
	gained, lost int       // good here and not there, and the other way round
	gain         []float64 // by seed, the difference of the shares of good calls
}

func (s *share) add(bare, got [][]bool) {
	calls, gained, lost := 0, 0, 0
	for n := range got {
		for i := range min(len(got[n]), len(bare[n])) {
			calls++
			switch {
			case got[n][i] && !bare[n][i]:
				gained++
			case !got[n][i] && bare[n][i]:
				lost++
			}
			if got[n][i] {
				s.good++
			}
			if bare[n][i] {
				s.bare++
			}
		}
	}
	s.calls += calls
	s.gained += gained
	s.lost += lost
	s.gain = append(s.gain, float64(gained-lost)/float64(max(1, calls)))
}

// percent of the calls that were good, and that were with the bare client.
func (s *share) percent() (here, bare float64) {
	n := float64(max(1, s.calls))
	return 100 * float64(s.good) / n, 100 * float64(s.bare) / n
}

// least returns the lower end of the one-sided 99 % interval of the mean gain, in
// points, by Student's t over the seeds.
func (s *share) least() float64 {
	n := float64(len(s.gain))
	sum, squares := 0.0, 0.0
	for _, g := range s.gain {
		sum += g
	}
	mean := sum / n
	for _, g := range s.gain {
		squares += (g - mean) * (g - mean)
	}
	if squares == 0 {
		return 100 * mean
	}
	return 100 * (mean - student99(len(s.gain)-1)*math.Sqrt(squares/(n-1)/n))
}

// student99 is the 99th percentile of Student's t, by degrees of freedom.
func student99(degrees int) float64 {
	table := []float64{math.Inf(1), 31.82, 6.965, 4.541, 3.747, 3.365, 3.143, 2.998, 2.896, 2.821, 2.764}
	return table[min(max(0, degrees), len(table)-1)]
}

// brownOutResult is one row: a share for each contender.
type brownOutResult struct {
	brownOut
	shares []share
}

// measure plays the cell with every contender and seed, each in a bubble of its own.
func (b brownOut) measure(bubble func(func()), seeds int, clients []peer) brownOutResult {
	r := brownOutResult{b, make([]share, len(clients))}
	for seed := range seeds {
		var bare [][]bool
		for i, client := range clients {
			var got [][]bool
			bubble(func() { got = b.play(uint64(seed+1), client) })
			if i == 0 {
				bare = got
			}
			r.shares[i].add(bare, got)
		}
	}
	return r
}

// worse returns what is wrong with a row: "" if the Transport does no worse than the
// bare client, call by call.
func (r brownOutResult) worse() string {
	s := &r.shares[1]
	here, bare := s.percent()
	switch {
	case s.calls == 0:
		return "nobody has called"
	case s.lost > s.gained:
		return fmt.Sprintf("%.2f %% of the calls are good, %.2f %% with a bare client", here, bare)
	}
	return ""
}

// writeBrownOuts writes the rows as a table in Markdown.
func writeBrownOuts(w io.Writer, results []brownOutResult, clients []peer) {
	fmt.Fprint(w, "| faults | share | load | alternate | | calls |")
	for _, c := range clients {
		fmt.Fprintf(w, " %s |", c.name)
	}
	fmt.Fprintln(w, " gained, lost | least |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|"+strings.Repeat("---|", len(clients)+2))
	for _, r := range results {
		s := &r.shares[1]
		fmt.Fprintf(w, "| %s | %.0f %% | %s | %s | %s | %d |", r.kind, 100*r.rate, r.load, r.alternate, r.method, s.calls)
		for i := range r.shares {
			here, _ := r.shares[i].percent()
			fmt.Fprintf(w, " %.1f |", here)
		}
		fmt.Fprintf(w, " %d, %d | %+.1f |\n", s.gained, s.lost, cmp.Or(s.least(), 0))
	}
}
