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

// A hostile answer wants to use up the client's memory or time.
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
	written  int64  // bytes the client let itself be sent, by all attempts
	heap     uint64 // most, beyond what was there before
	slowest  time.Duration
}

// run lets callers meet the answer at the same time, through a Transport if
// ours is set. Nobody else serves. They look at the status only, if there is one.
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

// writeHostile writes the results as a table in Markdown.
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
