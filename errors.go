package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// Class says what a fault means for the endpoint that gave it. Faults of two classes count:
// [Config.FailureThreshold] of them in a row trip the endpoint's circuit breaker.
type Class uint8

const (
	// ClassApplication: the organization processed the request and rejected it (validation,
	// plug-in, not found, concurrency). The endpoint is healthy. Does not count.
	ClassApplication Class = iota
	// ClassAuth: the caller's credentials, or the service that issues them, are the cause
	// (401, 403, 407, sign-in pages, token errors). Does not count.
	ClassAuth
	// ClassThrottled: the caller has to slow down (429 and the service-protection
	// codes). Does not count; see [Fault.RetryAfter].
	ClassThrottled
	// ClassTransient: the endpoint could not answer this request (timeout, reset,
	// deadlock, an unexplained 500). Counts.
	ClassTransient
	// ClassUnavailable: the endpoint cannot be reached, or does not serve (refused, DNS,
	// TLS, 502, 503, outage pages, a fence). Counts.
	ClassUnavailable
	// ClassCanceled: the caller canceled the request. Neither a fault that counts nor a
	// success. A deadline that passes during an attempt is ClassTransient, because an
	// endpoint that swallows requests looks the same.
	ClassCanceled
	// ClassLocal: this machine or the caller is the cause: no file descriptors or ports
	// left, an invalid request, a request body that cannot be read, a context that had
	// ended before the attempt, a wait for a free connection in Base's pool. Neither a
	// fault that counts nor a success.
	ClassLocal
)

// String returns "application", "auth", "throttled", "transient",
// "unavailable", "canceled" or "local".
func (c Class) String() string {
	switch c {
	case ClassApplication:
		return "application"
	case ClassAuth:
		return "auth"
	case ClassThrottled:
		return "throttled"
	case ClassTransient:
		return "transient"
	case ClassUnavailable:
		return "unavailable"
	case ClassCanceled:
		return "canceled"
	case ClassLocal:
		return "local"
	}
	return "Class(" + strconv.Itoa(int(c)) + ")"
}

// Delivery says what is known about the request behind a fault. Only NotSent and Refused
// prove that it was not carried out. Answered does not: an organization that reports a
// fault may have committed part of the work.
type Delivery uint8

const (
	// Unknown: some of the request was sent, and no definite answer came. It may or may
	// not have been carried out.
	Unknown Delivery = iota
	// NotSent: no byte of the request was sent (dial, DNS, TLS handshake).
	NotSent
	// Refused: the answer proves that the request was not carried out (a fence, a 429, an
	// HTTP/2 GOAWAY that excludes it).
	Refused
	// Answered: the organization, or an authentication or firewall layer in front of it,
	// answered the request with this fault.
	Answered
)

// String returns "unknown", "not sent", "refused" or "answered".
func (d Delivery) String() string {
	switch d {
	case Unknown:
		return "unknown"
	case NotSent:
		return "not sent"
	case Refused:
		return "refused"
	case Answered:
		return "answered"
	}
	return "Delivery(" + strconv.Itoa(int(d)) + ")"
}

// A Fault is what an attempt got instead of a healthy answer. It may be shared between
// goroutines, and must not be changed.
type Fault struct {
	Class Class
	// Definitive: the fault is a fence, by which the endpoint itself says that it does not
	// serve the organization. It trips the circuit breaker regardless of any threshold.
	Definitive bool
	Delivery   Delivery
	// Endpoint that gave the fault. Classify does not know it and leaves it
	// [Primary]; the Transport sets it.
	Endpoint Endpoint
	// Status of the response, 0 if there was none.
	Status int
	// Code of the organization service in the form "0x8004B065", or the code
	// word of the answer ("ServiceUnavailable"), or "".
	Code string
	// Message of the answer: one line, at most 256 bytes, "" if there was none.
	// The service wrote it and may quote record data in it; it is therefore not
	// part of the text of [Fault.Error].
	Message string
	// RequestID that the service assigned to the request (x-ms-service-request-id or
	// similar), or without a response the caller's own (x-ms-client-request-id). "" if
	// there is none.
	RequestID string
	// RetryAfter is the delay that the server asked for, at most 5 minutes, 0 for none.
	RetryAfter time.Duration
	// Err of the attempt if there was no response. An error whose text is longer than 64 KiB
	// is replaced by the beginning of its text. Err is not part of the JSON of a fault,
	// because it may quote a URL with its query.
	Err error `json:"-"`

	service bool // the service itself answered, not something in front of it
	// subject identifies what the service was asked and how it answered, see subjectOf. 0: the
	// fault is not the service's, or not from a Transport.
	subject uint64
}

