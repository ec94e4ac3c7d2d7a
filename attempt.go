package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// attempt is one sending of a request, to the endpoint that is active in st.
type attempt struct {
	c   *call
	st  *state
	out *http.Request // the caller's request, or a copy with what has to be different
	way *way          // nil if nothing has to be known about it
}

// own returns the request that is sent, for changing: a copy, made when it is
// first needed, of which only the struct is new.
func (a *attempt) own() *http.Request {
	if a.out == a.c.req {
		a.out = a.c.req.WithContext(a.c.req.Context())
	}
	return a.out
}

// prepare makes the request ready but for its body.
func (a *attempt) prepare() *Fault {
	t, req := a.c.t, a.c.req
	a.out = req
	if t.cfg.AttemptTimeout > 0 || !isReadMethod(req.Method) {
		a.way = new(way)
		a.out = req.WithContext(a.way.context(req.Context(), t.cfg.AttemptTimeout))
	}
	if u := a.target(); u != nil {
		a.redirect(u)
	}
	guarded := a.c.guards(a.st)
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
	a.own().Header = header
	if t.cfg.Authorize != nil {
		if err := t.cfg.Authorize(a.out); err != nil {
			return a.unsent(ClassAuth, fmt.Errorf("authorize: %w", err))
		}
	}
	return nil
}

// target returns the URL to send to, nil if the caller's own will do.
func (a *attempt) target() *url.URL {
	c, to := a.c, a.st.active
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

// redirect points the request at u.
func (a *attempt) redirect(u *url.URL) {
	out := a.own()
	if out.Host == out.URL.Host {
		out.Host = ""
	} else if host, ok := a.c.t.org.mapHost(out.Host, a.st.active); ok {
		out.Host = host
	}
	out.URL = u
	a.c.t.borrow(out)
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

// unsent returns the fault of an attempt that ends before it is sent, which is
// none of the endpoint's.
func (a *attempt) unsent(class Class, err error) *Fault {
	a.cancel()
	return &Fault{Class: class, Delivery: NotSent, Endpoint: a.st.active, Err: err}
}

// send sends the request. It returns a healthy response, or the fault with the
// response it came in, if any.
func (a *attempt) send() (*http.Response, *Fault) {
	c, t := a.c, a.c.t
	if err := a.takeBody(); err != nil {
		return nil, a.unsent(ClassCanceled, err)
	}
	resp, err := a.way.roundTrip(t.base, a.out)
	f := t.classify(resp, err)
	if err == nil {
		a.deliver(resp)
	}
	if f == nil && err == nil {
		t.endpoints[a.st.active].succeeded(time.Since(t.origin))
		t.budget.deposit()
		if resp.StatusCode < 300 {
			c.note(a.st.active, resp, "", false)
		}
		a.watchBody(resp)
		return resp, nil
	}
	f = a.refine(f, err)
	if resp == nil {
		a.cancel()
		return nil, f
	}
	if f.Class == ClassApplication { // the endpoint is in good health
		t.endpoints[a.st.active].succeeded(time.Since(t.origin))
		t.clear(a.st)
	}
	a.releaseWith(resp)
	return resp, f
}

// maxAnswerTime is how long an answer may take to show what fault is in it.
const maxAnswerTime = 5 * time.Second

// classify judges what Base has returned. The body of a fault that does not come
// is cut off: nobody has asked for it yet who could give it up.
func (t *Transport) classify(resp *http.Response, err error) *Fault {
	judge := t.cfg.Classify
	if judge == nil {
		judge = Classify
	}
	if err != nil {
		return judge(nil, err)
	}
	if healthy(resp) {
		if t.cfg.Classify == nil {
			return nil
		}
	} else if body := resp.Body; body != nil {
		defer time.AfterFunc(maxAnswerTime, func() { body.Close() }).Stop()
	}
	return judge(resp, nil)
}

// takeBody puts the body into the request.
func (a *attempt) takeBody() error {
	body, err := a.c.body.next(&a.c.t.org, a.st.active)
	if err != nil || body.ReadCloser == nil {
		return err
	}
	out := a.own()
	out.Body, out.GetBody = body, body.again
	if body.mapped && out.ContentLength > 0 {
		out.ContentLength = body.length
	}
	return nil
}

// refine completes the fault of an attempt with what only the Transport knows.
func (a *attempt) refine(f *Fault, err error) *Fault {
	c := a.c
	known := Fault{Class: ClassTransient, Err: err}
	if f != nil {
		known = *f // which a Config.Classify may share between calls
	}
	known.Endpoint = a.st.active
	if err == nil {
		return &known
	}
	if known.RequestID == "" {
		known.RequestID = callersRequestID(c.req.Header)
	}
	if c.req.Context().Err() == context.Canceled || c.body.failed() {
		known.Class = ClassCanceled
	}
	known.Delivery = a.way.delivery(known.Delivery, c.t.direct)
	if known.Delivery == NotSent && known.Class == ClassTransient && c.req.Context().Err() == nil && !errors.Is(err, errAttemptTimeout) {
		known.Class = ClassUnavailable // no connection could be made
	}
	return &known
}

// cancel releases the context of the attempt.
func (a *attempt) cancel() { a.way.release() }

// way watches a request on its way where that is needed: for requests that must
// not be sent twice, and for AttemptTimeout. A nil way watches nothing.
type way struct {
	asked, got atomic.Bool // Base asked for a connection, and got one
	timer      *time.Timer
	cancel     context.CancelCauseFunc
	state      atomic.Uint32 // wayOpen, wayEnded or wayTimedOut
}

const (
	wayOpen = iota
	wayEnded
	wayTimedOut
)

// errAttemptTimeout is the cause of an attempt that AttemptTimeout has ended.
var errAttemptTimeout = attemptTimeout{}

type attemptTimeout struct{}

func (attemptTimeout) Error() string   { return "no response headers within AttemptTimeout" }
func (attemptTimeout) Timeout() bool   { return true }
func (attemptTimeout) Temporary() bool { return true }

// context returns the context to send the request with.
func (w *way) context(ctx context.Context, timeout time.Duration) context.Context {
	if timeout > 0 {
		ctx, w.cancel = context.WithCancelCause(ctx)
		w.timer = time.AfterFunc(timeout, func() {
			if w.state.CompareAndSwap(wayOpen, wayTimedOut) {
				w.cancel(errAttemptTimeout)
			}
		})
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { w.asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { w.got.Store(true) },
	})
}

// roundTrip sends the request through base, in the time it has.
func (w *way) roundTrip(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(req)
	if resp == nil && err == nil {
		err = errNoResult
	}
	if w == nil || w.timer == nil {
		return resp, err
	}
	w.timer.Stop()
	if w.state.CompareAndSwap(wayOpen, wayEnded) || err != nil && !errors.Is(err, context.Canceled) {
		return resp, err
	}
	if err == nil { // timed out as the headers came: the body is lost
		resp.Body.Close()
	}
	return nil, errAttemptTimeout // over HTTP/2, net/http does not return the cause
}

// release ends the context of the request.
func (w *way) release() {
	if w != nil && w.cancel != nil {
		w.timer.Stop()
		w.cancel(nil)
	}
}

// delivery corrects what the error alone says about the request. direct: the
// connection hooks and the error come from one *http.Transport.
func (w *way) delivery(d Delivery, direct bool) Delivery {
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
