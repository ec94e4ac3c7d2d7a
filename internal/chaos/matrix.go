package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover"
)

// The time limits of the matrix: short, because there are many cells. On a slow machine, a cell
// has a multiple of them.
const (
	attemptTimeout = 800 * time.Millisecond
	probeTimeout   = 800 * time.Millisecond
	callTimeout    = 5 * time.Second // the deadline of a call
	// recovery bounds the time from the fault to the first good answer. Bodies that stall take
	// longest: three calls run into their deadline before the probes start. The rest is slack
	// for a busy machine.
	recovery = 30 * time.Second
)

// methods are those of the matrix. A star marks a request as safe to repeat (WithReplay).
var methods = []string{"GET", "POST", "POST*", "PATCH", "DELETE"}

// A cell is one experiment.
type cell struct {
	fault  *fault
	h2     bool
	method string
	at     moment
	slower time.Duration // a factor for the time limits
}

// cells returns the cells that keep selects, in order.
func cells(methods []string, keep func(cell) bool) []cell {
	var all []cell
	for i := range faults {
		f := &faults[i]
		for _, at := range f.moments {
			for _, h2 := range []bool{false, true} {
				if f.proto != "" && (f.proto == "h2") != h2 {
					continue
				}
				for _, method := range methods {
					c := cell{f, h2, method, at, 1}
					if at == during && (method == "GET" || method == "DELETE") {
						continue // no body to interrupt
					}
					if keep == nil || keep(c) {
						all = append(all, c)
					}
				}
			}
		}
	}
	return all
}

func (c cell) String() string {
	return fmt.Sprintf("%s/%v/%s/%s", c.fault.name, c.at, c.proto(), c.method)
}

func (c cell) proto() string {
	if c.h2 {
		return "h2"
	}
	return "h1"
}

type result struct {
	cell cell
	// ours is the call that met the fault; bare is the same call without a Transport.
	ours, bare exchange
	// primary and alternate count what the endpoints did with the request.
	primary, alternate delivery
	good               time.Duration // from the fault to the first good answer
	written            int64         // bytes of a hostile answer that the client accepted
	goroutines         int           // left after Close
	conns              int64         // left after Close
	wrong              []string      // violated invariants
	doubled            bool          // a write that may not be repeated was delivered twice
}

// run makes the experiment twice: with a Transport and without.
func (c cell) run() result {
	r := result{cell: c}
	r.bare = c.play(&r, false)
	r.ours = c.play(&r, true)
	if r.bare.good && !r.ours.good {
		r.fail("a bare transport gets %q", r.bare.saw)
	}
	taken := r.primary.arrived - r.primary.refused + r.alternate.arrived - r.alternate.refused
	if (c.method == "POST" || c.method == "PATCH") && taken > 1 {
		r.fail("a write that may not be repeated was delivered %d times", taken)
		r.doubled = true
	}
	return r
}

