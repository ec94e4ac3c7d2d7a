package main

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover"
	"github.com/sony/gobreaker/v2"
)

// A table is a Markdown table; columns after the first hold numbers.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|---|%s\n", strings.Join(t.head, " | "), strings.Repeat("---:|", len(t.head)-1))
	for _, row := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}

func f0(v float64) string     { return fmt.Sprintf("%.0f", v) }
func f2(v float64) string     { return fmt.Sprintf("%.2f", v) }
func signed(v float64) string { return fmt.Sprintf("%+.0f", v) }

// healthy compares the peers while nothing fails.
func healthy(p pairing, peers []peer) []table {
	var gets, posts table
	gets.head = []string{"GET", "x bare", "added ns", "B", "allocs", "all cores: x bare", "added core-ns"}
	posts.head = []string{"POST", "x bare", "added ns", "B", "allocs"}
	var one, all, creates []work
	for _, peer := range peers {
		send := peer.make(new(memory), primary, alternate)
		one = append(one, sequential(send, http.MethodGet, primary+listPath))
		all = append(all, parallel(runtime.GOMAXPROCS(0), send, http.MethodGet, primary+listPath))
		creates = append(creates, sequential(send, http.MethodPost, primary+createPath))
	}
	bare := over(new(memory))
	get := p.compare(sequential(bare, http.MethodGet, primary+listPath), one)
	together := p.longer().compare(parallel(runtime.GOMAXPROCS(0), bare, http.MethodGet, primary+listPath), all)
	post := p.compare(sequential(bare, http.MethodPost, primary+createPath), creates)
	for i, peer := range peers {
		bytes, mallocs := allocations(one[i])
		gets.add(peer.name, get[i].String(), signed(get[i].added), f0(bytes), f0(mallocs), together[i].String(), signed(together[i].times(runtime.GOMAXPROCS(0)).added))
		bytes, mallocs = allocations(creates[i])
		posts.add(peer.name, post[i].String(), signed(post[i].added), f0(bytes), f0(mallocs))
	}
	return []table{gets, posts}
}

// againstBreaker compares a healthy GET with the same GET through a single gobreaker, and
// calls from all cores at once with calls from one. Contention for a cache line shows as CPU
// time.
func againstBreaker(p pairing) table {
	t := table{head: []string{"GET", "x gobreaker Execute", "all cores: x gobreaker Execute", "all cores: x CPU time of one"}}
	cores, byCPU := runtime.GOMAXPROCS(0), p.longer()
	byCPU.clock = cpuTime
	var one, all []work
	var spread []string
	for _, make := range []func(http.RoundTripper, string, string) sender{executing, healthyPeers[0].make, executing, steps, ours} {
		send := make(new(memory), primary, alternate)
		one = append(one, sequential(send, http.MethodGet, primary+listPath))
		all = append(all, parallel(cores, send, http.MethodGet, primary+listPath))
	}
	for i := range one {
		spread = append(spread, byCPU.compare(one[i], []work{all[i]})[0].String())
	}
	alone, together := p.compare(one[0], one[1:]), p.longer().compare(all[0], all[1:])
	for i, name := range []string{healthyPeers[0].name, "gobreaker Execute", "the steps of failover alone, by hand", "**failover**"} {
		t.add(name, alone[i].String(), together[i].String(), spread[i+1])
	}
	return t
}

// failedOver compares the peers while the primary refuses connections.
func failedOver(p pairing, peers []peer) table {
	t := table{head: []string{"GET", "x bare, primary up", "added ns", "B", "allocs", "calls to the dead primary, each"}}
	var works []work
	asked := make([]*atomic.Int64, len(peers))
	for i, peer := range peers {
		asked[i] = new(atomic.Int64)
		base := &memory{down: primary, asked: asked[i]}
		if i == 0 {
			base = new(memory)
		}
		works = append(works, sequential(peer.make(base, primary, alternate), http.MethodGet, primary+listPath))
		works[i](60)
	}
	samples := p.compare(sequential(over(new(memory)), http.MethodGet, primary+listPath), works)
	for i, peer := range peers {
		before := asked[i].Load()
		bytes, mallocs := allocations(works[i])
		t.add(peer.name, samples[i].String(), signed(samples[i].added), f0(bytes), f0(mallocs), f2(float64(asked[i].Load()-before)/2100))
	}
	return t
}

// failingFast measures calls that fail without being sent, because no endpoint serves.
func failingFast(p pairing) table {
	t := table{head: []string{"refused call", "ns", "B", "allocs"}}
	refuse := func(name string, refused func() error) {
		var n int
		w := func(calls int) {
			for range calls {
				if refused() == nil {
					panic("not refused")
				}
			}
		}
		n = p.calls(w)
		var times []float64
		for range p.pairs {
			times = append(times, p.perCall(w, n))
		}
		bytes, mallocs := allocations(w)
		t.add(name, f0(median(times)), f0(bytes), f0(mallocs))
	}
	cb := gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{Timeout: time.Hour})
	base := &memory{down: "*", asked: new(atomic.Int64)}
	c := newCall(http.MethodGet, primary+listPath)
	refuse("gobreaker Execute, open", func() error {
		_, err := cb.Execute(func() (*http.Response, error) { return base.RoundTrip(c.req) })
		return err
	})
	send := failsafeBreaker(base, primary, alternate)
	refuse("failsafe-go breaker, open", func() error { return c.do(send) })
	transport := must(failover.New(primary, &failover.Config{
		Base: base, RetryBackoff: -1, ProbeInterval: -1, Logger: silent, Probe: probe, FailFast: true,
	}))
	defer transport.Close()
	_, err := transport.RoundTrip(c.req) // to find out that both are down
	if err == nil {
		panic("not down")
	}
	refuse("**failover**, Down, FailFast", func() error { _, err := transport.RoundTrip(c.req); return err })
	return t
}

// firstAnswer measures how long the first caller of an outage waits when every round trip
// takes 20 ms.
func firstAnswer(runs int) table {
	const rtt = 20 * time.Millisecond
	t := table{head: []string{"outage", "attempts at the primary", "to the first good answer, ms", "of that after the last fault, ms"}}
	for _, outage := range []struct{ name, code string }{{"connections refused", ""}, {"fence", "0x8004B065"}} {
		var all, after []float64
		var attempts int64
		for range runs {
			base := &memory{down: primary, asked: new(atomic.Int64), code: outage.code, rtt: rtt}
			transport := must(failover.New(primary, &failover.Config{Base: base, Logger: silent, Probe: probe}))
			start := time.Now()
			check(newCall(http.MethodGet, primary+listPath).do(over(transport)))
			end := time.Now()
			transport.Close()
			all = append(all, float64(end.Sub(start))/1e6)
			after = append(after, float64(end.Sub(*base.fault.Load()))/1e6)
			attempts = base.asked.Load()
		}
		t.add(outage.name, fmt.Sprint(attempts), spread(all), spread(after))
	}
	return t
}

// spread formats the median, the least and the greatest.
func spread(v []float64) string {
	return fmt.Sprintf("%.0f (%.0f-%.0f)", median(v), slices.Min(v), slices.Max(v))
}
