package model_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/d365failover/failover"
)

// A conduct is how a side of the world treats requests. It states what the rule must make of
// its answers, independently of Classify.
type conduct struct {
	name    string
	reaches bool    // the request may have been carried out
	counts  bool    // the answer counts against the endpoint
	trips   bool    // a single such answer trips the breaker
	fence   bool    // the endpoint itself says that it does not serve
	probe   finding // what a probe must find
	answer  func(*http.Request) (*http.Response, error)
}

// A finding is the result of a probe.
type finding int

const (
	bad finding = iota
	good
	unclear
	weak // as good, except after a fence
)

const (
	orgURL   = "https://contoso.api.crm.dynamics.com"
	accounts = "/api/data/v9.2/accounts"
	whoAmI   = "/api/data/v9.2/WhoAmI"

	asJSON       = "application/json"
	organization = `{"OrganizationId":"11111111-2222-3333-4444-555555555555"}`
)

// answering answers with a status, a content type, a body, and more headers.
func answering(status int, kind, body string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		resp := &http.Response{
			StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {kind}},
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
		}
		for i := 0; i < len(header); i += 2 {
			resp.Header.Set(header[i], header[i+1])
		}
		return resp, nil
	}
}

// await waits for d, or without end if d is negative. If a context ends first, it returns the
// error that net/http returns over HTTP/1 or HTTP/2.
func await(req *http.Request, d time.Duration) error {
	var clock <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		clock = timer.C
	}
	select {
	case <-clock:
		return nil
	case <-req.Context().Done():
	}
	if req.Header.Get("Model-Http2") != "" {
		return req.Context().Err()
	}
	return context.Cause(req.Context())
}

// connection calls the hooks of httptrace: a connection was requested, and obtained if got is
// set.
func connection(req *http.Request, got bool) {
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil {
		if trace.GetConn != nil {
			trace.GetConn(req.URL.Host)
		}
		if got && trace.GotConn != nil {
			trace.GotConn(httptrace.GotConnInfo{})
		}
	}
}

// slowly delays the headers and the body of an answer.
func slowly(headers, body time.Duration) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		connection(req, true)
		if err := await(req, headers); err != nil {
			return nil, err
		}
		resp, err := answering(200, asJSON, organization)(req)
		if body > 0 {
			resp.Body = io.NopCloser(io.MultiReader(&pausingReader{func() error { return await(req, body) }}, resp.Body))
		}
		return resp, err
	}
}

// pausingReader is an empty reader that first calls pause, and fails with its error.
type pausingReader struct{ pause func() error }

