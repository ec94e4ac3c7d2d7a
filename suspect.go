package failover

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/rule"
)

// This file implements Config.SuspectAfter: it detects attempts that have waited for their
// response headers for long. A slow call and one to a silent endpoint look alike, so none is cut
// off: the endpoints are probed, and reads are abandoned only if the active one fails.

// waits are the attempts of a pool that wait for their response headers. They are counted by the
// tick in which they began; the timer that advances the tick runs only while there are any.
// Reads that begin when there was no answer for a tick or two are also listed, each with a
// context of its own by which it can be abandoned. (A context for every read would cost
// as much as the rest of the Transport.)
type waits struct {
	t        *Transport
	pool     *pool
	interval time.Duration // of a tick; 0: SuspectAfter is off
	tick     atomic.Uint32
	last     atomic.Uint32 // tick of the last answer
	armed    atomic.Bool   // the timer runs
	left     atomic.Bool   // listed reads are abandoned
	shards   []waitShard

	// Used by the timer only, which never runs twice at the same time.
	ask   uint32 // tick of the next question at the earliest
	quiet uint32 // ticks from the last question to that
}

const (
	// suspectTicks make up Config.SuspectAfter.
	suspectTicks = 10
	// maxWaitShards bounds the memory for shards on a machine with many cores.
	maxWaitShards = 4
	// maxQuiet bounds the ticks between two questions about waiting attempts, which double
	// with each question.
	maxQuiet = 12 * suspectTicks
	// rescueAfter is how many times Config.SuspectAfter a read waits over a connection from
	// before a renewal until it is also sent over a new one: 150 s by default.
	rescueAfter = 15
)

// waitShard fills a cache line, so that cores do not contend for it.
type waitShard struct {
	counts [suspectTicks + 2]atomic.Int32 // by tick
	mu     sync.Mutex
	reads  *waitingRead // newest first
}

// waitingRead is a listed read. The shard's lock guards its fields, except for cancel.
type waitingRead struct {
	cancel     context.CancelCauseFunc
	since      time.Time
	next, prev *waitingRead
	rescue     func() // sends the read again; nil if it was sent again or must not be
}

func (w *waits) init(t *Transport, p *pool) {
	w.t, w.pool, w.shards = t, p, make([]waitShard, min(runtime.GOMAXPROCS(0), maxWaitShards))
	if t.cfg.SuspectAfter != never {
		w.interval = max(t.cfg.SuspectAfter/suspectTicks, time.Millisecond)
	}
}

// silent reports whether there was no answer for a while, so that a read that begins now should
// be listed.
func (w *waits) silent() bool {
	return w.interval > 0 && (!w.armed.Load() || w.tick.Load()-w.last.Load() > 1)
}

// answered records an answer.
func (w *waits) answered() {
	if now := w.tick.Load(); w.last.Load() != now {
		w.last.Store(now)
	}
}

// shard returns a random shard.
func (w *waits) shard() *waitShard { return &w.shards[rand.Uint32()%uint32(len(w.shards))] }

// enter counts an attempt that begins to wait. The caller decrements the result when the attempt
// ends.
func (w *waits) enter() *atomic.Int32 {
	n := &w.shard().counts[w.tick.Load()%(suspectTicks+2)]
	n.Add(1)
	if !w.armed.Load() && w.interval > 0 {
		w.arm()
	}
	return n
}

// arm starts the timer unless it runs.
func (w *waits) arm() {
	if w.armed.CompareAndSwap(false, true) {
		w.last.Store(w.tick.Load() - 2) // the tick stood still, so the last answer may be long ago
		time.AfterFunc(w.interval, w.look)
	}
}

// list lists a read. Leave removes it.
func (w *waits) list(r *waitingRead) (leave func()) {
	s := w.shard()
	r.since = time.Now()
	s.mu.Lock()
	if r.next = s.reads; r.next != nil {
		r.next.prev = r
	}
	s.reads = r
	s.mu.Unlock()
	if w.left.Load() {
		r.cancel(errAbandoned)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.next != nil {
			r.next.prev = r.prev
		}
		if r.prev != nil {
			r.prev.next = r.next
		} else {
			s.reads = r.next
		}
		r.rescue = nil
	}
}

// abandon ends the listed reads, and those listed later, with errAbandoned.
func (w *waits) abandon() {
	w.left.Store(true)
	w.each(func(r *waitingRead) { r.cancel(errAbandoned) })
}

func (w *waits) each(f func(*waitingRead)) {
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		for r := s.reads; r != nil; r = r.next {
			f(r)
		}
		s.mu.Unlock()
	}
}

// look is the timer's function. It advances the tick, and raises a question if an attempt has
// waited for SuspectAfter.
func (w *waits) look() {
	if w.t.ctx.Err() != nil {
		w.armed.Store(false)
		return
	}
	now := w.tick.Add(1)
	some, long := false, false
	for i := range w.shards {
		counts := &w.shards[i].counts
		for j := range counts {
			some = some || counts[j].Load() != 0
		}
		// The slot of the next tick still counts the attempts that have waited longest.
		long = long || counts[(now+1)%uint32(len(counts))].Load() != 0
	}
	switch {
	case !some:
		w.armed.Store(false)
		if w.any() { // one has begun meanwhile
			w.arm()
		}
		return
	case w.pool.retired.Load():
		w.rescue()
	case long && int32(now-w.ask) >= 0:
		w.quiet = min(max(2*w.quiet, suspectTicks), maxQuiet)
		w.ask = now + w.quiet
		w.t.suspect(w.pool)
	case int32(now-w.ask) > suspectTicks+2: // none has waited for long since
		w.quiet = 0
	}
	time.AfterFunc(w.interval, w.look)
}

