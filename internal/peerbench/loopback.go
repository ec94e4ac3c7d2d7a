package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// loopback starts a TLS server in this process, and returns it with a transport that keeps its
// connections.
func loopback() (server *httptest.Server, base *http.Transport) {
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for key, values := range listHead {
			w.Header()[key] = values
		}
		w.Write(listed)
	}))
	base = server.Client().Transport.(*http.Transport)
	base.MaxIdleConnsPerHost = 256
	return server, base
}

// latencies are those of the calls that a work makes.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

// timed makes calls as parallel does, and records how long each takes.
func (l *latencies) timed(goroutines int, send sender, target string) work {
	return parallel(goroutines, func(c *call) (*http.Response, error) {
		start := time.Now()
		resp, err := send(c)
		took := time.Since(start) // time to the headers, with which the body arrived
		l.mu.Lock()
		l.all = append(l.all, took)
		l.mu.Unlock()
		return resp, err
	}, http.MethodGet, target)
}

// percentile returns a percentile in microseconds.
func (l *latencies) percentile(p int) float64 {
	slices.Sort(l.all)
	return float64(l.all[len(l.all)*p/100]) / 1e3
}

// overTLS compares the peers over two loopback servers.
func overTLS(p pairing, peers []peer) table {
	server, base := loopback()
	defer server.Close()
	other, _ := loopback() // with the same certificate
	defer other.Close()
	target := server.URL + listPath
	t := table{head: []string{"GET", "one caller: x bare", "eight callers: x bare", "their throughput", "their CPU time: x bare", "p50, us", "p99, us", "p99: x bare"}}
	senders, works := make([]sender, len(peers)), make([]work, len(peers))
	for i, peer := range peers {
		senders[i] = peer.make(base, server.URL, other.URL)
		works[i] = sequential(senders[i], http.MethodGet, target)
	}
	bare, byCPU := over(base), p
	byCPU.clock = cpuTime
	alone := p.compare(sequential(bare, http.MethodGet, target), works)
	for i, peer := range peers {
		var floor, times latencies // each peer has a floor from the same minutes
		eight := p.compare(floor.timed(8, bare, target), []work{times.timed(8, senders[i], target)})[0]
		work := byCPU.compare(parallel(8, bare, http.MethodGet, target), []work{parallel(8, senders[i], http.MethodGet, target)})[0]
		t.add(peer.name, alone[i].String(), eight.String(), f2(1/eight.ratio), work.String(),
			f0(times.percentile(50)), f0(times.percentile(99)), f2(times.percentile(99)/floor.percentile(99)))
	}
	return t
}
