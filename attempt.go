package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// This file makes one attempt of a call: it sends the request to the endpoint
// that is active in c.st.

// ownCopy is what an attempt needs of its own, in one piece.
type ownCopy struct {
	request http.Request
	url     url.URL
	body    bytes.Reader
	transit transit
	answer  watchedBody
}

// own returns the request that is sent, for changing: a copy, made when it is
// first needed, of which only the struct is new.
func (c *call) own() *ownCopy {
	if c.copy == nil {
		c.copy = &ownCopy{request: *c.req}
		c.out = &c.copy.request
	}
	return c.copy
}

// trace has the request watched on its way.
func (c *call) trace() {
	c.copy = new(ownCopy)
	c.transit, c.out = &c.copy.transit, &c.copy.request
	c.copy.request = *c.req.WithContext(c.transit.context(c.req.Context(), c.t.cfg.AttemptTimeout))
}

// prepare begins an attempt under st: it makes the request ready but for its body.
func (c *call) prepare(st *state) *Fault {
	t, req := c.t, c.req
	c.st, c.out, c.copy, c.transit = st, req, nil, nil
	if t.cfg.AttemptTimeout > 0 || !isReadMethod(req.Method) {
		c.trace()
	}
	c.address()
	guarded := t.books.guards(req)
	if !guarded && t.cfg.Authorize == nil {
		return nil
	}
	header := req.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if guarded {
		header.Set("If-Match", "*")
	}
	c.own().request.Header = header
	if t.cfg.Authorize != nil {
		c.takeHeld() // which may be signed
		if err := t.cfg.Authorize(c.out); err != nil {
			return c.unsent(ClassAuth, fmt.Errorf("authorize: %w", err))
		}
	}
	return nil
}

// address points the request at the active endpoint, unless it does so as it is.
func (c *call) address() {
	to := c.st.active
	query, mapped := c.req.URL.RawQuery, false
	if c.req.Method == http.MethodDelete {
		query, mapped = c.t.org.rewriteQuery(query, to)
	}
	if c.at == to && !mapped {
		return
	}
	own := c.own()
	own.url = *c.req.URL
	own.url.RawQuery = query
	if c.at != to {
		own.url.Scheme, own.url.Host = c.t.org.origin(c.variant, to)
	}
	out := &own.request
	if out.Host == out.URL.Host {
		out.Host = ""
	} else if host, ok := c.t.org.mapHost(out.Host, to); ok {
		out.Host = host
	}
	out.URL = &own.url
	c.t.borrow(out)
}

// unsent returns the fault of an attempt that ends before it is sent, which is
// none of the endpoint's.
func (c *call) unsent(class Class, err error) *Fault {
	c.transit.release()
	return &Fault{Class: class, Delivery: NotSent, Endpoint: c.st.active, Err: err}
}

// send sends the request. It returns a healthy response, or the fault with the
// response it came in, if any.
func (c *call) send() (*http.Response, *Fault) {
	t := c.t
	if err := c.takeBody(); err != nil {
		return nil, c.unsent(ClassCanceled, err)
	}
	resp, err := c.transit.roundTrip(t.base, c.out)
	f := t.classify(resp, err)
	if err == nil {
		c.deliver(resp)
	}
	if f == nil && err == nil {
		t.endpoints[c.st.active].succeeded(time.Since(t.started))
		t.budget.deposit()
		if resp.StatusCode < 300 {
			c.note(c.st.active, c.st.epoch, resp, "", OutcomeAcknowledged)
		}
		c.watchBody(resp)
		return resp, nil
	}
	f = c.refine(f, err)
	if resp == nil {
		c.transit.release()
		return nil, f
	}
	if f.Class == ClassApplication { // the endpoint is in good health
		t.endpoints[c.st.active].succeeded(time.Since(t.started))
		t.clear(c.st)
	}
	if f.Delivery == Answered && c.isCompound() {
		c.note(c.st.active, c.st.epoch, resp, f.RequestID, OutcomePartial)
	}
	c.releaseWith(resp)
	return resp, f
}

// classify judges what Base has returned.
func (t *Transport) classify(resp *http.Response, err error) *Fault {
	switch {
	case t.cfg.Classify == nil:
		return Classify(resp, err)
	case err != nil:
		return t.cfg.Classify(nil, err)
	default:
		return t.cfg.Classify(resp, nil)
	}
}

// takeBody puts the body into the request.
func (c *call) takeBody() error {
	if c.takeHeld() {
		return nil
	}
	body, err := c.body.next()
	if err != nil || body == nil {
		return err
	}
	out := &c.own().request
	out.Body, out.GetBody = body, c.body.getBody
	return nil
}

// takeHeld puts the body into the request, from its start, if it is held.
func (c *call) takeHeld() bool {
	held := c.body.whole(&c.t.org, c.req, c.st.active)
	if held.body == nil {
		return false
	}
	own := c.own()
	own.body.Reset(held.body)
	own.request.Body = io.NopCloser(&own.body) // which net/http knows to be in memory
	own.request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(held.body)), nil }
	if held.mapped && own.request.ContentLength > 0 {
		own.request.ContentLength = int64(len(held.body))
	}
	return true
}

