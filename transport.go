package failover

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/d365failover/failover/internal/answer"
	"github.com/d365failover/failover/internal/redact"
)

// RoundTrip implements [http.RoundTripper]. A request to either endpoint of the
// organization goes to the active one, whatever host it names; its path, query
// and headers are kept. A request to any other host passes through to Base as
// it is.
//
// An attempt that meets a counted fault is repeated, at the same endpoint after
// a pause or at the other one after a switch, as long as the request may be sent
// again, attempts are left and its context lives. It may be sent again
//
//   - if nothing of it was sent, or the answer proves that it was not carried out
//     (the fence, a 429), whatever it is;
//   - if its outcome is unknown, and it reads (by its method, or as a SOAP message
//     or $batch that only reads), is a PUT, a DELETE or a PATCH with If-Match or
//     If-None-Match: *, has an Idempotency-Key, or [WithReplay] or [Config.Replay]
//     vouch for it;
//
// unless [NoReplay] forbids it, or its body can be read only once and was begun.
//
// What comes back is the last response as it came, a 503 included, or an [*Error]
// that holds the fault of every attempt; but [ErrClosed], and the error of a
// request body that cannot be read, come as they are. Location and the other header links of a
// response from the alternate name the primary, so that callers see one host.
//
// The request is not changed, and its body is closed in every case.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	st := t.state.Load()
	if st.closed {
		closeBody(req)
		return nil, ErrClosed
	}
	if req.URL == nil {
		return t.base.RoundTrip(req)
	}
	variant, at, ok := t.org.match(req.URL)
	if !ok {
		return t.base.RoundTrip(req)
	}
	if t.failsFast(st) {
		closeBody(req)
		return nil, t.refusal(st, req)
	}
	c := call{t: t, req: req, variant: variant, at: at}
	return c.run()
}

// failsFast reports whether requests fail at once.
func (t *Transport) failsFast(st *state) bool {
	return st.closed || st.down != nil && !t.cfg.PassThrough
}

// refusal returns the error of a request that fails at once.
func (t *Transport) refusal(st *state, req *http.Request) error {
	if st.closed {
		return ErrClosed
	}
	return t.unavailable(req, st)
}

// unavailable returns the error of a request that was not sent because neither
// endpoint serves.
func (t *Transport) unavailable(req *http.Request, st *state) error {
	faults, retryAfter := t.outlook(st.down)
	e := &Error{Method: req.Method, URL: redact.URL(req.URL), RetryAfter: retryAfter, is: []error{ErrUnavailable}}
	for _, f := range faults {
		if f != nil {
			e.Attempts = append(e.Attempts, f)
		}
	}
	return e
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// call is one RoundTrip.
type call struct {
	t                 *Transport
	req               *http.Request // the caller's, never changed
	variant           int           // of the organization's host names, see Org
	at                Endpoint      // that the caller's URL names
	body              payload
	began             uint64   // epoch of the first attempt
	faults            []*Fault // one for each attempt so far
	pauses            *backoff.ExponentialBackOff
	looked, onlyReads bool // see isRead

	// Of the attempt under way:
	st      *state
	out     *http.Request // the caller's request, or a copy with what has to be different
	copy    *ownCopy      // of that copy, nil if there is none
	transit *transit      // nil if nothing has to be known about it
}

// run makes attempts until one is answered or none may follow.
func (c *call) run() (*http.Response, error) {
	defer c.body.close()
	if err := c.body.load(c.req, c.t.cfg.MaxBody); err != nil {
		return nil, err // the caller's own reader failed
	}
	st := c.t.state.Load() // not before: the caller's reader may have taken its time
	if c.t.failsFast(st) {
		return nil, c.t.refusal(st, c.req)
	}
	c.began = st.epoch
	for {
		f := c.prepare(st)
		if now := c.t.state.Load(); now.generation != st.generation && f == nil {
			c.transit.release() // a switch has passed while Authorize took its time
			st = now
			continue
		}
		var resp *http.Response
		if f == nil {
			resp, f = c.send()
		}
		if f == nil {
			return resp, nil
		}
		c.faults = append(c.faults, f)
		st = c.next(st, f)
		c.tell(f, st)
		if st == nil {
			return c.finish(resp, f)
		}
		discard(resp)
	}
}

// next takes note of a fault and decides whether another attempt follows. It
// waits for a decision that the fault has led to and for the pause between
// attempts, and returns the state to make the attempt under, or nil.
func (c *call) next(st *state, f *Fault) *state {
	t, ctx := c.t, c.req.Context()
	t.borrow(c.req)
	d := t.count(st, f)
	if len(c.faults) >= t.cfg.MaxAttempts || !c.maySendAgain(f) {
		return nil
	}
	throttled := f.Class == ClassThrottled && f.RetryAfter > 0 && f.RetryAfter <= t.cfg.RetryThrottled &&
		f.RetryAfter < answer.MaxRetryAfter // which may stand for more
	if !throttled && !f.counted() {
		return nil
	}
	if d != nil {
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil
		}
	}
	now := t.state.Load()
	if now.generation == st.generation && !t.failsFast(now) && !c.pause(now, f, throttled) {
		return nil
	}
	now = t.state.Load()
	if t.failsFast(now) || ctx.Err() != nil {
		return nil
	}
	return now
}

