package chaos

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

// A hostile answer tries to use up the client's memory or time.
type hostile struct {
	name   string
	answer http.HandlerFunc
}

var hostileAnswers = []hostile{
	{"503, 1 GiB page", hugeError},
	{"503, gzip bomb of 1 GiB", gzipBomb},
	{"200, endless headers", endlessHeaders},
}

type hostileResult struct {
	hostile  hostile
	ours     bool
	callers  int
	attempts int
	written  int64  // bytes that the client accepted, over all attempts
	heap     uint64 // the peak, above the level before the run
	slowest  time.Duration
}

// run sends callers to the hostile answer at the same time, through a Transport if ours is
// set. The alternate does not serve. A caller looks only at the status.
func (h hostile) run(callers int, ours bool) hostileResult {
	p := newPair(false)
	defer p.close()
	w := p.newWire(false)
	defer w.CloseIdleConnections()
	var rt http.RoundTripper = w.Transport
	if ours {
		t := must(failover.New(orgURL, &failover.Config{Base: w.Transport, Logger: slog.New(slog.DiscardHandler)}))
		defer t.Close()
		rt = t
	}
	bomb()
	answers(h.answer)(p.primary)
	r := hostileResult{hostile: h, ours: ours, callers: callers}
	before := take(w).heap
	var mu sync.Mutex
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			e := glance(rt)
			now := heap()
			mu.Lock()
			defer mu.Unlock()
			r.slowest = max(r.slowest, e)
			r.heap = max(r.heap, max(now, before)-before)
		})
	}
	all.Wait()
	r.attempts = p.primary.delivered("glance").arrived
	r.written = p.primary.written.Load()
	return r
}

// glance makes a call, looks at the status and closes the body.
func glance(rt http.RoundTripper) time.Duration {
	begun := time.Now()
	req := must(http.NewRequest("GET", orgURL+"/api/data/v9.2/accounts", nil))
	req.Header.Set(idHeader, "glance")
	if resp, err := rt.RoundTrip(req); err == nil {
		resp.Body.Close()
	}
	return time.Since(begun)
}

// writeHostile writes the results as a Markdown table.
func writeHostile(w io.Writer, results []hostileResult) {
	fmt.Fprintln(w, "| answer | client | callers | attempts | sent by the server, for each attempt | most heap | slowest call |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, r := range results {
		name := "bare"
		if r.ours {
			name = "failover"
		}
		fmt.Fprintf(w, "| %s | %s | %d | %d | %.1f MiB | %.0f MiB | %s |\n", r.hostile.name, name, r.callers, r.attempts,
			float64(r.written)/float64(max(1, r.attempts))/(1<<20), float64(r.heap)/(1<<20), seconds(r.slowest))
	}
}
