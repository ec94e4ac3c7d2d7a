package failover

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

// This file watches a request on its way through net/http, which may send it
// several times within one RoundTrip: over HTTP/1.1 if nothing of it was written, or
// if it is a read; over HTTP/2 also if the server has reset its stream, as long as
// there is a GetBody or no body. A server may do the latter after it has carried the
// request out.

// protocol is that of the connections to an endpoint, as far as it is known.
type protocol struct{ version atomic.Uint32 }

// speaksHTTP1 and speaksHTTP2 report whether the last connection did. Both are false
// as long as there was none.
func (p *protocol) speaksHTTP1() bool { return p.version.Load() == 1 }
func (p *protocol) speaksHTTP2() bool { return p.version.Load() == 2 }

// learn takes note of the version that a connection speaks.
func (p *protocol) learn(http2 bool) {
	now := uint32(1)
	if http2 {
		now = 2
	}
	if p.version.Load() != now {
		p.version.Store(now)
	}
}

// speaksOnlyHTTP2 reports whether base speaks HTTP/2 over connections without TLS.
// Of others, the handshake tells.
func speaksOnlyHTTP2(base *http.Transport, scheme string) bool {
	p := base.Protocols
	return scheme == "http" && p != nil && p.UnencryptedHTTP2() && !p.HTTP1()
}

// sendWatch watches a request on its way: writes, of which it has to be known whether
// they were sent, and what AttemptTimeout bounds. A nil sendWatch watches nothing.
type sendWatch struct {
	trace       httptrace.ClientTrace
	seen        atomic.Uint32           // marks, see below
	state       atomic.Uint32           // watchOpen, watchEnded or watchTimedOut
	cancel      context.CancelCauseFunc // nil if the context is the caller's own
	timeout     time.Duration           // until the headers have to be there, 0 for ever
	endpoint    *endpoint
	address     net.Addr  // that the last connection leads to
	protocol    *protocol // of the endpoint
	connections *connections
	underway    underway      // of a write
	body        io.ReadCloser // see unread

	// What must not be repeated in doubt is sent in a form that net/http does not
	// repeat by itself.
	once     bool // it must not be repeated in doubt
	rewinds  bool // Base may have GetBody
	hollow   bool // in place of no body, it has one of no bytes
	notTwice bool // it has no body, and is stopped at the second try over HTTP/2

	timed   bool // nothing but its time is watched
	givesUp bool // it can be given up where nobody answers, see waits
}

// Marks of a sendWatch.
const (
	sawGetConn = 1 << iota // Base asked for a connection
	sawGotConn             // and got one
	sawDial                // and has begun to make one
	sawHeaders             // the headers were written to the connection
	sawHTTP2               // which speaks HTTP/2
	sawReuse               // and was used before
	sawEarlier             // a connection before it may have delivered the request
	bodyUnread             // nobody has begun to read the body, see unread
)

func (w *sendWatch) saw(marks uint32) bool { return w != nil && w.seen.Load()&marks == marks }

// plan chooses the form of a request.
func (w *sendWatch) plan(req *http.Request, once bool) {
	w.once, w.rewinds = once, true
	switch {
	case !once:
	case !bodyless(req):
		w.rewinds = w.protocol.speaksHTTP1() && w.connections.direct
	case isReadMethod(req.Method): // net/http looks into such bodies before it sends them over HTTP/1
		w.hollow = !w.protocol.speaksHTTP2()
		w.notTwice = !w.hollow
	default: // proxies hand it on without a length, which some servers want a type for
		w.hollow = w.protocol.speaksHTTP2() && valueOf(req.Header, "Content-Type") != ""
		w.notTwice = !w.hollow
	}
}