// refine completes the fault of an attempt with what only the Transport knows.
func (c *call) refine(f *Fault, err error) *Fault {
	known := Fault{Class: ClassTransient, Err: err}
	if f != nil {
		known = *f // which a Config.Classify may share between calls
	}
	known.Endpoint = c.st.active
	if err == nil {
		return &known
	}
	if known.RequestID == "" {
		known.RequestID = callersRequestID(c.req.Header)
	}
	if c.req.Context().Err() == context.Canceled || c.body.failed() {
		known.Class = ClassCanceled
	}
	known.Delivery = c.transit.delivery(known.Delivery, c.t.direct)
	if known.Delivery == NotSent && known.Class == ClassTransient && c.req.Context().Err() == nil && !errors.Is(err, errAttemptTimeout) {
		known.Class = ClassUnavailable // no connection could be made
	}
	return &known
}

// transit watches a request on its way where that is needed: for requests that must
// not be sent twice, and for AttemptTimeout. A nil transit watches nothing.
//
// It is the context of that request: the caller's, and its own trace.
type transit struct {
	context.Context
	trace      httptrace.ClientTrace
	asked, got atomic.Bool // Base asked for a connection, and got one
	timeout    time.Duration
	cancel     context.CancelCauseFunc // nil if there is no timeout
	state      atomic.Uint32           // transitOpen, transitEnded or transitTimedOut
}

const (
	transitOpen = iota
	transitEnded
	transitTimedOut
)

// errAttemptTimeout is the cause of an attempt that AttemptTimeout has ended.
var errAttemptTimeout = attemptTimeout{}

type attemptTimeout struct{}

func (attemptTimeout) Error() string   { return "no response headers within AttemptTimeout" }
func (attemptTimeout) Timeout() bool   { return true }
func (attemptTimeout) Temporary() bool { return true }

// context returns the context to send the request with.
func (w *transit) context(ctx context.Context, timeout time.Duration) context.Context {
	if timeout > 0 {
		ctx, w.cancel = context.WithCancelCause(ctx)
		w.timeout = timeout
	}
	w.trace.GetConn = func(string) { w.asked.Store(true) }
	w.trace.GotConn = func(httptrace.GotConnInfo) { w.got.Store(true) }
	if w.Context = ctx; traceKey == nil || httptrace.ContextClientTrace(ctx) != nil {
		return httptrace.WithClientTrace(ctx, &w.trace) // which calls the caller's hooks as well
	}
	return w
}

// traceKey is the key of a context under which httptrace looks for a trace, nil if
// it does so in another way.
var traceKey = func() any {
	asked := asked{Context: context.Background()}
	httptrace.ContextClientTrace(&asked)
	if len(asked.keys) != 1 {
		return nil
	}
	return asked.keys[0]
}()

// asked is a context that takes down what it is asked for.
type asked struct {
	context.Context
	keys []any
}

func (a *asked) Value(key any) any {
	a.keys = append(a.keys, key)
	return nil
}

// String keeps those who print the context from reading what is in use.
func (w *transit) String() string { return fmt.Sprint(w.Context) + ".WithClientTrace" }

// Value implements [context.Context].
func (w *transit) Value(key any) any {
	if key == traceKey {
		return &w.trace
	}
	return w.Context.Value(key)
}

// roundTrip sends the request through base, in the time it has.
func (w *transit) roundTrip(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	if w != nil && w.cancel != nil {
		timer := time.AfterFunc(w.timeout, func() {
			if w.state.CompareAndSwap(transitOpen, transitTimedOut) {
				w.cancel(errAttemptTimeout)
			}
		})
		defer timer.Stop()
	}
	resp, err := base.RoundTrip(req)
	if resp == nil && err == nil {
		err = errNoResult
	}
	if w == nil || w.cancel == nil {
		return resp, err
	}
	if w.state.CompareAndSwap(transitOpen, transitEnded) || err != nil && !errors.Is(err, context.Canceled) {
		return resp, err
	}
	if err == nil { // timed out as the headers came: the body is lost
		resp.Body.Close()
	}
	return nil, errAttemptTimeout // over HTTP/2, net/http does not return the cause
}

// canceler returns what ends the context of the request once its answer was read,
// nil if it has none of its own.
func (w *transit) canceler() context.CancelCauseFunc {
	if w == nil {
		return nil
	}
	return w.cancel
}

// release ends the context of the request.
func (w *transit) release() {
	if w != nil && w.cancel != nil {
		w.cancel(nil)
	}
}

// delivery corrects what the error alone says about the request. direct: the
// connection hooks and the error come from one *http.Transport.
func (w *transit) delivery(d Delivery, direct bool) Delivery {
	switch {
	case w == nil:
		return d
	case d == Unknown && w.asked.Load() && !w.got.Load():
		return NotSent
	case d == NotSent && w.got.Load() && !direct:
		return Unknown // a Base that tries twice may have sent the first time
	default:
		return d
	}
}
