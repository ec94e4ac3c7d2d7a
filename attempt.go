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

// This file makes one attempt of a call: it sends the request to the endpoint
// that is active in c.st.

// sentRead is what an attempt with a read needs of its own, in one piece of 512 bytes
// at most: the allocator takes twice as long over longer ones.
type sentRead struct {
	request http.Request
	url     url.URL
	answer  watchedBody
}

// sentWrite is what an attempt that is watched needs of its own.
type sentWrite struct {
	request http.Request
	body    bytes.Reader
	sending sendWatch
}

// own returns the request that is sent, for changing: a copy, made when it is
// first needed, of which only the struct is new.
func (c *call) own() *http.Request {
	if c.out == c.req {
		sent := &sentRead{request: *c.req}
		c.out, c.url, c.answer = &sent.request, &sent.url, &sent.answer
	}
	return c.out
}

// watch has the request watched on its way. This is where the context of an attempt
// is made.
func (c *call) watch() {
	sent := new(sentWrite)
	w := &sent.sending
	w.endpoint, w.protocol, w.connections = &c.t.endpoints[c.st.active], &c.t.protocols[c.st.active], &c.t.connections
	w.plan(c.req, c.once())
	w.givesUp = !w.once && c.isRead() && c.st.pool.waits.silent()
	w.timed = !w.once && c.isRead() && !w.givesUp && !w.endpoint.suspect.Load() && !w.connections.limited
	c.sending, c.out, c.reader = w, &sent.request, &sent.body
	sent.request = *c.req.WithContext(w.context(c.req.Context(), c.t.cfg.AttemptTimeout))
}

// prepare begins an attempt under st: it makes the request ready but for its body.
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
	c.setHeldBody() // which may be signed
	if err := t.authorize(c.out); err != nil {
		return c.unsent(ClassAuth, fmt.Errorf("authorize: %w", err))
	}
	return c.ended() // it may have taken its time
}

// ended returns the fault of an attempt that is not made because the context of the
// call has ended, nil if that lives.
func (c *call) ended() *Fault {
	ctx := c.req.Context()
	switch ctx.Err() {
	case nil:
		return nil
	case context.Canceled:
		return c.unsent(ClassCanceled, contextError(ctx))
	default:
		return c.unsent(ClassLocal, contextError(ctx))
	}
}

// contextError returns why ctx has ended: its cause, in which its error can be found.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// authorize calls Config.Authorize.
func (t *Transport) authorize(req *http.Request) (err error) {
	if panicked := t.protect("Authorize", func() { err = t.cfg.Authorize(req) }); panicked != nil {
		return panicked
	}
	return realError(err)
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
	out := c.own()
	if c.url == nil {
		c.url = new(url.URL)
	}
	c.t.aim(out, c.url, c.variant, c.at, to)
	c.url.RawQuery = query
}

// aim points a copy of a request, whose URL names endpoint at, to another one. u is where
// its URL goes.
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

// unsent returns the fault of an attempt that ends before it is sent, which is
// none of the endpoint's.
func (c *call) unsent(class Class, err error) *Fault {
	c.sending.release()
	return &Fault{Class: class, Delivery: NotSent, Endpoint: c.st.active, Err: err}
}

// send sends the request. It returns a healthy response, or the fault with the
// response it came in, if any.
func (c *call) send() (*http.Response, *Fault) {
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

// judge judges what Base has returned for the request.
func (c *call) judge(resp *http.Response, err error) (*http.Response, *Fault) {
	t := c.t
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
		if now := t.state.Load(); now.down || now.provisional { // the headers are proof enough
			t.answered(c.st, c.sending)
		}
		b := c.answer
		if c.body.held != nil { // a long answer is not to keep the request's body in memory
			b = nil
		}
		t.watchBody(resp, c.st, c.req.Context(), c.sending.canceler(), b)
		return resp, nil
	}
	f = c.completeFault(f, resp, err)
	if resp == nil {
		c.sending.release()
		c.st.pool.leave()
		return nil, f
	}
	if f.Class == ClassApplication && fromService(resp, f) { // the endpoint is in good health
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

// lend offers the credentials of a request that has met f to the probes: not those of
// one that cannot be sent, nor what the endpoint has just rejected.
func (c *call) lend(f *Fault) {
	switch {
	case f.Class == ClassLocal:
	case f.Status == http.StatusUnauthorized:
		c.t.credentials.answered(f.Endpoint, valueOf(c.req.Header, "Authorization"), f.Status)
	default:
		c.t.lend(c.req.Header, false)
	}
}

// classify judges what Base has returned.
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

// takeBody puts the body into the request, in the form that the sendWatch has chosen.
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

// setHeldBody puts the body into the request, from its start, if it is held.
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
	out.Body = io.NopCloser(c.reader) // which net/http knows to be in memory
	if out.GetBody = nil; c.sending == nil || c.sending.rewinds {
		out.GetBody = c.sending.rewind(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(held.body)), nil })
	}
	if held.mapped && out.ContentLength > 0 {
		out.ContentLength = int64(len(held.body))
	}
	return true
}