func bodyless(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// context returns the context to send the request with.
func (w *sendWatch) context(ctx context.Context, timeout time.Duration) context.Context {
	if timeout > 0 || w.notTwice || w.givesUp {
		ctx, w.cancel = context.WithCancelCause(ctx)
		w.timeout = timeout
	}
	if w.timed {
		return ctx
	}
	w.trace.GetConn = w.getConn
	w.trace.GotConn = w.gotConn
	w.trace.WroteHeaders = w.wroteHeaders
	if w.connections.limited {
		w.trace.DNSStart = func(httptrace.DNSStartInfo) { w.dialing() }
		w.trace.ConnectStart = func(string, string) { w.dialing() }
	}
	return httptrace.WithClientTrace(ctx, &w.trace) // which calls the caller's hooks as well
}

func (w *sendWatch) getConn(string) {
	w.seen.Or(sawGetConn)
	w.tryAgain()
}

func (w *sendWatch) wroteHeaders() { w.seen.Or(sawHeaders) }

func (w *sendWatch) dialing() {
	w.seen.Or(sawDial)
	w.connections.tells.Store(true)
}

// gotConn is called before anything is written to a connection.
func (w *sendWatch) gotConn(info httptrace.GotConnInfo) {
	w.tryAgain()
	marks, http2 := uint32(sawGotConn), w.protocol.speaksHTTP2()
	if conn, ok := info.Conn.(*tls.Conn); ok {
		http2 = conn.ConnectionState().NegotiatedProtocol == "h2"
		w.protocol.learn(http2)
	}
	if http2 {
		marks |= sawHTTP2
	}
	w.address = remoteAddr(info.Conn)
	if info.Reused {
		marks |= sawReuse
	} else {
		w.endpoint.addresses.see(w.address, time.Now())
	}
	w.seen.Or(marks)
}

// remoteAddr returns where a connection leads, nil if it does not know, or if there is none:
// net/http does not ask, and what the program's own dialer has made up may have no answer.
func remoteAddr(conn net.Conn) (address net.Addr) {
	defer func() { _ = recover() }()
	return conn.RemoteAddr()
}

// tryAgain takes note, as net/http turns to a connection, of the one before it. Over
// HTTP/1.1 it repeats a write only if nothing of it has left.
func (w *sendWatch) tryAgain() {
	if w.saw(sawGotConn|sawHeaders) && (w.saw(sawHTTP2) || !w.connections.direct) {
		w.seen.Or(sawEarlier)
		if w.notTwice && w.cancel != nil {
			w.cancel(errMayBeDone) // net/http looks at the context once more before it writes
		}
	}
	w.seen.And(^uint32(sawHeaders | sawHTTP2 | sawReuse))
}

// rewind returns the GetBody that Base may have: one that fails when net/http means to
// repeat what may have been carried out, as it does if an endpoint that spoke HTTP/1
// turns to HTTP/2.
func (w *sendWatch) rewind(getBody func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
	switch {
	case w == nil || !w.once || getBody == nil:
		return getBody
	case !w.rewinds:
		return nil
	}
	return func() (io.ReadCloser, error) {
		if w.saw(sawEarlier) || w.saw(sawHTTP2|sawHeaders) {
			return nil, errMayBeDone
		}
		return getBody()
	}
}

var errMayBeDone = errors.New("failover: the request may have been carried out and is not repeated")

const (
	watchOpen = iota
	watchEnded
	watchTimedOut
)

// errAttemptTimeout is the cause of an attempt that AttemptTimeout has ended.
var errAttemptTimeout = attemptTimeout{}

type attemptTimeout struct{}

func (attemptTimeout) Error() string   { return "no response headers within AttemptTimeout" }
func (attemptTimeout) Timeout() bool   { return true }
func (attemptTimeout) Temporary() bool { return true }

// roundTrip sends the request through base, in the time it has.
func (w *sendWatch) roundTrip(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	if w == nil || w.cancel == nil {
		return exchange(base, req)
	}
	if w.timeout > 0 {
		timer := time.AfterFunc(w.timeout, func() {
			if w.state.CompareAndSwap(watchOpen, watchTimedOut) {
				w.cancel(errAttemptTimeout)
			}
		})
		defer timer.Stop()
	}
	resp, err := exchange(base, req)
	timedOut := !w.state.CompareAndSwap(watchOpen, watchEnded)
	switch {
	case timedOut && (err == nil || errors.Is(err, context.Canceled)):
		if resp != nil && resp.Body != nil { // timed out as the headers came: the body is lost
			resp.Body.Close()
		}
		return nil, errAttemptTimeout // over HTTP/2, net/http does not return the cause
	case err != nil && w.notTwice && w.saw(sawEarlier):
		return nil, errMayBeDone
	}
	return resp, err
}

// exchange has base send the request. What comes back is a response or an error.
func exchange(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(req)
	switch err = realError(err); {
	case resp == nil && err == nil:
		return nil, errNoResult
	case resp != nil && err != nil: // http.Client goes by the error, too
		if resp.Body != nil {
			resp.Body.Close()
		}
		return nil, errors.Join(errTwoResults, err)
	}
	if err != nil {
		err = sayPlainHTTP(err)
	}
	return resp, err
}

// sayPlainHTTP returns err, as a plainHTTP if it is that of a handshake answered in HTTP.
func sayPlainHTTP(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
		return plainHTTP{err}
	}
	return err
}

// plainHTTP is the error of a TLS handshake that was answered in HTTP. http.Client returns
// [http.ErrSchemeMismatch] for it, but looks into no error of another type.
type plainHTTP struct{ error }

func (plainHTTP) Error() string        { return http.ErrSchemeMismatch.Error() }
func (plainHTTP) Is(target error) bool { return target == http.ErrSchemeMismatch }
func (e plainHTTP) Unwrap() error      { return e.error }

// errTwoResults is part of the fault of a [http.RoundTripper] that breaks its contract.
var errTwoResults = errors.New("failover: round tripper returned both a response and an error")

// canceler returns what ends the context of the request once its answer was read,
// nil if it has none of its own.
func (w *sendWatch) canceler() context.CancelCauseFunc {
	if w == nil {
		return nil
	}
	return w.cancel
}

// release ends the context of the request.
func (w *sendWatch) release() {
	if w != nil && w.cancel != nil {
		w.cancel(nil)
	}
}