func (r *pausingReader) Read([]byte) (int, error) {
	if err := r.pause(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// dialRefused is a dial function that finds nobody listening.
func dialRefused(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

// truncated answers with a body that breaks off.
func truncated(req *http.Request) (*http.Response, error) {
	resp, err := answering(200, asJSON, "")(req)
	resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"value":[`), &pausingReader{func() error { return io.ErrUnexpectedEOF }}))
	resp.ContentLength = 1000
	return resp, err
}

var (
	sound    = &conduct{name: "serves", reaches: true, probe: good, answer: answering(200, asJSON, organization)}
	refusing = &conduct{name: "refuses", counts: true, probe: bad, answer: func(*http.Request) (*http.Response, error) {
		_, err := dialRefused(context.Background(), "", "")
		return nil, err
	}}
	fencing = &conduct{name: "fences", counts: true, trips: true, fence: true, probe: bad,
		answer: answering(503, asJSON, `{"error":{"code":"0x8004B065","message":"Not served from here."}}`)}
	blackHole = &conduct{name: "swallows", reaches: true, counts: true, probe: bad, answer: slowly(-1, 0)}
	outage    = &conduct{name: "503", reaches: true, counts: true, probe: bad, answer: answering(503, "text/plain", "")}
	busy      = &conduct{name: "503 with Retry-After", reaches: true, counts: true, probe: bad, answer: answering(503, "text/plain", "", "Retry-After", "120")}

	slow     = &conduct{name: "slow", reaches: true, probe: good, answer: slowly(3*time.Second, 0)}
	slowBody = &conduct{name: "slow body", reaches: true, probe: good, answer: slowly(0, 3*time.Second)}
	// A 401 says that the request was not carried out (RFC 9110, section 15.5.2).
	tokenless = &conduct{name: "asks for a token", probe: weak, answer: answering(401, asJSON, "", "WWW-Authenticate", "Bearer")}

	// outages are reasons to leave a side.
	outages = []*conduct{
		refusing, fencing, blackHole, outage, busy,
		{name: "no connection", counts: true, probe: bad, answer: func(req *http.Request) (*http.Response, error) {
			connection(req, false)
			return nil, await(req, -1)
		}},
		{name: "resets", reaches: true, counts: true, probe: bad, answer: func(req *http.Request) (*http.Response, error) {
			connection(req, true)
			return nil, io.EOF
		}},
		{name: "truncates", reaches: true, probe: bad, answer: truncated}, // counts once the body is read
		{name: "shows a page", reaches: true, counts: true, probe: bad, answer: answering(200, "text/html", "<title>Service Unavailable</title>")},
	}
	// oddities prove little about a side.
	oddities = []*conduct{
		sound, sound, sound,
		slow, slowBody,
		{name: "404", reaches: true, probe: unclear, answer: answering(404, asJSON, "")},
		{name: "throttles", probe: weak, answer: answering(429, asJSON, "", "Retry-After", "7")},
		tokenless,
		{name: "asks for a password", probe: unclear, answer: answering(401, asJSON, "", "WWW-Authenticate", "Basic")},
		{name: "plug-in fails", reaches: true, probe: unclear, answer: answering(503, asJSON, `{"error":{"code":"0x80040265","message":"No."}}`)},
	}
)

// world is a Base without a network: two sides, and a record of all that they saw.
type world struct {
	mu       sync.Mutex
	sides    [2]struct{ requests, probes *conduct }
	healthy  [2]time.Time // since when probes find the side serving; zero: they do not
	faults   [2][]evidence
	served   [2][]evidence // healthy answers that were read to the end
	probes   [2][]probed
	probing  [2][]*probed // in progress
	begun    int          // number of probes
	arrivals []arrival
	reached  map[string]int // how often a write may have been carried out, by request id
	callers  map[string]*caller
	arrived  func() // called for every request, if set
}

func newWorld() *world {
	return &world{reached: make(map[string]int), callers: make(map[string]*caller)}
}

// evidence is a fault that counts, or a healthy answer.
type evidence struct {
	started, ended time.Time
	trips, fence   bool
}

// A probed is a probe that has ended.
type probed struct {
	started, ended time.Time
	found          finding
}

// An arrival is a request that reached a side.
type arrival struct {
	at   time.Time
	side failover.Endpoint
}

// A caller is one RoundTrip of the schedule.
type caller struct {
	ctx   context.Context
	fate  *conduct // overrides the conduct of the side
	after time.Duration
}

// behave sets the conduct of a side.
func (w *world) behave(e failover.Endpoint, requests, probes *conduct) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sides[e].requests, w.sides[e].probes = requests, probes
	switch {
	case probes.probe != good:
		w.healthy[e] = time.Time{}
	case w.healthy[e].IsZero():
		w.healthy[e] = time.Now()
	}
}

func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.arrived != nil {
		w.arrived()
	}
	e := failover.Primary
	if strings.Contains(req.URL.Host, "--s.") {
		e = failover.Alternate
	}
	if strings.HasSuffix(req.URL.Path, whoAmI) {
		return w.probe(e, req)
	}
	id, started := req.Header.Get("Model-Id"), time.Now()
	w.mu.Lock()
	from := w.callers[id]
	w.arrivals = append(w.arrivals, arrival{started, e})
	w.mu.Unlock()

	err := receive(req)
	w.mu.Lock()
	c := w.sides[e].requests
	if from.fate != nil {
		c = from.fate
	}
	if c.reaches && err == nil {
		w.reached[id]++
	}
	w.mu.Unlock()

	if err == nil && from.after > 0 {
		connection(req, true)
		err = await(req, from.after)
	}
	resp := (*http.Response)(nil)
	if err == nil {
		resp, err = c.answer(req)
	}
	record := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.faults[e] = append(w.faults[e], evidence{started, time.Now(), c.trips && err == nil, c.fence && err == nil})
	}
	switch {
	case err != nil && !canceled(from.ctx):
		record()
	case err == nil && c.counts:
		record()
	case err == nil:
		resp.Body = &recordingBody{resp.Body, func(err error) {
			switch {
			case err == io.EOF && resp.StatusCode == 200:
				w.mu.Lock()
				defer w.mu.Unlock()
				w.served[e] = append(w.served[e], evidence{started: started, ended: time.Now()})
			case err != io.EOF && !canceled(from.ctx):
				record()
			}
		}}
	}
	return resp, err
}

// receive reads the body of a request whose caller may still be writing it.
func receive(req *http.Request) error {
	if req.Body == nil {
		return nil
	}
	defer req.Body.Close()
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, req.Body)
		read <- err
	}()
	select {
	case err := <-read:
		return err
	case <-time.After(time.Nanosecond):
		connection(req, true) // whatever reads the beginning has a connection
	}
	select {
	case err := <-read:
		return err
	case <-req.Context().Done():
		return await(req, -1)
	}
}

func (w *world) probesBegun() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun
}

func canceled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// recordingBody reports how the body ends.
type recordingBody struct {
	io.ReadCloser
	ended func(error)
}

func (b *recordingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended(err)
	}
	return n, err
}

// probe answers a probe. One that the Transport cancels proves nothing.
func (w *world) probe(e failover.Endpoint, req *http.Request) (*http.Response, error) {
	started := time.Now()
	w.mu.Lock()
	c := w.sides[e].probes
	w.begun++
	this := &probed{started: started, found: c.probe}
	w.probing[e] = append(w.probing[e], this)
	w.mu.Unlock()
	resp, err := c.answer(req)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probing[e] = slices.DeleteFunc(w.probing[e], func(p *probed) bool { return p == this })
	if err == nil || !canceled(req.Context()) {
		w.probes[e] = append(w.probes[e], probed{started, time.Now(), c.probe})
	}
	return resp, err
}

// evidenceSince counts the faults that the breaker of e may count: of attempts that started at
// or after the last switch, and ended at or after the last known success.
func (w *world) evidenceSince(e failover.Endpoint, started, ended time.Time) (n int, trips bool) {
	for _, f := range w.faults[e] {
		if !f.started.Before(started) && !f.ended.Before(ended) {
			n++
			trips = trips || f.trips
		}
	}
	return n, trips
}

// lastServed returns when e last served an attempt that started after the last switch, if that
// was before now.
func (w *world) lastServed(e failover.Endpoint, switched, now time.Time) (last time.Time) {
	for _, s := range w.served[e] {
		if s.started.After(switched) && s.ended.Before(now) && s.ended.After(last) {
			last = s.ended
		}
	}
	return last
}

// fenced reports whether e has since answered with the fence, not long ago.
func (w *world) fenced(e failover.Endpoint, since time.Time) bool {
	for _, f := range w.faults[e] {
		if f.fence && !f.started.Before(since) && !f.ended.Before(time.Now().Add(-evidenceTime)) {
			return true
		}
	}
	return false
}

// probeTimeout is Config.ProbeTimeout.
const probeTimeout = 5 * time.Second

// found reports whether a probe of e that ended not long ago had one of the findings. The
// Transport does not wait for a probe that has run out of time, so it may know before the
// world does.
func (w *world) found(e failover.Endpoint, findings ...finding) bool {
	for _, p := range w.probing[e] {
		if time.Since(p.started) >= probeTimeout && slices.Contains(findings, p.found) {
			return true
		}
	}
	for i := len(w.probes[e]) - 1; i >= 0; i-- {
		p := w.probes[e][i]
		if p.ended.Before(time.Now().Add(-evidenceTime)) {
			return false
		}
		for _, want := range findings {
			if p.found == want {
				return true
			}
		}
	}
	return false
}

// evidenceTime is the age that evidence for a change may have: the time of a probe, the time
// for which findings of an early question are kept, and the time that ConfirmSwitch has.
const evidenceTime = probeTimeout + (2+30+1)*time.Second

// risen counts the passed probes of the primary since the last failed one, whatever their
// purpose.
func (w *world) risen(since time.Time) (n int) {
	for _, p := range w.probes[failover.Primary] {
		switch {
		case p.started.Before(since):
		case p.found == good, p.found == weak:
			n++
		default:
			n = 0
		}
	}
	return n
}

// trail is a log of what happened in a schedule, to explain a violation.
type trail struct {
	linesMu sync.Mutex
	origin  time.Time
	lines   []func() string
}

func (l *trail) add(format string, args ...any) {
	at := time.Since(l.origin)
	l.linesMu.Lock()
	defer l.linesMu.Unlock()
	l.lines = append(l.lines, func() string { return fmt.Sprintf("%12v  ", at) + fmt.Sprintf(format, args...) })
}

// last returns the last 80 lines.
func (l *trail) last() string {
	l.linesMu.Lock()
	defer l.linesMu.Unlock()
	var b strings.Builder
	for _, line := range l.lines[max(0, len(l.lines)-80):] {
		b.WriteString(line() + "\n")
	}
	return b.String()
}