// tell tells Config.OnFault of a fault after which the next attempt is made under
// next, if that is not nil.
func (c *call) tell(f *Fault, next *state) {
	if c.t.cfg.OnFault == nil {
		return
	}
	a := Attempt{Method: c.req.Method, Number: len(c.faults), Fault: f, To: f.Endpoint}
	if next != nil {
		a.Again, a.To = true, next.active
	} else {
		a.OutcomeUnknown = c.inDoubt(f) != nil
	}
	c.t.cfg.OnFault(c.req.Context(), a)
}

// pause waits before the request is repeated at the same endpoint. It reports
// false if that must not be: the endpoint does not serve or asked for a longer
// wait than a call may take, the budget for repeats is used up, or the context
// ends first. A switch ends the pause; then no budget is needed, so a call waits
// for one even if there is none.
func (c *call) pause(st *state, f *Fault, throttled bool) bool {
	if c.pauses == nil && c.t.cfg.RetryBackoff > 0 {
		c.pauses = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(c.t.cfg.RetryBackoff), backoff.WithMaxElapsedTime(0))
	}
	var wait time.Duration
	if c.pauses != nil {
		wait = c.pauses.NextBackOff()
	}
	if throttled {
		wait = max(wait, f.RetryAfter)
	}
	deadline, bounded := c.req.Context().Deadline()
	if f.Definitive || f.RetryAfter > wait || bounded && time.Until(deadline) < wait {
		return false
	}
	paid := c.t.budget.take()
	if wait <= 0 {
		return paid
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for now := st; ; now = c.t.state.Load() {
		if now.generation != st.generation {
			if paid {
				c.t.budget.giveBack()
			}
			return true
		}
		select {
		case <-timer.C:
			return paid
		case <-now.changed:
		case <-c.req.Context().Done():
			return false
		}
	}
}

// finish ends a call that got no healthy answer.
func (c *call) finish(resp *http.Response, f *Fault) (*http.Response, error) {
	e := &Error{Method: c.req.Method, URL: redact.URL(c.req.URL), Attempts: c.faults, RetryAfter: f.RetryAfter}
	if doubt := c.inDoubt(f); doubt != nil {
		e.is = append(e.is, ErrOutcomeUnknown)
		answer := resp
		if doubt != f {
			answer = nil // of another attempt
		}
		c.note(doubt.Endpoint, c.began, answer, doubt.RequestID, OutcomeUnknown)
		c.t.mu.Lock()
		c.t.emit(Event{Kind: EventOutcomeUnknown, From: doubt.Endpoint, To: doubt.Endpoint, Fault: doubt, Err: e,
			Reason: fmt.Sprintf("%s %s", e.Method, e.URL)})
		c.t.mu.Unlock()
	}
	if resp != nil {
		return resp, nil
	}
	if st := c.t.state.Load(); st.down != nil {
		e.is = append(e.is, ErrUnavailable)
		_, e.RetryAfter = c.t.outlook(st.down)
	}
	return nil, e
}

// inDoubt returns the fault of the last attempt that may have carried out a
// write, nil if there is none or a later attempt got a definite answer.
func (c *call) inDoubt(last *Fault) *Fault {
	if last.Delivery == Answered || c.isRead() {
		return nil
	}
	for _, f := range slices.Backward(c.faults) {
		if f.Delivery == Unknown {
			return f
		}
	}
	return nil
}

// note enters a write that has just ended at an endpoint, and was begun in an epoch,
// in the books.
func (c *call) note(at Endpoint, began uint64, resp *http.Response, requestID string, outcome Outcome) {
	if c.t.books.ledger == nil && c.t.cfg.OnWrite == nil || c.isRead() {
		return
	}
	label, _ := c.req.Context().Value(labelKey).(string)
	w := describe(c.req, resp, time.Now(), requestID, label)
	w.Endpoint, w.Outcome, w.began = at, outcome, began
	c.t.recordWrite(&w)
}

// budget bounds the repeats at one endpoint to a share of the requests, so that
// an endpoint in trouble does not get several times its load. It is counted in
// shares of a repeat; while it is full, requests only read it.
type budget struct{ shares atomic.Int64 }

const (
	sharesPerRepeat = 10 // one repeat for ten requests
	maxShares       = 10 * sharesPerRepeat
)

func (b *budget) fill() { b.shares.Store(maxShares) }

func (b *budget) deposit() {
	if b.shares.Load() < maxShares {
		b.shares.Add(1)
	}
}

func (b *budget) take() bool {
	for {
		have := b.shares.Load()
		if have < sharesPerRepeat {
			return false
		}
		if b.shares.CompareAndSwap(have, have-sharesPerRepeat) {
			return true
		}
	}
}

func (b *budget) giveBack() {
	for have := b.shares.Load(); !b.shares.CompareAndSwap(have, min(maxShares, have+sharesPerRepeat)); {
		have = b.shares.Load()
	}
}