// any reports whether any attempt waits.
func (w *waits) any() bool {
	for i := range w.shards {
		for j := range w.shards[i].counts {
			if w.shards[i].counts[j].Load() != 0 {
				return true
			}
		}
	}
	return false
}

// suspect raises a question because an attempt over p has waited for SuspectAfter.
func (t *Transport) suspect(p *pool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.state.Load()
	if st.pool != p {
		return
	}
	t.seeLocked(rule.Evidence{Kinds: rule.Slow, Decides: true},
		&Fault{Class: ClassTransient, Endpoint: st.active, Err: errSilent}, time.Now().Add(-t.cfg.SuspectAfter))
}

// rescue sends the listed reads that have waited for rescueAfter again, over new connections.
// The first answer wins.
func (w *waits) rescue() {
	var due []func()
	w.each(func(r *waitingRead) {
		if r.rescue != nil && time.Since(r.since) >= rescueAfter*w.t.cfg.SuspectAfter {
			due, r.rescue = append(due, r.rescue), nil
		}
	})
	for _, f := range due {
		f()
	}
}

var (
	// errSilent is the error of the fault that suspect reports.
	errSilent = errors.New("no response headers yet")
	// errAbandoned is the error of an abandoned read.
	errAbandoned = abandoned{}
)

type abandoned struct{}

func (abandoned) Error() string {
	return "no response headers, and the endpoint does not answer its probe either"
}
func (abandoned) Timeout() bool   { return true }
func (abandoned) Temporary() bool { return true }

// roundTrip sends a request that is not watched.
func (p *pool) roundTrip(req *http.Request) (*http.Response, error) {
	waiting := p.waits.enter()
	defer waiting.Add(-1)
	return exchange(p.base, req)
}

// roundTrip sends the request of the attempt over its pool, and records it while it waits.
func (c *call) roundTrip() (*http.Response, error) {
	p, w := c.st.pool, c.sending
	waiting := p.waits.enter()
	defer waiting.Add(-1)
	if c.t.books.keeps() && !c.isRead() {
		defer c.t.books.end(c.sends(&w.underway))
	}
	if w == nil || !w.givesUp || len(c.faults)+1 >= c.t.cfg.MaxAttempts {
		return w.roundTrip(p.base, c.out)
	}
	second := &secondTry{t: c.t, st: c.st, caller: c.req.Context(), first: w, out: c.out}
	read := &waitingRead{cancel: w.cancel}
	if bodyless(c.out) {
		read.rescue = second.start
	}
	leave, over := p.waits.list(read), false
	defer func() {
		if !over { // Base has panicked
			leave()
			discard(second.end())
		}
	}()
	resp, err := w.roundTrip(p.base, c.out)
	over = true
	leave()
	if again := second.end(); again != nil {
		discard(resp)
		return again, nil
	}
	if err != nil && context.Cause(c.out.Context()) == errAbandoned {
		return nil, errAbandoned // over HTTP/2, net/http does not return the cause
	}
	return resp, err
}

// secondTry is a read that is sent again over the present connections, while the first try
// continues to wait.
type secondTry struct {
	t      *Transport
	st     *state // of the first try
	caller context.Context
	first  *sendWatch
	out    *http.Request // of the first try

	mu     sync.Mutex
	over   bool  // the first try has ended
	pool   *pool // of the second try
	resp   *http.Response
	cancel context.CancelCauseFunc // nil until the second try begins
}

// start begins the second try, if the same endpoint is active and the retry budget allows it.
func (s *secondTry) start() {
	t, st := s.t, s.t.state.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || st.active != s.st.active || st.down || !t.budget.take() {
		return
	}
	ctx, cancel := context.WithCancelCause(s.caller)
	s.cancel, s.pool = cancel, st.pool
	again := s.out.Clone(ctx)
	t.spawn(func() {
		defer context.AfterFunc(t.ctx, func() { cancel(ErrClosed) })()
		var resp *http.Response
		var err error
		if t.protect("Base", func() { resp, err = exchange(st.pool.base, again) }) == nil && err == nil && s.win(resp) {
			return
		}
		discard(resp)
		cancel(nil)
		st.pool.leave()
	})
}

// win reports whether resp came first, and then ends the first try.
func (s *secondTry) win(resp *http.Response) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	if resp.Body != nil {
		resp.Body = &releasingBody{ReadCloser: resp.Body, cancel: s.cancel, pool: s.pool}
	}
	s.resp = resp
	s.first.cancel(errAbandoned)
	return true
}

// end ends the second try because the first one has ended. If the response of the second try
// came first, end returns it.
func (s *secondTry) end() *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.resp == nil && s.cancel != nil {
		s.cancel(nil)
	}
	return s.resp
}
