package failover

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"time"
)

// This file watches a request on its way through net/http, which may send it several times
// within one RoundTrip: over HTTP/1.1 if nothing of it was written, or if it is a read; over
// HTTP/2 also if the server has reset its stream, provided there is a GetBody or no body. A
// server may reset the stream after it has carried out the request.

// protocol is the HTTP version of the last connection to an endpoint, if that is known.
type protocol struct{ version atomic.Uint32 }

// speaksHTTP1 and speaksHTTP2 report whether the last connection did. Both are false before
// there is one.
func (p *protocol) speaksHTTP1() bool { return p.version.Load() == 1 }
func (p *protocol) speaksHTTP2() bool { return p.version.Load() == 2 }

// learn records the version of a connection.
func (p *protocol) learn(http2 bool) {
	now := uint32(1)
	if http2 {
		now = 2
	}
	if p.version.Load() != now {
		p.version.Store(now)
	}
}

// speaksOnlyHTTP2 reports whether base always speaks HTTP/2 to URLs of the scheme, which is only
// known without TLS: else, the handshake decides.
func speaksOnlyHTTP2(base *http.Transport, scheme string) bool {
	p := base.Protocols
	return scheme == "http" && p != nil && p.UnencryptedHTTP2() && !p.HTTP1()
}

// sendWatch watches the request of one attempt: how much of it was sent, which must be known of
// writes, and AttemptTimeout. A nil sendWatch watches nothing.
type sendWatch struct {
	trace       httptrace.ClientTrace
	seen        atomic.Uint32           // marks, see below
	state       atomic.Uint32           // watchOpen, watchEnded or watchTimedOut
	cancel      context.CancelCauseFunc // nil if the context is the caller's own
	timeout     time.Duration           // of the wait for the headers; 0: none
	request     *http.Request           // which is sent
	endpoint    *endpoint
	address     net.Addr  // of the last connection
	protocol    *protocol // of the endpoint
	connections *connections
	underway    underway      // of a write
	body        io.ReadCloser // see unread

	// A request that must not be repeated in doubt is sent in a form that net/http does not
	// repeat by itself.
	once     bool // it must not be repeated in doubt
	rewinds  bool // Base may get its GetBody
	hollow   bool // it has no body, and gets one of no bytes
	notTwice bool // it has no body, and is canceled when net/http tries it again over HTTP/2

	timed   bool // only AttemptTimeout is watched
	givesUp bool // it is a read that may be abandoned, see waits
}

// Marks of a sendWatch.
const (
	sawGetConn = 1 << iota // Base asked for a connection
	sawGotConn             // Base got one
	sawDial                // Base has begun to dial one
	sawHeaders             // the headers were written to the connection
	sawHTTP2               // the connection speaks HTTP/2
	sawReuse               // the connection was used before
	sawEarlier             // an earlier connection may have delivered the request
	bodyUnread             // the body is unread, see unread
	sawOther               // the latest headers are those of a request that Base makes by itself
	sawAnswer              // the try was answered, so it is not net/http that tries again
	sawDump                // the try is one of httputil.DumpRequestOut, which sends nothing
)

func (w *sendWatch) saw(marks uint32) bool { return w != nil && w.seen.Load()&marks == marks }

// plan chooses the form of a request.
func (w *sendWatch) plan(req *http.Request, once bool) {
	w.once, w.rewinds = once, true
	switch {
	case !once:
	case !bodyless(req):
		w.rewinds = w.protocol.speaksHTTP1() && w.connections.direct
	case isReadMethod(req.Method): // over HTTP/1, net/http finds that such a body is empty
		w.hollow = !w.protocol.speaksHTTP2()
		w.notTwice = !w.hollow
	default: // over HTTP/2 the body has no length, and then some servers require a Content-Type
		w.hollow = w.protocol.speaksHTTP2() && valueOf(req.Header, "Content-Type") != ""
		w.notTwice = !w.hollow
	}
}

func bodyless(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// context returns the context of the request.
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
	if !w.connections.direct && (w.notTwice || !w.once) {
		w.trace.WroteHeaderField = w.wroteHeaderField
		w.trace.GotFirstResponseByte = func() { w.seen.Or(sawAnswer) }
		w.trace.Got1xxResponse = func(int, textproto.MIMEHeader) error { w.seen.And(^uint32(sawAnswer)); return nil }
	}
	if w.connections.limited {
		w.trace.DNSStart = func(httptrace.DNSStartInfo) { w.dialing() }
		w.trace.ConnectStart = func(string, string) { w.dialing() }
	}
	return httptrace.WithClientTrace(ctx, &w.trace) // the caller's hooks are called, too
}

func (w *sendWatch) getConn(string) {
	w.seen.Or(sawGetConn)
	w.tryAgain()
}

func (w *sendWatch) wroteHeaders() {
	if !w.saw(sawDump) {
		w.seen.Or(sawHeaders)
	}
}

func (w *sendWatch) dialing() {
	w.seen.Or(sawDial)
	w.connections.tells.Store(true)
}

