package failover

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/d365failover/failover/internal/answer"
	"github.com/d365failover/failover/internal/message"
	"github.com/d365failover/failover/internal/redact"
)

// RoundTrip implements [http.RoundTripper]. It sends a request to either endpoint of the
// organization to the active one, and keeps its path, query and headers. Only a request
// that follows a redirect from one endpoint to the other goes to the endpoint that the
// redirect names. A request to any other host passes through to Base unchanged.
//
// After a fault that counts, the request is sent again, to the same endpoint after a pause
// or to the other one after a switch, provided that it may be sent again, attempts are left
// ([Config.MaxAttempts]), the Transport is not down, and the request's context has not
// ended. A request may be sent again
//
//   - in any case, if nothing of it was sent, or the answer proves that it was not carried
//     out (a fence, a 429). For a bulk request (a $batch with writes, ExecuteMultiple,
//     CreateMultiple and the like) no answer proves that;
//   - if its outcome is unknown, only if it is a read (by its method, or as a SOAP message
//     or $batch that only reads), a PUT, a DELETE, a PATCH with If-Match or If-None-Match:
//     *, has an Idempotency-Key, or is marked as safe by [WithReplay] or [Config.Replay];
//
// unless [NoReplay] forbids it, or its body can be read only once and reading has begun.
//
// net/http can resend a request by itself within one attempt. The Transport prevents that
// for a write that is not safe to repeat: such a write goes over another connection only if
// nothing of it was written, or a GOAWAY (HTTP/2) excluded it. That does not count as an
// attempt. (A write with neither body nor Content-Type is in doubt instead.)
//
// During a provisional switch, a request that does not get a healthy answer is sent to the
// endpoint that was left (a write only if the answer says that it was not applied), and the
// caller gets the answer of that endpoint.
//
// RoundTrip returns the last response as received, a 503 included, or an [*Error] with the
// fault of every attempt. If a repeat gets no response, RoundTrip returns that of an attempt
// before, unless the call was canceled, the response was longer than 64 KiB, or it says of a
// write now in doubt that it was not applied. [InDoubt] tells of either whether it leaves a
// write in doubt. Two errors are not of that type: [ErrClosed], and the error of a request
// body that cannot be read. Location and the other links in the headers of a response from
// the alternate name the primary, so that callers see one host. Those of a redirect name the
// endpoint that the request named, so that the client which follows it keeps its credentials.
//
// The request is not changed, and its body is closed in every case.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	st := t.state.Load()
	if st.closed {
		closeBody(req)
		return nil, ErrClosed
	}
	if req.URL == nil {
		return t.cfg.Base.RoundTrip(req)
	}
	variant, at, ok := t.org.match(req.URL)
	if !ok {
		return t.cfg.Base.RoundTrip(req)
	}
	if t.isPlainRead(st, req) {
		return t.plainRead(st, req, variant, at)
	}
	return t.otherCall(st, req, variant, at)
}

// otherCall makes a call that is not a plain read. It is a function of its own because a call
// is large, and would grow the stack of plain reads.
func (t *Transport) otherCall(st *state, req *http.Request, variant int, at Endpoint) (*http.Response, error) {
	c := call{t: t, req: req, variant: variant, at: at, redirect: t.redirection(req)}
	if t.cfg.FailFast && !t.cfg.WaitForUp { // before the body is read
		if _, err := c.enter(); err != nil {
			closeBody(req)
			return nil, err
		}
	}
	return c.run()
}

// isPlainRead reports whether req is a read that only has to be sent: neither the request, the
// configuration nor the health of the endpoint requires anything else.
func (t *Transport) isPlainRead(st *state, req *http.Request) bool {
	return !st.down && !st.provisional && !t.endpoints[st.active].suspect.Load() && !st.pool.waits.silent() &&
		t.cfg.Authorize == nil && t.cfg.Classify == nil && t.cfg.AttemptTimeout <= 0 && !t.connections.limited &&
		bodyless(req) && req.Response == nil && req.Context().Err() == nil && req.Context().Value(replayKey) == nil &&
		message.Safe(req.Method, req.URL, req.Header)
}

