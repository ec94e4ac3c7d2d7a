package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A work makes n calls.
type work func(n int)

// sequential makes calls one after another.
func sequential(send sender, method, target string) work {
	c := newCall(method, target)
	return func(n int) {
		for range n {
			check(c.do(send))
		}
	}
}

// parallel makes calls from that many goroutines, each with a request of its own.
func parallel(goroutines int, send sender, method, target string) work {
	calls := make([]*call, goroutines)
	for i := range calls {
		calls[i] = newCall(method, target)
	}
	return func(n int) {
		var all sync.WaitGroup
		for i, c := range calls {
			share := (n + i) / goroutines
			all.Go(func() {
				for range share {
					check(c.do(send))
				}
			})
		}
		all.Wait()
	}
}

func check(err error) {
	if err != nil {
		panic(fmt.Sprintf("a call has failed: %v", err)) // the measurement is worthless
	}
}

// A pairing is the method of measuring: floor and peer take turns in batches so short that the
// machine is in the same state for both. Each pair of batches gives one ratio.
type pairing struct {
	batch         time.Duration
	pairs, rounds int
	clock         func() time.Duration // times the batches; nil: elapsed
}

var began = time.Now()

// elapsed returns the time since the program began.
func elapsed() time.Duration { return time.Since(began) }

// longer returns p with longer batches, for work that starts goroutines, so that starting them
// does not show.
func (p pairing) longer() pairing {
	p.batch *= 16
	p.pairs = max(p.pairs/4, 1)
	return p
}

// A sample is the result of a pairing: the median of the medians of its rounds, and the
// smallest and largest of these medians.
type sample struct {
	ratio, least, most float64 // of the times
	added              float64 // ns per call above the floor
	floor              float64 // ns per call
}

// times returns s with its times multiplied by the number of cores, which gives the core time
// of a call.
func (s sample) times(n int) sample {
	s.added *= float64(n)
	s.floor *= float64(n)
	return s
}

func (s sample) String() string { return fmt.Sprintf("%.2f (%.2f-%.2f)", s.ratio, s.least, s.most) }

// compare measures all the peers against the floor, round by round.
func (p pairing) compare(floor work, peers []work) []sample {
	sizes := make([]int, len(peers))
	for i, w := range peers {
		sizes[i] = p.calls(w)
	}
	size := p.calls(floor)
	ratios, added := make([][]float64, len(peers)), make([][]float64, len(peers))
	var floors []float64
	for range p.rounds {
		for i, w := range peers {
			ratio, more, base := p.round(floor, w, size, sizes[i])
			ratios[i], added[i] = append(ratios[i], ratio), append(added[i], more)
			floors = append(floors, base)
		}
	}
	samples := make([]sample, len(peers))
	for i := range samples {
		samples[i] = sample{median(ratios[i]), slices.Min(ratios[i]), slices.Max(ratios[i]), median(added[i]), median(floors)}
	}
	return samples
}

// round returns three medians over its pairs: of the ratio, of the difference, and of the time
// of the floor.
func (p pairing) round(floor, peer work, floorSize, peerSize int) (ratio, added, base float64) {
	runtime.GC()
	ratios, more, bases := make([]float64, p.pairs), make([]float64, p.pairs), make([]float64, p.pairs)
	for i := range p.pairs {
		var f, g float64
		if i%2 == 0 { // so that a drift of the machine favours neither
			f, g = p.perCall(floor, floorSize), p.perCall(peer, peerSize)
		} else {
			g, f = p.perCall(peer, peerSize), p.perCall(floor, floorSize)
		}
		ratios[i], more[i], bases[i] = g/f, g-f, f
	}
	return median(ratios), median(more), median(bases)
}

// perCall returns how many nanoseconds a call takes, on average over n.
func (p pairing) perCall(w work, n int) float64 {
	clock := p.clock
	if clock == nil {
		clock = elapsed
	}
	start := clock()
	w(n)
	return float64(clock()-start) / float64(n)
}

// calls returns the number of calls in a batch. It measures several batches, because the
// machine may have been busy during one.
func (p pairing) calls(w work) int {
	w(100)
	n := 1
	for p.perCall(w, n)*float64(n) < float64(p.batch) {
		n *= 2
	}
	times := make([]float64, 9)
	for i := range times {
		times[i] = p.perCall(w, n)
	}
	return max(1, int(float64(p.batch)/median(times)))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// allocations returns the bytes and the number of allocations per call.
func allocations(w work) (bytes, mallocs float64) {
	const n = 2000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w(100)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w(n)
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / n, float64(after.Mallocs-before.Mallocs) / n
}

// heap returns the bytes in use after a collection.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
