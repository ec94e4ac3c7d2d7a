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

// deliver makes a response fit the caller's world, which has one host.
func (c *call) deliver(resp *http.Response) {
	if c.out != c.req {
		resp.Request = c.req
	}
	to := Primary
	if c.redirects(resp) {
		to = c.at // a client that finds another host there takes credentials from its next request
	}
	if c.st.active != to && c.redirect == nil {
		c.t.org.mapLinks(resp.Header, to)
	}
}

// served takes note that the active endpoint has answered in good health.
func (t *Transport) served(st *state) {
	t.endpoints[st.active].succeeded(time.Since(t.started))
	st.pool.waits.answered()
	t.budget.deposit(1)
}

// watchBody replaces the body of a healthy response by one that tells the endpoint's
// breaker how it ended: by b, or by a new one if that is nil. ctx is the caller's, and
// cancel ends the one of the attempt, nil if it has none of its own.
func (t *Transport) watchBody(resp *http.Response, st *state, ctx context.Context, cancel context.CancelCauseFunc, b *watchedBody) {
	empty := resp.Body == nil || resp.Body == http.NoBody
	upgraded := resp.StatusCode == http.StatusSwitchingProtocols // the body is the connection now, and not ours to wrap
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
	b.body, b.t, b.st, b.ctx, b.cancel, b.status = resp.Body, t, st, ctx, cancel, int16(resp.StatusCode)
	b.sending = resp.ProtoMajor >= 2 && resp.Request != nil && !bodyless(resp.Request)
	resp.Body = b
}

// releaseWith releases the context of the attempt, and its connection if that is not to
// be used again, when the body is closed.
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

// Read releases what the body holds at its end: not every caller closes what it has read.
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

// watchedBody is the body of a healthy response. An answer is a success once it
// was read to its end or closed; one that breaks off is a
// fault of the endpoint, although the response was returned long ago.
type watchedBody struct {
	body   io.ReadCloser
	t      *Transport
	st     *state
	ctx    context.Context         // the caller's
	cancel context.CancelCauseFunc // ends the context of the attempt, nil if it has none
	status int16
	// sending: the request may go on being sent when the answer has ended.
	sending bool
	over    atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		b.end(err)
		if b.cancel != nil && !(err == io.EOF && b.sending) { // not every caller closes what it has read
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

// end takes note of how the body ended, once.
func (b *watchedBody) end(err error) {
	if b.over.Load() || b.over.Swap(true) {
		return
	}
	b.st.pool.leave()
	if err == io.EOF {
		b.t.answered(b.st, nil)
		return
	}
	if b.ctx.Err() == context.Canceled {
		return
	}
	if f := b.t.classify(nil, err); f != nil {
		broken := *f
		broken.Endpoint, broken.Status, broken.Delivery = b.st.active, int(b.status), Answered
		b.t.count(b.st, &broken, b.ctx.Err() != nil)
	}
}

// maxDrain is how much of a response that nobody wants is read, and drainTimeout
// for how long at most, so that its connection can be used again.
const (
	maxDrain     = 64 << 10
	drainTimeout = 100 * time.Millisecond
)

// discard ends a response that is not returned. One that is known to be long is not read.
func discard(resp *http.Response) {
	if resp == nil || resp.ContentLength <= maxDrain {
		drain(resp, io.Discard, maxDrain)
	} else if resp.Body != nil {
		resp.Body.Close()
	}
}

// keep ends a response like discard, and returns it with its body in memory. It returns
// nil if that does not come whole.
func keep(resp *http.Response) *http.Response {
	var body bytes.Buffer
	if !drain(resp, &body, maxDrain+1) { // one more, to see the end
		return nil
	}
	whole := *resp // the timer may look at resp yet
	whole.Body = io.NopCloser(&body)
	return &whole
}

// drain reads at most that many bytes of a body and closes it. It reports whether the body
// has ended before.
func drain(resp *http.Response, to io.Writer, most int64) (ended bool) {
	if resp == nil || resp.Body == nil {
		return false
	}
	defer resp.Body.Close()
	defer time.AfterFunc(drainTimeout, func() { resp.Body.Close() }).Stop()
	n, err := io.Copy(to, io.LimitReader(resp.Body, most))
	return err == nil && n < most
}

// This file keeps what is not known: which writes may have been carried out.

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

// timedOutInDoubt reports whether err is what a client with a Timeout makes of an
// error of a Transport. No address has blanks in it, so none can hold that text.
func timedOutInDoubt(err error) bool {
	var failed *url.Error
	if !errors.As(err, &failed) || !failed.Timeout() {
		return false
	}
	text := failed.Err.Error()
	return strings.HasPrefix(text, "failover: ") && strings.Contains(text, ": "+strings.TrimPrefix(ErrOutcomeUnknown.Error(), "failover: ")+": ")
}

// doubt is what is left in doubt by the attempts of a call at one endpoint within
// one generation.
type doubt struct {
	fault      *Fault // of the last of them
	generation uint64
	began      uint64 // epoch of the first of them
	ended      time.Time
}

// weigh takes note of what a fault says about its attempt and about those before it.
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
			if here(d) { // it may be what the answer is due to, and may be lost like any other
				c.bookDoubt(d)
			}
		}
		c.doubts = slices.DeleteFunc(c.doubts, here)
	}
}

