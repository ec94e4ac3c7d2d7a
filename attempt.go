package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// This file makes one attempt of a call: it sends the request to the active endpoint of c.st.

// sentRead is the memory that an attempt with a read needs, in one allocation of up to 512
// bytes: larger ones take twice as long.
type sentRead struct {
	request http.Request
	url     url.URL
	answer  watchedBody
}

// sentWrite is the memory that a watched attempt needs.
type sentWrite struct {
	request http.Request
	body    bytes.Reader
	sending sendWatch
}

// own returns a copy of the caller's request that may be changed, but not what it points to.
func (c *call) own() *http.Request {
	if c.out == c.req {
		sent := &sentRead{request: *c.req}
		c.out, c.url, c.answer = &sent.request, &sent.url, &sent.answer
	}
	return c.out
}

// watch makes the attempt a watched one, from follow on.
func (c *call) watch() {
	sent := new(sentWrite)
	w := &sent.sending
	w.endpoint, w.protocol, w.connections = &c.t.endpoints[c.st.active], &c.t.protocols[c.st.active], &c.t.connections
	w.plan(c.req, c.once())
	w.givesUp = !w.once && c.isRead() && c.st.pool.waits.silent()
	w.timed = !w.once && c.isRead() && !w.givesUp && !w.endpoint.suspect.Load() && !w.connections.limited
	c.sending, c.out, c.reader = w, &sent.request, &sent.body
	sent.request = *c.req
}

// follow gives a watched attempt its own context. Authorize does not get that: the requests that
// it makes, for a token perhaps, are not the attempt's.
func (c *call) follow() {
	if w := c.sending; w != nil {
		w.request = c.out
		*c.out = *c.out.WithContext(w.context(c.out.Context(), c.t.cfg.AttemptTimeout))
	}
}

