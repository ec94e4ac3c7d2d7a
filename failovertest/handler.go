package failovertest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"
)

// serveHTTP answers one request, with the failure it meets.
func (d *Datacenter) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.org.begin() {
		panic(http.ErrAbortHandler)
	}
	defer d.org.running.Done()
	defer d.arrive(r)()
	c := connOf(r.Context())
	if c.swallow.Load() {
		d.swallow(r)
	}
	f, _ := d.take(stageRequest, r)
	if d.overLimit() && (f.kind == none || f.kind == delayed) {
		f = Failure{kind: tooMany, delay: time.Second}
	}
	e := d.record(r, f)
	if f.kind == reset && f.moment <= DuringRequest {
		if f.moment == DuringRequest {
			io.CopyN(io.Discard, r.Body, 1)
		}
		resetConn(r)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if c.swallow.Load() {
		d.swallow(r)
	}
	sum := sha256.Sum256(body)
	d.complete(e, func(e *Delivery) { e.BodyHash = hex.EncodeToString(sum[:]) })
	switch {
	case f.kind == hang:
		d.wait(r, nil)
		panic(http.ErrAbortHandler)
	case f.kind == reset && f.moment == BeforeAnswer:
		resetConn(r)
	}
	a := d.outcome(f, &request{
		method: r.Method, host: r.Host, path: r.URL.Path, query: r.URL.Query(),
		header: r.Header, body: body,
	})
	d.complete(e, func(e *Delivery) { e.Applied = a.applied })
	switch {
	case f.kind == reset && f.moment == AfterApply:
		resetConn(r)
	case f.kind == delayed:
		timer := time.NewTimer(f.delay)
		defer timer.Stop()
		if !d.wait(r, timer.C) {
			panic(http.ErrAbortHandler)
		}
	}
	d.complete(e, func(e *Delivery) { e.Status = a.status })
	d.send(w, r, a, f)
}

// arrive counts a request and delays it by the latency. The returned function must be called
// when the request ends.
func (d *Datacenter) arrive(r *http.Request) (end func()) {
	d.mu.Lock()
	d.requests++
	d.underWay++
	latency := d.latency
	d.mu.Unlock()
	end = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.underWay--
	}
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		if !d.wait(r, timer.C) {
			end()
			panic(http.ErrAbortHandler)
		}
	}
	return end
}

// overLimit reports whether more than MaxConcurrent requests are under way.
func (d *Datacenter) overLimit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.org.cfg.MaxConcurrent > 0 && d.underWay > d.org.cfg.MaxConcurrent
}

// swallow neither carries a request out nor answers it. It does not return.
func (d *Datacenter) swallow(r *http.Request) {
	io.Copy(io.Discard, r.Body) // net/http notices only then that the caller gives up
	d.wait(r, nil)
	panic(http.ErrAbortHandler)
}

// outcome returns the answer to a request that was read whole.
func (d *Datacenter) outcome(f Failure, r *request) *answer {
	switch f.kind {
	case canned:
		return f.answer
	case throttled:
		return d.throttle(r, codeThrottled, throttleMessage, f.delay)
	case tooMany:
		return d.throttle(r, codeConcurrency,
			fmt.Sprintf("Number of concurrent requests exceeded the limit of %d.", d.org.cfg.MaxConcurrent), f.delay)
	}
	return d.serve(r)
}

// wait returns true when it receives from c, and false when r's caller gives up or the
// organization is closed.
func (d *Datacenter) wait(r *http.Request, c <-chan time.Time) bool {
	select {
	case <-c:
		return true
	case <-r.Context().Done():
	case <-d.org.closing:
	}
	return false
}

// send writes the answer, or as much of it as f permits.
func (d *Datacenter) send(w http.ResponseWriter, r *http.Request, a *answer, f Failure) {
	size := len(a.body)
	switch {
	case f.kind == reset && f.moment == MidBody:
		size /= 2
	case f.kind == truncate:
		size = min(size, f.bytes)
	}
	a.writeHeader(w)
	w.Write(a.body[:size])
	switch {
	case f.kind == reset && r.ProtoMajor == 1:
		http.NewResponseController(w).Flush()
		resetConn(r)
	case size < len(a.body):
		// Aborting closes an HTTP/1.1 connection and resets an HTTP/2 stream.
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// resetConn resets r's connection and ends its handler.
func resetConn(r *http.Request) {
	connOf(r.Context()).reset()
	panic(http.ErrAbortHandler)
}