// plainRead makes the call of a plain read. It is the fast path for reads that are answered
// 2xx; any other outcome continues as a call whose first attempt has been made.
func (t *Transport) plainRead(st *state, req *http.Request, variant int, at Endpoint) (*http.Response, error) {
	out, body := req, (*watchedBody)(nil)
	if at != st.active {
		sent := &sentRead{request: *req}
		out, body = &sent.request, &sent.answer
		t.aim(out, &sent.url, variant, at, st.active)
	}
	resp, err := st.pool.roundTrip(out)
	if err != nil || resp.StatusCode < 200 || resp.StatusCode >= 300 || misplacedPage(resp) || t.endpoints[st.active].suspect.Load() {
		return t.otherOutcome(st, req, out, variant, at, resp, err)
	}
	t.protocols[st.active].learn(resp.ProtoMajor >= 2)
	t.served(st)
	if st.active == Alternate {
		t.org.mapLinks(resp.Header, Primary)
	}
	if at != st.active {
		resp.Request = req
		t.lend(req.Header, true)
	}
	t.watchBody(resp, st, req, nil, body)
	return resp, nil
}

// otherOutcome continues a plain read whose first attempt, made with out, was not answered
// 2xx.
func (t *Transport) otherOutcome(st *state, req, out *http.Request, variant int, at Endpoint, resp *http.Response, err error) (*http.Response, error) {
	c := call{t: t, req: req, variant: variant, at: at, st: st, out: out}
	defer c.forgetSent(nil) // it may turn out to be a write
	resp, f := c.judge(resp, err)
	return c.proceed(st, resp, f)
}

// enter returns the state for the next attempt. While down, it fails with Config.FailFast, and
// waits with Config.WaitForUp.
func (c *call) enter() (*state, error) {
	if st := c.t.state.Load(); !st.closed && !st.down {
		return st, nil
	}
	return c.enterDown()
}

func (c *call) enterDown() (*state, error) {
	t := c.t
	t.lend(c.req.Header, false) // the probes may lack these credentials
	for {
		st := t.state.Load()
		switch {
		case st.closed:
			return nil, ErrClosed
		case !st.down:
			return st, nil
		}
		switch {
		case t.cfg.WaitForUp:
			select {
			case <-st.changed:
				continue
			case <-c.req.Context().Done():
			case <-canceled(c.req):
			}
			e := t.unavailable(c.req)
			e.is = append(e.is, redacted(endError(c.req)))
			return nil, e
		case t.cfg.FailFast:
			return nil, t.unavailable(c.req)
		}
		return st, nil
	}
}

// unavailable returns the error of a request that was not sent because the Transport is down.
func (t *Transport) unavailable(req *http.Request) *Error {
	faults, retryAfter := t.downInfo()
	e := &Error{Method: req.Method, URL: redact.URL(req.URL), RetryAfter: retryAfter, is: []error{ErrUnavailable}}
	for _, f := range faults {
		if f != nil {
			e.Attempts = append(e.Attempts, f)
		}
	}
	e.probed = len(e.Attempts)
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
	at                Endpoint      // the one that the caller's URL names
	redirect          *redirection  // that the request follows, or nil
	body              payload
	faults            []*Fault  // of the attempts so far
	doubts            []doubt   // of the attempts so far
	sent              *underway // nil for a read
	repeats           int       // see unseen
	pauses            *backoff.ExponentialBackOff
	looked, onlyReads bool           // see isRead
	judged, onlyOnce  bool           // see once
	undone            bool           // the last attempt met a provisional switch that is undone
	kept              *http.Response // of an earlier attempt, in memory, or nil

	// Of the attempt under way:
	st      *state
	out     *http.Request // req, or a changed copy
	url     *url.URL      // of that copy; nil if it has none of its own
	answer  *watchedBody  // memory for the body of the answer, or nil
	reader  *bytes.Reader // memory for the reader of the body, or nil
	sending *sendWatch    // nil if the attempt is not watched
}

