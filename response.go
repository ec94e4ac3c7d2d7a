package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/rule"
)

// deliver makes a response look as if the endpoint that callers know, the primary, had sent it.
func (c *call) deliver(resp *http.Response) {
	if c.out != c.req {
		resp.Request = c.req
	}
	to := Primary
	if c.redirects(resp) {
		to = c.at // at another host, the client would drop its credentials
	}
	if c.st.active != to && c.redirect == nil {
		c.t.org.mapLinks(resp.Header, to)
	}
}

// served records a healthy answer of the active endpoint.
func (t *Transport) served(st *state) {
	t.endpoints[st.active].succeeded(time.Since(t.started))
	st.pool.waits.answered()
	t.budget.deposit(1)
}

// watchBody replaces the body of a healthy response by b, or by a new watchedBody if b is nil.
// Req is the caller's; cancel ends the context of the attempt, nil if it has none of its own.
func (t *Transport) watchBody(resp *http.Response, st *state, req *http.Request, cancel context.CancelCauseFunc, b *watchedBody) {
	empty := resp.Body == nil || resp.Body == http.NoBody
	upgraded := resp.StatusCode == http.StatusSwitchingProtocols // the body is the connection and must not be wrapped
	if (empty || upgraded) && cancel != nil {
		cancel(nil) // as net/http does with its own
	}
	switch {
	case empty:
		t.answered(st, nil)
		st.pool.leave()
		return
	case upgraded:
		return
	case b == nil:
		b = new(watchedBody)
	}
	b.body, b.t, b.st, b.req, b.cancel, b.status = resp.Body, t, st, req, cancel, int16(resp.StatusCode)
	b.sending = resp.ProtoMajor >= 2 && resp.Request != nil && !bodyless(resp.Request)
	resp.Body = b
}

// releaseWith releases the context of the attempt, and its place in the pool, when the body
// ends or is closed.
func (c *call) releaseWith(resp *http.Response) {
	if resp.Body == nil || resp.Body == http.NoBody {
		c.sending.release()
		c.st.pool.leave()
		return
	}
	resp.Body = &releasingBody{ReadCloser: resp.Body, cancel: c.sending.canceler(), pool: c.st.pool}
}

type releasingBody struct {
	io.ReadCloser
	cancel   context.CancelCauseFunc // or nil
	pool     *pool                   // or nil
	released atomic.Bool
}

// Read releases at the end of the body, because not every caller closes it.
func (b *releasingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.release()
	}
	return n, err
}