// wroteHeaderField tells the request, whose body cannot, from those that a Base of the program's
// own makes in its context, for a token perhaps. Only over HTTP/2 is there a field for the path,
// and only there does net/http repeat the request, even if Base has changed its host.
func (w *sendWatch) wroteHeaderField(key string, values []string) {
	switch {
	case (key == "Host" || key == ":authority") && !strings.EqualFold(values[0], cmp.Or(w.request.Host, w.request.URL.Host)):
		w.seen.Or(sawOther)
	case key == "Host", key == ":authority", key == ":path" && strings.HasSuffix(values[0], w.request.URL.RequestURI()):
		w.seen.And(^uint32(sawOther))
	}
}

// gotConn is called before anything is written to a connection.
func (w *sendWatch) gotConn(info httptrace.GotConnInfo) {
	w.tryAgain()
	marks, http2, name := uint32(sawGotConn), w.protocol.speaksHTTP2(), ""
	w.address = remoteAddr(info.Conn)
	conn, secure := info.Conn.(*tls.Conn)
	if w.address == nil && info.Conn != nil && !secure && !w.connections.direct {
		w.seen.And(^uint32(sawGetConn))
		w.seen.Or(sawDump)
		return
	}
	if secure {
		state := conn.ConnectionState()
		http2, name = state.NegotiatedProtocol == "h2", state.ServerName
		w.protocol.learn(http2)
	}
	if http2 {
		marks |= sawHTTP2
	}
	if info.Reused {
		marks |= sawReuse
	} else if w.connections.direct || name == "" || strings.EqualFold(name, w.request.URL.Hostname()) { // else Base asks another host for a token, perhaps
		w.endpoint.addresses.see(w.address, time.Now())
	}
	w.seen.Or(marks)
}

// remoteAddr returns the remote address of a connection, or nil. A connection of the program's
// own dialer may panic, because net/http never asks for the address.
func remoteAddr(conn net.Conn) (address net.Addr) {
	defer func() { _ = recover() }()
	return conn.RemoteAddr()
}

// tryAgain is called when net/http turns to another connection. It records whether the one
// before may have delivered the request: over HTTP/1.1, net/http repeats a write only if nothing
// of it was sent.
func (w *sendWatch) tryAgain() {
	if w.saw(sawGotConn|sawHeaders) && (w.saw(sawHTTP2) || !w.connections.direct) && w.seen.Load()&(bodyUnread|sawOther) == 0 {
		w.seen.Or(sawEarlier)
		if w.notTwice && w.cancel != nil && !w.saw(sawAnswer) {
			w.cancel(errMayBeDone) // net/http checks the context before it writes
		}
	}
	w.seen.And(^uint32(sawHeaders | sawHTTP2 | sawReuse | sawAnswer | sawDump)) // not sawOther: wroteHeaders may come late
}

// rewind returns the GetBody for Base, nil if Base must not have one. It fails once the request
// may have been carried out: net/http would repeat it if an endpoint changes from HTTP/1 to
// HTTP/2.
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

// errAttemptTimeout is the error of an attempt that AttemptTimeout has ended.
var errAttemptTimeout = attemptTimeout{}

type attemptTimeout struct{}

func (attemptTimeout) Error() string   { return "no response headers within AttemptTimeout" }
func (attemptTimeout) Timeout() bool   { return true }
func (attemptTimeout) Temporary() bool { return true }

// roundTrip sends the request over base, within AttemptTimeout.
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
		if resp != nil && resp.Body != nil { // the headers came too late: the context has ended, and with it the body
			resp.Body.Close()
		}
		return nil, errAttemptTimeout // over HTTP/2, net/http does not return the cause
	case err != nil && w.notTwice && w.saw(sawEarlier):
		return nil, errMayBeDone
	}
	return resp, err
}

// exchange sends the request over base. It returns either a response or an error, even if base
// does not.
func exchange(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(req)
	switch err = realError(err); {
	case resp == nil && err == nil:
		return nil, errNoResult
	case resp != nil && err != nil: // like http.Client, go by the error
		if resp.Body != nil {
			resp.Body.Close()
		}
		return nil, errors.Join(errTwoResults, err)
	case err != nil:
		return nil, sayPlainHTTP(err)
	}
	if resp.Request == nil { // Classify needs it to recognize misplaced pages
		resp.Request = req
	}
	return resp, nil
}

// sayPlainHTTP returns err, wrapped in a plainHTTP if a TLS handshake was answered in HTTP.
func sayPlainHTTP(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
		return plainHTTP{err}
	}
	return err
}

// plainHTTP is the error of a TLS handshake that was answered in HTTP. It is
// [http.ErrSchemeMismatch], which http.Client returns only if it gets a tls.RecordHeaderError
// itself.
type plainHTTP struct{ error }

func (plainHTTP) Error() string        { return http.ErrSchemeMismatch.Error() }
func (plainHTTP) Is(target error) bool { return target == http.ErrSchemeMismatch }
func (e plainHTTP) Unwrap() error      { return e.error }