func (r *result) fail(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// An exchange is one call as its caller sees it.
type exchange struct {
	saw  string
	held time.Duration // until RoundTrip returned
	took time.Duration // until the end of the body, or an error
	good bool
}

// play makes the experiment once, through a Transport if ours is set.
func (c cell) play(r *result, ours bool) (first exchange) {
	p := newPair(true)
	defer p.close()
	w := p.newWire(c.h2)
	label := c.String() + strconv.FormatBool(ours)
	pprof.Do(context.Background(), pprof.Labels("client", label), func(context.Context) {
		if !ours {
			w.ResponseHeaderTimeout = c.slower * attemptTimeout
			first = c.script(p, w.Transport, nil)
			w.CloseIdleConnections()
			return
		}
		rt := must(failover.New(orgURL, &failover.Config{Base: w.Transport, AttemptTimeout: c.slower * attemptTimeout,
			ProbeTimeout: c.slower * probeTimeout, Logger: slog.New(slog.DiscardHandler)}))
		first = c.script(p, rt, r)
		rt.Close()
		w.CloseIdleConnections()
	})
	if ours {
		r.goroutines, r.conns = leftovers(w, label)
		if r.goroutines != 0 || r.conns != 0 {
			r.fail("left: %d goroutines, %d connections", r.goroutines, r.conns)
		}
	}
	return first
}

// script injects the fault and makes the call. If r is set, it also records what became of
// that call, and repeats it until it gets a good answer.
func (c cell) script(p *pair, rt http.RoundTripper, r *result) exchange {
	s := p.primary
	var began atomic.Int64
	start := time.Now()
	spring := func() {
		if !c.fault.mild {
			p.failOver()
		}
		unlabelled(func() { c.fault.inject(s) })
		began.Store(int64(time.Since(start)))
	}
	if c.at != cold {
		if e := c.call(rt, "GET", "warm", r); !e.good && r != nil {
			r.fail("before the fault: %s", e.saw)
		}
	}
	if c.at <= warm {
		spring()
	} else {
		s.set(c.at, spring)
	}
	first := c.call(telling{rt, s.sawHeaders}, c.method, "first", r)
	if r == nil {
		return first
	}
	r.primary, r.alternate = p.primary.delivered("first"), p.alternate.delivered("first")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	e := first
	for n := 0; !e.good; n++ {
		<-tick.C
		e = c.call(rt, c.method, "next "+strconv.Itoa(n), r)
		if time.Since(start)-time.Duration(began.Load()) > c.slower*recovery {
			r.fail("no good answer within %v, the last was %q", c.slower*recovery, e.saw)
			break
		}
	}
	r.good = time.Since(start) - time.Duration(began.Load())
	r.written = s.written.Load()
	return first
}

// unlabelled runs f without the client's profiler labels, so that goroutines of the servers
// are not counted as the client's.
func unlabelled(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pprof.SetGoroutineLabels(context.Background())
		f()
	}()
	<-done
}

// telling calls tell when the headers of an answer have arrived.
type telling struct {
	http.RoundTripper
	tell func()
}

func (t telling) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err == nil {
		t.tell()
	}
	return resp, err
}

// maxRead is how much of an answer a caller reads.
const maxRead = 1 << 20

// call makes one call with a deadline of its own and reads the answer.
func (c cell) call(rt http.RoundTripper, method, id string, r *result) exchange {
	ctx, cancel := context.WithTimeout(context.Background(), c.slower*callTimeout)
	defer cancel()
	name, marked := strings.CutSuffix(method, "*")
	if marked {
		ctx = failover.WithReplay(ctx)
	}
	begun := time.Now()
	resp, err := rt.RoundTrip(newRequest(ctx, name, id))
	held := time.Since(begun)
	if (resp == nil) == (err == nil) && r != nil {
		r.fail("response %v and error %v", resp, err)
	}
	e := exchange{saw: describe(err), held: held}
	if err == nil {
		n, bodyErr := io.Copy(io.Discard, io.LimitReader(resp.Body, maxRead))
		resp.Body.Close()
		e.saw = strconv.Itoa(resp.StatusCode)
		e.good = resp.StatusCode == http.StatusOK && bodyErr == nil && n == int64(len(responseBody))
		if bodyErr != nil {
			e.saw += ", body: " + describe(bodyErr)
		}
	}
	e.took = time.Since(begun)
	return e
}

// newRequest returns a request with an id, and a body if the method has one.
func newRequest(ctx context.Context, method, id string) *http.Request {
	var body io.Reader
	if method == "POST" || method == "PATCH" {
		body = bytes.NewReader(requestBody)
	}
	req := must(http.NewRequestWithContext(ctx, method, orgURL+"/api/data/v9.2/accounts", body))
	if method == "PATCH" || method == "DELETE" {
		req.URL.Path += "(00000000-0000-4000-8000-000000000001)"
	}
	req.Header.Set(idHeader, id)
	req.Header.Set("Content-Type", "application/octet-stream")
	return req
}

// describe names the kind of an error.
func describe(err error) string {
	var timeout interface{ Timeout() bool }
	var fail *failover.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, failover.ErrOutcomeUnknown):
		return "outcome unknown"
	case errors.Is(err, failover.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "unexpected EOF"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &fail) && len(fail.Attempts) > 0:
		return "error, " + fail.Attempts[len(fail.Attempts)-1].Delivery.String()
	default:
		return "error"
	}
}