func (b *releasingBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

func (b *releasingBody) release() {
	if b.released.Swap(true) {
		return
	}
	if b.cancel != nil {
		b.cancel(nil)
	}
	if b.pool != nil {
		b.pool.leave()
	}
}

// watchedBody is the body of a healthy response. The answer is a success once the body was read
// to its end or closed. A body that breaks off is a fault of the endpoint, although the response
// was returned already.
type watchedBody struct {
	body   io.ReadCloser
	t      *Transport
	st     *state
	req    *http.Request           // the caller's
	cancel context.CancelCauseFunc // ends the context of the attempt, nil if it has none
	status int16
	// sending: the request body may still be sent after the answer has ended.
	sending bool
	over    atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		b.end(err)
		if b.cancel != nil && !(err == io.EOF && b.sending) { // not every caller closes the body
			b.cancel(nil)
		}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.body.Close()
	b.end(io.EOF)
	if b.cancel != nil {
		b.cancel(nil)
	}
	return err
}

// end records how the body ended, once.
func (b *watchedBody) end(err error) {
	if b.over.Swap(true) {
		return
	}
	b.st.pool.leave()
	if err == io.EOF {
		b.t.answered(b.st, nil)
		return
	}
	how := endOf(b.req)
	if how == context.Canceled {
		return
	}
	if f := b.t.classify(nil, sayTimeout(b.req, err)); f != nil {
		broken := *f
		broken.Endpoint, broken.Status, broken.Delivery = b.st.active, int(b.status), Answered
		b.t.count(b.st, &broken, how != nil)
	}
}

// A response that is not returned is read, up to maxDrain bytes and for drainTimeout, so that
// its connection can be reused.
const (
	maxDrain     = 64 << 10
	drainTimeout = 100 * time.Millisecond
)

// discard drains and closes a response that is not returned. It does not read one that is known
// to be long.
func discard(resp *http.Response) {
	if resp == nil || resp.ContentLength <= maxDrain {
		drain(resp, io.Discard, maxDrain)
	} else if resp.Body != nil {
		resp.Body.Close()
	}
}

// keep drains and closes a response and returns a copy with its body in memory, or nil if that
// is incomplete.
func keep(resp *http.Response) *http.Response {
	var body bytes.Buffer
	if !drain(resp, &body, maxDrain+1) { // one more, to see the end
		return nil
	}
	whole := *resp // drain's timer may still use resp
	whole.Body = io.NopCloser(&body)
	return &whole
}

// drain copies up to most bytes of a body and closes it. It reports whether that was the whole
// body.
func drain(resp *http.Response, to io.Writer, most int64) (ended bool) {
	if resp == nil || resp.Body == nil {
		return false
	}
	defer resp.Body.Close()
	defer time.AfterFunc(drainTimeout, func() { resp.Body.Close() }).Stop()
	n, err := io.Copy(to, io.LimitReader(resp.Body, most))
	return err == nil && n < most
}

// The following keeps track of which writes may have been carried out.

// InDoubt reports whether a write is in doubt: whether one of its attempts may have been
// carried out, and nothing that came later confirms it or rules it out. It takes what
// [http.Client.Do], or RoundTrip of a [Transport], has returned for the request.
//
// For an error, InDoubt reports what errors.Is(err, [ErrOutcomeUnknown]) does, with one
// addition: an [http.Client] whose Timeout has passed keeps only the text of the Transport's
// error, and InDoubt recognizes that text. For a response, InDoubt is the only way to know: a
// write that is answered with 502, 503, 504 or an unexplained 500 is in doubt, and so may be
// one that was sent again and whose last attempt was answered with 401 or 429.
//
// The fault is that of the last attempt in doubt, and must not be changed. Unless the write
// is harmless to repeat, look for its effect before you send it again.
func InDoubt(resp *http.Response, err error) (*Fault, bool) {
	if err != nil {
		var e *Error
		switch {
		case errors.As(err, &e):
			return e.doubt, e.doubt != nil
		case errors.Is(err, ErrOutcomeUnknown), timedOutInDoubt(err):
			return &Fault{Class: ClassTransient, Err: err}, true
		}
		return nil, false
	}
	if resp == nil || resp.Request == nil {
		return nil, false
	}
	f, ok := resp.Request.Context().Value(doubtKey).(*Fault)
	return f, ok
}

// timedOutInDoubt reports whether err is what a client with a Timeout makes of a Transport's
// error of a write in doubt. A URL cannot contain that text, because it has no spaces.
func timedOutInDoubt(err error) bool {
	var failed *url.Error
	if !errors.As(err, &failed) || !failed.Timeout() {
		return false
	}
	text := failed.Err.Error()
	return strings.HasPrefix(text, "failover: ") && strings.Contains(text, ": "+strings.TrimPrefix(ErrOutcomeUnknown.Error(), "failover: ")+": ")
}

// A doubt stands for the attempts in doubt of a call at one endpoint within one generation.
type doubt struct {
	fault      *Fault // of the last attempt
	generation uint64
	began      uint64 // epoch of the first attempt
	ended      time.Time
}

// weigh updates the doubts: a fault may leave its own attempt in doubt, or settle earlier ones.
func (c *call) weigh(f *Fault) {
	if c.isRead() || f.Delivery != Unknown && len(c.doubts) == 0 {
		return
	}
	here := func(d doubt) bool { return d.fault.Endpoint == f.Endpoint && d.generation == c.st.generation }
	switch {
	case f.Delivery == Unknown:
		began := c.st.epoch
		if i := slices.IndexFunc(c.doubts, here); i >= 0 {
			began = c.doubts[i].began
		}
		c.doubts = append(slices.DeleteFunc(c.doubts, here), doubt{f, c.st.generation, began, time.Now()})
	case c.settles(f):
		for _, d := range c.doubts {
			if here(d) { // the write was probably carried out, and is at risk like any other
				c.bookDoubt(d)
			}
		}
		c.doubts = slices.DeleteFunc(c.doubts, here)
	}
}

// settles reports whether a fault settles an earlier attempt at the same endpoint: the record of
// a DELETE is gone, or the condition of a conditional write no longer holds. Answers about
// credentials or throttling settle nothing. Nor do pages without a code of the organization, or
// plug-ins, which choose their own status and may run before the record is looked up.
func (c *call) settles(f *Fault) bool {
	n, coded := codeNumber(f.Code)
	if f.Class != ClassApplication || f.Delivery != Answered || !coded || fromPlugin(n) {
		return false
	}
	h := c.req.Header
	matches := valueOf(h, "If-Match") != ""
	switch f.Status {
	case http.StatusNotFound, http.StatusGone:
		return c.req.Method == http.MethodDelete || matches
	case http.StatusPreconditionFailed:
		return matches || valueOf(h, "If-None-Match") != ""
	}
	return false
}

// inDoubt returns the fault of the last attempt in doubt, or nil.
func (c *call) inDoubt() *Fault {
	if len(c.doubts) == 0 {
		return nil
	}
	return c.doubts[len(c.doubts)-1].fault
}

// reportDoubt records the attempts in doubt and emits their event. e is the complete error.
func (c *call) reportDoubt(e *Error) {
	var last Write
	for _, d := range c.doubts {
		last = c.bookDoubt(d)
	}
	f := c.inDoubt()
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.t.emit(Event{Kind: EventOutcomeUnknown, From: f.Endpoint, To: f.Endpoint, Fault: f, Err: e, Write: &last,
		Reason: fmt.Sprintf("%s %s", e.Method, e.URL)})
}

// bookDoubt records a write in doubt.
func (c *call) bookDoubt(d doubt) Write {
	w := describe(c.req, nil, d.ended, d.fault.RequestID, c.label())
	w.Status, w.Endpoint, w.Outcome, w.began = d.fault.Status, d.fault.Endpoint, OutcomeUnknown, d.began
	w.underway = c.sentTo(d.fault.Endpoint)
	c.t.recordWrite(&w)
	return w.addressed()
}

// mark makes InDoubt find the doubt in a response: in its request, which clients and other
// round trippers preserve.
func (c *call) mark(resp *http.Response) {
	resp.Request = c.req.WithContext(context.WithValue(c.req.Context(), doubtKey, c.inDoubt()))
}

// acknowledge records a write that was carried out, or of which a part may have been.
func (c *call) acknowledge(resp *http.Response, outcome Outcome) {
	if c.t.books.ledger == nil && c.t.cfg.OnWrite == nil || c.isRead() {
		return
	}
	w := describe(c.req, resp, time.Now(), "", c.label())
	w.Endpoint, w.Outcome, w.began = c.st.active, outcome, c.st.epoch
	w.underway = c.sentTo(w.Endpoint)
	c.t.recordWrite(&w)
}

// sends records that a write is being sent to the active endpoint, in room unless there is a
// record already.
func (c *call) sends(room *underway) *underway {
	u := c.sentTo(c.st.active)
	if u == nil {
		u = room
		*u = underway{req: c.req, label: c.label(), at: c.st.active, earlier: c.sent}
		c.sent = u
	}
	c.t.books.begin(u)
	return u
}

// sentTo returns the record of a write that was sent to an endpoint, or nil.
func (c *call) sentTo(e Endpoint) *underway {
	u := c.sent
	for u != nil && u.at != e {
		u = u.earlier
	}
	return u
}

// forgetSent removes the call's writes from those under way, except at endpoints with a doubt.
func (c *call) forgetSent(doubts []doubt) {
	for u := c.sent; u != nil; u = u.earlier {
		if !slices.ContainsFunc(doubts, func(d doubt) bool { return d.fault.Endpoint == u.at }) {
			c.t.books.forget(u)
		}
	}
}

// label returns the label of the request.
func (c *call) label() string {
	label, _ := c.req.Context().Value(labelKey).(string)
	return label
}

// The following handles redirects from one endpoint of the organization to the other. A request
// normally goes to the active endpoint, whatever host it names. One that follows such a redirect
// must go where the redirect leads, or it would be redirected forever.

// redirection is the target of a redirect to an endpoint that is not the active one. The context
// of the redirect response's Request holds it.
type redirection struct {
	t  *Transport
	to Endpoint
}

type redirectionKey struct{}

// redirection returns the redirection that req follows, or nil. [http.Client] stores the
// redirect response in Request.Response, and clones of the request keep it.
func (t *Transport) redirection(req *http.Request) *redirection {
	if req.Response == nil || req.Response.Request == nil {
		return nil
	}
	r, _ := req.Response.Request.Context().Value(redirectionKey{}).(*redirection)
	if r == nil || r.t != t { // of another organization
		return nil
	}
	return r
}

// aim returns the state for a request that follows the redirection: st with the target as the
// active endpoint.
func (r *redirection) aim(st *state) *state {
	if r == nil || r.to == st.active {
		return st
	}
	aimed := *st
	aimed.active = r.to
	return &aimed
}

// redirects reports whether resp is a redirect. One to an endpoint that is not the active one is
// marked, so that the request that follows it goes there. It is also evidence like a fence,
// because the service itself sends the traffic away.
func (c *call) redirects(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return false
	}
	location, err := c.out.URL.Parse(resp.Header.Get("Location"))
	if err != nil {
		return true
	}
	_, to, ok := c.t.org.match(location)
	now := c.t.state.Load()
	if !ok || to == now.active && to == c.st.active {
		return true
	}
	resp.Request = c.req.WithContext(context.WithValue(c.req.Context(), redirectionKey{}, &redirection{c.t, to}))
	if c.st.active != now.active {
		return true // it does not come from the active endpoint
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if c.t.rule.Epoch == c.st.epoch {
		c.t.seeLocked(rule.Evidence{Kinds: rule.Fenced, Decides: true}, &Fault{Class: ClassUnavailable, Definitive: true,
			Delivery: Answered, Endpoint: c.st.active, Status: resp.StatusCode, Message: "redirects to the " + to.String()}, time.Now())
	}
	return true
}