// Error describes the fault in one line of at most 400 bytes: its class, what is
// known about the request, and the status and code or the underlying error.
// It omits user info and query strings of URLs in that error.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.Class.String())
	if f.Definitive {
		b.WriteString(" (definitive)")
	}
	b.WriteString(", request ")
	b.WriteString(f.deliveryText())
	sep := ": "
	if f.Status != 0 {
		b.WriteString(sep + "status " + strconv.Itoa(f.Status))
		sep = " "
	}
	if f.Code != "" {
		n, _ := codeNumber(f.Code)
		b.WriteString(sep + strings.TrimSpace(f.Code+" "+codes[n].name))
	}
	if f.RequestID != "" {
		b.WriteString(" (request id " + f.RequestID + ")")
	}
	if f.Err != nil {
		b.WriteString(": " + redact.Error(f.Err))
	}
	return redact.Line(b.String(), maxFaultText)
}

// deliveryText completes the sentence "request ...".
func (f *Fault) deliveryText() string {
	if f.Delivery == Unknown {
		return "outcome unknown"
	}
	return f.Delivery.String()
}

// Unwrap returns Err.
func (f *Fault) Unwrap() error {
	if f == nil { // in an error of the program
		return nil
	}
	return f.Err
}

// Timeout reports whether the attempt ended because a deadline passed on this side, or a
// gateway gave up waiting (status 504 or 524).
func (f *Fault) Timeout() bool {
	return f.Status == http.StatusGatewayTimeout || f.Status == statusOriginTimeout || isTimeout(f.Err)
}

// isTimeout reports whether err is a timeout.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout()
}

// counted reports whether the fault counts towards the endpoint's circuit breaker.
func (f *Fault) counted() bool {
	return f.Class == ClassTransient || f.Class == ClassUnavailable
}

var (
	// ErrClosed is returned by round trips after [Transport.Close].
	ErrClosed = errors.New("failover: transport closed")
	// ErrUnavailable marks the error of a request while the Transport is down: the request
	// was sent and failed, or with Config.FailFast or WaitForUp it was not sent, see
	// [Error.Attempts]. It does not say whether a write is in doubt.
	ErrUnavailable = errors.New("failover: no endpoint serves the organization")
	// ErrOutcomeUnknown marks the error of a write that is in doubt: it was sent and got no
	// definite answer, so it may or may not have been carried out. See also [InDoubt].
	ErrOutcomeUnknown = errors.New("failover: outcome of the write is unknown")
)

// An Error is what [Transport.RoundTrip] returns in place of a response. errors.Is finds the
// sentinel errors of this package in it; errors.As finds the [Fault] of the first attempt,
// and the underlying error of any. For a write in doubt, both see only the attempts that may
// have been carried out: a refused connection in another one proves nothing. An Error must not
// be changed.
type Error struct {
	// Method of the request.
	Method string
	// URL of the request as the caller addressed it, without user info and query.
	URL string
	// Attempts are the faults of the attempts, in order. With [ErrUnavailable], the faults of
	// the last probes follow, or stand alone if no attempt was made.
	Attempts []*Fault
	// RetryAfter is how long to wait before trying again, 0 if nothing is known.
	RetryAfter time.Duration

	is     []error // ErrUnavailable, ErrOutcomeUnknown, and why the context has ended, where they apply
	doubt  *Fault  // of the last attempt in doubt, or nil; see InDoubt
	probed int     // how many of the Attempts, at the end, are faults of probes
}