// delivery corrects what an error alone says about the request. alive: nobody has
// ended the attempt; what was written by then is not known when somebody does.
func (w *sendWatch) delivery(d Delivery, err error, alive bool) Delivery {
	switch {
	case w == nil:
		return d
	case w.saw(sawEarlier):
		return Unknown
	case err != nil && goneAway(err):
		return Refused
	case d == Unknown && w.saw(sawGetConn) && !w.saw(sawGotConn) && !w.connections.silent:
		return NotSent
	case d == Unknown && w.saw(sawGotConn) && !w.saw(sawHeaders) && alive && (w.connections.direct || w.saw(bodyUnread)):
		return NotSent
	case d == NotSent && w.saw(sawGotConn) && (w.saw(sawHeaders) || !w.connections.direct):
		return Unknown // err is not about this connection; and a Base that tries twice may have sent the first time
	default:
		return d
	}
}

// waited reports whether the attempt has ended in the queue for a connection, while
// none was being made for it.
func (w *sendWatch) waited() bool {
	return w != nil && w.connections.limited && w.connections.tells.Load() && w.saw(sawGetConn) && !w.saw(sawGotConn) && !w.saw(sawDial)
}

// connections is what is known about those of Base.
type connections struct {
	// direct: requests go to an *http.Transport, whose hooks and errors are about the
	// whole of an attempt.
	direct bool
	// limited: Base makes requests wait for one of a limited number of connections.
	limited bool
	// silent: Base hands connections to a protocol of the program's own, which calls no
	// hooks.
	silent bool
	tells  atomic.Bool // its dialer tells when it begins
}

// knowBase takes note of what is known about Base from the start.
func (t *Transport) knowBase() {
	base, ok := t.base.(*http.Transport)
	if !ok {
		return
	}
	t.connections.direct, t.connections.limited = t.cfg.Instrument == nil, base.MaxConnsPerHost > 0
	for name := range base.TLSNextProto {
		t.connections.silent = t.connections.silent || name != "h2"
	}
	for e := range t.protocols {
		if scheme, _ := t.org.origin(0, Endpoint(e)); speaksOnlyHTTP2(base, scheme) {
			t.protocols[e].learn(true)
		}
	}
}

// hollow is a body of no bytes that net/http does not know as such: it repeats
// requests without a body.
type hollow struct{}

func (hollow) Read([]byte) (int, error) { return 0, io.EOF }
func (hollow) Close() error             { return nil }

// unread returns body as one that tells when it is read. It is for a Base that is not an
// http.Transport: its hooks may be about one try of several, but none has delivered a
// request with a body that nobody has read.
func (w *sendWatch) unread(body io.ReadCloser) io.ReadCloser {
	w.seen.Or(bodyUnread)
	w.body = body
	return (*unreadBody)(w)
}

type unreadBody sendWatch

func (b *unreadBody) Read(p []byte) (int, error) {
	b.seen.And(^uint32(bodyUnread))
	return b.body.Read(p)
}

func (b *unreadBody) Close() error { return b.body.Close() }

// goneAway reports whether err is that of net/http for a request without GetBody
// that a GOAWAY has left out, which proves the same whatever its code is (RFC 9113,
// section 6.8). It has no type; if its text should ever be another one, the outcome is
// unknown.
func goneAway(err error) bool {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err != nil && err.Error() == "http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]"+
		" after Request.Body was written; define Request.GetBody to avoid this error"
}

// What net/http refuses to send at all is the mistake of the caller.

// sendable reports whether net/http can send the request at all, over HTTP/2 or
// HTTP/1.1.
func sendable(req *http.Request, http2 bool) bool {
	if !isToken(req.Method) && req.Method != "" || req.URL.Host == "" || req.Header == nil || !validHeader(req.Header) || !validHeader(req.Trailer) {
		return false
	}
	if http2 && aboutConnection(req.Header) {
		return false
	}
	bare := req.WithContext(context.Background()) // its trace is not to be told of this
	if bare.Body = nil; !bodyless(req) {
		bare.Body, bare.ContentLength = hollow{}, -1
	}
	return bare.Write(io.Discard) == nil // which looks at host, path, length and trailer
}

// tooLong reports whether err is that of net/http for headers that are longer than the
// endpoint has said that it takes over HTTP/2. It has no type.
func tooLong(err error) bool {
	return strings.HasSuffix(err.Error(), "request header list larger than peer's advertised limit")
}

// aboutConnection reports whether a request has header fields about the connection
// that net/http does not send over HTTP/2 (RFC 9113, section 8.2.2).
func aboutConnection(h http.Header) bool {
	connection, transfer := strings.ToLower(valueOf(h, "Connection")), valueOf(h, "Transfer-Encoding")
	return valueOf(h, "Upgrade") != "" || transfer != "" && transfer != "chunked" ||
		connection != "" && connection != "close" && connection != "keep-alive"
}

func validHeader(h http.Header) bool {
	for name, values := range h {
		if !isToken(name) {
			return false
		}
		for _, value := range values {
			if !validHeaderValue(value) {
				return false
			}
		}
	}
	return true
}

// validHeaderValue reports whether net/http sends a header field of that value
// (RFC 9110, section 5.5).
func validHeaderValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isToken reports whether s can be a method or the name of a header field
// (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
