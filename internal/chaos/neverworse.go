package chaos

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
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

// A brownOut is a primary that answers a random share of its requests with faults. Client and
// service are in memory, in a testing/synctest bubble, where ten minutes take no time.
type brownOut struct {
	kind      string  // the kind of fault: one of kinds
	rate      float64 // the share of requests that get it
	load      string  // one of loads
	alternate string  // what the alternate does: one of standbys
	method    string  // GET or POST
	length    time.Duration
	seeds     int
}

var (
	kinds    = []string{"503", "503, Retry-After", "reset", "refused", "fence", "hang", "slow"}
	rates    = []float64{0.06, 0.17, 0.30, 0.50, 0.70, 0.90, 0.97, 1} // a large front end failed 6 % and then 17 % of its requests in October 2025
	loads    = []string{"busy", "spells", "quiet"}
	standbys = []string{"absent", "fenced", "401", "429", "serves"}

	methodsOfBrownOuts = []string{"GET", "POST"}
)

const (
	// The loads. Busy: eight callers that pause for half a second after each call. Spells:
	// eight callers that call every half second, and a primary that alternates between ten
	// good and ten bad seconds. Quiet: one caller that pauses for fifteen seconds.
	busyCallers  = 8
	spell        = 10 * time.Second
	busyThink    = 500 * time.Millisecond
	quietThink   = 15 * time.Second
	callPatience = 30 * time.Second // the deadline of a call
	roundTripsIn = 20 * time.Millisecond
)

// slowest is the longest time that a slow answer takes. It is within every deadline.
const slowest = 25 * time.Second

func (b brownOut) String() string {
	return fmt.Sprintf("%s, %.0f %%, %s, alternate %s, %s", b.kind, 100*b.rate, b.load, b.alternate, b.method)
}

// brownOuts returns the cells of the table. Busy cells last that long; quiet ones last ten
// minutes and have four times as many seeds.
func brownOuts(busy time.Duration, seeds int, want func(brownOut) bool) (all []brownOut) {
	for _, kind := range kinds {
		for _, alternate := range standbys {
			for _, load := range loads {
				for _, method := range methodsOfBrownOuts {
					for _, rate := range rates {
						b := brownOut{kind, rate, load, alternate, method, busy, seeds}
						if load == "quiet" {
							b.length, b.seeds = 10*time.Minute, 4*seeds
						}
						if want(b) {
							all = append(all, b)
						}
					}
				}
			}
		}
	}
	return all
}

// pairOfEndpoints is the service, as a RoundTripper. What a request gets from the primary
// depends only on the seed, on the call, and on how often that call has arrived before (in
// spells, on the time). All clients therefore meet the same faults, however many other
// requests they send.
type pairOfEndpoints struct {
	brownOut
	seed     uint64
	mu       sync.Mutex
	arrivals map[string]int // by call id; "" for probes
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

// draw returns the random numbers for the next arrival of a call.
func (p *pairOfEndpoints) draw(id string) *rand.Rand {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := fnv.New64a()
	if p.load == "spells" {
		fmt.Fprint(h, time.Now().UnixNano()/int64(spell))
	} else {
		fmt.Fprint(h, id, "/", p.arrivals[id])
	}
	p.arrivals[id]++
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

// contenders are the clients that are compared: the bare client, against which the others are
// measured, then a Transport with the zero Config, then the rest.
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

// play runs the callers over a client for as long as the brown-out lasts, and returns the
// result of each caller's calls. It must run in a bubble.
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
				if b.load == "spells" {
					pause(time.Until(begun.Add(time.Duration(n)*think/time.Duration(callers) + time.Duration(i+1)*think)))
				} else {
					pause(think)
				}
			}
		})
	}
	all.Wait()
	return got
}

// call makes one call and reports whether it got a healthy answer.
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

// A share compares one client's calls in a cell with those of the bare client, one by one, as
// far as both got.
type share struct {
	calls, good  int
	gained, lost int // good here but not there, and good there but not here
}

func (s *share) add(bare, got [][]bool) {
	for n := range got {
		for i := range min(len(got[n]), len(bare[n])) {
			s.calls++
			if got[n][i] {
				s.good++
			}
			switch {
			case got[n][i] && !bare[n][i]:
				s.gained++
			case !got[n][i] && bare[n][i]:
				s.lost++
			}
		}
	}
}

func (s share) percent() float64 { return 100 * float64(s.good) / float64(max(1, s.calls)) }