// errTwoResults is part of the fault of a [http.RoundTripper] that breaks its contract.
var errTwoResults = errors.New("failover: round tripper returned both a response and an error")

// canceler returns the function that ends the context of the request, nil if that is the
// caller's.
func (w *sendWatch) canceler() context.CancelCauseFunc {
	if w == nil {
		return nil
	}
	return w.cancel
}

// release ends the context of the request, unless that is the caller's.
func (w *sendWatch) release() {
	if w != nil && w.cancel != nil {
		w.cancel(nil)
	}
}

// delivery corrects the Delivery that follows from err alone. Alive: neither the caller nor the
// Transport has ended the attempt; otherwise it is not known how much was written.
func (w *sendWatch) delivery(d Delivery, err error, alive bool) Delivery {
	if w == nil {
		return d
	}
	whole := w.connections.direct || w.saw(bodyUnread) // the hooks tell all about the attempt
	switch {
	case w.saw(sawEarlier):
		return Unknown
	case err != nil && goneAway(err):
		return Refused
	case d == Unknown && w.saw(sawGetConn) && !w.saw(sawGotConn) && !w.connections.silent:
		return NotSent
	case d == Unknown && w.saw(sawGotConn) && !w.saw(sawHeaders) && alive && whole:
		return NotSent
	case d == NotSent && w.saw(sawGotConn) && (w.saw(sawHeaders) || !whole):
		return Unknown // err is about another connection, or Base tries again and has sent the first try
	default:
		return d
	}
}

// waited reports whether the attempt ended while it queued for a connection, and none was being
// dialed for it.
func (w *sendWatch) waited() bool {
	return w != nil && w.connections.limited && w.connections.tells.Load() && w.saw(sawGetConn) && !w.saw(sawGotConn) && !w.saw(sawDial)
}

// connections is what is known about the connections of Base.
type connections struct {
	// direct: Base is an *http.Transport without Instrument, whose hooks and errors tell all
	// about an attempt.
	direct bool
	// limited: Base limits the number of connections, so requests may queue for one.
	limited bool
	// silent: Base passes connections to a protocol of the program's own, which calls no
	// hooks.
	silent bool
	tells  atomic.Bool // its dialer calls hooks
}

// knowBase sets what is known about Base from the start.
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

// hollow is a body of no bytes. net/http does not know that it is empty, so it does not repeat
// the request as one without a body.
type hollow struct{}

func (hollow) Read([]byte) (int, error) { return 0, io.EOF }
func (hollow) Close() error             { return nil }

// unread returns body, which then records that it is read. The hooks of a Base that is not an
// http.Transport may be about one try of several, but no try has delivered a request whose body
// is unread.
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

// goneAway reports whether err is net/http's error for a request without GetBody that a GOAWAY
// has excluded, which proves that it was not carried out (RFC 9113, section 6.8). The error has
// no type. If its text ever changes, the write is in doubt instead.
func goneAway(err error) bool {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err != nil && err.Error() == "http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]"+
		" after Request.Body was written; define Request.GetBody to avoid this error"
}

// sendable reports whether net/http can send the request. If it cannot, that is the caller's
// mistake and no fault of the endpoint.
func sendable(req *http.Request, http2 bool) bool {
	if !isToken(req.Method) && req.Method != "" || req.URL.Host == "" || req.Header == nil || !validHeader(req.Header) || !validHeader(req.Trailer) {
		return false
	}
	if http2 && (aboutConnection(req.Header) || !hasTarget(req)) {
		return false
	}
	bare := req.WithContext(context.Background()) // without the caller's trace
	if bare.Body = nil; !bodyless(req) {
		bare.Body, bare.ContentLength = hollow{}, -1
	}
	var head bytes.Buffer
	err := bare.Write(&head) // checks host, path, length and trailer
	return err == nil && !(http2 && bytes.Contains(head.Bytes(), []byte("\r\nHost: \r\n")))
}

// hasTarget reports whether a request names its target as HTTP/2 requires (RFC 9113, section
// 8.3.1). Over HTTP/1.1, net/http sends any path, and omits an invalid host.
func hasTarget(req *http.Request) bool {
	path := strings.TrimPrefix(req.URL.RequestURI(), req.URL.Scheme+"://"+cmp.Or(req.Host, req.URL.Host))
	return req.Method == http.MethodConnect || path == "*" || strings.HasPrefix(path, "/")
}

// tooLong reports whether err is net/http's error for headers longer than the endpoint's HTTP/2
// limit. The error has no type.
func tooLong(err error) bool {
	return strings.HasSuffix(err.Error(), "request header list larger than peer's advertised limit")
}

// aboutConnection reports whether a request has connection-specific header fields that net/http
// does not send over HTTP/2 (RFC 9113, section 8.2.2).
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

// validHeaderValue reports whether net/http sends a header field with that value (RFC 9110,
// section 5.5).
func validHeaderValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isToken reports whether s can be a method or the name of a header field (RFC 9110, section
// 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