// run makes the call.
func (c *call) run() (resp *http.Response, err error) {
	defer func() {
		c.body.close(resp != nil && resp != c.kept)
		c.forgetSent(nil)
	}()
	if !bodyless(c.req) {
		if err := c.body.load(c.req, c.t.cfg.MaxBody); err != nil {
			return nil, err // the caller's own reader failed
		}
	}
	st, err := c.enter() // after load, which may have taken long
	if err != nil {
		return nil, err
	}
	return c.proceed(c.attempt(st))
}

// attempt makes an attempt under st, or under a newer state, and returns that and the result
// of send.
func (c *call) attempt(st *state) (*state, *http.Response, *Fault) {
	for {
		if f := c.prepare(st); f != nil {
			return st, nil, f
		}
		now := c.t.state.Load()
		if now.epoch == st.epoch {
			resp, f := c.send()
			return st, resp, f
		}
		st = now // there was a judgement while Authorize was called
	}
}

// proceed continues a call after an attempt under st, until one succeeds or none may follow.
func (c *call) proceed(st *state, resp *http.Response, f *Fault) (*http.Response, error) {
	for f != nil {
		if c.unseen(f) {
			st, resp, f = c.attempt(c.t.state.Load())
			continue
		}
		c.faults = append(c.faults, f)
		doubted := c.inDoubt() != nil
		if c.weigh(f); !doubted && c.inDoubt() != nil {
			c.kept = nil // it denies that the write was applied
		}
		c.forgetSent(c.doubts)
		next := c.next(st, f)
		c.notifyOnFault(f, next)
		if next == nil {
			if c.undone {
				discard(resp) // nothing proves that its endpoint serves the organization
				resp = nil
			}
			return c.finish(resp)
		}
		if kept := keep(resp); kept != nil && !c.undone {
			c.kept = kept
		}
		st, resp, f = c.attempt(next)
	}
	return c.succeed(resp), nil
}

// next records a fault and decides whether another attempt follows. It waits for the verdict
// on the fault and for the pause between attempts. It returns the state for the next attempt,
// or nil.
func (c *call) next(st *state, f *Fault) *state {
	t, own := c.t, endOf(c.req) != nil
	c.lend(f)
	c.undone = t.undoIfProvisional(st, f, own)
	q, decides := t.count(st, f, own)
	throttled := f.Class == ClassThrottled && f.RetryAfter > 0 && f.RetryAfter <= t.cfg.RetryThrottled &&
		f.RetryAfter < answer.MaxRetryAfter // the maximum stands for longer times, too
	if len(c.faults) >= t.cfg.MaxAttempts || !throttled && !f.counted() && !c.undone || c.body.spent() || !c.maySendAgain(f) {
		return nil
	}
	if st.down {
		return nil // each request is sent once then
	}
	if q != nil && decides && !c.await(q) {
		return nil
	}
	if now := t.state.Load(); now.epoch == st.epoch && !now.down && !c.pause(now, f, throttled, q) {
		return nil
	}
	now, err := c.enter()
	if err != nil {
		return nil
	}
	if now.active == f.Endpoint && f.RetryAfter > 0 && !throttled {
		return nil // there was no switch, and the endpoint must not be asked before its Retry-After
	}
	if now.down && !c.undone || endOf(c.req) != nil || !c.body.withdraw() {
		return nil
	}
	return now
}

// notifyOnFault calls Config.OnFault for a failed attempt. The next attempt is made under next;
// nil: there is none.
func (c *call) notifyOnFault(f *Fault, next *state) {
	if c.t.cfg.OnFault == nil {
		return
	}
	w := describe(c.req, nil, time.Time{}, "", c.label())
	a := Attempt{Method: c.req.Method, Path: w.Path, Label: w.Label, Number: len(c.faults), Fault: f, To: f.Endpoint}
	if next != nil {
		a.Again, a.To = true, next.active
	} else {
		a.OutcomeUnknown = c.inDoubt() != nil
	}
	c.t.protect("OnFault", func() { c.t.cfg.OnFault(c.req.Context(), a) })
}

