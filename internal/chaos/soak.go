package chaos

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

// A soak is a series of random outages under steady traffic.
type soak struct {
	callers  int
	duration time.Duration
	// calm and storm are the longest times with and without the primary. Each lasts between
	// half of that and all of it.
	calm, storm time.Duration
}

// A sample is what the process holds at one time.
type sample struct {
	heap, goroutines, conns uint64
}

type soakResult struct {
	soak      soak
	outages   int
	switches  int
	load      loadResult // only calls and leftovers
	first     sample     // median of the first third
	last      sample     // median of the last third
	endedWell bool       // the primary is active, and answers
}

func (k soak) run() soakResult {
	r := soakResult{soak: k}
	p := startPair(false, newTally())
	defer p.close()
	w := p.newWire(true)
	before := runtime.NumGoroutine()
	var events eventLog
	var rt *failover.Transport
	ready := make(chan struct{})
	rt = must(failover.New(orgURL, &failover.Config{Base: w.Transport, AttemptTimeout: k.storm / 10, ProbeTimeout: k.storm / 10, // so that a black hole is left before it ends

		ProbeInterval: 200 * time.Millisecond, MaxProbeInterval: time.Second, MinDwell: time.Second,
		Logger: slog.New(slog.DiscardHandler), OnEvent: func(e failover.Event) {
			<-ready
			events.add(e)
			if e.Kind == failover.EventLatched { // plays the person on call
				rt.Pin(e.To)
				rt.Unpin()
			}
		}}))
	close(ready)

	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{rt: rt, result: &r.load, pair: p}
	var callers sync.WaitGroup
	for n := range k.callers {
		callers.Go(func() { c.caller(ctx, n) })
	}
	var samples []sample
	for end := time.Now().Add(k.duration); time.Now().Before(end); r.outages++ {
		pause(between(k.calm))
		samples = append(samples, take(w))
		p.writes.rotate()
		p.failOver()
		outages[rand.IntN(len(outages))].begin(p.primary)
		pause(between(k.storm))
		p.primary.recover()
		p.failBack()
	}
	pause(k.calm)
	events.settled(rt)
	r.endedWell = rt.Status().Active == failover.Primary && tryOnce(rt, "GET", "")
	stop()
	callers.Wait()
	rt.Close()
	_, r.switches, _ = events.counts()
	r.load.doubled = p.writes.doubled()
	r.load.conns, r.load.goroutines = settle(w, before)
	third := max(1, len(samples)/3)
	r.first, r.last = median(samples[:third]), median(samples[len(samples)-third:])
	return r
}

func between(longest time.Duration) time.Duration {
	return longest/2 + time.Duration(rand.Int64N(int64(longest/2)))
}

// take takes a sample after a garbage collection.
func take(w *wire) sample {
	runtime.GC()
	return sample{heap(), uint64(runtime.NumGoroutine()), uint64(w.open())}
}

func median(samples []sample) (m sample) {
	of := func(field func(sample) uint64) uint64 {
		values := make([]uint64, 0, len(samples))
		for _, s := range samples {
			values = append(values, field(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	m.heap = of(func(s sample) uint64 { return s.heap })
	m.goroutines = of(func(s sample) uint64 { return s.goroutines })
	m.conns = of(func(s sample) uint64 { return s.conns })
	return m
}

// settled waits up to a minute for the traffic to return to the primary.
func (l *eventLog) settled(rt *failover.Transport) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && rt.Status().Active != failover.Primary; {
		<-tick.C
	}
}

// grows reports whether the last third of a soak holds clearly more than the first.
func (r *soakResult) grows() bool {
	more := func(first, last, slack uint64) bool { return last > first+first/2+slack }
	return more(r.first.heap, r.last.heap, 8<<20) || more(r.first.goroutines, r.last.goroutines, 100) || more(r.first.conns, r.last.conns, 50)
}

// writeSoak writes the result as a Markdown table.
func writeSoak(w io.Writer, r soakResult) {
	fmt.Fprintln(w, "| length | callers | outages | switches | calls | avoidable failures | unavoidable | doubled writes | heap | goroutines | connections | left |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|")
	fmt.Fprintf(w, "| %v | %d | %d | %d | %d | %d | %d | %d | %.1f to %.1f MiB | %d to %d | %d to %d | %d, %d |\n", r.soak.duration, r.soak.callers,
		r.outages, r.switches, r.load.calls, r.load.avoidable, r.load.unknown, r.load.doubled,
		float64(r.first.heap)/(1<<20), float64(r.last.heap)/(1<<20), r.first.goroutines, r.last.goroutines,
		r.first.conns, r.last.conns, r.load.goroutines, r.load.conns)
}
