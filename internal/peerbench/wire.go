package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"time"
)

// load is what goes on at once over the wire.
type load struct{ size, callers int }

// loads returns all of these sizes and callers, but for more than 1 GiB at once.
func loads(sizes, callers []int) (all []load) {
	for _, size := range sizes {
		for _, n := range callers {
			if size*n <= 1<<30 {
				all = append(all, load{size, n})
			}
		}
	}
	return all
}

// sized returns a server with TLS whose answers have the size that the query says,
// and a transport that keeps its connections.
func sized(http2 bool) (server *httptest.Server, base *http.Transport) {
	content := make([]byte, 64<<20)
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.RawQuery)
		for key, values := range listHead {
			w.Header()[key] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.Write(content[:n])
	}))
	server.EnableHTTP2 = http2
	server.StartTLS()
	base = server.Client().Transport.(*http.Transport)
	base.MaxIdleConnsPerHost = 512
	return server, base
}

// bySizeAndCallers compares throughput and CPU time over TLS with those of the bare
// transport. It is compared with itself as well: where that is not within 2 %, neither
// is the rest.
func bySizeAndCallers(p pairing, cell time.Duration, fewest int, loads []load) table {
	t := table{head: []string{"GET over TLS", "bare against itself: throughput", "CPU", "failover: throughput", "CPU", "calls a turn", "turns"}}
	for _, http2 := range []bool{false, true} {
		server, base := sized(http2)
		other, _ := sized(http2)
		send := ours(base, server.URL, other.URL)
		for _, l := range loads {
			target := fmt.Sprintf("%s/api/data/v9.2/accounts?%d", server.URL, l.size)
			works := [3]work{parallel(l.callers, over(base), http.MethodGet, target), parallel(l.callers, over(base), http.MethodGet, target), parallel(l.callers, send, http.MethodGet, target)}
			calls := max(l.callers, p.calls(works[0]))
			through, cpu, turns := takeTurns(works, calls, fewest, cell)
			name := map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2]
			t.add(fmt.Sprintf("%s, %s, %d callers", name, short(float64(l.size)), l.callers),
				f2(through[0]), f2(cpu[0]), f2(through[1]), f2(cpu[1]), fmt.Sprint(calls), fmt.Sprint(turns))
		}
		server.Close()
		other.Close()
	}
	return t
}

// takeTurns has the works take turns, fewest at the least, for a time. It returns the medians
// of the ratios of the second and the third to the first: of their throughput, and of their
// CPU time.
func takeTurns(works [3]work, calls, fewest int, long time.Duration) (through, cpu [2]float64, turns int) {
	var faster, costs [2][]float64
	runtime.GC()
	for end := elapsed() + long; turns < fewest || elapsed() < end; turns++ {
		var took, used [3]time.Duration
		for k := range works {
			w := (turns + k) % len(works) // nobody is always the first
			start, before := elapsed(), cpuTime()
			works[w](calls)
			took[w], used[w] = elapsed()-start, cpuTime()-before
		}
		for k := range faster {
			faster[k] = append(faster[k], float64(took[0])/float64(took[k+1]))
			costs[k] = append(costs[k], float64(used[k+1])/float64(max(1, used[0])))
		}
	}
	for k := range faster {
		through[k], cpu[k] = median(faster[k]), median(costs[k])
	}
	return through, cpu, turns
}
