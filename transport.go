package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// RoundTrip implements [http.RoundTripper]. A request to either endpoint of the
// organization goes to the active one, whatever host it names; its path, query
// and headers are kept. A request to any other host passes through to Base as
// it is.
//
// An attempt that meets a counted fault is repeated, at the same endpoint after
// a pause or at the other one after a switch, as long as it may be sent again
// (see [Config.Replay]), attempts are left and its context lives. What comes
// back is the last response as it came, a 503 included, or an [*Error] that
// holds the fault of every attempt. Location and the other header links of a
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
	if t.refuses(st) {
		closeBody(req)
		return nil, t.unavailable(req, st)
	}
	c := call{t: t, req: req, variant: variant, at: at}
	return c.run()
}

// refuses reports whether requests fail at once.
func (t *Transport) refuses(st *state) bool {
	return st.closed || st.down != nil && !t.cfg.PassThrough
}

// unavailable returns the error of a request that was not sent because neither
// endpoint serves.
func (t *Transport) unavailable(req *http.Request, st *state) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &Error{Method: req.Method, URL: redactURL(req.URL), is: []error{ErrUnavailable}}
	for _, f := range st.down.faults {
		if f != nil {
			e.Attempts = append(e.Attempts, f)
		}
	}
	e.RetryAfter = max(0, time.Until(st.down.until))
	return e
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// call is one RoundTrip.
type call struct {
	t       *Transport
	req     *http.Request // the caller's, never changed
	variant int           // of the organization's host names, see Org
	at      Endpoint      // that the caller's URL names
	body    payload
	faults  []*Fault // one for each attempt so far
	pauses  *backoff.ExponentialBackOff
}

// run makes attempts until one is answered or none may follow.
func (c *call) run() (*http.Response, error) {
	defer c.body.close()
	if err := c.body.load(c.req, c.t.cfg.MaxBody); err != nil {
		return nil, err // the caller's own reader failed
	}
	st := c.t.state.Load() // not before: the caller's reader may have taken its time
	switch {
	case st.closed:
		return nil, ErrClosed
	case c.t.refuses(st):
		return nil, c.t.unavailable(c.req, st)
	}
	for {
		resp, f := c.attempt(st)
		if f == nil {
			return resp, nil
		}
		c.faults = append(c.faults, f)
		next := c.next(st, f)
		if next == nil {
			return c.finish(resp, f)
		}
		discard(resp)
		st = next
	}
}

// attempt sends the request once, to the endpoint that is active in st. It
// returns a healthy response, or the fault with the response it came in, if any.
func (c *call) attempt(st *state) (*http.Response, *Fault) {
	t := c.t
	out, a, err := c.outgoing(st)
	if err != nil {
		a.cancelNow()
		return nil, &Fault{Class: ClassAuth, Delivery: NotSent, Endpoint: st.active, Err: err}
	}
	resp, err := t.base.RoundTrip(out)
	if a.end() && (err == nil || errors.Is(err, context.Canceled)) {
		if err == nil && resp != nil { // timed out as the headers came: the body is lost
			resp.Body.Close()
		}
		resp, err = nil, errAttemptTimeout // over HTTP/2, net/http does not return the cause
	}
	if resp == nil && err == nil {
		err = errNoResult
	}
	f := t.cfg.Classify(resp, err)
	if f == nil && err == nil {
		t.endpoints[st.active].succeeded(time.Since(t.origin))
		t.budget.deposit()
		c.deliver(st, resp, out)
		if resp.StatusCode < 300 {
			c.note(st.active, resp, "", false)
		}
		t.watchBody(c.req.Context(), st, resp, a)
		return resp, nil
	}
	f = c.refine(f, st, err, a)
	if resp != nil {
		c.deliver(st, resp, out)
		resp.Body = a.release(resp.Body)
		if f.Class == ClassApplication {
			t.endpoints[st.active].succeeded(time.Since(t.origin))
			t.clear(st)
		}
	} else {
		a.cancelNow()
	}
	return resp, f
}

var errAttemptTimeout = attemptTimeout{}

// attemptTimeout is the cause of an attempt that AttemptTimeout has ended.
type attemptTimeout struct{}

func (attemptTimeout) Error() string   { return "no response headers within AttemptTimeout" }
func (attemptTimeout) Timeout() bool   { return true }
func (attemptTimeout) Temporary() bool { return true }

// refine completes the fault of an attempt with what only the Transport knows.
func (c *call) refine(f *Fault, st *state, err error, a *attempt) *Fault {
	known := Fault{Class: ClassTransient, Err: err}
	if f != nil {
		known = *f // which a Config.Classify may share between calls
	}
	known.Endpoint = st.active
	if err == nil {
		return &known
	}
	if known.RequestID == "" {
		known.RequestID = callersRequestID(c.req.Header)
	}
	if c.req.Context().Err() == context.Canceled || c.body.failed() {
		known.Class = ClassCanceled
	}
	known.Delivery = a.delivery(known.Delivery, c.t.direct)
	if known.Delivery == NotSent && known.Class == ClassTransient && c.req.Context().Err() == nil && !errors.Is(err, errAttemptTimeout) {
		known.Class = ClassUnavailable // no connection could be made
	}
	return &known
}