// pause waits before the request is sent again to the same endpoint. It reports false if the
// request must not be: the endpoint has answered with a fence or asked for a longer pause, the
// retry budget is used up, or the context ends first.
//
// A judgement ends the pause. The request then needs no budget, so pause waits for a judgement
// even if the budget is used up. If the early question q found that the traffic should switch,
// its end ends the pause, too: the switch only lacks further faults.
func (c *call) pause(st *state, f *Fault, throttled bool, q *question) bool {
	if c.pauses == nil {
		c.pauses = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(c.t.cfg.RetryBackoff), backoff.WithMaxElapsedTime(0))
	}
	wait := c.pauses.NextBackOff()
	if throttled {
		wait = max(wait, f.RetryAfter)
	}
	deadline, bounded := c.req.Context().Deadline()
	if f.Definitive || f.RetryAfter > wait || bounded && time.Until(deadline) < wait {
		return false
	}
	paid := c.t.budget.take()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var asked <-chan struct{}
	if q != nil && !throttled {
		asked = q.done
	}
	for now := st; ; now = c.t.state.Load() {
		if now.closed {
			return false
		}
		if now.epoch != st.epoch {
			if paid {
				c.t.budget.giveBack()
			}
			return true
		}
		select {
		case <-timer.C:
			return paid
		case <-now.changed:
		case <-asked:
			if asked = nil; q.toSwitch && paid {
				return true
			}
		case <-c.req.Context().Done():
			return false
		case <-canceled(c.req):
			return false
		}
	}
}

// await waits for the verdict on a question. It reports false if the call ends first.
func (c *call) await(q *question) bool {
	select {
	case <-q.done:
		return true
	case <-c.req.Context().Done():
	case <-canceled(c.req):
	}
	return false
}

// succeed ends a call that got a healthy answer.
func (c *call) succeed(resp *http.Response) *http.Response {
	if resp.StatusCode < 300 {
		c.acknowledge(resp, OutcomeAcknowledged)
	} else if c.inDoubt() != nil { // a redirect proves nothing about an earlier attempt
		c.reportDoubt(c.failure())
		c.mark(resp)
	}
	return resp
}

// finish ends a call that got no healthy answer.
func (c *call) finish(resp *http.Response) (*http.Response, error) {
	if resp == nil && endOf(c.req) != context.Canceled {
		resp = c.kept // the caller would have had it without the repeat
	}
	if resp != nil && c.inDoubt() == nil {
		return resp, nil
	}
	e := c.failure()
	c.explain(e)
	if c.inDoubt() != nil {
		c.reportDoubt(e)
		if resp != nil {
			c.mark(resp)
		}
	}
	if resp != nil {
		return resp, nil
	}
	return nil, e
}

// failure returns the error of the call. Once it is in an event, it must not be changed.
func (c *call) failure() *Error {
	last := c.faults[len(c.faults)-1] // there is one, or it would not have failed
	e := &Error{Method: c.req.Method, URL: redact.URL(c.req.URL), Attempts: c.faults, doubt: c.inDoubt(), RetryAfter: last.RetryAfter}
	if e.doubt != nil {
		e.is = append(e.is, ErrOutcomeUnknown)
	}
	return e
}

// explain adds to the error why the call made no further attempt.
func (c *call) explain(e *Error) {
	if c.t.state.Load().down {
		e.is = append(e.is, ErrUnavailable)
		var faults [2]*Fault
		faults, e.RetryAfter = c.t.downInfo()
		for at, f := range faults {
			if f != nil && !slices.ContainsFunc(e.Attempts, func(f *Fault) bool { return f.Endpoint == Endpoint(at) }) {
				e.Attempts = append(slices.Clip(e.Attempts), f)
				e.probed++
			}
		}
	}
	if err := endOf(c.req); err != nil && (!errors.Is(e, err) || !errors.Is(e, cmp.Or(context.Cause(c.req.Context()), err))) {
		e.is = append(e.is, redacted(endError(c.req)))
	}
}

// abandon records the attempt of a call in which Base has panicked. The panic goes on to the
// caller.
func (c *call) abandon() {
	c.sending.release()
	f := &Fault{Class: ClassTransient, Endpoint: c.st.active, Err: errBasePanicked}
	f.Delivery = c.sending.delivery(Unknown, nil, false)
	c.faults = append(c.faults, f)
	if c.weigh(f); c.inDoubt() != nil {
		c.reportDoubt(c.failure())
	}
}

var errBasePanicked = errors.New("failover: round tripper panicked")