// brownOutResult has the results of a cell, one for each contender.
type brownOutResult struct {
	brownOut
	shares []share
}

// measure plays the cell for every client and seed, each in a bubble of its own.
func (b brownOut) measure(bubble func(func()), clients []peer) brownOutResult {
	r := brownOutResult{b, make([]share, len(clients))}
	for seed := range b.seeds {
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

// repeats reports whether the calls of a cell may be repeated after its faults, and have time
// for it, so that a Transport should do better than a bare client.
func (b brownOut) repeats() bool {
	inTime := b.kind != "hang" && b.kind != "slow" && b.kind != "503, Retry-After"
	return inTime && (b.method == "GET" || b.kind == "refused" || b.kind == "fence")
}

// wrong lists what is wrong with a cell. All clients meet the same faults, so no tolerance is
// needed: a Transport loses no call that the bare client gets answered, gains by repeats, and
// leaves a dead primary for an alternate that serves.
func (r brownOutResult) wrong() (wrong []string) {
	s := r.shares[1]
	failed := s.calls - s.good
	if s.calls == 0 {
		wrong = append(wrong, "nobody has called")
	}
	if s.lost > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d calls fail that a bare client gets answered", s.lost, s.calls))
	}
	if often := r.rate <= 0.5; often && r.load == "busy" && r.repeats() && s.gained == 0 {
		wrong = append(wrong, "no call is saved by a repeat")
	}
	if r.alternate == "serves" && r.rate == 1 {
		avoidable := failed
		if r.method == "POST" && !r.repeats() { // in doubt until the switch
			avoidable = max(0, failed-r.seeds*inDoubtUntilMoved)
		}
		if avoidable > 0 {
			wrong = append(wrong, fmt.Sprintf("%d of %d calls fail although the alternate serves", failed, s.calls))
		}
	}
	return wrong
}

// inDoubtUntilMoved bounds the writes that are in doubt before the switch: one for each
// caller, and the three that trip the circuit breaker.
const inDoubtUntilMoved = busyCallers + 3

// writeBrownOuts writes the cells as a Markdown table: a row for all the rates of a cell, with
// the clients' success rates in percent.
func writeBrownOuts(w io.Writer, results []brownOutResult) {
	fmt.Fprint(w, "| faults | alternate | load | |")
	for _, rate := range rates {
		fmt.Fprintf(w, " %.0f %% |", 100*rate)
	}
	fmt.Fprintln(w, "\n|---|---|---|---|"+strings.Repeat("---|", len(rates)))
	row := ""
	for _, r := range results {
		if next := fmt.Sprintf("| %s | %s | %s | %s |", r.kind, r.alternate, r.load, r.method); next != row {
			if row != "" {
				fmt.Fprintln(w)
			}
			row = next
			fmt.Fprint(w, row)
		}
		fmt.Fprint(w, " ")
		for i, s := range r.shares {
			if i == 1 {
				fmt.Fprintf(w, "**%.0f** ", s.percent())
			} else {
				fmt.Fprintf(w, "%.0f ", s.percent())
			}
		}
		fmt.Fprint(w, "|")
	}
	fmt.Fprintln(w)
}

// writeBrownOutDigest writes how each client compares with the bare one.
func writeBrownOutDigest(w io.Writer, results []brownOutResult, clients []peer) {
	fmt.Fprintln(w, "| client | | calls | good, bare client | good | of them not with the bare client | only with the bare client | cells with fewer good calls | in the worst of them |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for i, c := range clients[1:] {
		for _, method := range methodsOfBrownOuts {
			var sum share
			cells, worse, worst := 0, 0, 0.0
			for _, r := range results {
				if r.method != method {
					continue
				}
				s := r.shares[i+1]
				sum.calls, sum.good, sum.gained, sum.lost = sum.calls+s.calls, sum.good+s.good, sum.gained+s.gained, sum.lost+s.lost
				cells++
				if s.lost > s.gained {
					worse++
				}
				worst = min(worst, 100*float64(s.gained-s.lost)/float64(max(1, s.calls)))
			}
			bare := sum
			bare.good -= sum.gained - sum.lost
			fmt.Fprintf(w, "| %s | %s | %d | %.1f %% | %.1f %% | %d | %d | %d of %d | %+.1f points |\n", c.name, method, sum.calls,
				bare.percent(), sum.percent(), sum.gained, sum.lost, worse, cells, worst)
		}
	}
}