// Error describes the request and every attempt in one line of at most 2 KiB.
// It holds no user info, query, header or body.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("failover: " + e.Method + " " + redact.Text(e.URL))
	for _, err := range e.is {
		b.WriteString(": " + strings.TrimPrefix(err.Error(), "failover: "))
	}
	for i, f := range e.Attempts {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + f.Endpoint.String() + ": " + f.Error())
	}
	return redact.Line(b.String(), maxErrorText)
}

// Unwrap returns the sentinels that apply, then the attempts. For a write in doubt, it omits
// probes and the attempts that were not carried out.
func (e *Error) Unwrap() []error {
	errs := make([]error, 0, len(e.is)+len(e.Attempts))
	errs = append(errs, e.is...)
	for i, f := range e.Attempts {
		if e.doubt == nil || i < e.made() && f.Delivery != NotSent && f.Delivery != Refused {
			errs = append(errs, f)
		}
	}
	return errs
}

// made returns how many of e.Attempts are attempts rather than probes.
func (e *Error) made() int { return len(e.Attempts) - e.probed }

// Timeout reports whether the last attempt timed out, or the deadline of the call has passed
// since. It makes the [url.Error] of an [http.Client] report the same.
func (e *Error) Timeout() bool {
	n := e.made()
	return slices.ContainsFunc(e.is, isTimeout) || n > 0 && e.Attempts[n-1].Timeout()
}

// Temporary reports what the error of the last attempt does. It makes an Error a [net.Error],
// as the errors of an [http.Transport] are that callers ask for a timeout.
func (e *Error) Temporary() bool {
	var last interface{ Temporary() bool }
	n := e.made()
	return n > 0 && errors.As(e.Attempts[n-1].Err, &last) && last.Temporary()
}

var _ net.Error = (*Error)(nil)

// Maximum lengths of texts from errors and answers, in bytes. These texts are logged.
const (
	maxErrorText   = 2048
	maxFaultText   = 400
	maxCodeWord    = 64
	maxRequestText = 128
)

// shownError is an error of the program's own code, such as a Probe or ConfirmSwitch, with its
// text bounded and redacted like that of a Fault.
type shownError struct{ err error }

func (e *shownError) Error() string { return redact.Line(redact.Error(e.err), maxFaultText) }
func (e *shownError) Unwrap() error { return e.err }

// redacted returns err with a text that is fit for events, logs and Status.
func redacted(err error) error {
	switch err.(type) {
	case nil, *Fault, *Error:
		return err
	}
	return &shownError{err}
}

// maxErrorKept is the maximum length of the text of an error that is kept as it is. OData
// queries may be 32 KiB long, and url.Error quotes them.
const maxErrorKept = 64 << 10

// boundedError returns err, or an error with the beginning of its text if that is longer than
// maxErrorKept. net/http quotes whole malformed headers, up to 10 MiB, and Status and events
// keep faults in memory.
func boundedError(err error) error {
	if text := err.Error(); len(text) > maxErrorKept {
		return errors.New(redact.Line(redact.Error(err), maxErrorText))
	}
	return err
}

