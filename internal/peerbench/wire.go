package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"time"
)

// A load is the size of the answers and the number of callers at once.
type load struct{ size, callers int }

// loads returns all combinations, except those with more than 1 GiB in transit.
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

// sized starts a TLS server whose answers have the size that the query names, and returns it
// with a transport that keeps its connections.
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

// bySizeAndCallers compares throughput and CPU time over TLS with those of the bare transport.
// The bare transport is also compared with itself: where that ratio is not within 2 %, the
// others are no more exact.
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

// takeTurns lets the works take turns, at least fewest times and for at least that long. It
// returns median ratios of the second and of the third work to the first: of the throughput,
// and of the CPU time.
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