// deliver makes a response fit the caller's world, which has one host.
func (c *call) deliver(st *state, resp *http.Response, out *http.Request) {
	if st.active == Alternate {
		c.t.org.mapLinks(resp.Header, Primary)
	}
	if out != c.req {
		resp.Request = c.req
	}
}

// next takes note of a fault and decides whether another attempt follows. It
// waits for a decision that the fault has led to and for the pause between
// attempts, and returns the state to make the attempt under, or nil.
func (c *call) next(st *state, f *Fault) *state {
	t, ctx := c.t, c.req.Context()
	t.borrow(c.req)
	d := t.report(st, f)
	if len(c.faults) >= t.cfg.MaxAttempts || !c.maySendAgain(f) {
		return nil
	}
	throttled := f.Class == ClassThrottled && f.RetryAfter > 0 && f.RetryAfter <= t.cfg.RetryThrottled
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
	if now.generation == st.generation && !t.refuses(now) && !c.pause(now, f, throttled) {
		return nil
	}
	now = t.state.Load()
	if t.refuses(now) || ctx.Err() != nil {
		return nil
	}
	return now
}

// pause waits before the request is repeated at the same endpoint. It reports
// false if that must not be: the endpoint does not serve or asked for a longer
// wait than a call may take, the budget for repeats is used up, or the context
// ends first. A switch ends the pause.
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
	if f.Definitive || f.RetryAfter > wait || bounded && time.Until(deadline) < wait || !c.t.budget.take() {
		return false
	}
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-st.changed:
		c.t.budget.giveBack()
		return true
	case <-c.req.Context().Done():
		return false
	}
}