// prepare begins an attempt under st: it makes everything of the request but its body.
func (c *call) prepare(st *state) *Fault {
	t, req := c.t, c.req
	c.st, c.out, c.sending, c.url, c.answer, c.reader = c.redirect.aim(st), req, nil, nil, nil, nil
	if f := c.ended(); f != nil {
		return f
	}
	if t.cfg.AttemptTimeout > 0 || t.connections.limited || t.endpoints[st.active].suspect.Load() || !c.isRead() || st.pool.waits.silent() || c.once() {
		c.watch()
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
	c.own().Header = header
	if t.cfg.Authorize == nil {
		return nil
	}
	c.setHeldBody() // Authorize may sign it
	if err := t.authorize(c.out); err != nil {
		return c.unsent(ClassAuth, fmt.Errorf("authorize: %w", err))
	}
	return c.ended() // Authorize may have taken long
}

// ended returns the fault of an attempt that is not made because the caller has ended the call,
// or nil.
func (c *call) ended() *Fault {
	switch endOf(c.req) {
	case nil:
		return nil
	case context.Canceled:
		return c.unsent(ClassCanceled, endError(c.req))
	default:
		return c.unsent(ClassLocal, endError(c.req))
	}
}

// endOf returns how the caller has ended a request: context.Canceled, context.DeadlineExceeded,
// or nil if it has not. A client with a Timeout sets both a deadline and Request.Cancel, and may
// close that first.
func endOf(req *http.Request) error {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-canceled(req):
	default:
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// canceled returns Request.Cancel. Some callers still set it, as do clients with a Timeout.
func canceled(req *http.Request) <-chan struct{} {
	//lint:ignore SA1019 callers may have set it
	return req.Cancel
}

// endError returns why the caller has ended a request: an error that wraps both what endOf
// returns and the cause that the caller has given.
func endError(req *http.Request) error {
	err, cause := endOf(req), context.Cause(req.Context())
	switch {
	case cause == nil:
		return err
	case errors.Is(cause, err):
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// sayTimeout returns err, wrapped in a clientTimeout if a client's Timeout has ended the request
// through Request.Cancel.
func sayTimeout(req *http.Request, err error) error {
	if endOf(req) == context.DeadlineExceeded && strings.Contains(err.Error(), "net/http: request canceled") {
		return clientTimeout{err}
	}
	return err
}

// clientTimeout makes a timeout of net/http's error for Request.Cancel, which has no type. If the
// text of that ever changes, such a fault is no timeout.
type clientTimeout struct{ error }

func (clientTimeout) Timeout() bool        { return true }
func (clientTimeout) Temporary() bool      { return true }
func (clientTimeout) Is(target error) bool { return target == context.DeadlineExceeded }
func (e clientTimeout) Unwrap() error      { return e.error }

// authorize calls Config.Authorize.
func (t *Transport) authorize(req *http.Request) (err error) {
	if panicked := t.protect("Authorize", func() { err = t.cfg.Authorize(req) }); panicked != nil {
		return panicked
	}
	return realError(err)
}

// address directs the request to the active endpoint, unless it already names that.
func (c *call) address() {
	to := c.st.active
	query, mapped := c.req.URL.RawQuery, false
	if c.req.Method == http.MethodDelete {
		query, mapped = c.t.org.rewriteQuery(query, to)
	}
	if c.at == to && !mapped {
		return
	}
	out := c.own()
	if c.url == nil {
		c.url = new(url.URL)
	}
	c.t.aim(out, c.url, c.variant, c.at, to)
	c.url.RawQuery = query
}

// aim directs out, a copy of a request whose URL names at, to another endpoint. It stores the
// new URL in u.
func (t *Transport) aim(out *http.Request, u *url.URL, variant int, at, to Endpoint) {
	*u = *out.URL
	if at != to {
		u.Scheme, u.Host = t.org.origin(variant, to)
	}
	if out.Host == out.URL.Host {
		out.Host = ""
	} else if host, ok := t.org.mapHost(out.Host, to); ok {
		out.Host = host
	}
	out.URL = u
}

// unsent returns the fault of an attempt that ends before anything is sent. It is no fault of
// the endpoint.
func (c *call) unsent(class Class, err error) *Fault {
	c.sending.release()
	return &Fault{Class: class, Delivery: NotSent, Endpoint: c.st.active, Err: err}
}

// send sends the request. It returns a healthy response, or the fault and its response, if
// any.
func (c *call) send() (*http.Response, *Fault) {
	c.follow()
	if err := c.takeBody(); err != nil {
		return nil, c.unsent(ClassLocal, err)
	}
	returned := false
	defer func() {
		if !returned { // Base has panicked
			c.abandon()
		}
	}()
	resp, err := c.roundTrip()
	returned = true
	return c.judge(resp, err)
}

// judge turns what Base has returned into a healthy response or a fault.
func (c *call) judge(resp *http.Response, err error) (*http.Response, *Fault) {
	t := c.t
	if err != nil {
		err = sayTimeout(c.req, err)
	}
	f := t.classify(resp, err)
	if err == nil {
		t.protocols[c.st.active].learn(resp.ProtoMajor >= 2)
		c.deliver(resp)
	}
	if f == nil && err == nil {
		t.served(c.st)
		if c.at != c.st.active || c.st.down {
			t.lend(c.req.Header, true)
		}
		if now := t.state.Load(); now.down || now.provisional { // the headers are enough proof
			t.answered(c.st, c.sending)
		}
		b := c.answer
		if c.body.held != nil { // a long answer must not keep the request's body in memory
			b = nil
		}
		t.watchBody(resp, c.st, c.req, c.sending.canceler(), b)
		return resp, nil
	}
	f = c.completeFault(f, resp, err)
	if resp == nil {
		c.sending.release()
		c.st.pool.leave()
		return nil, f
	}
	if f.Class == ClassApplication && fromService(resp, f) { // the endpoint itself is healthy
		t.endpoints[c.st.active].succeeded(time.Since(t.started))
		c.st.pool.waits.answered()
		t.answered(c.st, c.sending)
	}
	if f.Delivery == Answered && (f.Class != ClassAuth || f.Code != "") && c.isBulk() {
		c.acknowledge(resp, OutcomePartial)
	}
	c.releaseWith(resp)
	return resp, f
}

// lend offers the credentials of a request that met f to the probes, unless the request cannot
// be sent or the endpoint has rejected them.
func (c *call) lend(f *Fault) {
	switch {
	case f.Class == ClassLocal:
	case f.Status == http.StatusUnauthorized:
		c.t.credentials.answered(f.Endpoint, valueOf(c.req.Header, "Authorization"), f.Status)
	default:
		c.t.lend(c.req.Header, false)
	}
}

// classify returns the fault of what Base has returned, nil if that is healthy.
func (t *Transport) classify(resp *http.Response, err error) (f *Fault) {
	if t.cfg.Classify == nil {
		return Classify(resp, err)
	}
	if err != nil {
		resp = nil
	}
	if t.protect("Classify", func() { f = t.cfg.Classify(resp, err) }) != nil {
		return Classify(resp, err)
	}
	return f
}

// takeBody sets the body of the request, in the form that the sendWatch has chosen.
func (c *call) takeBody() error {
	w := c.sending
	if w == nil && c.body.none() {
		return nil
	}
	if w != nil && w.once {
		c.hideIdempotency()
	}
	switch {
	case w != nil && w.hollow:
		out := c.own()
		out.Body, out.ContentLength, out.GetBody = hollow{}, 0, nil
	case c.setHeldBody():
	default:
		body, err := c.body.next()
		if err != nil || body == nil {
			return err
		}
		out := c.own()
		out.Body, out.GetBody = body, w.rewind(c.body.getBody)
	}
	if w != nil && w.once && !w.connections.direct {
		c.out.Body = w.unread(c.out.Body)
	}
	return nil
}

// setHeldBody sets the body of the request, from its start, and reports whether the body is
// buffered.
func (c *call) setHeldBody() bool {
	held := c.body.heldFor(&c.t.org, c.req, c.st.active)
	if held.body == nil {
		return false
	}
	out := c.own()
	if c.reader == nil {
		c.reader = new(bytes.Reader)
	}
	c.reader.Reset(held.body)
	out.Body = io.NopCloser(c.reader) // net/http recognizes it as a body in memory
	if out.GetBody = nil; c.sending == nil || c.sending.rewinds {
		out.GetBody = c.sending.rewind(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(held.body)), nil })
	}
	if held.mapped && out.ContentLength > 0 {
		out.ContentLength = int64(len(held.body))
	}
	return true
}

// hideIdempotency keeps net/http from repeating the request because of its headers: it writes
// their names in lower case, which makes no difference to servers.
func (c *call) hideIdempotency() {
	for _, key := range idempotencyKeys {
		values, ok := c.out.Header[key]
		if !ok {
			continue
		}
		out := c.own()
		out.Header = out.Header.Clone()
		delete(out.Header, key)
		out.Header[strings.ToLower(key)] = values
	}
}

// completeFault returns a copy of f, to which it adds what only the Transport knows.
func (c *call) completeFault(f *Fault, resp *http.Response, err error) *Fault {
	known := Fault{Class: ClassTransient}
	if f != nil {
		known = *f
	}
	known.Endpoint = c.st.active
	if known.service && !known.Definitive {
		known.subject = subjectOf(c.req, &known)
	}
	timedOut := errors.Is(err, errAttemptTimeout)
	if err == nil {
		switch {
		case c.sending.saw(sawEarlier) && !c.settles(&known):
			known.Delivery = Unknown // an earlier try within the attempt may have been carried out
		case known.Delivery == NotSent:
			known.Delivery = Unknown // there is an answer, whatever Config.Classify says
		case (known.Delivery == Refused || known.Definitive) && c.isBulk():
			known.ofBulk(resp)
		}
		return &known
	}
	if known.Err == nil {
		known.Err = boundedError(err)
	}
	known.Delivery = c.sending.delivery(known.Delivery, err, c.alive())
	if known.RequestID == "" {
		known.RequestID = callersRequestID(c.req.Header)
	}
	switch {
	case endOf(c.req) == context.Canceled:
		known.Class = ClassCanceled
	case c.body.failed() || c.sending.waited() || machineLimit(err):
		known.Class = ClassLocal
	case !c.sending.saw(sawHeaders) && (tooLong(err) || !sendable(c.out, c.t.protocols[c.st.active].speaksHTTP2())):
		known.Class = ClassLocal
		if c.t.connections.direct && !c.sending.saw(sawEarlier) {
			known.Delivery = NotSent
		}
	case known.Delivery == NotSent && known.Class == ClassTransient && endOf(c.req) == nil && !timedOut:
		known.Class = ClassUnavailable // no connection could be made
	}
	return &known
}

// alive reports whether neither the caller nor the Transport has ended the attempt.
func (c *call) alive() bool {
	return endOf(c.req) == nil && c.out.Context().Err() == nil
}

const (
	// maxUnseen bounds how often a call is sent again because connections were
	// closed before they could deliver it.
	maxUnseen = 20
	// unseenAtOnce is how many of these times come without a pause.
	unseenAtOnce = 3
)

// unseen reports whether to send the request again within the attempt, because f proves that
// the server did not process it: its connection was about to be closed. net/http does the
// same for requests that it may repeat, but would also repeat one that may have been carried
// out.
func (c *call) unseen(f *Fault) bool {
	w := c.sending
	if w == nil || !w.once || f.Err == nil || f.Class == ClassLocal || c.repeats == maxUnseen || endOf(c.req) != nil || c.body.spent() {
		return false
	}
	switch {
	case goneAway(f.Err) && f.Delivery == Refused:
	case f.Delivery == NotSent && w.saw(sawGotConn) && (w.saw(sawReuse) || c.repeats < unseenAtOnce):
	default:
		return false
	}
	c.repeats++
	if c.repeats > unseenAtOnce && !sleep(c.req.Context(), time.Millisecond<<min(c.repeats-unseenAtOnce-1, 6)) {
		return false
	}
	return c.body.withdraw()
}

// sleep waits for d. It reports false if the context ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// The following tells trouble on this machine from faults of an endpoint.

// machineLimits are the errors of a machine that has run out of files, ports or buffers. The
// numbers are those of Windows sockets.
var machineLimits = [...]syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
	10024 /* WSAEMFILE */, 10049 /* WSAEADDRNOTAVAIL */, 10055, /* WSAENOBUFS */
}

// machineLimit reports whether err contains one of machineLimits.
func machineLimit(err error) bool {
	var dns *net.DNSError
	isDNS := errors.As(err, &dns)
	for _, limit := range machineLimits {
		if errors.Is(err, limit) || isDNS && strings.HasSuffix(dns.Err, limit.Error()) { // a DNSError keeps only the text
			return true
		}
	}
	return false
}