// hideIdempotency writes the names of headers that make net/http repeat a request in
// lower case, which servers do not tell from any other and net/http does.
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

// completeFault completes the fault of an attempt with what only the Transport knows.
func (c *call) completeFault(f *Fault, resp *http.Response, err error) *Fault {
	known := Fault{Class: ClassTransient}
	if f != nil {
		known = *f // which a Config.Classify may share between calls
	}
	known.Endpoint = c.st.active
	if known.service && !known.Definitive {
		known.subject = subjectOf(c.req, &known)
	}
	ctx := c.req.Context()
	timedOut := errors.Is(err, errAttemptTimeout)
	if err == nil {
		switch {
		case c.sending.saw(sawEarlier) && !c.settles(&known):
			known.Delivery = Unknown // an earlier try within the attempt may have been carried out
		case known.Delivery == NotSent:
			known.Delivery = Unknown // whatever a Config.Classify says: there is an answer
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
	case ctx.Err() == context.Canceled || c.canceledByRequest():
		known.Class = ClassCanceled
	case c.body.failed() || c.sending.waited() || machineLimit(err):
		known.Class = ClassLocal
	case !c.sending.saw(sawHeaders) && (tooLong(err) || !sendable(c.out, c.t.protocols[c.st.active].speaksHTTP2())):
		known.Class = ClassLocal
		if c.t.connections.direct && !c.sending.saw(sawEarlier) {
			known.Delivery = NotSent
		}
	case known.Delivery == NotSent && known.Class == ClassTransient && ctx.Err() == nil && !timedOut:
		known.Class = ClassUnavailable // no connection could be made
	}
	return &known
}

// alive reports whether nobody has ended the attempt yet.
func (c *call) alive() bool {
	return !isCanceled(c.req) && c.out.Context().Err() == nil
}

// canceledByRequest reports whether Request.Cancel has ended the attempt. A client
// with a Timeout closes it as well, when the deadline of the context is over.
func (c *call) canceledByRequest() bool {
	deadline, ok := c.req.Context().Deadline()
	return isCanceled(c.req) && (!ok || time.Now().Before(deadline))
}

// isCanceled reports whether Request.Cancel is closed.
func isCanceled(req *http.Request) bool {
	select {
	case <-canceled(req):
		return true
	default:
		return false
	}
}

// canceled returns Request.Cancel, which some callers still set, and clients with a
// Timeout.
func canceled(req *http.Request) <-chan struct{} {
	//lint:ignore SA1019 it is what a caller may have set
	return req.Cancel
}

const (
	// maxUnseen bounds how often a call is sent again because connections were
	// closed before they could deliver it.
	maxUnseen = 20
	// unseenAtOnce is how often that is done without a pause.
	unseenAtOnce = 3
)

// unseen reports whether the request, which met fault f, was provably not looked at
// because its connection was about to be closed, and is to be sent again. That is no
// attempt of its own. net/http does as much by itself for requests that it may repeat,
// but it would also repeat what may have been carried out.
func (c *call) unseen(f *Fault) bool {
	w, ctx := c.sending, c.req.Context()
	if w == nil || !w.once || f.Err == nil || f.Class == ClassLocal || c.repeats == maxUnseen || ctx.Err() != nil || c.body.spent() {
		return false
	}
	switch {
	case goneAway(f.Err) && f.Delivery == Refused:
	case f.Delivery == NotSent && w.saw(sawGotConn) && (w.saw(sawReuse) || c.repeats < unseenAtOnce):
	default:
		return false
	}
	c.repeats++
	if c.repeats > unseenAtOnce && !sleep(ctx, time.Millisecond<<min(c.repeats-unseenAtOnce-1, 6)) {
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

// This file tells troubles of this machine from faults of an endpoint.

// machineLimits are the errors of a machine that has no more to give. The numbers
// are those of Windows sockets.
var machineLimits = [...]syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
	10024 /* WSAEMFILE */, 10049 /* WSAEADDRNOTAVAIL */, 10055, /* WSAENOBUFS */
}

// machineLimit reports whether err says that this machine has run out of something:
// files, ports, buffers.
func machineLimit(err error) bool {
	var dns *net.DNSError
	isDNS := errors.As(err, &dns)
	for _, limit := range machineLimits {
		if errors.Is(err, limit) || isDNS && strings.HasSuffix(dns.Err, limit.Error()) { // which is all that a DNSError keeps of it
			return true
		}
	}
	return false
}
