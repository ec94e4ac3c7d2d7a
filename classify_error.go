package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// faultOfError judges the error of an attempt that has no response.
//
// Delivery is NotSent only where the type proves it. The handshake time-out of
// net/http, for one, has no type of its own and stays Unknown. A stream that HTTP/2 resets, with REFUSED_STREAM as well, proves
// nothing: front ends send it for requests that their backend has carried out.
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

// A connectError is the refusal of a forward proxy to open a tunnel to an endpoint.
type connectError struct {
	status     int
	retryAfter time.Duration
}

func (e *connectError) Error() string {
	return "proxy refused CONNECT: " + strconv.Itoa(e.status) + " " + http.StatusText(e.status)
}

// typeConnectErrors makes t return a *connectError if a proxy refuses CONNECT, for
// which net/http has no type. An OnProxyConnectResponse that t has is called first.
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

// byProxy judges the refusal of a proxy. The request would have followed in the
// tunnel. What is not about credentials or load means that the proxy finds no way
// to the endpoint.
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

// beforeRequest reports whether err can only occur before the first byte of a
// request is written: no address, no connection, or no TLS.
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

// tlsAlert reports whether TLS broke down at a time that is not known. Over TCP an
// alert is no [tls.AlertError] but an unexported type in a [net.OpError].
func tlsAlert(err error) bool {
	var alert tls.AlertError
	var record tls.RecordHeaderError
	return opError(err, "remote error", "local error") || errors.As(err, &alert) || errors.As(err, &record) ||
		errors.Is(err, http.ErrSchemeMismatch)
}

// opError reports whether a [net.OpError] in err's chain is about one of ops.
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

// isSingleError reports whether err is about one event. Where errors of several attempts
// are joined, the proof that one of them did not send says nothing of the others.
func isSingleError(err error) bool {
	for err != nil {
		if _, ok := err.(interface{ Unwrap() []error }); ok {
			return false
		}
		err = errors.Unwrap(err)
	}
	return true
}