// finish ends a call that got no healthy answer.
func (c *call) finish(resp *http.Response, f *Fault) (*http.Response, error) {
	e := &Error{Method: c.req.Method, URL: redactURL(c.req.URL), Attempts: c.faults, RetryAfter: f.RetryAfter}
	if doubt := c.inDoubt(f); doubt != nil {
		e.is = append(e.is, ErrOutcomeUnknown)
		c.note(doubt.Endpoint, resp, doubt.RequestID, true)
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

// note keeps a write that has ended at an endpoint in the ledger.
func (c *call) note(at Endpoint, resp *http.Response, requestID string, unknown bool) {
	if c.t.ledger == nil || isReadMethod(c.req.Method) || retrieves(soapAction(c.req.Header)) {
		return
	}
	label, _ := c.req.Context().Value(labelKey).(string)
	w := writeOf(c.req, resp, time.Now(), label)
	if w.RequestID == "" {
		w.RequestID = requestID
	}
	c.t.ledger.record(at, w, unknown)
}

// outgoing returns the request of one attempt: the caller's own, or a copy with
// what has to be different.
func (c *call) outgoing(st *state) (out *http.Request, a *attempt, err error) {
	t, req := c.t, c.req
	out = req
	copied := func() *http.Request {
		if out == req {
			out = req.WithContext(req.Context())
		}
		return out
	}
	if t.cfg.AttemptTimeout > 0 || !isReadMethod(req.Method) {
		a = new(attempt)
		out = req.WithContext(a.context(req.Context(), t.cfg.AttemptTimeout))
	}
	if u := c.target(st.active); u != nil {
		t.redirect(copied(), u, st.active)
	}
	if err := c.body.next(&t.org, st.active, copied); err != nil {
		return nil, a, err
	}
	guarded := c.guards(st)
	if guarded || t.cfg.Authorize != nil {
		copied().Header = req.Header.Clone()
		if out.Header == nil {
			out.Header = make(http.Header)
		}
	}
	if guarded {
		out.Header.Set("If-Match", "*")
	}
	if t.cfg.Authorize != nil {
		if err := t.cfg.Authorize(out); err != nil {
			closeBody(out)
			return nil, a, fmt.Errorf("authorize: %w", err)
		}
	}
	return out, a, nil
}

// guards reports whether the request is an update of a record that was created
// at the other endpoint just before the switch and may not exist here. Without a
// condition the service would create it anew, with nothing in it but the update
// (an upsert); with If-Match: * it answers 404.
func (c *call) guards(st *state) bool {
	if st.atRisk == nil || c.req.Method != http.MethodPatch ||
		c.req.Header.Get("If-Match") != "" || c.req.Header.Get("If-None-Match") != "" {
		return false
	}
	path := withParens(c.req.URL.EscapedPath())
	record, _ := recordIn(path)
	return record != "" && record == path && st.atRisk[recordKey(Write{Entity: record})]
}

// target returns the URL at endpoint to, nil if the caller's own will do.
func (c *call) target(to Endpoint) *url.URL {
	query, mapped := c.req.URL.RawQuery, false
	if c.req.Method == http.MethodDelete {
		query, mapped = c.t.org.rewriteQuery(query, to)
	}
	if c.at == to && !mapped {
		return nil
	}
	u := *c.req.URL
	u.RawQuery = query
	if c.at != to {
		u.Scheme, u.Host = c.t.org.origin(c.variant, to)
	}
	return &u
}

// redirect points a copy of a request at u.
func (t *Transport) redirect(out *http.Request, u *url.URL, to Endpoint) {
	if out.Host == out.URL.Host {
		out.Host = ""
	} else if host, ok := t.org.mapHost(out.Host, to); ok {
		out.Host = host
	}
	out.URL = u
	t.borrow(out)
}

// attempt watches over one request on its way where that is needed: for
// requests that must not be sent twice, and for AttemptTimeout. A nil attempt
// watches nothing.
type attempt struct {
	asked, got atomic.Bool // Base asked for a connection, and got one
	timer      *time.Timer
	cancel     context.CancelCauseFunc
	state      atomic.Uint32 // attemptRunning, attemptEnded or attemptTimedOut
}

const (
	attemptRunning = iota
	attemptEnded
	attemptTimedOut
)

// context returns the context of the attempt.
func (a *attempt) context(ctx context.Context, timeout time.Duration) context.Context {
	if timeout > 0 {
		ctx, a.cancel = context.WithCancelCause(ctx)
		a.timer = time.AfterFunc(timeout, func() {
			if a.state.CompareAndSwap(attemptRunning, attemptTimedOut) {
				a.cancel(errAttemptTimeout)
			}
		})
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { a.asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { a.got.Store(true) },
	})
}

// end stops the clock as RoundTrip returns and reports whether it had run out.
func (a *attempt) end() (timedOut bool) {
	if a == nil || a.timer == nil {
		return false
	}
	a.timer.Stop()
	return !a.state.CompareAndSwap(attemptRunning, attemptEnded)
}

// cancelNow releases the context of the attempt.
func (a *attempt) cancelNow() {
	if a != nil && a.cancel != nil {
		a.cancel(nil)
	}
}

// delivery corrects what the error alone says about the request. direct: the
// connection hooks and the error come from one *http.Transport.
func (a *attempt) delivery(d Delivery, direct bool) Delivery {
	switch {
	case a == nil:
		return d
	case d == Unknown && a.asked.Load() && !a.got.Load():
		return NotSent
	case d == NotSent && a.got.Load() && !direct:
		return Unknown // a Base that tries twice may have sent the first time
	default:
		return d
	}
}

// release returns body so that closing it releases the attempt's context.
func (a *attempt) release(body io.ReadCloser) io.ReadCloser {
	if a == nil || a.cancel == nil || body == nil {
		return body
	}
	return &releasingBody{body, a}
}

type releasingBody struct {
	io.ReadCloser
	a *attempt
}

func (b *releasingBody) Close() error {
	defer b.a.cancelNow()
	return b.ReadCloser.Close()
}

// watchBody replaces the body of a healthy response by one that tells the
// endpoint's breaker how it ended.
func (t *Transport) watchBody(ctx context.Context, st *state, resp *http.Response, a *attempt) {
	if resp.Body == nil || resp.Body == http.NoBody {
		a.cancelNow()
		t.clear(st)
		return
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // the body is the connection now, and not ours to wrap
	}
	resp.Body = &watchedBody{body: resp.Body, t: t, st: st, a: a, status: resp.StatusCode, ctx: ctx}
}

// watchedBody is the body of a healthy response. An answer is a success once it
// was read to its end or closed without an error; one that breaks off is a
// fault of the endpoint, although the response was returned long ago.
type watchedBody struct {
	body   io.ReadCloser
	t      *Transport
	st     *state
	a      *attempt
	status int
	ctx    context.Context // of the caller
	over   atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.body.Close()
	b.end(io.EOF)
	b.a.cancelNow()
	return err
}

// end takes note of how the body ended, once.
func (b *watchedBody) end(err error) {
	if b.over.Swap(true) {
		return
	}
	if err == io.EOF {
		b.t.clear(b.st)
		return
	}
	if b.ctx.Err() == context.Canceled {
		return
	}
	if f := b.t.cfg.Classify(nil, err); f != nil {
		broken := *f
		broken.Endpoint, broken.Status, broken.Delivery = b.st.active, b.status, Answered
		b.t.report(b.st, &broken)
	}
}

// clear takes the faults of the active endpoint off the record, if there are any.
func (t *Transport) clear(st *state) {
	e := &t.endpoints[st.active]
	if !e.suspect.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load().generation == st.generation {
		e.success()
	}
}

// maxDrain is how much of a response that nobody wants is read, so that its
// connection can be used again.
const maxDrain = 64 << 10

// discard ends a response that is not returned.
func discard(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	if resp.ContentLength <= maxDrain {
		io.CopyN(io.Discard, resp.Body, maxDrain)
	}
	resp.Body.Close()
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

func (b *budget) giveBack() { b.shares.Add(sharesPerRepeat) }