// settles reports whether a fault says what became of an earlier attempt at the same
// endpoint: the record of a DELETE is gone, or the condition of a conditional write
// speaks against another one. Answers about the caller's credentials or pace do not,
// nor do pages that carry no code of the organization, nor plug-ins, which may be
// asked before the record is looked for, and choose their status.
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

// inDoubt returns the fault of the last attempt that is in doubt, nil if none is.
func (c *call) inDoubt() *Fault {
	if len(c.doubts) == 0 {
		return nil
	}
	return c.doubts[len(c.doubts)-1].fault
}

// reportDoubt puts what is in doubt into the ledger, and tells of it. e is complete.
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

// bookDoubt enters a write in the books that may have been carried out.
func (c *call) bookDoubt(d doubt) Write {
	w := describe(c.req, nil, d.ended, d.fault.RequestID, c.label())
	w.Status, w.Endpoint, w.Outcome, w.began = d.fault.Status, d.fault.Endpoint, OutcomeUnknown, d.began
	w.underway = c.sentTo(d.fault.Endpoint)
	c.t.recordWrite(&w)
	return w.addressed()
}

// mark makes InDoubt find the doubt in a response. Of all that a response holds, its
// request is what clients and round trippers in between hand on.
func (c *call) mark(resp *http.Response) {
	resp.Request = c.req.WithContext(context.WithValue(c.req.Context(), doubtKey, c.inDoubt()))
}

// acknowledge enters a write in the books that the service has answered: it was carried
// out, or a part of it may have been.
func (c *call) acknowledge(resp *http.Response, outcome Outcome) {
	if c.t.books.ledger == nil && c.t.cfg.OnWrite == nil || c.isRead() {
		return
	}
	w := describe(c.req, resp, time.Now(), "", c.label())
	w.Endpoint, w.Outcome, w.began = c.st.active, outcome, c.st.epoch
	w.underway = c.sentTo(w.Endpoint)
	c.t.recordWrite(&w)
}

// sends takes note that a write is sent to the active endpoint; room is where the note
// goes, unless there is one already.
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

// sentTo returns the note of a write that was sent to an endpoint, nil if there is none.
func (c *call) sentTo(e Endpoint) *underway {
	u := c.sent
	for u != nil && u.at != e {
		u = u.earlier
	}
	return u
}

// forgetSent takes the writes off the books that are under way, except those whose
// attempts are in doubt.
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

// This file follows redirects from one endpoint of the organization to the other.
// Every request goes to the active endpoint, whatever host it names; one that
// follows such a redirect has to go where the redirect leads, or it would be
// redirected again without end.

// redirection is where a redirect leads that does not lead to the active endpoint.
// It is kept in the context of the Request of the redirect response.
type redirection struct {
	t  *Transport
	to Endpoint
}

type redirectionKey struct{}

// redirection returns the redirection that req follows, nil if it follows none.
// [http.Client] and everything that repeats a request by cloning it keep the
// redirect response in Request.Response.
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

// aim returns the state under which a request that follows the redirection is
// sent: st, but that the endpoint it leads to is the active one.
func (r *redirection) aim(st *state) *state {
	if r == nil || r.to == st.active {
		return st
	}
	aimed := *st
	aimed.active = r.to
	return &aimed
}

// redirects reports whether resp is a redirect. It marks one to an endpoint that is not
// the active one, so that the request which follows it goes there, and asks both
// endpoints: the service itself sends the traffic away.
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
		return true // it does not come from where the traffic is
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if c.t.rule.Epoch == c.st.epoch {
		c.t.seeLocked(rule.Evidence{Kinds: rule.Fenced, Decides: true}, &Fault{Class: ClassUnavailable, Definitive: true,
			Delivery: Answered, Endpoint: c.st.active, Status: resp.StatusCode, Message: "redirects to the " + to.String()}, time.Now())
	}
	return true
}