// faultOfError classifies the error of an attempt without a response.
//
// Delivery is NotSent only if the error's type proves it. net/http's handshake timeout, for
// example, has no type of its own and stays Unknown. An HTTP/2 stream reset proves nothing, even
// with REFUSED_STREAM: front ends send it for requests that their backend has carried out.
func faultOfError(err error) *Fault {
	f := &Fault{Err: boundedError(err), Class: ClassTransient}
	single := isSingleError(err)
	var known *Fault
	switch {
	case errors.Is(err, context.Canceled):
		f.Class = ClassCanceled
	case single && errors.As(err, &known):
		*f = *known
		f.Err, f.Endpoint = boundedError(err), Primary
	case single && machineLimit(err):
		f.Class = ClassLocal
		if beforeRequest(err) {
			f.Delivery = NotSent
		}
	case f.byProxy(err):
	case beforeRequest(err):
		f.Class, f.Delivery = ClassUnavailable, NotSent
	case tlsAlert(err):
		// With TLS 1.3 the server may reject the client's certificate, or fail,
		// after the request was written.
		f.Class = ClassUnavailable
	case goneAway(err):
		f.Delivery = Refused
	}
	if !single {
		f.Delivery = Unknown
	}
	return f
}

// A connectError says that a forward proxy refused to open a tunnel to an endpoint.
type connectError struct {
	status     int
	retryAfter time.Duration
}

func (e *connectError) Error() string {
	return "proxy refused CONNECT: " + strconv.Itoa(e.status) + " " + http.StatusText(e.status)
}

// typeConnectErrors makes t return a *connectError if a proxy refuses CONNECT, for which
// net/http has no type. It keeps t's own OnProxyConnectResponse, which is called first.
func typeConnectErrors(t *http.Transport) {
	own := t.OnProxyConnectResponse
	t.OnProxyConnectResponse = func(ctx context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
		if own != nil {
			if err := own(ctx, proxy, req, resp); err != nil {
				return err
			}
		}
		if resp.StatusCode != http.StatusOK {
			return &connectError{resp.StatusCode, retryAfter(resp.Header)}
		}
		return nil
	}
}

// byProxy classifies a refusal by a proxy, before the request was sent. Unless it is about
// credentials or load, the proxy cannot reach the endpoint.
func (f *Fault) byProxy(err error) bool {
	var refusal *connectError
	if !errors.As(err, &refusal) {
		return false
	}
	f.byStatus(refusal.status)
	if f.Class != ClassAuth && f.Class != ClassThrottled {
		f.Class = ClassUnavailable
	}
	f.Delivery, f.RetryAfter = NotSent, refusal.retryAfter
	return true
}

// beforeRequest reports whether err can only occur before the first byte of a request is
// written: during DNS lookup, dial or TLS handshake.
func beforeRequest(err error) bool {
	if opError(err, "dial", "proxyconnect", "socks connect") {
		return true
	}
	var (
		dns       *net.DNSError
		addr      *net.AddrError
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		roots     x509.SystemRootsError
		ech       *tls.ECHRejectionError
		record    tls.RecordHeaderError
	)
	return errors.As(err, &dns) || errors.As(err, &addr) ||
		errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &hostname) ||
		errors.As(err, &invalid) || errors.As(err, &roots) || errors.As(err, &ech) ||
		errors.As(err, &record) && record.Conn != nil // set for the first record only
}

// tlsAlert reports whether TLS failed, during the handshake or after it. Over TCP, an alert is
// not a [tls.AlertError] but an unexported type in a [net.OpError].
func tlsAlert(err error) bool {
	var alert tls.AlertError
	var record tls.RecordHeaderError
	return opError(err, "remote error", "local error") || errors.As(err, &alert) || errors.As(err, &record) ||
		errors.Is(err, http.ErrSchemeMismatch)
}

// opError reports whether err contains a [net.OpError] of one of ops.
func opError(err error, ops ...string) bool {
	var op *net.OpError
	for errors.As(err, &op) {
		for _, name := range ops {
			if op.Op == name {
				return true
			}
		}
		err = op.Err
	}
	return false
}

// isSingleError reports whether err joins no other errors. If it joins those of several
// attempts, the proof that one of them sent nothing proves nothing about the others.
func isSingleError(err error) bool {
	for err != nil {
		if _, ok := err.(interface{ Unwrap() []error }); ok {
			return false
		}
		err = errors.Unwrap(err)
	}
	return true
}
