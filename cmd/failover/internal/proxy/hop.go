package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
)

// This file has the duties of an intermediary: informational responses, trailers, and headers
// for one hop.

// hopHeaders are for one connection only (RFC 9110, section 7.6.1).
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// ofTheWay reports whether a header describes the path of a request, which is not forwarded to
// the organization.
func ofTheWay(name string) bool {
	switch name {
	case "Forwarded", "Via", "X-Real-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Client-Ip", "X-Envoy-External-Address", "True-Client-Ip", "Http2-Settings":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Original-")
}

// ownToTheProxy removes headers from a response that callers would take for the proxy's, and
// those about the organization's own address.
func ownToTheProxy(h http.Header) {
	h.Del(outcomeHeader)
	h.Del("Alt-Svc")
	h.Del("Strict-Transport-Security")
}

// mayTrail reports whether a field may be in a trailer. Recipients may merge trailers into
// headers, where late fields for framing, routing, credentials, conditions or the format of the
// content would do harm (RFC 9110, section 6.5.1).
func mayTrail(name string) bool {
	switch name {
	case "Authorization", "Authentication-Info", "Cookie", "Set-Cookie", "Www-Authenticate", "Host", "Location", "Expect", "Range",
		"Age", "Cache-Control", "Date", "Expires", "Max-Forwards", "Pragma", "Retry-After", "Vary", "Warning",
		"Idempotency-Key", "X-Idempotency-Key", "Soapaction", "Alt-Svc", "Strict-Transport-Security", outcomeHeader:
		return false
	}
	return !slices.Contains(hopHeaders, name) && !ofTheWay(name) && !strings.HasPrefix(name, "Content-") &&
		!strings.HasPrefix(name, "If-") && !strings.HasPrefix(name, "Proxy-") && !strings.HasPrefix(name, "X-Http-Method")
}

func dropTrailers(h http.Header) {
	for name := range h {
		if !mayTrail(name) {
			delete(h, name)
		}
	}
}

// callerBody is the body of a caller's request. It records in the exchange whether it broke off,
// and passes its trailers on.
type callerBody struct {
	io.ReadCloser
	exchange *exchange
	trailer  http.Header // of the caller's request, complete once the body has ended
}

func (b *callerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		for name := range b.exchange.trailer {
			b.exchange.trailer[name] = b.trailer[name]
		}
	case err != nil:
		b.exchange.brokeOff.Store(true)
	}
	return n, err
}

// announced returns the trailers that may be passed on, without their values.
func announced(trailer http.Header) http.Header {
	var names http.Header
	for name := range trailer {
		if mayTrail(name) {
			if names == nil {
				names = make(http.Header)
			}
			names[name] = nil
		}
	}
	return names
}

// answerBody is the body of an answer. Its trailers are complete after Close.
type answerBody struct {
	io.ReadCloser
	resp *http.Response
}

func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	dropTrailers(b.resp.Trailer)
	return err
}

// maxInformational is the maximum number of informational responses to an attempt.
const maxInformational = 16

var errTooManyInformational = errors.New("too many informational responses")

// boundInformational returns a trace that ends a request with too many informational responses.
func boundInformational() *httptrace.ClientTrace {
	n := new(atomic.Int32) // since the latest attempt began
	return &httptrace.ClientTrace{
		GetConn: func(string) { n.Store(0) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if n.Add(1) > maxInformational {
				return errTooManyInformational
			}
			return nil
		},
	}
}

// answerWriter writes the answer to a caller.
type answerWriter struct {
	http.ResponseWriter
	req *http.Request
}

// WriteHeader writes a header. It does not write informational responses to HTTP/1.0 callers,
// and removes the fields for one hop and the proxy's own from them. It writes none to a caller
// that expects a 100 Continue, because the server itself may write that at any time.
func (w *answerWriter) WriteHeader(status int) {
	h := w.Header()
	if status >= 200 {
		if !w.req.ProtoAtLeast(1, 1) {
			// HTTP/1.0 does not know chunked bodies, so what follows this request
			// may not be the next one (RFC 9112, section 6.1).
			h.Set("Connection", "close")
		}
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if !w.req.ProtoAtLeast(1, 1) || status <= http.StatusSwitchingProtocols || w.req.Header.Get("Expect") != "" {
		return // HTTP/2 passes on a 101 as if it were informational
	}
	for _, name := range hopHeaders {
		h.Del(name)
	}
	ownToTheProxy(h)
	dropConnectionChallenges(h)
	w.ResponseWriter.WriteHeader(status)
}

// breakOff resets the connection to an HTTP/1.0 caller if the answer breaks off. Without its
// length, which the mapping of links may change, only the end of the connection ends such an
// answer, and it would look complete.
func (w *answerWriter) breakOff() {
	cause := recover()
	if cause == nil {
		return
	}
	if !w.req.ProtoAtLeast(1, 1) {
		if conn, _, err := http.NewResponseController(w.ResponseWriter).Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				tcp.SetLinger(0)
			}
			conn.Close()
		}
	}
	panic(cause)
}

// Unwrap serves http.ResponseController.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