// leftovers waits until the client has neither connections nor goroutines. If that takes too
// long, it returns how many remain.
func leftovers(w *wire, label string) (goroutines int, conns int64) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		w.CloseIdleConnections() // a connection may become idle late
		if conns = w.open(); conns == 0 {
			if goroutines = labelled(label); goroutines == 0 {
				return 0, 0
			}
		}
		if time.Now().After(end) {
			return labelled(label), conns
		}
	}
}

var entry = regexp.MustCompile(`(?m)^(\d+) @.*\n# labels: \{"client":"([^"]*)"\}`)

// labelled counts a client's goroutines, by the profiler label that they inherit from the
// goroutine that started them.
func labelled(label string) (n int) {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	for _, m := range entry.FindAllStringSubmatch(b.String(), -1) {
		if m[2] == label {
			count, _ := strconv.Atoi(m[1])
			n += count
		}
	}
	return n
}

// runMatrix runs the cells with run, a few at a time, and returns the results in order.
func runMatrix(all []cell, parallel int, run func(cell) result) []result {
	bomb() // made beforehand, because it takes a while
	results := make([]result, len(all))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, c := range all {
		slots <- struct{}{}
		wg.Go(func() {
			results[i] = run(c)
			<-slots
		})
	}
	wg.Wait()
	return results
}

// writeMatrix writes the results as a Markdown table, one row for each cell.
func writeMatrix(w io.Writer, results []result) {
	fmt.Fprintln(w, "| fault | by | moment | | method | caller saw | held, in all | bare saw | held, in all | primary | alternate | good answer after | bytes | left |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		fmt.Fprintf(w, "| %s | %s | %v | %s | %s | %v | %v | %v | %v | %s | %d | %d, %d |\n", r.cell.fault.name, r.cell.fault.by, r.cell.at,
			r.cell.proto(), r.cell.method, r.ours, r.bare, r.primary, r.alternate, seconds(r.good), r.written, r.goroutines, r.conns)
	}
}

// String returns what the caller saw, and when.
func (e exchange) String() string {
	return fmt.Sprintf("%s | %s, %s", e.saw, seconds(e.held), seconds(e.took))
}

// writeDigest writes a summary: one row for each fault and moment, or two where the protocols
// differ.
func writeDigest(w io.Writer, results []result) {
	fmt.Fprint(w, "| fault | moment |")
	for _, m := range methods {
		fmt.Fprintf(w, " %s |", strings.Replace(m, "*", ", marked", 1))
	}
	fmt.Fprintln(w, " bare GET | bare POST | good answer within |")
	fmt.Fprintln(w, "|"+strings.Repeat("---|", len(methods)+5))
	for len(results) > 0 {
		head, n := results[0].cell, 0
		var slowest time.Duration
		ours, bare := make(map[string][]string), make(map[string][]string)
		for ; n < len(results) && results[n].cell.fault == head.fault && results[n].cell.at == head.at; n++ {
			r := results[n]
			ours[r.cell.method] = append(ours[r.cell.method], fmt.Sprintf("%s, %d+%d", r.ours.saw, r.primary.arrived, r.alternate.arrived))
			bare[r.cell.method] = append(bare[r.cell.method], r.bare.saw)
			slowest = max(slowest, r.good)
		}
		results = results[n:]
		fmt.Fprintf(w, "| %s | %v |", head.fault.name, head.at)
		for _, m := range methods {
			fmt.Fprintf(w, " %s |", strings.Join(slices.Compact(ours[m]), "; "))
		}
		fmt.Fprintf(w, " %s | %s | %.1f s |\n", strings.Join(slices.Compact(bare["GET"]), "; "), strings.Join(slices.Compact(bare["POST"]), "; "), slowest.Seconds())
	}
}

// String returns the three counts: arrived, refused, applied.
func (d delivery) String() string {
	return fmt.Sprintf("%d/%d/%d", d.arrived, d.refused, d.applied)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
