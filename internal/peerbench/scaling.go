package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/d365failover/failover"
)

var silent = slog.New(slog.DiscardHandler)

// byGoroutines measures what a call costs by the number of callers that share a peer.
func byGoroutines(p pairing, most int) (table, chart) {
	t := table{head: []string{"goroutines", "bare, core-ns", "gobreaker: added", "failover: added", "gobreaker: x bare", "failover: x bare"}}
	ch := chart{title: "Cost of a healthy GET by the number of callers, 2 cores", x: "goroutines", y: "ns of a core",
		series: []series{{name: "bare"}, {name: "gobreaker Execute"}, {name: "failover"}}}
	p = p.longer()
	for n := 1; n <= most; n *= 2 {
		of := func(make func(http.RoundTripper, string, string) sender) work {
			return parallel(n, make(new(memory), primary, alternate), http.MethodGet, primary+listPath)
		}
		bare := healthyPeers[0].make
		s := p.compare(of(bare), []work{of(executing), of(ours)})
		cores := min(n, runtime.GOMAXPROCS(0))
		s[0], s[1] = s[0].times(cores), s[1].times(cores)
		t.add(fmt.Sprint(n), f0(s[1].floor), signed(s[0].added), signed(s[1].added), s[0].String(), s[1].String())
		ch.add(float64(n), s[1].floor, s[1].floor+s[0].added, s[1].floor+s[1].added)
	}
	return t, ch
}

// bySize measures what a call costs by the size of its answer.
func bySize(p pairing, most int) (table, chart) {
	t := table{head: []string{"answer, bytes", "bare, ns", "failover: added ns", "failover: x bare"}}
	ch := chart{title: "Cost of a healthy GET by the size of its answer", x: "bytes", y: "ns a call",
		series: []series{{name: "bare"}, {name: "failover"}}}
	for n := 1 << 10; n <= most; n *= 4 {
		base := &memory{size: n}
		s := p.compare(sequential(over(base), http.MethodGet, primary+listPath),
			[]work{sequential(ours(base, primary, alternate), http.MethodGet, primary+listPath)})
		t.add(fmt.Sprint(n), f0(s[0].floor), signed(s[0].added), s[0].String())
		ch.add(float64(n), s[0].floor, s[0].floor+s[0].added)
	}
	return t, ch
}

// byOrganizations measures memory and calls by the number of organizations in one program,
// which are called in turn.
func byOrganizations(p pairing, most int) (table, chart) {
	t := table{head: []string{"organizations", "KiB each, idle", "KiB each, after a write", "goroutines", "GET in turn: x bare", "added ns"}}
	ch := chart{title: "Memory by the number of organizations", x: "organizations", y: "KiB",
		series: []series{{name: "idle"}, {name: "after a write each (the ledger is made)"}}}
	for n := 10; n <= most; n *= 10 { // fewer would not stand out from the rest of the process
		calls := make([]*call, n)
		for i := range calls {
			calls[i] = newCall(http.MethodGet, origin(i)+listPath)
		}
		before, running := heap(), runtime.NumGoroutine()
		transports := organizations(calls)
		time.Sleep(2 * time.Second) // for the timers of the calls to end
		idle := heap() - before
		running = runtime.NumGoroutine() - running
		bare := make([]sender, n)
		wrapped := make([]sender, n)
		for i := range n {
			bare[i], wrapped[i] = over(new(memory)), over(transports[i])
		}
		s := p.compare(inTurn(calls, bare), []work{inTurn(calls, wrapped)})
		for i, transport := range transports {
			check(newCall(http.MethodPost, origin(i)+createPath).do(over(transport)))
		}
		bare, wrapped = nil, nil
		used := heap() - before
		runtime.KeepAlive(calls)
		t.add(fmt.Sprint(n), f2(idle/1024/float64(n)), f2(used/1024/float64(n)), fmt.Sprint(running), s[0].String(), signed(s[0].added))
		ch.add(float64(n), idle/1024, used/1024)
		for _, transport := range transports {
			transport.Close()
		}
	}
	return t, ch
}

func origin(i int) string { return fmt.Sprintf("https://contoso%d.api.crm.dynamics.com", i) }

// organizations makes each call with a Transport of its own, and returns the Transports.
func organizations(calls []*call) []*failover.Transport {
	base, transports := new(memory), make([]*failover.Transport, len(calls))
	for i, c := range calls {
		transports[i] = must(failover.New(origin(i), &failover.Config{Base: base, Logger: silent}))
		check(c.do(over(transports[i])))
	}
	return transports
}

// inTurn makes the calls through the senders, in turn.
func inTurn(calls []*call, senders []sender) work {
	next := 0
	return func(n int) {
		for range n {
			check(calls[next].do(senders[next]))
			next = (next + 1) % len(calls)
		}
	}
}
